/* Pokes every register there is with everything but what ends the machine,
 * then ends like any other guest: nothing may panic, hang or end the VMM. */
.include "guest.inc"
.include "interrupts.inc"
.include "window.inc"

.set VECTOR, 0x34

.macro STAGE name
    call settle_serial
    PRINT "\name\n"
.endm

main:
    OWN_TABLES
    call interrupts_init
    call lapic_init
    STAGE "ports"
    call poke_ports
    STAGE "serial"
    call poke_serial
    STAGE "keyboard controller"
    call poke_i8042
    STAGE "clock"
    call poke_cmos
    STAGE "ACPI and pvpanic"
    call poke_acpi
    STAGE "IOAPIC"
    call poke_ioapic
    STAGE "MMIO"
    call poke_mmio
    STAGE "MSRs"
    call poke_msrs
    STAGE "string output"
    call long_strings
    call settle_serial
    ret

/* Puts the serial port back into the state in which it prints. */
settle_serial:
    mov $PORT_SERIAL + 3, %edx
    mov $3, %al                 /* 8N1, no DLAB */
    out %al, %dx
    mov $PORT_SERIAL + 1, %edx
    xor %eax, %eax
    out %al, %dx
    mov $PORT_SERIAL + 4, %edx
    mov $8, %al                 /* no loopback */
    out %al, %dx
    mov $PORT_SERIAL, %edx
    mov $'\n', %al
    out %al, %dx
    ret

/* Every port in turn below 0x1000, some above, by all widths. */
poke_ports:
    xor %ebx, %ebx
1:  call port_may_end
    jc 2f
    mov %ebx, %edx
    mov %ebx, %ecx
    and $3, %ecx
    imul $0x9e3779b1, %ebx, %eax
    cmp $1, %ecx
    ja 3f
    je 4f
    out %al, %dx
    in %dx, %al
    jmp 2f
3:  out %eax, %dx
    in %dx, %eax
    jmp 2f
4:  out %ax, %dx
    in %dx, %ax
2:  inc %ebx
    cmp $0x1000, %ebx
    jb 1b
    add $60, %ebx
    cmp $0x10000, %ebx
    jb 1b
    ret

/* CF set if an access of up to four bytes at port EBX could end the machine,
 * or is another stage's subject. */
port_may_end:
    lea ending_ports, %rsi
1:  movzwl (%rsi), %eax
    movzwl 2(%rsi), %ecx
    add $4, %rsi
    test %ecx, %ecx
    jz 2f
    cmp %eax, %ebx
    jb 1b
    cmp %ecx, %ebx
    ja 1b
    stc
    ret
2:  clc
    ret

/* Every value to every register of the serial port, reading all after each. */
poke_serial:
    mov $PORT_SERIAL + 7, %ebx
1:  xor %ecx, %ecx
2:  mov %ebx, %edx
    mov %cl, %al
    out %al, %dx
    mov $PORT_SERIAL, %edx
    mov %ecx, %eax
    and $7, %eax
    add %eax, %edx
    in %dx, %al
    in %dx, %ax
    in %dx, %eax
    inc %ecx
    cmp $256, %ecx
    jb 2b
    call settle_serial
    dec %ebx
    cmp $PORT_SERIAL, %ebx
    jae 1b
    ret

/* Every command that does not pulse the reset line or write the output port. */
poke_i8042:
    xor %ebx, %ebx
1:  cmp $0xf0, %ebx
    jae 2f
    cmp $0xd1, %ebx
    je 2f
    mov %bl, %al
    out %al, $0x64
    in $0x60, %al
    in $0x64, %al
    mov %bl, %al
    or $3, %al
    out %al, $0x60
    in $0x60, %al
2:  inc %ebx
    cmp $256, %ebx
    jb 1b
    in $0x64, %ax
    in $0x60, %eax
    ret

poke_cmos:
    xor %ebx, %ebx
1:  mov %bl, %al
    out %al, $0x70
    in $0x70, %al
    in $0x71, %al
    mov %bl, %al
    not %al
    out %al, $0x71
    in $0x71, %ax
    in $0x71, %eax
    inc %ebx
    cmp $256, %ebx
    jb 1b
    ret

/* PM1a without SLP_EN, pvpanic events that do not exist. */
poke_acpi:
    mov $0x600, %ebx
1:  mov %ebx, %edx
    in %dx, %al
    in %dx, %ax
    in %dx, %eax
    cmp $0x602, %ebx
    ja 2f
    mov $0xffff, %eax
    out %ax, %dx
    xor %eax, %eax
    out %ax, %dx
2:  inc %ebx
    cmp $0x608, %ebx
    jb 1b
    mov $PM1A_CONTROL, %edx
    mov $0xdfff, %eax           /* all but SLP_EN */
    out %ax, %dx
    xor %eax, %eax
    out %ax, %dx
    mov $PORT_PVPANIC, %edx
    in %dx, %al
    in %dx, %eax
    mov $0xf0, %al
    out %al, %dx
    xor %eax, %eax
    out %al, %dx
    mov $PORT_BOOT_TIMER, %edx
    mov $124, %eax
1:  out %al, %dx
    in %dx, %al
    inc %eax
    cmp $256, %eax
    jb 1b
    in $PORT_EXIT, %al
    in $PORT_EXIT, %eax
    ret

/* All registers, all delivery modes, with odd widths; the pins of devices
 * stay masked, as a guest that sends itself an INIT has itself to blame. */
poke_ioapic:
    mov $IOAPIC, %ebp
    xor %ebx, %ebx
1:  mov %ebx, (%rbp)
    imul $0x9e3779b1, %ebx, %eax
    mov %ebx, %ecx
    and $0xff, %ecx
    sub $0x10, %ecx
    shr $1, %ecx
    cmp $10, %ecx
    ja 2f
    or $0x10000, %eax
2:  mov %eax, 0x10(%rbp)
    mov 0x10(%rbp), %ecx
    mov 0x10(%rbp), %rcx
    mov 0x12(%rbp), %cx
    mov (%rbp), %cl
    inc %ebx
    cmp $0x140, %ebx
    jb 1b
    /* Everywhere else in its page, the EOI register included. */
    mov $4, %ebx
3:  cmp $0x10, %ebx
    je 4f
    mov (%rbp,%rbx), %eax
    mov %ebx, (%rbp,%rbx)
    movb $0x34, 1(%rbp,%rbx)
4:  add $4, %ebx
    cmp $0x80, %ebx
    jb 3b
    mov 0xffc(%rbp), %rax
    movq $-1, 0xff9(%rbp)
    /* Unmask and mask again, edge and level, on a line that is quiet. */
    mov $11, %edi
    mov $VECTOR + 0x8000, %esi
    call ioapic_route
    mov $11, %edi
    mov $VECTOR + 0x10000, %esi
    call ioapic_route
    xor %ebx, %ebx
5:  mov %ebx, %edi
    mov $0x10000, %esi
    call ioapic_route
    inc %ebx
    cmp $24, %ebx
    jb 5b
    ret

/* Wild addresses: the PCI hole, KVM's own pages, far beyond RAM. */
poke_mmio:
    lea wild_addresses, %r12
1:  mov (%r12), %rdi
    test %rdi, %rdi
    jz 9f
    add $8, %r12
    call map_window
    mov %rax, %rbx
    mov $256, %ecx
2:  movq $-1, (%rbx)
    mov (%rbx), %al
    mov 1(%rbx), %ax
    mov 3(%rbx), %eax
    mov 5(%rbx), %rax
    movw $0x55aa, 7(%rbx)
    add $4093, %rbx             /* runs over page ends */
    sub $16, %ecx
    jnz 2b
    mov %rax, %rbx
    jmp 1b
9:  mov $0xd0000ffc, %ebx
    lock incl (%rbx)
    lock xaddl %eax, (%rbx)
    xchg %rax, (%rbx)
    lock cmpxchgq %rax, (%rbx)
    lea 1f, %rax
    mov $0xd0001000, %edi
    mov %rax, (%rdi)
    /* A stack where no memory is: what is pushed is lost. */
    mov %rsp, %rbp
    mov $0xd0002000, %esp
    push %rax
    pop %rcx
    mov %rbp, %rsp
1:  ret

/* Reads and writes MSRs; those that are not there fault. */
poke_msrs:
    lea msr_ranges, %r12
1:  mov (%r12), %ebx
    mov 4(%r12), %r13d
    add $8, %r12
    test %r13d, %r13d
    jz 9f
2:  mov %ebx, %ecx
    TRY 3f
    rdmsr
    TRY_END
3:  TRY_END
    inc %ebx
    dec %r13d
    jnz 2b
    jmp 1b
9:  lea msr_writes, %r12
4:  mov (%r12), %ecx
    test %ecx, %ecx
    jz 5f
    mov 4(%r12), %eax
    mov 8(%r12), %edx
    add $12, %r12
    TRY 6f
    wrmsr
6:  TRY_END
    jmp 4b
    /* Take the kvmclock's page back before it is written to. */
5:  mov $0x4b564d01, %ecx
    xor %eax, %eax
    xor %edx, %edx
    TRY 7f
    wrmsr
7:  TRY_END
    ret

/* Long string instructions, on the console's port and on none. */
long_strings:
    lea xs, %rdi
    mov $3000, %ecx
    mov $'x', %al
    rep stosb
    lea xs, %rsi
    mov $3000, %ecx
    mov $PORT_SERIAL, %edx
    rep outsb
    call newline
    lea xs, %rsi
    mov $1000, %ecx
    mov $0x300, %edx
    rep outsl
    lea xs, %rdi
    mov $2000, %ecx
    rep insw
    /* Backwards, and to the console by too wide a port access. */
    std
    lea xs + 3999, %rsi
    mov $100, %ecx
    rep outsb
    lea xs + 3996, %rdi
    mov $100, %ecx
    mov $0x71, %edx
    rep insl
    cld
    lea xs, %rsi
    mov $100, %ecx
    mov $PORT_SERIAL, %edx
    rep outsl
    lea xs, %rdi
    mov $100, %ecx
    mov $PORT_SERIAL + 5, %edx
    rep insw
    ret

.section .rodata
/* First and last port of what ends the machine or is poked elsewhere. A wide
 * access three ports below reaches it, too. */
.balign 8
ending_ports:
    .word 0x001d, 0x0021        /* the PICs, which QEMU has, */
    .word 0x0040, 0x0043        /* and the PIT */
    .word 0x005d, 0x0064        /* i8042 */
    .word 0x006d, 0x0071        /* CMOS */
    .word 0x008f, 0x0092        /* fast reset */
    .word 0x009d, 0x00a1
    .word 0x00f1, 0x00f4        /* debug exit */
    .word 0x03ed, 0x03ff        /* boot timer, serial */
    .word 0x0502, 0x0505        /* pvpanic */
    .word 0x05fd, 0x0607        /* ACPI */
    .word 0x0cf6, 0x0cf9        /* reset */
    .word 0, 0

.balign 8
wild_addresses:
    .quad 0xc0000000, 0xd0000000, 0xe0000000, 0xefff0000
    .quad 0xfec10000, 0xfed00000, 0xfef00000, 0xfffbc000, 0xffff0000
    .quad 0x1000000000, 0x7fffff0000
    .quad 0

msr_ranges:
    .long 0x0, 0x40, 0xc0, 0x20, 0x170, 0x20, 0x1a0, 0x10, 0x200, 0x20
    .long 0x2f0, 0x10, 0x480, 0x10, 0x800, 0x10, 0xd90, 0x10
    .long 0x40000000, 0x10, 0x4b564cff, 0x10, 0xc0000080, 0x10
    .long 0xc0010000, 0x20, 0xdeadbeef, 2
    .long 0, 0

msr_writes:
    .long 0x4b564d00, 0xfffffff0, 0xffffffff
    .long 0x4b564d01, 0xfffffff1, 0xffffffff
    .long 0x4b564d01, 0x00000003, 0
    .long 0x4b564d02, 0xffffffff, 0xffffffff
    .long 0x4b564d03, 0xffffffff, 0xffffffff
    .long 0x4b564d04, 0xffffffff, 0xffffffff
    .long 0x4b564d06, 0xffffffff, 0xffffffff
    .long 0x0000001b, 0x00000001, 0
    .long 0x00000277, 0xffffffff, 0xffffffff
    .long 0x000002ff, 0xffffffff, 0xffffffff
    .long 0xc0000081, 0xffffffff, 0xffffffff
    .long 0xc0000082, 0x00000000, 0x80000000
    .long 0xc0000082, 0xffffffff, 0xffffffff
    .long 0xc0000084, 0xffffffff, 0xffffffff
    .long 0x40000000, 0xffffffff, 0xffffffff
    .long 0xdeadbeef, 0xffffffff, 0xffffffff
    .long 0

.bss
.balign 16
xs: .skip 8192

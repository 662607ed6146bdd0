/* The time by the CMOS clock and by kvmclock.
 *
 * rtc=YYYYMMDDhhmmss (decimal digits); wall= and wall_ns= are kvmclock's
 * time at boot, system= the nanoseconds since, all in hexadecimal. */
.include "guest.inc"
.include "kvmclock.inc"

.set MSR_WALL_CLOCK, 0x4b564d00
.set MSR_SYSTEM_TIME, 0x4b564d01

main:
    OWN_TABLES
    PRINT "rtc="
    /* While an update is in progress the digits are in flux. */
1:  mov $0x0a, %al
    call cmos
    test $0x80, %al
    jnz 1b
    mov $0x0b, %al
    call cmos
    mov %al, register_b
    test $0x02, %al
    CHECK_IF nz, "24 hours a day"
    mov $0x0d, %al
    call cmos
    test $0x80, %al
    CHECK_IF nz, "RAM and time are valid"
    .irp index, 0x32, 0x09, 0x08, 0x07, 0x04, 0x02, 0x00
    mov $\index, %al
    call cmos
    call put_cmos
    .endr
    call newline

    mov $0x40000000, %eax
    cpuid
    cmp $0x4b4d564b, %ebx       /* "KVMK" */
    CHECK "CPUID says KVM"
    jne 9f
    mov $0x40000001, %eax
    cpuid
    test $8, %eax               /* CLOCKSOURCE2 */
    CHECK_IF nz, "CPUID offers kvmclock"
    test $8, %eax
    jz 9f

    mov $MSR_WALL_CLOCK, %ecx
    lea wall_clock, %rax
    xor %edx, %edx
    wrmsr
    testl $1, wall_clock
    CHECK "the wall clock's version is even"
    mov wall_clock + 4, %eax
    FACT "wall", %rax
    mov wall_clock + 8, %eax
    FACT "wall_ns", %rax

    mov $MSR_SYSTEM_TIME, %ecx
    lea system_time, %rax
    or $1, %rax
    xor %edx, %edx
    wrmsr
    call system_now
    mov %rax, %rbx
    FACT "system", %rbx
    /* Time passes, and the reading with it. */
    mov $1000, %ecx
2:  pause
    dec %ecx
    jnz 2b
    call system_now
    cmp %rbx, %rax
    CHECK_IF a, "the system time advances"
    mov $MSR_SYSTEM_TIME, %ecx
    rdmsr
    lea system_time + 1, %rcx
    cmp %ecx, %eax
    CHECK "the system time MSR reads back"
    mov $MSR_SYSTEM_TIME, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
9:  call newline
    ret

/* AL: a CMOS index; its byte in AL. */
cmos:
    out %al, $0x70
    in $0x71, %al
    ret

/* Prints AL, BCD or binary as register B says, as two digits. */
put_cmos:
    movzbl %al, %eax
    testb $0x04, register_b     /* binary */
    jz 1f
    mov $10, %cl
    div %cl                     /* AL: tens, AH: ones */
    mov %ah, %cl
    shl $4, %al
    or %cl, %al
    movzbl %al, %eax
1:  push %rax
    shr $4, %eax
    add $'0', %al
    call putc
    pop %rax
    and $0xf, %al
    add $'0', %al
    jmp putc

.data
.balign 64
wall_clock: .skip 12
.balign 64
register_b: .byte 0

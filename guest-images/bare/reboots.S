/* Counts its boots in the first word of its disk and resets itself, until it has seen
 * bare.boots=N of them; then it powers off. In the boots with the numbers N and
 * bare.first=N it waits for a byte on the serial port.
 *
 * Each boot must find memory full of zeros; what it finds in the devices' registers it
 * prints, for all boots to be compared. It leaves nothing as it was. */
.include "guest.inc"
.include "virtio.inc"
.include "virtio_blk.inc"

.set PM1A_EVENT, 0x600
.set SCI_ENTRY, 0x10 + 2 * 9
.set MSR_SYSENTER_CS, 0x174
.set GENERATION, 0xff000
/* A word every 64 KiB from here on is looked at. */
.set USED_MEMORY, 0x2800000
.set USED_WORDS, 256

main:
    OWN_TABLES
    call registers
    call memory
    call blk_init
    REQUEST BLK_IN, $0, $DATA, $512
    cmp $S_OK, %eax
    CHECK "read the count"
    incq DATA
    mov DATA, %r12
    REQUEST BLK_OUT, $0, $DATA, $512
    cmp $S_OK, %eax
    CHECK "write the count"
    cmpl $0, failures
    jne 9f
    PRINT "boot "
    mov %r12, %rax
    call putdec
    call newline
    ARGUMENT "bare.first="
    cmp %rax, %r12
    jne 1f
    call wait_for_byte
1:  ARGUMENT "bare.boots="
    cmp %rax, %r12
    jae 2f
    mov $0xcf9, %dx
    mov $0x0e, %al              /* full reset; its kind stays in the register */
    out %al, %dx
    jmp stop
2:  call wait_for_byte
    PRINT "done\n"
    mov $PM1A_CONTROL, %dx
    mov $5 << 10 | 1 << 13, %ax
    out %ax, %dx
    jmp stop
9:  ret

wait_for_byte:
    mov $PORT_SERIAL + 4, %dx
    mov $2, %al                 /* RTS: from now on bytes are taken */
    out %al, %dx
    PRINT "waiting\n"
    mov $PORT_SERIAL + 5, %dx
1:  pause
    in %dx, %al
    test $1, %al
    jz 1b
    mov $PORT_SERIAL, %dx
    in %dx, %al
    ret

/* Prints what is in them, and writes something else. */
registers:
    PRINT "found "
    mov $PM1A_EVENT, %dx
    in %dx, %eax
    FACT "pm1", %rax
    mov $0x01000000, %eax       /* the power button's enable bit */
    out %eax, %dx
    xor %eax, %eax
    mov $PORT_SERIAL + 1, %dx
    in %dx, %al
    FACT "ier", %rax
    mov $1, %al
    out %al, %dx
    mov $PORT_SERIAL + 7, %dx
    in %dx, %al
    FACT "scratch", %rax
    mov $0x5a, %al
    out %al, %dx
    mov $PORT_SERIAL + 4, %dx
    in %dx, %al
    FACT "modem", %rax
    mov $0xcf9, %dx
    in %dx, %al
    FACT "reset", %rax
    mov $LAPIC, %ebx
    mov 0xf0(%rbx), %eax
    FACT "spurious", %rax
    movl $0x1ef, 0xf0(%rbx)
    mov $IOAPIC, %ebx
    movl $SCI_ENTRY, (%rbx)
    mov 0x10(%rbx), %eax
    FACT "sci", %rax
    movl $0x00010077, 0x10(%rbx)
    mov $MSR_SYSENTER_CS, %ecx
    rdmsr
    FACT "sysenter", %rax
    mov $0x10, %eax
    wrmsr
    mov $0x80000804, %eax       /* command and status of device 1 */
    mov $0xcf8, %dx
    out %eax, %dx
    mov $0xcfc, %dx
    in %dx, %eax
    FACT "command", %rax
    mov GENERATION, %rax        /* a part of it */
    FACT "generation", %rax
    jmp newline

/* Looks for what a boot before has left, and leaves something. */
memory:
    mov $USED_MEMORY, %edi
    mov $USED_WORDS, %ecx
    xor %eax, %eax
1:  or (%rdi), %rax
    movq $-1, (%rdi)
    add $0x10000, %edi
    dec %ecx
    jnz 1b
    or VQ_AVAIL, %rax
    or VQ_USED, %rax
    test %rax, %rax
    CHECK "memory is full of zeros"
    ret

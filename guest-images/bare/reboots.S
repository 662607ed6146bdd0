/* Counts its boots in the first word of its disk and resets itself, until it has seen
 * bare.boots=N of them; then it powers off. In the boots with the numbers N and
 * bare.first=N it waits for a byte on the serial port.
 *
 * Each boot must find memory full of zeros; what it finds in the devices' registers it
 * prints, for all boots to be compared. It leaves nothing as it was. The CMOS RAM and the
 * date that the first boot sets must be there in the next ones. */
.include "guest.inc"
.include "virtio.inc"
.include "virtio_blk.inc"

.set PM1A_EVENT, 0x600
.set SCI_ENTRY, 0x10 + 2 * 9
.set MSR_SYSENTER_CS, 0x174
.set GENERATION, 0xff000
.set CMOS, 0x70
.set CMOS_YEAR, 0x09
.set CMOS_A, 0x0a
.set CMOS_B, 0x0b
/* Firmware tells the size of memory there, from 64 KiB of it on. */
.set CMOS_BASE_MEMORY, 0x15
/* A byte that is nobody's. */
.set CMOS_BOOTS, 0x40
/* A word every 64 KiB from here on is looked at. */
.set USED_MEMORY, 0x2800000
.set USED_WORDS, 256

/* The byte at a CMOS index, in RAX. */
.macro CMOS_READ index
    mov $\index, %eax
    out %al, $CMOS
    in $CMOS + 1, %al
.endm

/* Changes AL, but for a `value` that is in it. */
.macro CMOS_WRITE index, value
    mov \value, %ah
    mov $\index, %al
    out %al, $CMOS
    mov %ah, %al
    out %al, $CMOS + 1
.endm

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
    call battery_backed
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
    CMOS_READ CMOS_A
    and $0x7f, %al              /* but for the update that is in progress */
    FACT "rtc_a", %rax
    CMOS_READ CMOS_B
    FACT "rtc_b", %rax
    CMOS_READ CMOS_BASE_MEMORY
    FACT "base", %rax
    CMOS_WRITE CMOS_BASE_MEMORY, $0xff
    jmp newline

/* R12: this boot's number. Compares what a battery keeps with what the boots before
 * have left, and leaves the same. */
battery_backed:
    CMOS_READ CMOS_BOOTS
    lea -1(%r12), %rdx
    cmp %dl, %al
    CHECK "the CMOS RAM is as the boot before left it"
    mov %r12, %rax
    CMOS_WRITE CMOS_BOOTS, %al
    cmp $1, %r12
    je 1f
    CMOS_READ CMOS_YEAR
    cmp $0x48, %al
    CHECK "the date is the one that was set"
    jmp 2f
    /* 2 January 2048, piece by piece: SET holds the time meanwhile. */
1:  CMOS_WRITE CMOS_B, $0x82
    CMOS_WRITE 0x07, $0x02
    CMOS_WRITE 0x08, $0x01
    CMOS_WRITE CMOS_YEAR, $0x48
    CMOS_WRITE 0x32, $0x20
    CMOS_WRITE CMOS_B, $0x02
    /* What no battery keeps from the firmware: another rate, binary numbers, 12 hours. */
2:  CMOS_WRITE CMOS_A, $0x2f
    CMOS_WRITE CMOS_B, $0x04
    ret

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

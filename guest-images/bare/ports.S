/* Ports without a device read as ones and ignore writes, at every width; wide
 * accesses to devices do no harm. */
.include "guest.inc"

.macro ABSENT port
    mov $\port, %edx
    xor %eax, %eax
    out %eax, %dx
    out %ax, %dx
    out %al, %dx
    in %dx, %al
    cmp $0xff, %al
    CHECK "port \port, one byte"
    xor %eax, %eax
    in %dx, %ax
    cmp $0xffff, %eax
    CHECK "port \port, two bytes"
    xor %eax, %eax
    in %dx, %eax
    cmp $0xffffffff, %eax
    CHECK "port \port, four bytes"
.endm

main:
    ABSENT 0x2f8
    ABSENT 0x300
    ABSENT 0x1f0
    ABSENT 0xd00
    ABSENT 0xfff0

    /* The last port: a wide access runs over the end. */
    mov $0xffff, %edx
    xor %eax, %eax
    out %eax, %dx
    in %dx, %eax
    in %dx, %al
    cmp $0xff, %al
    CHECK "port 0xffff"

    /* The serial port's scratch register keeps what is written. */
    mov $PORT_SERIAL + 7, %edx
    mov $0x5a, %al
    out %al, %dx
    in %dx, %al
    cmp $0x5a, %al
    CHECK "scratch register"
    /* Accesses that begin within the port and end beyond it. */
    in %dx, %ax
    in %dx, %eax
    dec %edx
    in %dx, %eax
    mov $PORT_SERIAL - 1, %edx
    in %dx, %eax

    /* String instructions. */
    mov $0x300, %edx
    lea buffer, %rdi
    mov $64, %ecx
    rep insb
    mov $16, %ecx
    rep insl
    cmpq $-1, buffer
    CHECK "rep insb from an absent port"
    cmpq $-1, buffer + 120
    CHECK "rep insl from an absent port"
    lea buffer, %rsi
    mov $32, %ecx
    rep outsw
    lea text, %rsi
    mov $text_end - text, %ecx
    mov $PORT_SERIAL, %edx
    rep outsb
    ret

.section .rodata
text: .ascii "written by a string instruction\n"
text_end:
.bss
buffer: .skip 128

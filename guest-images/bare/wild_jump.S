/* Goes to where there is no memory to run. */
.include "guest.inc"

main:
    PRINT "jumping\n"
    mov $0xd0000000, %eax
    jmp *%rax

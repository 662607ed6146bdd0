/* An exception with no way to deliver it, nor the one that follows. */
.include "guest.inc"

main:
    PRINT "about to fault\n"
    lidt no_idt
    ud2
    PRINT "FAIL survived\n"
    ret

.data
no_idt:
    .word 0
    .quad 0

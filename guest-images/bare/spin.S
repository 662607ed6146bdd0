/* Runs for ever in kernel mode without a single exit. */
.include "guest.inc"

main:
    PRINT "spinning in kernel mode\n"
1:  jmp 1b

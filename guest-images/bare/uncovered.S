/* An instruction that nobody interprets: where kernel code is interpreted, the
 * VM ends with a line that says which, and in what function. */
.include "guest.inc"

main:
    PRINT "computing\n"
    fninit
    call sine_of_one
    ret

sine_of_one:
    nop
    fld1
    fsin
    fstp %st(0)
    ret

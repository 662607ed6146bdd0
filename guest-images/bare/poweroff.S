/* Powers off through the port that the FADT gives for PM1a control. */
.include "guest.inc"
.include "acpi.inc"

main:
    call check_acpi
    mov fadt, %rbx
    test %rbx, %rbx
    jz 9f
    mov 64(%rbx), %edx          /* PM1a_CNT_BLK */
    FACT "pm1a", %rdx
    cmp $PM1A_CONTROL, %edx
    CHECK "PM1a control is where the address map says"
    cmpl $0, failures
    jne 9f
    in %dx, %ax
    and $0x03ff, %ax            /* neither SLP_TYP nor SLP_EN */
    /* SLP_TYP alone does nothing; SLP_EN makes it happen. */
    or $5 << 10, %ax
    out %ax, %dx
    PRINT "powering off\n"
    or $1 << 13, %ax
    out %ax, %dx
    PRINT "FAIL still here\n"
9:  ret

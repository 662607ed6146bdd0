/* Resets through the FADT's reset register. */
.include "guest.inc"
.include "acpi.inc"

main:
    call check_acpi
    mov fadt, %rbx
    test %rbx, %rbx
    jz 9f
    testl $1 << 10, 112(%rbx)   /* RESET_REG_SUP */
    CHECK_IF nz, "the FADT supports its reset register"
    cmpb $1, 116(%rbx)
    CHECK "the reset register is an I/O port"
    mov 120(%rbx), %rdx
    FACT "reset", %rdx
    cmpl $0, failures
    jne 9f
    PRINT "done\n"
    mov 128(%rbx), %al          /* RESET_VALUE */
    out %al, %dx
    PRINT "FAIL still here\n"
9:  ret

/* Reports a panic through the pvpanic port, as far as it offers that. */
.include "guest.inc"

main:
    mov $PORT_PVPANIC, %dx
    in %dx, %al
    test $1, %al
    CHECK_IF nz, "pvpanic supports the panicked event"
    PRINT "panicking\n"
    mov $1, %al
    out %al, %dx
    PRINT "FAIL still here\n"
    ret

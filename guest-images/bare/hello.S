/* Says hello, tells the boot timer that it runs, and resets the machine. */
.include "guest.inc"

main:
    PRINT "hello from a bare guest\n"
    mov $PORT_BOOT_TIMER, %dx
    mov $123, %al
    out %al, %dx
    ret

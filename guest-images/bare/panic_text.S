/* What a kernel without a pvpanic driver does when it panics and reboots. */
.include "guest.inc"

main:
    PRINT "[    0.123456] Kernel panic - not syncing: test\n"
    ret

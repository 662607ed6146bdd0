/* Runs for ever in user mode without a single exit. */
.include "guest.inc"
.include "user.inc"

main:
    OWN_TABLES
    PRINT "spinning in user mode\n"
    lea loop, %rdi
    mov $2, %esi
    jmp enter_user

.section .user, "awx"
loop:
    jmp loop

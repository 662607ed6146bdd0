/* Passes a status on through the debug-exit port: bare.status=N, else 42. */
.include "guest.inc"

main:
    ARGUMENT "bare.status="
    jnc 1f
    mov $42, %eax
1:  call exit_status

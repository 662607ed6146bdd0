/* Writes a byte to a port over and over, for tests/bench/exits.rs:
 * bare.exits=N times (a multiple of 16), port bare.port=P. A byte on the serial
 * port marks the start, the boot timer the end; then status 0. */
.include "guest.inc"

main:
    ARGUMENT "bare.port="
    mov %rax, %rbx
    ARGUMENT "bare.exits="
    mov %rax, %rcx
    shr $4, %rcx
    mov $PORT_SERIAL, %dx
    mov $'\n', %al
    out %al, %dx
    mov %ebx, %edx
    xor %eax, %eax
    test %rcx, %rcx
    jz 2f
1:  .rept 16
    out %al, %dx
    .endr
    dec %rcx
    jnz 1b
2:  mov $PORT_BOOT_TIMER, %dx
    mov $123, %al
    out %al, %dx
    xor %eax, %eax
    call exit_status

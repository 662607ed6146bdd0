/* Tells the time when it is asked: for each byte of serial input, a line
 * `clock=NANOSECONDS tsc=CYCLES` by kvmclock and the TSC, in hexadecimal, until a q.
 * Before, khz=: the frequency of the TSC. */
.include "guest.inc"
.include "kvmclock.inc"

.set MSR_SYSTEM_TIME, 0x4b564d01

main:
    OWN_TABLES
    mov $0x40000010, %eax
    cpuid
    mov %eax, %eax
    FACT "khz", %rax
    mov $MSR_SYSTEM_TIME, %ecx
    lea system_time, %rax
    or $1, %rax
    xor %edx, %edx
    wrmsr
    mov $PORT_SERIAL + 4, %dx
    mov $3, %al                 /* DTR, and RTS: input may come */
    out %al, %dx
    PRINT "ready\n"
1:  mov $PORT_SERIAL + 5, %dx
    in %dx, %al
    test $1, %al
    jz 1b
    mov $PORT_SERIAL, %dx
    in %dx, %al
    cmp $'q', %al
    je 9f
    call system_now
    mov %rax, %r12
    call tsc
    mov %rax, %r13
    FACT "clock", %r12
    FACT "tsc", %r13
    call newline
    jmp 1b
9:  ret

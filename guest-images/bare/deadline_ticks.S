/* Ticks of the TSC-deadline timer, 250 a second, for a second by kvmclock.
 *
 * bare.cost= is the time each tick's handler takes before it arms the next
 * one, in microseconds. The handler skips the ticks that have passed meanwhile,
 * as an operating system does. Facts: ticks= that came, due= that have been
 * counted with those skipped, tsc_us= microseconds by the TSC, clock_us= by
 * kvmclock (all in hexadecimal). */
.include "guest.inc"
.include "interrupts.inc"
.include "kvmclock.inc"

.set VECTOR, 0x40
.set MSR_TSC_DEADLINE, 0x6e0
.set MSR_SYSTEM_TIME, 0x4b564d01
.set LVT_TSC_DEADLINE, 0x40000

main:
    OWN_TABLES
    call interrupts_init
    call lapic_init
    GATE VECTOR, tick
    mov $1, %eax
    cpuid
    test $1 << 24, %ecx
    CHECK_IF nz, "CPUID offers the TSC-deadline timer"
    mov $0x40000010, %eax
    cpuid
    mov %eax, khz               /* TSC ticks in a millisecond */
    test %eax, %eax
    CHECK_IF nz, "CPUID tells the TSC's frequency"
    mov khz, %rax
    shl $2, %rax
    mov %rax, period
    ARGUMENT "bare.cost="
    mulq khz
    mov $1000, %ecx
    div %rcx
    mov %rax, cost

    mov $MSR_SYSTEM_TIME, %ecx
    lea system_time, %rax
    or $1, %rax
    xor %edx, %edx
    wrmsr

    mov $LAPIC, %ebx
    movl $LVT_TSC_DEADLINE + VECTOR, 0x320(%rbx)
    mfence                      /* the mode before the deadline, SDM vol. 3 §12.5.4.1 */
    call system_now
    mov %rax, %r15
    call tsc
    mov %rax, %r14
    add period, %rax
    mov %rax, next
    call arm
    sti
1:  pause
    call system_now
    sub %r15, %rax
    cmp $1000000000, %rax
    jb 1b
    cli
    mov %rax, %r13
    call tsc
    sub %r14, %rax
    mov $1000, %ecx
    mul %rcx
    divq khz
    FACT "tsc_us", %rax
    mov %r13, %rax
    xor %edx, %edx
    mov $1000, %ecx
    div %rcx
    FACT "clock_us", %rax
    FACT "ticks", ticks
    FACT "due", due
    call newline
    ret

tick:
    push %rax
    push %rcx
    push %rdx
    incq ticks
    call tsc
    mov %rax, %rcx
    add cost, %rcx
1:  call tsc
    cmp %rcx, %rax
    jb 1b
2:  incq due
    mov next, %rcx
    add period, %rcx
    mov %rcx, next
    cmp %rax, %rcx
    jbe 2b
    mov %rcx, %rax
    call arm
    EOI
    pop %rdx
    pop %rcx
    pop %rax
    iretq

/* RAX: the next deadline. */
arm:
    mov %rax, %rdx
    shr $32, %rdx
    mov $MSR_TSC_DEADLINE, %ecx
    wrmsr
    ret

.data
khz: .quad 0
period: .quad 0
cost: .quad 0
next: .quad 0
ticks: .quad 0
due: .quad 0

/* Watches the clocks, on two processors at once, until one has gone on for bare.ms= by
 * kvmclock.
 *
 * Both read the TSC in turn, under a lock: it must never go back, whoever reads. The first
 * reads kvmclock as well, and has armed its TSC-deadline timer for three quarters of that
 * time, which must not fire before the TSC is there. Facts, in hexadecimal: clock= nanoseconds
 * and tsc= cycles that have passed, khz= the TSC's frequency, clock_step= and tsc_step= the
 * largest steps between two readings of the first, back= how often the TSC went back, readings=
 * how often the second one read it, fired= how often the timer fired. */
.include "guest.inc"
.include "interrupts.inc"
.include "kvmclock.inc"
.include "processors.inc"

.set VECTOR, 0x40
.set MSR_TSC_DEADLINE, 0x6e0
.set MSR_SYSTEM_TIME, 0x4b564d01
.set LVT_TSC_DEADLINE, 0x40000

main:
    OWN_TABLES
    call interrupts_init
    call lapic_init
    GATE VECTOR, fired
    mov $0x40000010, %eax
    cpuid
    mov %eax, khz               /* TSC ticks in a millisecond */
    ARGUMENT "bare.ms="
    mov $1000000, %ecx
    mul %rcx
    mov %rax, duration
    mov $MSR_SYSTEM_TIME, %ecx
    lea system_time, %rax
    or $1, %rax
    xor %edx, %edx
    wrmsr

    call processors_init
    mov $1, %eax                /* the other processor's APIC id */
    call start_processor
1:  pause
    cmpq $0, readings
    je 1b

    call system_now
    mov %rax, first_clock
    mov %rax, %r15              /* the reading before */
    call tsc
    mov %rax, first_tsc
    mov %rax, %r14
    mov $LAPIC, %ebp
    movl $LVT_TSC_DEADLINE + VECTOR, 0x320(%rbp)
    mfence                      /* the mode before the deadline, SDM vol. 3 §12.5.4.1 */
    mov duration, %rax          /* cycles: ns * khz / 10^6, three quarters of them */
    mov khz, %rcx
    mul %rcx
    mov $1000000, %ecx
    div %rcx
    mov %rax, %rcx
    shr $2, %rcx
    sub %rcx, %rax
    add %r14, %rax
    mov %rax, deadline
    mov %rax, %rdx
    shr $32, %rdx
    mov $MSR_TSC_DEADLINE, %ecx
    wrmsr
    PRINT "watching\n"
    sti
2:  call read_tsc
    mov %rax, %rcx
    sub %r14, %rcx
    mov %rax, %r14
    cmp tsc_step, %rcx
    jbe 3f
    mov %rcx, tsc_step
3:  call system_now
    cmp %r15, %rax
    CHECK_IF ae, "kvmclock does not go back"
    mov %rax, %rcx
    sub %r15, %rcx
    mov %rax, %r15
    cmp clock_step, %rcx
    jbe 4f
    mov %rcx, clock_step
4:  sub first_clock, %rax
    cmp duration, %rax
    jb 2b
    cli
    movl $1, over
    mov %r15, %rax
    sub first_clock, %rax
    FACT "clock", %rax
    sub first_tsc, %r14
    FACT "tsc", %r14
    FACT "khz", khz
    FACT "clock_step", clock_step
    FACT "tsc_step", tsc_step
    FACT "back", back
    FACT "readings", readings
    FACT "fired", timer_fired
    call newline
    cmpq $0, back
    CHECK "the TSC does not go back"
    ret

/* The timer: not before its time. */
fired:
    push %rax
    push %rdx
    call tsc
    incq timer_fired
    cmp deadline, %rax
    CHECK_IF ae, "the timer does not fire early"
    EOI
    pop %rdx
    pop %rax
    iretq

/* The TSC in RAX, noted if it is behind what a processor has read before. Changes RDX. */
read_tsc:
    mov $1, %eax
    xchg %eax, lock
    test %eax, %eax
    jz 1f
    pause
    jmp read_tsc
1:  lfence
    call tsc
    cmp latest, %rax
    jae 2f
    incq back
2:  mov %rax, latest
    movl $0, lock
    ret

/* The second processor. */
processor:
1:  call read_tsc
    incq readings
    cmpl $0, over
    je 1b
    jmp stop

.data
.balign 64
lock: .long 0
over: .long 0
latest: .quad 0
back: .quad 0
readings: .quad 0
.balign 64
khz: .quad 0
duration: .quad 0
first_clock: .quad 0
first_tsc: .quad 0
deadline: .quad 0
clock_step: .quad 0
tsc_step: .quad 0
timer_fired: .quad 0

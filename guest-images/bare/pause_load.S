/* Work to be paused: numbered lines without a gap while the local APIC's timer
 * interrupts. Ends after bare.lines=N, else never. */
.include "guest.inc"
.include "interrupts.inc"

.set VECTOR, 0x40

main:
    OWN_TABLES
    call interrupts_init
    call lapic_init
    GATE VECTOR, tick
    mov $-1, %r12
    ARGUMENT "bare.lines="
    jc 1f
    mov %rax, %r12
1:  mov $LAPIC, %ebx
    movl $0xb, 0x3e0(%rbx)      /* divide by 1 */
    movl $0x20000 + VECTOR, 0x320(%rbx)
    movl $10000000, 0x380(%rbx) /* 10 ms at KVM's 1 GHz */
    xor %r13d, %r13d
2:  sti
    PRINT "line "
    mov %r13, %rax
    call putdec
    call newline
    inc %r13
    cmp %r12, %r13
    jb 2b
    /* At least one tick must come, however fast the lines were. */
3:  cli
    cmpq $0, ticks
    jne 4f
    sti
    hlt
    jmp 3b
4:  movl $0, 0x380(%rbx)
    ret

tick:
    incq ticks
    EOI
    iretq

.data
.balign 8
ticks: .quad 0

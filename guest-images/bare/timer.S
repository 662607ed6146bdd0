/* Interrupts of the local APIC's timer: periodic, then one-shot. */
.include "guest.inc"
.include "interrupts.inc"

.set VECTOR, 0x40

main:
    OWN_TABLES
    call interrupts_init
    call lapic_init
    GATE VECTOR, tick

    mov $LAPIC, %ebx
    movl $0xb, 0x3e0(%rbx)      /* divide by 1 */
    movl $0x20000 + VECTOR, 0x320(%rbx)
    movl $20000000, 0x380(%rbx) /* 20 ms at KVM's 1 GHz */
    mov $5, %ecx
    call wait_ticks
    movl $0, 0x380(%rbx)
    PRINT "periodic\n"

    movq $0, ticks
    movl $VECTOR, 0x320(%rbx)
    movl $20000000, 0x380(%rbx)
    mov $1, %ecx
    call wait_ticks
    cmpl $0, 0x390(%rbx)
    CHECK "the count stands at zero after one shot"
    PRINT "one shot\n"
    ret

/* Halts until ECX ticks have come. */
wait_ticks:
    cli
    cmp %rcx, ticks
    jae 1f
    sti
    hlt
    jmp wait_ticks
1:  ret

tick:
    incq ticks
    EOI
    iretq

.data
.balign 8
ticks: .quad 0

/* Enables the power button's event and waits for the SCI. Powers off then, or does with
 * bare.then=1 nothing of the kind, with bare.then=2 resets itself. */
.include "guest.inc"
.include "interrupts.inc"

.set VECTOR, 0x40
.set SCI_PIN, 9
.set PM1A_EVENT, 0x600
.set POWER_BUTTON, 1 << 8

main:
    OWN_TABLES
    call interrupts_init
    call lapic_init
    GATE VECTOR, sci
    mov $SCI_PIN, %edi
    mov $VECTOR, %esi           /* fixed, edge */
    call ioapic_route
    mov $PM1A_EVENT + 2, %dx
    mov $POWER_BUTTON, %ax
    out %ax, %dx
    PRINT "ready\n"
1:  cli
    cmpl $0, pressed
    jne 2f
    sti
    hlt
    jmp 1b
2:  movl $0, pressed
    PRINT "pressed\n"
    mov $PM1A_EVENT, %dx
    in %dx, %ax
    cmp $POWER_BUTTON, %ax
    CHECK "the power button's status bit"
    mov $POWER_BUTTON, %ax
    out %ax, %dx
    in %dx, %ax
    test %ax, %ax
    CHECK "the status bit can be cleared"
    cmpl $0, failures
    jne 9f
    ARGUMENT "bare.then="
    cmp $1, %eax
    je 1b
    cmp $2, %eax
    je 9f
    mov $PM1A_CONTROL, %dx
    mov $5 << 10 | 1 << 13, %ax
    out %ax, %dx
    jmp stop
9:  ret

sci:
    incl pressed
    EOI
    iretq

.data
.balign 4
pressed: .long 0

/* The load of net_load.inc with interrupts, halted between them: for hosts where one
 * processor runs everything. virtio-mmio wants bare.irq=PIN of the IOAPIC. */
.include "guest.inc"
.include "net_load.inc"
.include "virtio_irq.inc"

main:
    OWN_TABLES
    call irq_init
    call load_init
    jmp load

/* RDI: the queue. Halts until something has come back on it. Keeps RDI. */
wait_queue:
    call nq_idle
    jne 9f
    mov Q_AVAIL(%rdi), %rcx
    testl $F_EVENT_IDX, virtio_agreed
    jz 1f
    mov Q_SIZE(%rdi), %r8d
    mov %ax, 4(%rcx,%r8,2)      /* used_event */
    jmp 2f
1:  movw $0, (%rcx)             /* interrupts, please */
2:  lock orl $0, (%rsp)
    cli
    call nq_idle
    jne 3f
    sti
    hlt
    jmp wait_queue
3:  sti
9:  clc
    ret

/* The load of blk_load.inc with interrupts, halted between them: for hosts where
 * one processor runs everything. virtio-mmio wants bare.irq=PIN of the IOAPIC;
 * on PCI the queue has MSI-X vector 0. */
.include "guest.inc"
.include "blk_load.inc"
.include "virtio_irq.inc"

main:
    OWN_TABLES
    call irq_init
    call load_init
    jmp load

/* Halts until the device has returned a chain. */
wait_used:
    mov vq_seen, %ax
    cmp VQ_USED + 2, %ax
    jne 9f
    testl $F_EVENT_IDX, virtio_agreed
    jz 1f
    mov vq_size, %ecx
    mov %ax, VQ_AVAIL + 4(,%rcx,2) /* used_event */
    jmp 2f
1:  movw $0, VQ_AVAIL           /* interrupts, please */
2:  lock orl $0, (%rsp)
    cli
    cmp VQ_USED + 2, %ax
    jne 3f
    sti
    hlt
    jmp wait_used
3:  sti
9:  clc
    ret

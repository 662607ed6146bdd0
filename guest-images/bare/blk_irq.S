/* The load of blk_load.inc with interrupts, halted between them: for hosts where
 * one processor runs everything. virtio-mmio wants bare.irq=PIN of the IOAPIC;
 * on PCI the queue has MSI-X vector 0. */
.include "guest.inc"
.include "interrupts.inc"
.include "blk_load.inc"

.set VECTOR, 0x41

main:
    OWN_TABLES
    call interrupts_init
    call lapic_init
    GATE VECTOR, used_interrupt
    movq $msix, virtio_before_enable
    call load_init
    ARGUMENT "bare.irq="
    jc 1f
    mov %eax, %edi
    mov $VECTOR, %esi           /* fixed, edge */
    call ioapic_route
1:  jmp load

/* Has MSI-X deliver queue 0's interrupts, and none for the configuration
 * (§4.1.5.1.2). Nothing to do for virtio-mmio. */
msix:
    cmpl $0, virtio_msix
    je 9f
    mov virtio_pci, %edi
    add virtio_msix, %edi
    call pci_read
    mov %eax, %esi
    or $1 << 31, %esi           /* enable */
    call pci_write
    add $4, %edi
    call pci_read
    mov %eax, %r10d
    and $~7, %r10d              /* the table's offset */
    mov %eax, %esi
    and $7, %esi
    call pci_bar
    add %r10, %rax
    movl $LAPIC, (%rax)
    movl $0, 4(%rax)
    movl $VECTOR, 8(%rax)
    movl $0, 12(%rax)           /* not masked */
    mov virtio_common, %rax
    movw $-1, 0x10(%rax)        /* config_msix_vector */
    movw $0, 0x1a(%rax)         /* queue_msix_vector */
    movzwl 0x1a(%rax), %eax
    test %eax, %eax
    CHECK "the queue takes a vector"
9:  ret

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

used_interrupt:
    push %rax
    push %rdx
    mov virtio_mmio, %rdx
    test %rdx, %rdx
    jz 1f
    mov 0x60(%rdx), %eax        /* InterruptStatus */
    mov %eax, 0x64(%rdx)        /* InterruptACK */
1:  EOI
    pop %rdx
    pop %rax
    iretq

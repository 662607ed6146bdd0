/* Attacks on a disk's rings and registers, and on what happens when. */
.include "guest.inc"
.include "disk_hostile.inc"

.section .rodata
.balign 8
cases:
    CASE runaway_index, "a runaway available index"
    CASE same_chain, "one chain a whole ring long"
    CASE changing_chains, "chains that change in flight"
    CASE wild_events, "wild event indices"
    CASE idle_kicks, "kicks without buffers"
    CASE early_kicks, "kicks before DRIVER_OK"
    CASE bad_sizes, "queue sizes"
    CASE bad_rings, "rings where they cannot be"
    CASE live_queue, "a queue altered while live"
    CASE bad_features, "features not offered"
    CASE bad_status, "status out of order"
    CASE absent_queues, "queues that are not there"
    CASE config_writes, "writes to the configuration space"
    CASE all_ones, "all ones to all registers"
    CASE odd_widths, "accesses of odd widths"
    CASE pci_config, "the PCI configuration space"
    CASE idle_resets, "resets"
    CASE busy_resets, "resets with requests in flight"
    CASE no_restart, "DRIVER_OK again and again"
    .quad 0

.text
/* Again and again: what it is told off for must not fill a log. */
runaway_index:
    mov $5, %r13d
1:
    .irp distance, 257, 1000, 0x7fff, 0xffff
    call plain
    movw $\distance, vq_next
    call attempt_added
    .endr
    dec %r13d
    jnz 1b
    ret

/* All of them are served, by one status byte. */
same_chain:
    call plain
    movl $512, D1 + D_LENGTH
    mov vq_size, %r12d
1:  xor %edi, %edi
    call vq_add
    dec %r12d
    jnz 1b
    mov vq_next, %ax
    mov %ax, VQ_AVAIL + 2
    call kick
    mov vq_size, %r12d
2:  call blk_result
    cmp $S_OK, %eax
    CHECK "one of many equal reads"
    dec %r12d
    jnz 2b
    ret

/* The driver writes its descriptors and headers anew while the device reads. */
changing_chains:
    mov $40, %r13d
1:  call restart
    call plain
    mov $64, %r12d
2:  xor %edi, %edi
    call vq_add
    dec %r12d
    jnz 2b
    mov vq_next, %ax
    mov %ax, VQ_AVAIL + 2
    call kick
    mov $4000, %r12d
3:  imul $0x9e3779b1, %r12d, %eax
    mov %eax, %ecx
    shr $13, %ecx
    and $0xe, %ecx              /* an even type: never a write */
    mov %ecx, HEADERS
    mov %ax, D1 + D_LENGTH
    mov %al, D1 + 5             /* beyond 2^40, for a moment */
    shr $9, %eax
    mov %eax, HEADERS + 8
    mov %eax, %ecx
    and $3, %ecx
    mov %cx, D1 + D_NEXT
    shr $2, %eax
    and $3, %eax
    mov %ax, D0 + D_NEXT
    movb $0, D1 + 5
    dec %r12d
    jnz 3b
    dec %r13d
    jnz 1b
    ret

wild_events:
    mov $200, %r13d
1:  call plain
    movl $512, D1 + D_LENGTH
    mov vq_size, %ecx
    imul $0x9e3779b1, %r13d, %eax
    mov %ax, VQ_AVAIL + 4(,%rcx,2) /* used_event */
    shr $16, %eax
    mov %ax, VQ_AVAIL           /* flags */
    mov %ax, VQ_USED + 4(,%rcx,8) /* avail_event and flags are the device's */
    mov %ax, VQ_USED
    xor %edi, %edi
    call vq_add
    mov vq_next, %ax
    mov %ax, VQ_AVAIL + 2
    call kick
    call blk_result
    cmp $S_OK, %eax
    CHECK "a read with wild event indices"
    dec %r13d
    jnz 1b
    ret

idle_kicks:
    mov $2000, %r12d
1:  call kick
    dec %r12d
    jnz 1b
    ret

early_kicks:
    call virtio_reset
    mov $50, %r12d
1:  call kick
    dec %r12d
    jnz 1b
    mov $ACKNOWLEDGE | DRIVER, %edi
    call virtio_set_status
    call plain
    xor %edi, %edi
    call queue_select
    call vq_add
    mov vq_next, %ax
    mov %ax, VQ_AVAIL + 2
    call kick
    call queue_enable
    call kick
    ret

/* EDI: size; RSI, RDX, RCX: rings. Starts the device with those, and kicks. */
start_with:
    push %rbx
    push %rsi
    push %rdx
    push %rcx
    mov %edi, %ebx
    call virtio_reset
    mov $ACKNOWLEDGE | DRIVER, %edi
    call virtio_set_status
    mov $1, %edi
    mov $1, %esi
    call virtio_accept
    mov $ACKNOWLEDGE | DRIVER | FEATURES_OK, %edi
    call virtio_set_status
    xor %edi, %edi
    call queue_select
    mov %ebx, %edi
    call queue_set_size
    pop %rdx
    pop %rsi
    pop %rdi
    call queue_set_rings
    call queue_enable
    mov $ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, %edi
    call virtio_set_status
    call plain
    movw $1, VQ_AVAIL + 2
    call kick
    mov $' ', %al
    call putc
    call virtio_status
    call puthex
    pop %rbx
    ret

bad_sizes:
    .irp size, 0, 3, 100, 255, 257, 512, 0x8000, 0xffff
    mov $\size, %edi
    mov $VQ_DESC, %esi
    mov $VQ_AVAIL, %edx
    mov $VQ_USED, %ecx
    call start_with
    .endr
    ret

bad_rings:
    .irp address, 0, NOWHERE, LAPIC, 0xfffff000, 0xfffffffffffff000, 0x8000000000000000, VQ_DESC + 1, VQ_DESC + 8
    .irp which, 0, 1, 2
    mov $VQ_DESC, %esi
    mov $VQ_AVAIL, %edx
    mov $VQ_USED, %ecx
    .if \which == 0
    movabs $\address, %rsi
    .elseif \which == 1
    movabs $\address + 1, %rdx
    .else
    movabs $\address + 2, %rcx
    .endif
    mov $16, %edi
    call start_with
    .endr
    .endr
    /* Over the end of memory. */
    .irp register, rsi, rdx, rcx
    mov $VQ_DESC, %esi
    mov $VQ_AVAIL, %edx
    mov $VQ_USED, %ecx
    mov ram_end, %\register
    sub $16, %\register
    mov $256, %edi
    call start_with
    .endr
    /* All three in one place. */
    mov $VQ_DESC, %esi
    mov %esi, %edx
    mov %esi, %ecx
    mov $16, %edi
    jmp start_with

live_queue:
    xor %edi, %edi
    call queue_select
    .irp size, 1, 3, 16, 0
    mov $\size, %edi
    call queue_set_size
    call serves
    .endr
    .irp address, 0, NOWHERE, 0xfffffffffffff000
    movabs $\address, %rdi
    mov %rdi, %rsi
    mov %rdi, %rdx
    call queue_set_rings
    call serves
    .endr
    call queue_enable
    call serves
    /* Taken away, which a device need not allow. */
    cmpq $0, virtio_mmio
    je 1f
    mov virtio_mmio, %rdx
    movl $0, 0x44(%rdx)
1:  call plain
    jmp attempt

bad_features:
    .irp half, 0, 1, 2, 0xffffffff
    .irp features, 0, 0x55555555, 0xffffffff
    call virtio_reset
    mov $ACKNOWLEDGE | DRIVER, %edi
    call virtio_set_status
    mov $\half, %edi
    mov $\features, %esi
    call virtio_accept
    mov $ACKNOWLEDGE | DRIVER | FEATURES_OK, %edi
    call virtio_set_status
    call virtio_status
    test $FEATURES_OK, %al
    CHECK_IF z, "no FEATURES_OK for half \half, \features"
    mov $ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, %edi
    call virtio_set_status
    call kick
    .endr
    .endr
    ret

bad_status:
    .irp status, 4, 8, 12, 15, 64, 128, 255, 79, 1
    call virtio_reset
    mov $\status, %edi
    call virtio_set_status
    call kick
    mov $0xff, %edi
    call virtio_set_status
    .endr
    xor %r12d, %r12d
1:  mov %r12d, %edi
    call virtio_set_status
    inc %r12d
    cmp $256, %r12d
    jb 1b
    ret

absent_queues:
    .irp queue, 1, 2, 255, 0x7fff, 0xffff
    mov $\queue, %edi
    call queue_select
    mov $16, %edi
    call queue_set_size
    mov $VQ_DESC, %edi
    mov $VQ_AVAIL, %esi
    mov $VQ_USED, %edx
    call queue_set_rings
    mov virtio_doorbell, %r12
    call queue_enable
    mov %r12, virtio_doorbell
    mov $\queue, %eax
    mov virtio_doorbell, %rdx
    cmpq $0, virtio_mmio
    je 1f
    mov %eax, (%rdx)
1:  mov %ax, (%rdx)
    call serves
    .endr
    ret

config_writes:
    mov virtio_config, %r12
    xor %r13d, %r13d
1:  movb $-1, (%r12,%r13)
    movb $0, (%r12,%r13)
    movl $-1, (%r12,%r13)
    movq $-1, (%r12,%r13)
    mov (%r12,%r13), %rax
    inc %r13d
    cmp $96, %r13d
    jb 1b
    mov virtio_config, %rdx
    mov (%rdx), %eax
    cmp capacity, %eax
    CHECK "the capacity cannot be written"
    jmp serves

/* The registers' start in R12, their length in R13. */
registers:
    mov virtio_mmio, %r12
    mov $0x200, %r13d
    test %r12, %r12
    jnz 1f
    mov virtio_common, %r12
    mov $0x40, %r13d
1:  ret

all_ones:
    call registers
    .irp value, 0xffffffff, 0, 0x55555555, 0xfffffff0
    mov $\value, %r14d
    xor %ebx, %ebx
1:  mov %r14d, (%r12,%rbx)
    mov (%r12,%rbx), %eax
    add $4, %ebx
    cmp %r13d, %ebx
    jb 1b
    /* Backwards, so that the status comes first. */
2:  sub $4, %ebx
    mov %r14d, (%r12,%rbx)
    jnz 2b
    .endr
    ret

odd_widths:
    call registers
    xor %ebx, %ebx
1:  mov (%r12,%rbx), %al
    mov %al, (%r12,%rbx)
    movw $-1, (%r12,%rbx)
    mov (%r12,%rbx), %ax
    mov (%r12,%rbx), %rax
    movq $-1, (%r12,%rbx)
    movl $-1, 1(%r12,%rbx)
    mov 3(%r12,%rbx), %eax
    add $1, %ebx
    cmp %r13d, %ebx
    jb 1b
    ret

/* The function's own configuration space is written with all ones and put back. */
pci_config:
    cmpq $0, virtio_common
    je 9f
    xor %ebx, %ebx
1:  mov virtio_pci, %edi
    add %ebx, %edi
    call pci_read
    mov %eax, saved_config(%rbx)
    add $4, %ebx
    cmp $256, %ebx
    jb 1b
    .irp value, 0xffffffff, 0, 0xaaaaaaaa
    mov $\value, %r14d
    xor %ebx, %ebx
2:  mov virtio_pci, %edi
    add %ebx, %edi
    mov %r14d, %esi
    call pci_write
    call pci_read
    add $4, %ebx
    cmp $256, %ebx
    jb 2b
    .endr
    /* Bytes and words at all places, data port without address included. */
    mov $0xcf8, %ebx
3:  mov %ebx, %edx
    cmp $0xcf9, %edx            /* the reset register */
    je 4f
    mov $0xff, %al
    out %al, %dx
    in %dx, %al
    cmp $0xcf8, %edx
    je 4f
    in %dx, %ax
4:  inc %ebx
    cmp $0xd00, %ebx
    jb 3b
    /* The command register and the interrupt line's last, when all BARs stand. */
    mov $0x40 - 4, %ebx
5:  cmp $4, %ebx
    je 6f
    mov virtio_pci, %edi
    add %ebx, %edi
    mov saved_config(%rbx), %esi
    call pci_write
6:  sub $4, %ebx
    jns 5b
    mov virtio_pci, %edi
    add $4, %edi
    movzwl saved_config + 4, %esi
    call pci_write
    /* MSI-X off. */
    mov virtio_msix, %ebx
    test %ebx, %ebx
    jz 9f
    mov virtio_pci, %edi
    add %ebx, %edi
    mov saved_config(%rbx), %esi
    call pci_write
9:  ret

idle_resets:
    mov $2000, %r12d
1:  call restart
    dec %r12d
    jnz 1b
    ret

busy_resets:
    mov $1000, %r12d
1:  call restart
    /* 32 reads of all over the disk. */
    xor %r13d, %r13d
2:  mov capacity, %rax
    mul %r13
    shr $5, %rax
    mov %rax, %rsi
    mov %r13d, %edx
    shl $12, %edx
    add $DATA, %edx
    mov $512, %ecx
    mov %r13d, %r8d
    mov $BLK_IN, %edi
    call blk_add
    inc %r13d
    cmp $32, %r13d
    jb 2b
    call vq_publish
    mov %r12d, %ecx
    and $0xff, %ecx
3:  pause                       /* further into the work each time */
    dec %ecx
    jns 3b
    call virtio_reset
    /* What was in flight is no more: the rings hold still. */
    movw VQ_USED + 2, %r14w
    mov $2000, %ecx
4:  pause
    dec %ecx
    jnz 4b
    cmp VQ_USED + 2, %r14w
    CHECK "nothing comes back after a reset"
    dec %r12d
    jnz 1b
    ret

no_restart:
    mov $200, %r12d
1:  mov $ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, %edi
    call virtio_set_status
    dec %r12d
    jnz 1b
    call serves
    mov $200, %r12d
2:  xor %edi, %edi
    call queue_select
    call queue_enable
    dec %r12d
    jnz 2b
    jmp serves

.bss
.balign 8
saved_config: .skip 256
.text

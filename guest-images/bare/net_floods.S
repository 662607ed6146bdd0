/* Floods, resets and rings that change while they are used, on a network device. */
.include "guest.inc"
.include "net_hostile.inc"

.section .rodata
.balign 8
cases:
    CASE kick_storm, "kicks without frames"
    CASE transmit_storm, "a flood of frames to the host"
    CASE receive_storm, "a flood of frames to the guest"
    CASE starved, "frames without buffers"
    CASE runaway_index, "runaway available indices"
    CASE same_chain, "one chain a whole ring long"
    CASE changing_chains, "frames that change in flight"
    CASE wild_events, "wild event indices"
    CASE early_kicks, "kicks before DRIVER_OK"
    CASE live_queues, "queues altered while live"
    CASE absent_queues, "queues that are not there"
    CASE bad_features, "features that miss others"
    CASE config_writes, "writes to the configuration space"
    CASE idle_resets, "resets"
    CASE busy_resets, "resets under load"
    .quad 0

.text
kick_storm:
    mov $2000, %r12d
1:  .irp queue, net_rx, net_tx, net_ctrl
    mov $\queue, %edi
    cmpq $0, Q_DOORBELL(%rdi)
    je 2f
    call nq_kick
2:
    .endr
    dec %r12d
    jnz 1b
    ret

/* 5,000 frames, with a kick each. */
transmit_storm:
    call transmit_all
    mov $5000, %r12d
1:  mov $net_tx, %edi
    call nq_poll
    jc 9f
    call nq_take
    mov %eax, %esi
    call nq_add
    call nq_publish
    mov $net_tx, %edi
    call nq_kick
    dec %r12d
    jnz 1b
    ret
9:  or $1, %eax
    CHECK "a flood's frame is taken"
    ret

/* A frame by each descriptor of the transmit queue but the last. */
transmit_all:
    call lawful
    mov $net_tx, %edi
    xor %ebx, %ebx
1:  mov %ebx, %esi
    mov $BAD_HEADER, %edx
    mov $NET_HEADER + 60, %ecx
    xor %r8d, %r8d
    call nq_describe
    call nq_add
    inc %ebx
    lea 1(%rbx), %eax
    cmp Q_SIZE(%rdi), %eax
    jb 1b
    jmp nq_publish

/* More than a tap's queue holds; most are lost. */
receive_storm:
    mov $3000, %esi
    mov $60, %edx
    xor %ecx, %ecx
    call ask
    mov $400, %r12d
1:  mov $net_rx, %edi
    call nq_poll
    jc 9f
    call net_take
    jc 9f
    mov $net_rx, %edi
    call nq_publish
    dec %r12d
    jnz 1b
    ret
9:  or $1, %eax
    CHECK "some of a flood's frames come"
    ret

starved:
    call start_empty
    mov $3000, %esi
    mov $1514, %edx
    xor %ecx, %ecx
    call ask
    call a_while
    /* What waited comes now. */
    call net_fill
    mov $net_rx, %edi
    call nq_poll
    jc 1f
    jmp nq_take
1:  or $1, %eax
    CHECK "a frame comes once there are buffers"
    ret

runaway_index:
    .irp distance, 257, 1000, 0x7fff, 0xffff
    .irp queue, net_tx, net_ctrl, net_rx
    mov $\queue, %edi
    cmpq $0, Q_DOORBELL(%rdi)
    je 1f
    mov Q_SEEN(%rdi), %ax
    add $\distance, %ax
    mov %ax, Q_NEXT(%rdi)
    call attempt_on
    call restart
1:
    .endr
    .endr
    ret

same_chain:
    call lawful
    mov $net_tx, %edi
    mov Q_SIZE(%rdi), %r12d
1:  xor %esi, %esi
    call nq_add
    dec %r12d
    jnz 1b
    call nq_publish
    mov Q_SIZE(%rdi), %r12d
2:  call nq_poll
    jc 9f
    call nq_take
    dec %r12d
    jnz 2b
    ret
9:  or $1, %eax
    CHECK "one of many equal frames"
    ret

/* The driver writes its descriptors and headers anew while the device sends. */
changing_chains:
    mov $40, %r13d
1:  call restart
    call lawful
    mov $net_tx, %edi
    mov $64, %r12d
2:  xor %esi, %esi
    call nq_add
    dec %r12d
    jnz 2b
    mov Q_NEXT(%rdi), %ax
    mov %ax, TX_AVAIL + 2
    call nq_kick
    mov $4000, %r12d
3:  imul $0x9e3779b1, %r12d, %eax
    mov %eax, BAD_HEADER        /* flags, type, length */
    mov %eax, %ecx
    shr $9, %ecx
    mov %ecx, BAD_HEADER + HDR_GSO_SIZE
    mov %ax, D1 + D_LENGTH
    mov %al, D1 + 5             /* beyond 2^40, for a moment */
    shr $7, %eax
    and $3, %eax
    mov %ax, D0 + D_NEXT
    mov %al, D1 + D_FLAGS
    movb $0, D1 + 5
    dec %r12d
    jnz 3b
    dec %r13d
    jnz 1b
    ret

wild_events:
    mov $200, %r13d
1:  call lawful
    imul $0x9e3779b1, %r13d, %eax
    mov net_tx + Q_SIZE, %ecx
    mov %ax, TX_AVAIL + 4(,%rcx,2) /* used_event */
    mov %ax, RX_AVAIL + 4(,%rcx,2)
    shr $16, %eax
    mov %ax, TX_AVAIL           /* flags */
    mov %ax, RX_AVAIL
    mov %ax, TX_USED + 4(,%rcx,8) /* avail_event and flags are the device's */
    mov %ax, TX_USED
    mov %ax, RX_USED + 4(,%rcx,8)
    DROPPED "a frame with wild event indices"
    dec %r13d
    jnz 1b
    ret

early_kicks:
    call virtio_reset
    mov $ACKNOWLEDGE | DRIVER, %edi
    call virtio_set_status
    .irp queue, net_rx, net_tx
    mov $\queue, %edi
    call nq_kick
    .endr
    mov $net_tx, %edi
    mov $1, %esi
    call nq_init
    call lawful
    mov $net_tx, %edi
    xor %esi, %esi
    call nq_add
    call nq_publish
    mov $net_tx, %edi
    jmp nq_kick

live_queues:
    .irp queue, 0, 1, 2
    mov $\queue, %edi
    call queue_select
    .irp size, 1, 3, 16, 0
    mov $\size, %edi
    call queue_set_size
    .endr
    .irp address, 0, NOWHERE, 0xfffffffffffff000
    movabs $\address, %rdi
    mov %rdi, %rsi
    mov %rdi, %rdx
    call queue_set_rings
    .endr
    call serves
    .endr
    /* Taken away under load, which a device need not allow. */
    call transmit_all
    mov $1, %edi
    call queue_select
    mov virtio_mmio, %rdx
    test %rdx, %rdx
    jz 1f
    movl $0, 0x44(%rdx)
1:  jmp a_while

absent_queues:
    .irp queue, 3, 4, 255, 0x7fff, 0xffff
    mov $\queue, %edi
    call queue_select
    mov $16, %edi
    call queue_set_size
    mov $VQ_DESC, %edi
    mov $VQ_AVAIL, %esi
    mov $VQ_USED, %edx
    call queue_set_rings
    call queue_enable
    mov net_tx + Q_DOORBELL, %rdx
    mov $\queue, %eax
    cmpq $0, virtio_mmio
    je 1f
    mov %eax, (%rdx)
1:  mov %ax, (%rdx)
    call serves
    .endr
    ret

/* Those that §5.1.3.1 asks for are missing; and then the device is used all the same. */
bad_features:
    .irp features, F_GUEST_TSO4, F_HOST_TSO4, F_GUEST_OFFLOADS, F_ANNOUNCE, F_MQ, F_HOST_TSO4 | F_GUEST_TSO4 | F_MQ | F_ANNOUNCE, 0xffffffff
    call virtio_reset
    mov $ACKNOWLEDGE | DRIVER, %edi
    call virtio_set_status
    xor %edi, %edi
    call virtio_offered
    mov %eax, %esi
    .if \features != 0xffffffff
    and $\features, %esi
    .else
    not %esi
    .endif
    xor %edi, %edi
    call virtio_accept
    mov $1, %edi
    mov $1, %esi
    call virtio_accept
    mov $ACKNOWLEDGE | DRIVER | FEATURES_OK, %edi
    call virtio_set_status
    mov $net_tx, %edi
    mov $1, %esi
    call nq_init
    mov $ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, %edi
    call virtio_set_status
    call virtio_status
    mov %eax, %r12d
    mov $' ', %al
    call putc
    mov %r12d, %eax
    call puthex
    call lawful
    HEADER NEEDS_CSUM, GSO_TCPV4, 54, 10, 34, 16
    mov $net_tx, %edi
    xor %esi, %esi
    call nq_add
    call nq_publish
    mov $net_tx, %edi
    call nq_kick
    .endr
    jmp a_while

config_writes:
    mov virtio_config, %r12
    xor %r13d, %r13d
1:  movb $-1, (%r12,%r13)
    movb $0, (%r12,%r13)
    movl $-1, (%r12,%r13)
    mov (%r12,%r13), %rax
    inc %r13d
    cmp $32, %r13d
    jb 1b
    mov (%r12), %eax
    cmp net_mac, %eax
    CHECK "the address cannot be written"
    jmp serves

/* With and without a driver in between. */
idle_resets:
    mov $200, %r12d
1:  call restart
    dec %r12d
    jnz 1b
    mov $2000, %r12d
2:  call virtio_reset
    dec %r12d
    jnz 2b
    ret

busy_resets:
    mov $100, %r12d
1:  call restart
    mov $50, %esi
    mov $1514, %edx
    xor %ecx, %ecx
    call ask
    call transmit_all
    mov %r12d, %ecx
    and $0x7f, %ecx
    shl $5, %ecx
2:  pause                       /* further into the work each time */
    dec %ecx
    jns 2b
    call virtio_reset
    /* What was in flight is no more: the rings hold still. */
    movw TX_USED + 2, %r13w
    movw RX_USED + 2, %r14w
    mov $2000, %ecx
3:  pause
    dec %ecx
    jnz 3b
    cmp TX_USED + 2, %r13w
    CHECK "nothing is sent after a reset"
    cmp RX_USED + 2, %r14w
    CHECK "nothing comes after a reset"
    dec %r12d
    jnz 1b
    ret

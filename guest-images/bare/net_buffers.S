/* Commands and receive buffers that break the rules. */
.include "guest.inc"
.include "net_hostile.inc"

.section .rodata
.balign 8
cases:
    CASE commands, "commands"
    CASE bad_commands, "broken commands"
    CASE bad_buffers, "receive buffers that are none"
    CASE tiny_buffers, "tiny receive buffers"
    CASE over_rings, "receive buffers over the rings"
    CASE same_buffer, "one receive buffer for all"
    .quad 0

.text
/* ---- the control queue ------------------------------------------------------- */

.set COMMAND, HEADERS           /* class, command, data */
.set ACK, STATUSES

/* Class, command and 64 bits of data, in descriptors 0 to 2 of the control queue. */
.macro COMMAND class, command, data, length
    movb $\class, COMMAND
    movb $\command, COMMAND + 1
    movabs $\data, %rax
    mov %rax, COMMAND + 8
    movb $0x77, ACK
    movq $COMMAND, CTRL_DESC
    movl $2, CTRL_DESC + D_LENGTH
    movl $NEXT | 1 << 16, CTRL_DESC + D_FLAGS
    movq $COMMAND + 8, CTRL_DESC + 16
    movl $\length, CTRL_DESC + 16 + D_LENGTH
    movl $NEXT | 2 << 16, CTRL_DESC + 16 + D_FLAGS
    movq $ACK, CTRL_DESC + 32
    movl $1, CTRL_DESC + 32 + D_LENGTH
    movl $WRITE, CTRL_DESC + 32 + D_FLAGS
.endm

command:
    mov $net_ctrl, %edi
    xor %esi, %esi
    call nq_add
    jmp attempt_on

/* The command must be answered by VIRTIO_NET_OK or, here, by VIRTIO_NET_ERR. */
.macro ANSWERED ack, what
    call command
    cmpb $\ack, ACK
    CHECK "\what"
.endm

commands:
    testl $F_CTRL_VQ, virtio_agreed
    jz 9f
    testl $F_GUEST_OFFLOADS, virtio_agreed
    jz 1f
    COMMAND 5, 0, 0, 8          /* GUEST_OFFLOADS_SET */
    ANSWERED 0, "no offloads"
    call serves
    COMMAND 5, 0, F_GUEST_CSUM | F_GUEST_TSO4, 8
    ANSWERED 0, "all offloads"
    COMMAND 5, 0, F_GUEST_TSO6 | F_GUEST_CSUM, 8
    ANSWERED 1, "an offload that was not agreed on"
    COMMAND 5, 0, 0xffffffffffffffff, 8
    ANSWERED 1, "unknown offloads"
    COMMAND 5, 0, F_GUEST_CSUM, 7
    ANSWERED 1, "offloads in seven bytes"
1:  .irp class, 2, 6, 99, 255   /* VLANs, RSS, unknown */
    COMMAND \class, 0, 0, 8
    ANSWERED 1, "a command of class \class"
    .endr
    COMMAND 4, 0, 1, 2          /* MQ, not agreed on */
    ANSWERED 1, "queue pairs that are not there"
    COMMAND 4, 0, 0, 2
    ANSWERED 1, "no queue pairs"
    COMMAND 4, 0, 0x8001, 2
    ANSWERED 1, "many queue pairs"
    COMMAND 3, 0, 0, 0          /* ANNOUNCE_ACK, not agreed on */
    call command
    COMMAND 1, 1, 0, 6          /* an address that cannot be set */
    ANSWERED 1, "another address"
9:  ret

bad_commands:
    testl $F_CTRL_VQ, virtio_agreed
    jz 9f
    .irp length, 0, 1, 0x1000, 1 << 20, 0xffffffff
    COMMAND 5, 0, 0, \length
    call command
    COMMAND 5, 0, 0, 8
    movl $\length, CTRL_DESC + D_LENGTH
    call command
    COMMAND 5, 0, 0, 8
    movl $\length, CTRL_DESC + 32 + D_LENGTH
    call command
    .endr
    .irp address, NOWHERE, LAPIC, 0xffffffffffffffff
    COMMAND 5, 0, 0, 8
    SET CTRL_DESC, \address
    call command
    COMMAND 5, 0, 0, 8
    SET CTRL_DESC + 16, \address
    call command
    COMMAND 5, 0, 0, 8
    SET CTRL_DESC + 32, \address
    call command
    .endr
    .irp descriptor, 0, 16
    COMMAND 5, 0, 0, 8
    orw $WRITE, CTRL_DESC + \descriptor + D_FLAGS
    call command
    .endr
    COMMAND 5, 0, 0, 8
    movw $0, CTRL_DESC + 32 + D_FLAGS
    call command
    COMMAND 5, 0, 0, 8
    movw $0, CTRL_DESC + 32 + D_NEXT
    movw $NEXT | WRITE, CTRL_DESC + 32 + D_FLAGS
    call command
    COMMAND 5, 0, 0, 8
    movw $0, CTRL_DESC + D_FLAGS
    call command
9:  ret

/* ---- receiving ------------------------------------------------------------------ */

/* RDX: address, ECX: bytes of every receive buffer. Frames come for them. */
buffers_at:
    push %rdx
    push %rcx
    call start_empty
    pop %rcx
    pop %rdx
    mov $net_rx, %edi
    xor %ebx, %ebx
1:  mov %ebx, %esi
    mov $WRITE, %r8d
    push %rcx
    push %rdx
    call nq_describe
    call nq_add
    pop %rdx
    pop %rcx
    inc %ebx
    cmp Q_SIZE(%rdi), %ebx
    jb 1b
    jmp flooded

bad_buffers:
    .irp address, NOWHERE, LAPIC, IOAPIC, 0xfffff000, 0x8000000000000000, 0xffffffffffffff00
    movabs $\address, %rdx
    mov $2048, %ecx
    call buffers_at
    .endr
    mov virtio_config, %rdx
    mov $2048, %ecx
    call buffers_at
    mov ram_end, %rdx
    sub $100, %rdx
    mov $2048, %ecx
    call buffers_at
    mov $NET_RX_DATA, %edx
    mov $0xffffffff, %ecx
    call buffers_at
    /* Chains that loop, or go on beyond the table. */
    call start_empty
    mov $net_rx, %edi
    movq $NET_RX_DATA, RX_DESC
    movl $2048, RX_DESC + D_LENGTH
    movl $NEXT | WRITE, RX_DESC + D_FLAGS
    xor %esi, %esi
    call nq_add
    call flooded
    call start_empty
    mov $net_rx, %edi
    mov $300, %esi
    call nq_add
    jmp flooded

tiny_buffers:
    .irp length, 0, 1, 2, 11, 12, 13, 100
    mov $NET_RX_DATA, %edx
    mov $\length, %ecx
    call buffers_at
    .endr
    ret

/* The device overwrites what it reads its orders from. */
over_rings:
    .irp address, RX_DESC, RX_AVAIL, RX_USED, TX_DESC, TX_AVAIL, TX_USED, CTRL_DESC
    mov $\address, %edx
    mov $2048, %ecx
    call buffers_at
    .endr
    ret

same_buffer:
    mov $NET_RX_DATA, %edx
    mov $NET_BIG, %ecx
    jmp buffers_at

/* Waits, halted, for a link to go down and come up, bare.changes=N times, and says each
 * time what it is: `link=1`, and `alive` if frames pass. Then sends some frames whose
 * way is of no matter: the device takes them. */
.include "guest.inc"
.include "virtio_net.inc"
.include "net_ping.inc"
.include "virtio_irq.inc"

.set S_UP, 1
.set S_ANNOUNCE, 2

main:
    OWN_TABLES
    movb $1, irq_config
    call irq_init
    call net_init
    call net_fill
    /* Linux tells of a tap that is up before it lets the peer's socket have its frames. */
    movl $8, ping_tries
    ARGUMENT "bare.changes="
    mov %rax, %r12
    xor %r13d, %r13d            /* interrupts seen */
    xor %r14d, %r14d            /* changes of the link */
    call link_status
    mov %eax, %ebx
    call tell
1:  cmp %r12, %r14
    jae 4f
    cli
    cmp config_changes, %r13d
    jne 3f
    sti
    hlt
    jmp 1b
3:  sti
    mov config_changes, %r13d
    call link_status
    mov %eax, %ecx
    xor %ebx, %ecx
    mov %eax, %ebx
    test $S_UP, %cl
    jz 1b                       /* something else has changed */
    inc %r14d
    call tell
    jmp 1b
4:  mov $8, %r12d
    mov $3, %edi
    mov $KIND_DATA, %esi
    call net_begin
5:  mov $3, %edi
    mov $60, %esi
    call net_send
    mov $net_tx, %edi
    call nq_poll
    jc 6f
    dec %r12d
    jnz 5b
    jmp finish
6:  or $1, %eax
    CHECK "frames are taken whatever the link is"
    jmp finish

link_status:
    mov virtio_config, %rdx
    movzwl 6(%rdx), %eax
    ret

/* EBX: the status. Tries the link if it is up, and acknowledges that others need to be
 * told of it. */
tell:
    mov %ebx, %eax
    and $S_UP, %eax
    PRINT "link="
    call putdec
    call newline
    test $S_ANNOUNCE, %bl
    jz 1f
    movb $3, HEADERS            /* ANNOUNCE, ACK */
    movb $0, HEADERS + 1
    movb $-1, STATUSES
    mov $net_ctrl, %edi
    xor %esi, %esi
    mov $HEADERS, %edx
    mov $2, %ecx
    mov $NEXT | 1 << 16, %r8d
    call nq_describe
    mov $1, %esi
    mov $STATUSES, %edx
    mov $1, %ecx
    mov $WRITE, %r8d
    call nq_describe
    xor %esi, %esi
    call nq_add
    call nq_publish
    mov $net_ctrl, %edi
    call nq_poll
    call nq_take
    cmpb $0, STATUSES
    CHECK "the announcement is acknowledged"
    call link_status
    test $S_ANNOUNCE, %al
    CHECK "an acknowledged announcement is over"
    PRINT "announced\n"
1:  test $S_UP, %bl
    jz 2f
    mov $60, %edi
    call ping
    PRINT "alive\n"
2:  ret

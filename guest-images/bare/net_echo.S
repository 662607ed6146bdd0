/* Frames of many lengths to the peer and back, and with bare.gso=1 big segments both
 * ways. */
.include "guest.inc"
.include "user.inc"
.include "net_load.inc"
.include "net_ping.inc"

main:
    OWN_TABLES
    call load_init
    call map_user
    call open_ports
    lea go, %rdi
    mov $0x3002, %esi           /* IOPL 3 */
    jmp enter_user

go:
    mov net_mac, %eax
    FACT "mac", %rax
    mov virtio_agreed, %eax
    FACT "agreed", %rax
    mov virtio_config, %rdx
    movzwl 6(%rdx), %eax
    FACT "status", %rax
    call newline
    call net_fill
    .irp length, 24, 60, 61, 62, 63, 64, 65, 127, 128, 129, 500, 1000, 1513, 1514
    mov $\length, %edi
    call ping
    .endr
    PRINT "echoed\n"
    testl $F_GUEST_TSO4, virtio_agreed
    jz finish
    /* One big segment from the peer, and its bytes and header. */
    mov $2, %edi
    mov $1, %esi
    mov $BIG_SIZE, %edx
    mov $FRAME_BIG, %ecx
    call net_ask
    movb $1, net_gathers
1:  mov $net_rx, %edi
    call nq_poll
    jc load_failed
    call net_take
    jc load_failed
    call net_kind
    cmp $KIND_ASKED, %ecx
    je 2f
    mov $net_rx, %edi
    call nq_publish
    jmp 1b
2:  cmp $BIG_SIZE, %edx
    CHECK "a segment comes whole"
    cmpw $NEEDS_CSUM | GSO_TCPV4 << 8, HDR_FLAGS(%rax)
    CHECK "flags and type of a segment"
    cmpw $1448, HDR_GSO_SIZE(%rax)
    CHECK "the size of a segment's pieces"
    cmpl $34 | 16 << 16, HDR_CSUM_START(%rax)
    CHECK "the place of a segment's checksum"
    /* And one to it. */
    mov $NET_TX_DATA + NET_HEADER, %eax
    mov $KIND_DATA, %esi
    call net_begin_at
    mov $BIG_SIZE, %ecx
    call make_segment
    xor %edi, %edi
    mov $BIG_SIZE, %esi
    call net_send
    mov $net_tx, %edi
    call nq_poll
    jc load_failed
    PRINT "segments\n"
    jmp finish

.set wait_queue, nq_poll

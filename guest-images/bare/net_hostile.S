/* Frames and chains that break the rules. */
.include "guest.inc"
.include "net_hostile.inc"

.section .rodata
.balign 8
cases:
    CASE short_frames, "short frames"
    CASE short_headers, "short headers"
    CASE split, "headers and frames in pieces"
    CASE long_frames, "long frames"
    CASE bad_checksums, "checksums outside"
    CASE bad_segments, "segments that cannot be cut"
    CASE odd_headers, "odd headers"
    CASE outside, "frames outside memory"
    CASE loops, "loops"
    CASE directions, "wrong directions"
    CASE indirect_broken, "broken indirect tables"
    .quad 0

.text
/* From no frame at all to one without a type. */
short_frames:
    .irp length, 1, 2, 13
    call plain
    movl $\length, D1 + D_LENGTH
    DROPPED "a frame of \length bytes"
    .endr
    /* An empty descriptor need not be borne. */
    call plain
    movl $0, D1 + D_LENGTH
    call attempt
    call plain
    movw $0, D0 + D_FLAGS
    DROPPED "a header alone"
    /* In one descriptor with its header. */
    mov $NET_HEADER, %ebx
1:  call plain
    movw $0, D0 + D_FLAGS
    mov %ebx, D0 + D_LENGTH
    DROPPED "a short frame behind its header"
    inc %ebx
    cmp $NET_HEADER + 14, %ebx
    jb 1b
    ret

short_headers:
    mov $0, %ebx
1:  call plain
    movw $0, D0 + D_FLAGS
    mov %ebx, D0 + D_LENGTH
    call attempt
    inc %ebx
    cmp $NET_HEADER, %ebx
    jb 1b
    ret

/* What may be: a header in one descriptor a byte, and a frame of which the first 100
 * bytes are. */
split:
    call lawful
    xor %ecx, %ecx
    mov $BAD_HEADER, %edx
1:  mov %ecx, %eax
    shl $4, %eax
    mov %rdx, TX_DESC(%rax)
    movl $1, TX_DESC + D_LENGTH(%rax)
    movw $NEXT, TX_DESC + D_FLAGS(%rax)
    inc %edx
    inc %ecx
    mov %cx, TX_DESC + D_NEXT(%rax)
    cmp $112, %ecx
    jb 1b
    shl $4, %ecx
    mov %rdx, TX_DESC(%rcx)
    movl $400, TX_DESC + D_LENGTH(%rcx)
    movw $0, TX_DESC + D_FLAGS(%rcx)
    DROPPED "a frame in pieces"
    /* A header that ends within a descriptor, empty descriptors between. */
    call lawful
    movl $5, D0 + D_LENGTH
    movw $2, D0 + D_NEXT
    movq $0, D2
    movl $0, D2 + D_LENGTH
    movl $NEXT | 1 << 16, D2 + D_FLAGS
    movq $BAD_HEADER + 5, D1
    movl $NET_HEADER - 5 + 60, D1 + D_LENGTH
    call attempt
    ret

long_frames:
    .irp length, 65554, 65555, 0x11000, 1 << 20, 8 << 20
    call plain
    movl $\length, D1 + D_LENGTH
    DROPPED "a frame of \length bytes"
    .endr
    /* Longer than the MTU only. */
    .irp length, 1515, 1519, 9014, 65000
    call lawful
    movl $\length, D1 + D_LENGTH
    call attempt
    .endr
    /* Four GiB, in one piece and in many. */
    call plain
    movl $0xffffffff, D1 + D_LENGTH
    call attempt
    call plain
    movl $0xfffffff5, D1 + D_LENGTH
    call attempt
    call plain
    mov $1, %edi
1:  mov %edi, %eax
    shl $4, %eax
    movq $NET_RX_DATA, TX_DESC(%rax)
    movl $32 << 20, TX_DESC + D_LENGTH(%rax)
    movw $NEXT, TX_DESC + D_FLAGS(%rax)
    inc %edi
    mov %di, TX_DESC + D_NEXT(%rax)
    cmp $129, %edi
    jb 1b
    shl $4, %edi
    movq $BAD_FRAME, TX_DESC(%rdi)
    movl $60, TX_DESC + D_LENGTH(%rdi)
    movl $0, TX_DESC + D_FLAGS(%rdi)
    call attempt
    ret

bad_checksums:
    .irp start, 0, 13, 59, 60, 61, 0x7fff, 0xffff
    call plain
    HEADER NEEDS_CSUM, 0, 0, 0, \start, 0
    DROPPED "a checksum from \start"
    .endr
    .irp offset, 25, 26, 27, 0x7fff, 0xffde, 0xffff
    call plain
    HEADER NEEDS_CSUM, 0, 0, 0, 34, \offset
    DROPPED "a checksum at 34 + \offset"
    .endr
    call plain
    HEADER NEEDS_CSUM, 0, 0, 0, 0xffff, 0xffff
    DROPPED "a checksum beyond 2^16"
    ret

/* A frame of 3014 bytes that is a TCP segment. */
segment:
    call plain
    movw $ETH_IPV4, BAD_FRAME + 12
    movw $0x45, BAD_FRAME + 14
    movw $0xb80b, BAD_FRAME + 16 /* 3000 */
    movl $0, BAD_FRAME + 18
    movl $0x0640, BAD_FRAME + 22
    movq $0, BAD_FRAME + 26
    movl $0x01000100, BAD_FRAME + 34
    movq $0, BAD_FRAME + 38
    movl $0xffff1050, BAD_FRAME + 46
    movl $0, BAD_FRAME + 50
    movb $KIND_BAD, BAD_FRAME + GSO_KIND
    movl $3014, D1 + D_LENGTH
    HEADER NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16
    ret

bad_segments:
    call segment
    movb $KIND_DATA, BAD_FRAME + GSO_KIND
    DROPPED "a good segment"
    call segment
    HEADER 0, GSO_TCPV4, 54, 1448, 34, 16
    DROPPED "a segment without a checksum"
    call segment
    HEADER NEEDS_CSUM, GSO_TCPV4, 54, 0, 34, 16
    DROPPED "a segment in pieces of no bytes"
    /* Neither USO nor UFO, TSO6, ECN or tunnels are agreed on, and others unknown. */
    .irp type, 2, 3, 4, 5, 6, 7, 0x20, 0x40, 0x41, 0x60, 0x7f, 0x81, 0xff
    call segment
    HEADER NEEDS_CSUM, \type, 54, 1448, 34, 16
    DROPPED "segments of type \type"
    .endr
    .irp length, 14, 20, 35, 50
    call segment
    movl $\length, D1 + D_LENGTH
    DROPPED "a segment of \length bytes"
    .endr
    call segment
    HEADER NEEDS_CSUM, GSO_TCPV4, 54, 1448, 3013, 16
    DROPPED "a segment whose checksum is outside"
    ret

/* Those that a device may take for harmless or not. */
odd_headers:
    .irp length, 0, 1, 13, 14, 55, 60, 61, 3014, 3015, 0x7fff, 0xffff
    call segment
    movb $KIND_DATA, BAD_FRAME + GSO_KIND
    movw $\length, BAD_HEADER + HDR_LENGTH
    call attempt
    .endr
    .irp size, 1, 7, 3000, 0x7fff, 0xffff
    call segment
    movb $KIND_DATA, BAD_FRAME + GSO_KIND
    movw $\size, BAD_HEADER + HDR_GSO_SIZE
    call attempt
    .endr
    .irp flags, 2, 4, 0xfe, 0xff
    call lawful
    HEADER \flags, 0, 0, 0, 34, 16
    call attempt
    .endr
    call lawful
    HEADER 0, 0x80, 0, 0, 0, 0
    call attempt
    call lawful
    HEADER 0, 0, 0xffff, 0xffff, 0xffff, 0xffff
    call attempt
    call lawful
    movw $0xffff, BAD_HEADER + HDR_BUFFERS
    call attempt
    /* A segment that is none: not TCP, not even IP. */
    call lawful
    HEADER NEEDS_CSUM, GSO_TCPV4, 54, 10, 34, 16
    call attempt
    call segment
    movb $KIND_DATA, BAD_FRAME + GSO_KIND
    movb $17, BAD_FRAME + 23
    call attempt
    call segment
    movb $KIND_DATA, BAD_FRAME + GSO_KIND
    movb $0xf0, BAD_FRAME + 46  /* 60 bytes of TCP header */
    movb $0x4f, BAD_FRAME + 14  /* 60 bytes of IP header */
    call attempt
    ret

outside:
    .irp address, NOWHERE, LAPIC, IOAPIC, 0xfffff000, 0x8000000000000000, 0xfffffffffffff000, 0xffffffffffffffff
    call plain
    SET D1, \address
    call attempt
    call plain
    SET D0, \address
    call attempt
    .endr
    call plain
    mov ram_end, %rax
    sub $59, %rax
    mov %rax, D1
    call attempt
    /* The device's own registers. */
    call plain
    mov virtio_config, %rax
    mov %rax, D1
    call attempt
    ret

loops:
    call plain
    movw $0, D0 + D_NEXT
    call attempt
    call plain
    movl $NEXT | 0 << 16, D1 + D_FLAGS
    call attempt
    .irp next, 256, 257, 0x7fff, 0xffff
    call plain
    movw $\next, D0 + D_NEXT
    call attempt
    .endr
    .irp head, 256, 0x7fff, 0xffff
    call plain
    mov $net_tx, %edi
    mov $\head, %esi
    call nq_add
    call attempt_added
    .endr
    ret

directions:
    call plain
    orw $WRITE, D1 + D_FLAGS
    call attempt
    call plain
    orw $WRITE, D0 + D_FLAGS
    call attempt
    call plain
    orw $WRITE, D0 + D_FLAGS
    orw $WRITE, D1 + D_FLAGS
    call attempt
    /* Readable receive buffers, for all frames that come. */
    call start_empty
    mov $net_rx, %edi
    xor %ebx, %ebx
1:  mov %ebx, %esi
    mov $NET_RX_DATA, %edx
    mov $2048, %ecx
    xor %r8d, %r8d
    call nq_describe
    call nq_add
    inc %ebx
    cmp Q_SIZE(%rdi), %ebx
    jb 1b
    jmp flooded

indirect_broken:
    .irp length, 0, 1, 15, 17, 0xffffffff
    call indirect
    movl $\length, D0 + D_LENGTH
    call attempt
    .endr
    .irp address, NOWHERE, LAPIC, 0xfffffffffffffff0
    call indirect
    SET D0, \address
    call attempt
    .endr
    call indirect
    movw $INDIRECT, TABLES + D_FLAGS
    movq $TABLES, TABLES
    call attempt
    call indirect
    movw $3, TABLES + D_NEXT
    call attempt
    call indirect
    movw $0, TABLES + D_NEXT
    call attempt
    call indirect
    movw $INDIRECT | NEXT, D0 + D_FLAGS
    call attempt
    ret

/* A frame by an indirect table, which this driver did not even agree on. */
indirect:
    call plain
    mov $D0, %esi
    mov $TABLES, %edi
    mov $4, %ecx
    rep movsq
    movq $TABLES, D0
    movl $32, D0 + D_LENGTH
    movl $INDIRECT, D0 + D_FLAGS
    ret

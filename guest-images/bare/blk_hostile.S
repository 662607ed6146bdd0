/* Requests that break the rules: descriptors, chains, headers, ranges. */
.include "guest.inc"
.include "disk_hostile.inc"

.section .rodata
.balign 8
cases:
    CASE data_outside, "data outside memory"
    CASE header_broken, "broken headers"
    CASE status_missing, "no place for the status"
    CASE status_outside, "status outside memory"
    CASE status_in_rings, "status in the rings"
    CASE loops, "loops"
    CASE indirect_broken, "broken indirect tables"
    CASE order, "readable after writable"
    CASE lengths, "zero and odd lengths"
    CASE beyond_end, "sectors beyond the end"
    CASE four_gib, "four GiB"
    CASE unknown_types, "unknown types"
    CASE odd_ids, "buffers for the name"
    CASE ranges, "ranges of discard and write zeroes"
    CASE data_over_rings, "data over the rings"
    CASE writes_nowhere, "writes from outside memory"
    .quad 0

.text
data_outside:
    .irp address, NOWHERE, LAPIC, IOAPIC, 0xfffff000, 0x8000000000000000, 0xfffffffffffff000, 0xffffffffffffffff
    call plain
    SET D1, \address
    REFUSED "data at \address"
    .endr
    /* Over the end of memory by one byte. */
    call plain
    mov ram_end, %rax
    sub $BLOCK - 1, %rax
    mov %rax, D1
    REFUSED "data over the end of memory"
    ret

header_broken:
    .irp address, NOWHERE, LAPIC, 0xfffffffffffffff8
    call plain
    SET D0, \address
    REFUSED "header at \address"
    .endr
    .irp length, 0, 1, 8, 15
    call plain
    movl $\length, D0 + D_LENGTH
    REFUSED "header of \length bytes"
    .endr
    call plain
    orw $WRITE, D0 + D_FLAGS
    REFUSED "header that may not be read"
    /* A header longer than it need be has the rest for data, or is refused. */
    call plain
    movl $600, D0 + D_LENGTH
    call attempt
    ret

status_missing:
    call plain
    movw $0, D0 + D_FLAGS
    REFUSED "nothing but a header"
    call plain
    movl $BLK_OUT, HEADERS
    movw $0, D1 + D_FLAGS       /* readable, and the last */
    REFUSED "nothing writable"
    call plain
    movw $0, D2 + D_FLAGS
    REFUSED "a status that may not be written"
    call plain
    movl $0, D2 + D_LENGTH
    call attempt                /* the data's last byte may serve for it */
    call plain
    movl $BLK_FLUSH, HEADERS
    movl $0, D2 + D_LENGTH
    movw $2, D0 + D_NEXT
    REFUSED "a status of no bytes"
    ret

status_outside:
    .irp address, NOWHERE, LAPIC, IOAPIC, 0xfffff000, 0xffffffffffffffff, 0x8000000000000000
    call plain
    SET D2, \address
    call attempt
    .endr
    /* The device's own registers. */
    call plain
    mov virtio_config, %rax
    mov %rax, D2
    call attempt
    call plain
    mov ram_end, %rax
    mov %rax, D2
    call attempt
    ret

/* Where the device writes an index, too. */
status_in_rings:
    .irp address, VQ_USED, VQ_USED + 2, VQ_USED + 3, VQ_AVAIL + 2, VQ_DESC + 8
    call plain
    movq $\address, D2
    call attempt
    call restart
    .endr
    ret

loops:
    call plain
    movw $0, D0 + D_NEXT        /* to itself */
    REFUSED "a descriptor that follows itself"
    call plain
    movw $NEXT | WRITE, D2 + D_FLAGS
    movw $0, D2 + D_NEXT
    REFUSED "a chain that begins again"
    call plain
    movw $NEXT | WRITE, D2 + D_FLAGS
    movw $1, D2 + D_NEXT
    REFUSED "a chain that turns on its data"
    .irp next, 256, 257, 0x7fff, 0xffff
    call plain
    movw $\next, D1 + D_NEXT
    REFUSED "descriptor \next"
    .endr
    .irp head, 256, 0x7fff, 0xffff
    call plain
    mov $\head, %edi
    call vq_add
    call attempt_added
    cmp $S_OK, %eax
    CHECK_IF ne, "a chain at \head"
    .endr
    ret

indirect_broken:
    .irp length, 0, 1, 15, 17, 0xfffffff0, 0xffffffff
    call indirect
    movl $\length, D0 + D_LENGTH
    REFUSED "an indirect table of \length bytes"
    .endr
    .irp address, NOWHERE, LAPIC, 0xfffffffffffffff0
    call indirect
    SET D0, \address
    REFUSED "an indirect table at \address"
    .endr
    call indirect
    movw $INDIRECT, TABLES + D_FLAGS
    movq $TABLES, TABLES
    REFUSED "an indirect table within an indirect table"
    call indirect
    movw $3, TABLES + 16 + D_NEXT
    REFUSED "the next descriptor beyond an indirect table"
    call indirect
    movw $0, TABLES + D_NEXT
    REFUSED "a loop in an indirect table"
    /* A rule broken that a device may overlook. */
    call indirect
    movw $INDIRECT | NEXT, D0 + D_FLAGS
    call attempt
    call indirect
    movw $INDIRECT | WRITE, D0 + D_FLAGS
    call attempt
    ret

/* A valid read by an indirect table. */
indirect:
    call plain
    mov $D0, %esi
    mov $TABLES, %edi
    mov $6, %ecx
    rep movsq
    movq $TABLES, D0
    movl $48, D0 + D_LENGTH
    movl $INDIRECT, D0 + D_FLAGS
    ret

order:
    call plain
    movw $2, D0 + D_NEXT        /* header, status, readable data */
    movw $NEXT | WRITE, D2 + D_FLAGS
    movw $1, D2 + D_NEXT
    movw $0, D1 + D_FLAGS
    REFUSED "readable after writable"
    ret

lengths:
    call plain
    movl $0, D1 + D_LENGTH
    call attempt                /* nothing is read, well or not */
    .irp length, 1, 511, 513, 4095, 4097
    call plain
    movl $\length, D1 + D_LENGTH
    REFUSED "\length bytes of data"
    .endr
    .irp type, BLK_IN, BLK_OUT
    call plain
    movl $\type, HEADERS
    movw $2, D0 + D_NEXT
    call attempt                /* no data at all */
    .endr
    ret

beyond_end:
    .irp sector, 0xffffffffffffffff, 0x8000000000000000, 0x7fffffffffffff, 0x80000000000000, 0x80000000000007, 0x100000000000000, 0xfffffffffffff8
    .irp type, BLK_IN, BLK_OUT
    call plain
    SET HEADERS + 8, \sector
    movl $\type, HEADERS
    cmpl $BLK_OUT, HEADERS
    jne 1f
    andw $~WRITE, D1 + D_FLAGS
1:  ANSWERED S_IOERR, "type \type at sector \sector"
    .endr
    .endr
    /* The last seven sectors and one more. */
    call plain
    mov capacity, %rax
    sub $7, %rax
    mov %rax, HEADERS + 8
    ANSWERED S_IOERR, "a block over the end"
    ret

/* 128 pieces of 32 MiB each, all the same memory. */
four_gib:
    call plain
    mov $127, %ecx
    mov $1, %edi
1:  mov %edi, %eax
    shl $4, %eax
    movq $DATA, VQ_DESC(%rax)
    movl $32 << 20, VQ_DESC + 8(%rax)
    movw $NEXT | WRITE, VQ_DESC + 12(%rax)
    inc %edi
    mov %di, VQ_DESC + 14(%rax)
    cmp $129, %edi
    jb 1b
    shl $4, %edi
    movq $STATUSES, VQ_DESC(%rdi)
    movl $1, VQ_DESC + 8(%rdi)
    movl $WRITE, VQ_DESC + 12(%rdi)
    REFUSED "four GiB in pieces"
    call plain
    movl $0xfffffe00, D1 + D_LENGTH
    REFUSED "four GiB in one piece"
    call plain
    movl $0xffffffff, D2 + D_LENGTH
    REFUSED "a status of four GiB"
    call plain
    movl $0xffffffff, D0 + D_LENGTH
    REFUSED "a header of four GiB"
    ret

unknown_types:
    .irp type, 2, 3, 5, 6, 7, 9, 10, 12, 15, 99, 0x80000000, 0x80000001, 0xffffffff
    call plain
    movl $\type, HEADERS
    ANSWERED S_UNSUPP, "type \type"
    .endr
    ret

odd_ids:
    .irp length, 0, 1, 19, 21, 4096
    call plain
    movl $BLK_GET_ID, HEADERS
    movl $\length, D1 + D_LENGTH
    call attempt
    .endr
    call plain
    movl $BLK_GET_ID, HEADERS
    movw $2, D0 + D_NEXT
    call attempt
    call plain
    movl $BLK_GET_ID, HEADERS
    SET D1, NOWHERE
    REFUSED "a name outside memory"
    ret

.macro RANGE type, length, sector, sectors, flags, what
    call plain
    movl $\type, HEADERS
    andw $~WRITE, D1 + D_FLAGS
    movl $\length, D1 + D_LENGTH
    SET DATA, \sector
    movl $\sectors, DATA + 8
    movl $\flags, DATA + 12
    REFUSED "\what"
.endm

ranges:
    .irp type, BLK_DISCARD, BLK_WRITE_ZEROES
    RANGE \type, 1, 0, 8, 0, "a range of one byte"
    RANGE \type, 15, 0, 8, 0, "a range of 15 bytes"
    RANGE \type, 17, 0, 8, 0, "a range of 17 bytes"
    RANGE \type, 16, 0, 0xffffffff, 0, "a range of 2^32 sectors"
    RANGE \type, 16, 0xffffffffffffffff, 8, 0, "a range at 2^64"
    RANGE \type, 16, 0x7ffffffffffffffc, 8, 0, "a range at 2^63"
    RANGE \type, 16, 0x80000000000000, 8, 0, "a range at 2^64 bytes"
    RANGE \type, 16, 0, 8, 0xfffffffe, "a range with unknown flags"
    RANGE \type, 1 << 20, 0, 0, 0xffffffff, "65536 ranges"
    .endr
    /* Discard has no flags. */
    RANGE BLK_DISCARD, 16, 0, 8, 1, "a discard that unmaps"
    /* None at all. */
    .irp type, BLK_DISCARD, BLK_WRITE_ZEROES
    call plain
    movl $\type, HEADERS
    movw $2, D0 + D_NEXT
    call attempt
    .endr
    ret

/* The device overwrites what it reads its orders from. */
data_over_rings:
    .irp address, VQ_DESC, VQ_AVAIL, VQ_USED, HEADERS, STATUSES
    call plain
    movq $\address, D1
    call attempt
    call restart
    .endr
    ret

writes_nowhere:
    .irp address, NOWHERE, LAPIC, IOAPIC, 0xfffff000, 0xffffffffffffe000
    call plain
    movl $BLK_OUT, HEADERS
    andw $~WRITE, D1 + D_FLAGS
    SET D1, \address
    REFUSED "a write from \address"
    .endr
    ret

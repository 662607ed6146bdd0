/* Every kind of request to a disk of at least 1 MiB, and what comes back:
 * writes, reads back, flushes, asks for the name, discards, writes zeroes. */
.include "guest.inc"
.include "user.inc"
.include "virtio.inc"
.include "virtio_blk.inc"

.set BLOCK, 4096
.set READ, DATA + 0x100000      /* what is read; DATA is what is written */

main:
    OWN_TABLES
    call blk_init
    call map_user
    call open_ports
    lea go, %rdi
    mov $0x3002, %esi           /* IOPL 3 */
    jmp enter_user

go:
    FACT "capacity", capacity
    mov virtio_features, %eax
    FACT "features", %rax
    mov vq_size, %eax
    FACT "queue", %rax
    call newline

    /* Four blocks at four places, the last of the disk among them. */
    xor %ebx, %ebx
1:  call place
    mov %rax, %rbp
    call fill
    REQUEST BLK_OUT, %rbp, $DATA, $BLOCK
    cmp $S_OK, %eax
    CHECK "write"
    cmpl $1, blk_written
    CHECK "a write's used length is the status byte"
    inc %ebx
    cmp $4, %ebx
    jb 1b
    REQUEST BLK_FLUSH, $0, $0, $0
    cmp $S_OK, %eax
    CHECK "flush"
    xor %ebx, %ebx
2:  call place
    mov %rax, %rbp
    call fill
    call blank
    REQUEST BLK_IN, %rbp, $READ, $BLOCK
    cmp $S_OK, %eax
    CHECK "read"
    cmpl $BLOCK + 1, blk_written
    CHECK "a read's used length"
    call compare
    CHECK "what was written is read"
    inc %ebx
    cmp $4, %ebx
    jb 2b
    PRINT "written and read\n"

    /* A single sector within a block. */
    xor %ebx, %ebx
    call fill
    call blank
    REQUEST BLK_IN, $7, $READ, $512
    cmp $S_OK, %eax
    CHECK "read a sector"
    mov $DATA + 7 * 512, %esi
    mov $READ, %edi
    mov $64, %ecx
    repe cmpsq
    CHECK "a sector is the right one"
    mov READ + 512, %rax
    cmp $-1, %rax
    CHECK "a sector is no more than a sector"

    /* Many descriptors of odd lengths, by an indirect table: 20 readable pieces. */
    testl $F_INDIRECT_DESC, virtio_agreed
    jz 3f
    call indirect_write
    cmp $S_OK, %eax
    CHECK "an indirect write of many pieces"
    call blank
    mov $9, %ebx
    call fill
    REQUEST BLK_IN, $64, $READ, $BLOCK
    call compare
    CHECK "an indirect write has its pieces in order"
    PRINT "indirect\n"
3:
    mov $READ, %edi
    mov $0x5a, %al
    mov $32, %ecx
    rep stosb
    REQUEST BLK_GET_ID, $0, $READ, $20
    cmp $S_OK, %eax
    CHECK "get id"
    cmpb $0x5a, READ + 20
    CHECK "a name of 20 bytes"
    movb $0, READ + 20
    PRINT "id="
    mov $READ, %edi
    call puts
    call newline

    testl $F_WRITE_ZEROES, virtio_agreed
    jz 4f
    mov $BLK_WRITE_ZEROES, %edi
    call range_request
    cmp $S_OK, %eax
    CHECK "write zeroes"
    call blank
    REQUEST BLK_IN, $0, $READ, $BLOCK
    call all_zero
    CHECK "zeroes are read"
    PRINT "zeroes\n"
4:  testl $F_DISCARD, virtio_agreed
    jz 5f
    mov $1, %ebx
    call place
    mov %rax, %rbp
    mov $BLK_DISCARD, %edi
    call range_request
    cmp $S_OK, %eax
    CHECK "discard"
    REQUEST BLK_IN, $0, $READ, $BLOCK
    cmp $S_OK, %eax
    CHECK "read what was discarded"
    PRINT "discarded\n"

    /* The blocks beside are as they were. */
5:  mov $1, %ebx
6:  call place
    mov %rax, %rbp
    call fill
    call blank
    REQUEST BLK_IN, %rbp, $READ, $BLOCK
    call compare
    CHECK "the other blocks are as they were"
    inc %ebx
    cmp $4, %ebx
    jb 6b

    /* The block after the last, and one that no disk has. */
    mov capacity, %rbp
    REQUEST BLK_IN, %rbp, $READ, $512
    cmp $S_IOERR, %eax
    CHECK "no sector beyond the end"
    mov $-1, %rbp
    REQUEST BLK_OUT, %rbp, $DATA, $BLOCK
    cmp $S_IOERR, %eax
    CHECK "no sector at 2^64"
    REQUEST 77, $0, $DATA, $512
    cmp $S_UNSUPP, %eax
    CHECK "an unknown type is unsupported"
    jmp finish

/* EBX: 0 to 3; that place's sector in RAX. */
place:
    mov capacity, %rax
    sub $BLOCK / 512, %rax
    imul %rbx, %rax
    push %rdx
    xor %edx, %edx
    mov $3, %ecx
    div %rcx
    pop %rdx
    and $~7, %rax
    ret

/* EBX: fills DATA with what belongs to that place. */
fill:
    lea 0x1111(%rbx), %rax
    movabs $0x9e3779b97f4a7c15, %rdx
    mov $DATA, %edi
    mov $BLOCK / 8, %ecx
1:  imul %rdx, %rax
    add $77, %rax
    stosq
    dec %ecx
    jnz 1b
    ret

blank:
    mov $READ, %edi
    mov $BLOCK / 8 + 8, %ecx
    mov $-1, %rax
    rep stosq
    ret

/* ZF set if what was read is what DATA has. */
compare:
    mov $DATA, %esi
    mov $READ, %edi
    mov $BLOCK / 8, %ecx
    repe cmpsq
    ret

all_zero:
    mov $READ, %edi
    mov $BLOCK / 8, %ecx
    xor %eax, %eax
    repe scasq
    ret

/* EDI: DISCARD or WRITE_ZEROES, of the disk's first block. */
range_request:
    movq $0, DATA               /* sector */
    movl $BLOCK / 512, DATA + 8
    movl $0, DATA + 12          /* flags */
    xor %esi, %esi
    mov $DATA, %edx
    mov $16, %ecx
    jmp blk_request

/* Writes BLOCK bytes to sector 64 in pieces of 512 - 8, 8 and so on. */
indirect_write:
    mov $9, %ebx
    call fill
    movl $BLK_OUT, HEADERS
    movq $64, HEADERS + 8
    movb $0xff, STATUSES
    mov $TABLES, %edi
    movq $HEADERS, (%rdi)
    movl $16, 8(%rdi)
    movl $NEXT | 1 << 16, 12(%rdi)
    mov $DATA, %esi
    mov $1, %eax
1:  add $16, %edi
    mov %rsi, (%rdi)
    mov $512 - 8, %ecx
    test $1, %al
    jnz 2f
    mov $8, %ecx
2:  mov %ecx, 8(%rdi)
    add %rcx, %rsi
    inc %eax
    mov %eax, %ecx
    shl $16, %ecx
    or $NEXT, %ecx
    mov %ecx, 12(%rdi)
    cmp $17, %eax
    jb 1b
    add $16, %edi
    movq $STATUSES, (%rdi)
    movl $1, 8(%rdi)
    movl $WRITE, 12(%rdi)
    xor %edi, %edi
    mov $TABLES, %esi
    mov $18 * 16, %edx
    mov $INDIRECT, %ecx
    call vq_describe
    xor %edi, %edi
    call vq_add
    call vq_publish
    jmp blk_result

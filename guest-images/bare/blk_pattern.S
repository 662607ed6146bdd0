/* Work to be killed in: writes numbered blocks to the disk, several in flight, and
 * says on the serial port which writes and flushes the disk has acknowledged.
 *
 * Block number N (from 0) is 4096 bytes and goes to block place(N) of the disk:
 * with B the greatest power of two that is at most bare.blocks=B (the disk's size
 * if absent) place(N) = (N * 0x9e3779b1) mod B, so that every place is written
 * once before any is again. Its 512 little-endian 64-bit words are
 *   word 0 = 0x4b4c422d5946414d ("MAFY-BLK"), word 1 = N, word 2 = place(N),
 *   word i = (N + 1) * 0x9e3779b97f4a7c15 + i * 0xbf58476d1ce4e5b9 mod 2^64, 3 <= i < 511,
 *   word 511 = the sum of words 0 to 510 mod 2^64.
 *
 * Lines of nine characters and a newline, numbers of eight hexadecimal digits:
 *   Wnnnnnnnn  write N was acknowledged
 *   Fnnnnnnnn  a FLUSH was acknowledged, before which all writes below N had been
 * and `E` with a number for a request that failed, which ends the guest.
 *
 * bare.depth=N requests are in flight (4 if absent, at most 64), bare.flush=N is a
 * FLUSH after every N writes (none if absent), bare.first=N the first number (0),
 * bare.count=N the number of writes (without end if absent; it ends with `done`). */
.include "guest.inc"
.include "user.inc"
.include "virtio.inc"
.include "virtio_blk.inc"

.set BLOCK, 4096

main:
    OWN_TABLES
    PRINT "pattern\n"
    call blk_init
    call map_user
    call open_ports
    lea go, %rdi
    mov $0x3002, %esi           /* IOPL 3 */
    jmp enter_user

/* R12: the next number, R13: one beyond the last, R14: requests in flight,
 * R15: numbers until the next FLUSH. */
go:
    call arguments
    /* Every slot is free at first. */
    xor %ebx, %ebx
1:  cmp depth, %ebx
    jae 2f
    call write_next
    inc %ebx
    jmp 1b
2:  call vq_publish
3:  test %r14, %r14
    jz 6f
    call vq_poll
    jc 8f
    call vq_take
    mov $3, %ecx
    xor %edx, %edx
    div %ecx
    mov %eax, %ebx              /* the slot */
    dec %r14
    cmpb $S_OK, STATUSES(%rbx)
    jne 8f
    mov $'W', %al
    mov numbers(,%rbx,8), %rdx
    call acknowledge
    call write_next
    call vq_publish
    jmp 3b
    /* All is acknowledged: it is time for a FLUSH, or the end. */
6:  cmpq $0, flush
    je 7f
    REQUEST BLK_FLUSH, $0, $0, $0
    cmp $S_OK, %eax
    jne 8f
    mov $'F', %al
    mov %r12, %rdx
    call acknowledge
    mov flush, %r15
7:  cmp %r13, %r12
    jae finish
    xor %ebx, %ebx
    jmp 1b
8:  mov $'E', %al
    mov numbers(,%rbx,8), %rdx
    call acknowledge
    incl failures
    jmp finish

/* EBX: a free slot. Adds the next write to the queue, unless it is after the end
 * or a FLUSH is due. */
write_next:
    test %r15, %r15
    jz 9f
    cmp %r13, %r12
    jae 9f
    mov %r12, numbers(,%rbx,8)
    mov %ebx, %ebp
    shl $12, %ebp
    add $DATA, %ebp
    movabs $0x4b4c422d5946414d, %rax
    mov %rax, (%rbp)
    mov %r12, 8(%rbp)
    mov $0x9e3779b1, %ecx
    imul %r12, %rcx
    and places, %rcx
    mov %rcx, 16(%rbp)
    lea (%rcx,%rcx), %rsi
    shl $2, %rsi                /* the sector */
    add %rcx, %rax
    add %r12, %rax              /* the sum */
    movabs $0xbf58476d1ce4e5b9, %rdi
    movabs $0x9e3779b97f4a7c15, %rdx
    lea 1(%r12), %rcx
    imul %rcx, %rdx
    add %rdi, %rdx
    add %rdi, %rdx
    mov $3, %ecx
1:  add %rdi, %rdx
    mov %rdx, (%rbp,%rcx,8)
    add %rdx, %rax
    inc %ecx
    cmp $511, %ecx
    jb 1b
    mov %rax, (%rbp,%rcx,8)
    mov %rbp, %rdx
    mov $BLOCK, %ecx
    mov $BLK_OUT, %edi
    mov %ebx, %r8d
    call blk_add
    inc %r12
    inc %r14
    dec %r15
9:  ret

/* AL: a letter, RDX: a number. Prints the line. */
acknowledge:
    call putc
    mov $28, %ecx
1:  mov %edx, %eax
    shr %cl, %eax
    and $0xf, %eax
    mov hex_digits(%rax), %al
    call putc
    sub $4, %ecx
    jns 1b
    jmp newline

arguments:
    mov $4, %eax
    mov %eax, depth
    ARGUMENT "bare.depth="
    jc 1f
    mov $64, %ecx
    cmp %ecx, %eax
    cmova %ecx, %eax
    mov %eax, depth
1:  mov capacity, %rcx
    shr $3, %rcx
    ARGUMENT "bare.blocks="
    jc 2f
    mov %rax, %rcx
2:  bsr %rcx, %rcx
    mov $1, %eax
    shl %cl, %rax
    dec %rax
    mov %rax, places
    ARGUMENT "bare.flush="
    mov %rax, flush
    mov $-1, %r15
    test %rax, %rax
    cmovnz %rax, %r15
    ARGUMENT "bare.first="
    mov %rax, %r12
    mov $-1, %r13
    ARGUMENT "bare.count="
    jc 3f
    lea (%r12,%rax), %r13
3:  xor %r14d, %r14d
    ret

.data
.balign 8
/* A mask of the places. */
places: .quad 0
flush: .quad 0
/* The number that each slot writes. */
numbers: .fill 64, 8, 0
depth: .long 0
.text

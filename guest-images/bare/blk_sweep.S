/* Asks for all of the disk, 64 KiB a request, and counts the answers.
 *
 * bare.type=0 reads (if absent), bare.type=1 writes; bare.key=1 prints `ready` and
 * waits for a byte on the serial port first. Prints one line of facts: how many
 * requests were answered `ok`, `ioerr` or something `other`, the sector of the
 * `first` that was not ok, and the status of a `flush` at the end. Then the disk
 * must answer a read of its beginning still. */
.include "guest.inc"
.include "virtio.inc"
.include "virtio_blk.inc"

.set PIECE, 0x10000

main:
    OWN_TABLES
    call blk_init
    ARGUMENT "bare.type="
    mov %eax, type
    ARGUMENT "bare.key="
    test %eax, %eax
    jz 2f
    mov $PORT_SERIAL + 4, %edx
    mov $3, %al                 /* DTR, RTS: it listens */
    out %al, %dx
    PRINT "ready\n"
    mov $PORT_SERIAL + 5, %edx
1:  in %dx, %al
    test $1, %al
    jz 1b
    mov $PORT_SERIAL, %edx
    in %dx, %al
2:  mov $DATA, %edi
    mov $PIECE / 8, %ecx
    mov $-1, %rax
    rep stosq
    xor %ebx, %ebx
3:  mov %rbx, %rsi
    mov $DATA, %edx
    mov $PIECE, %ecx
    mov type, %edi
    call blk_request
    test %eax, %eax
    jnz 4f
    incq ok
    jmp 6f
4:  cmpq $-1, first
    jne 5f
    mov %rbx, first
5:  cmp $S_IOERR, %eax
    jne 7f
    incq ioerr
6:  add $PIECE / 512, %rbx
    cmp capacity, %rbx
    jb 3b
    jmp 8f
7:  incq other
    jmp 6b
8:  FACT "ok", ok
    FACT "ioerr", ioerr
    FACT "other", other
    FACT "first", first
    REQUEST BLK_FLUSH, $0, $0, $0
    FACT "flush", %rax
    call newline
    REQUEST BLK_IN, $0, $DATA, $PIECE
    cmp $S_OK, %eax
    CHECK "the disk still answers"
    ret

.data
.balign 8
ok: .quad 0
ioerr: .quad 0
other: .quad 0
first: .quad -1
type: .long 0
.text

/* The entropy device: two buffers, filled, and not alike. */
.include "guest.inc"
.include "user.inc"
.include "virtio.inc"

.set LENGTH, 4096

main:
    OWN_TABLES
    mov $VIRTIO_ENTROPY, %edi
    call virtio_find
    CHECK_IF nc, "there is an entropy device"
    jc 9f
    mov $F_EVENT_IDX | F_INDIRECT_DESC, %edi
    call virtio_start
    CHECK_IF nc, "the entropy device starts"
    jc 9f
    call map_user
    call open_ports
    lea go, %rdi
    mov $0x3002, %esi           /* IOPL 3 */
    jmp enter_user
9:  ret

go:
    /* Kicks without buffers do no harm. */
    mov $20, %ebx
1:  call kick
    dec %ebx
    jnz 1b
    mov $DATA, %ebp
    call fill
    mov $DATA + LENGTH, %ebp
    call fill
    mov $DATA, %esi
    mov $DATA + LENGTH, %edi
    mov $LENGTH / 8, %ecx
    repe cmpsq
    CHECK_IF ne, "two fillings differ"
    jmp finish

/* EBP: a buffer. The device may give less than was asked for: it is asked until
 * the buffer is full. */
fill:
    mov %ebp, %edi
    mov $LENGTH / 8, %ecx
    xor %eax, %eax
    rep stosq
    mov $LENGTH, %ebx
    mov %ebp, %r12d
1:  xor %edi, %edi
    mov %r12d, %esi
    mov %ebx, %edx
    mov $WRITE, %ecx
    call vq_describe
    xor %edi, %edi
    call vq_add
    call vq_publish
    call vq_poll
    CHECK_IF nc, "the buffer comes back"
    jc finish
    call vq_take
    cmp %ebx, %edx
    CHECK_IF be, "no more than was asked for"
    ja finish
    test %edx, %edx
    CHECK_IF nz, "something was given"
    jz finish
    add %edx, %r12d
    sub %edx, %ebx
    jnz 1b
    /* 4096 random bytes without 8 zeros in a row at an aligned place, but by a
     * chance of 2^-55. */
    mov %ebp, %edi
    mov $LENGTH / 8, %ecx
    xor %eax, %eax
    repne scasq
    CHECK_IF ne, "all of the buffer was filled"
    ret

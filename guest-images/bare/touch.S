/* Writes the same to each page from 8 MiB up to 12 MiB and waits for its end, so that
 * the host's counters can be looked at. */
.include "guest.inc"

.set FROM, 8 << 20
.set TO, 12 << 20
.set PAGE, 4096

main:
    OWN_TABLES
    movabs $0x796c6679616d2121, %rcx
    mov $FROM, %rdi
1:  mov %rcx, (%rdi)
    add $PAGE, %rdi
    cmp $TO, %rdi
    jb 1b
    cmp %rcx, FROM
    CHECK "the first page keeps its value"
    cmp %rcx, TO - PAGE
    CHECK "the last page keeps its value"
    cmpl $0, failures
    jne 2f
    PRINT "touched\n"
    jmp stop
2:  ret

/* Writes to the first and last words of every RAM range from 1 MiB and reads
 * them back when all are written, so that none is another's alias. */
.include "guest.inc"
.include "memory_map.inc"
.include "window.inc"

main:
    OWN_TABLES
    movq $0, writing
    call walk_memory_map
    FACT "ram", ram
    call newline
    movq $1, writing
    movq $0x1111, pattern
    call walk_memory_map
    movq $2, writing
    movq $0x1111, pattern
    call walk_memory_map
    ret

/* RDI: start, RSI: length, EDX: type of one range. */
each_range:
    cmpq $0, writing
    jne 1f
    call print_range
    cmp $1, %edx
    jne 9f
    add %rsi, ram
    ret
1:  cmp $1, %edx
    jne 9f
    cmp $0x100000, %rdi
    jb 9f
    /* The first megabytes hold this guest: there only the end is free. */
    je 2f
    push %rdi
    call touch
    pop %rdi
2:  lea -8(%rdi,%rsi), %rdi
    jmp touch
9:  ret

/* RDI: a physical address. Writes the next pattern there, or checks it. */
touch:
    call map_window
    movabs $0x1234567800000000, %rcx
    add pattern, %rcx
    addq $0x1111, pattern
    cmpq $1, writing
    jne 1f
    mov %rcx, (%rax)
    ret
1:  cmp %rcx, (%rax)
    CHECK "a word keeps its value"
    ret

.data
.balign 8
writing: .quad 0
pattern: .quad 0
ram: .quad 0

/* Finds the initrd by either protocol; prints its size and a hash of it:
 * h = h * 31 + byte, 32 bits. */
.include "guest.inc"

main:
    mov boot_info, %rbx
    cmpl $0, boot_is_pvh
    jne 1f
    mov 0x218(%rbx), %esi       /* ramdisk_image */
    mov 0xc0(%rbx), %eax        /* ext_ramdisk_image */
    shl $32, %rax
    or %rax, %rsi
    mov 0x21c(%rbx), %ecx       /* ramdisk_size */
    jmp 2f
1:  cmpl $1, 12(%rbx)           /* nr_modules */
    CHECK "one module"
    jne 9f
    mov 16(%rbx), %rbx          /* modlist_paddr */
    mov (%rbx), %rsi
    mov 8(%rbx), %rcx
2:  FACT "initrd", %rsi
    FACT "size", %rcx
    xor %eax, %eax
    test %rcx, %rcx
    jz 4f
3:  movzbl (%rsi), %edx
    imul $31, %eax, %eax
    add %edx, %eax
    inc %rsi
    dec %rcx
    jnz 3b
4:  FACT "hash", %rax
    call newline
9:  ret

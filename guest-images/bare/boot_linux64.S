/* What the 64-bit Linux boot protocol promises at the kernel's entry
 * (Documentation/arch/x86/boot.rst and zero-page.rst). */
.include "guest.inc"
.include "acpi.inc"
.include "memory_map.inc"

main:
    pushfq
    pop %rbx
    cmpl $0, boot_is_pvh
    CHECK "entered at the 64-bit entry"
    jne 9f
    FACT "rsi", boot_info
    FACT "rflags", %rbx
    mov %cr0, %rax
    FACT "cr0", %rax
    and $0x80000001, %eax
    cmp $0x80000001, %eax
    CHECK "CR0 has PE and PG"
    mov %cr3, %rax
    FACT "cr3", %rax
    mov %cr4, %rax
    FACT "cr4", %rax
    and $0x20, %eax
    cmp $0x20, %eax
    CHECK "CR4 has PAE"
    mov $MSR_EFER, %ecx
    rdmsr
    FACT "efer", %rax
    and $0x500, %eax
    cmp $0x500, %eax
    CHECK "EFER has LME and LMA"
    xor %eax, %eax
    mov %cs, %eax
    FACT "cs", %rax
    cmp $0x10, %eax
    CHECK "CS is __BOOT_CS"
    mov %ds, %eax
    FACT "ds", %rax
    cmp $0x18, %eax
    CHECK "DS is __BOOT_DS"
    mov %es, %eax
    cmp $0x18, %eax
    CHECK "ES is __BOOT_DS"
    mov %ss, %eax
    cmp $0x18, %eax
    CHECK "SS is __BOOT_DS"
    test $0x200, %ebx
    CHECK "interrupts are off"

    sgdt found_gdt
    mov found_gdt + 2, %rsi
    FACT "gdt", %rsi
    cmpw $0x1f, found_gdt
    CHECK_IF ae, "the GDT holds __BOOT_DS"
    mov 0x14(%rsi), %eax        /* high half of 0x10 */
    and $0x00209800, %eax
    cmp $0x00209800, %eax
    CHECK "the GDT's __BOOT_CS is 64-bit code"
    mov 0x1c(%rsi), %eax
    and $0x00009a00, %eax
    cmp $0x00009200, %eax
    CHECK "the GDT's __BOOT_DS is writable data"
    /* A guest may reload its segments from the table it was given. */
    mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    call newline

    mov boot_info, %rbx
    cmpw $0xaa55, 0x1fe(%rbx)
    CHECK "boot_flag"
    cmpl $0x53726448, 0x202(%rbx)       /* "HdrS" */
    CHECK "header magic"
    cmpb $0xff, 0x210(%rbx)
    CHECK "type_of_loader"
    cmpb $0, 0x1ef(%rbx)
    CHECK "sentinel"
    mov 0x218(%rbx), %eax
    FACT "ramdisk_image", %rax
    mov 0x21c(%rbx), %eax
    FACT "ramdisk_size", %rax
    cmpb $0, 0x1e8(%rbx)
    CHECK_IF ne, "e820 entries"
    call newline
    call check_seed

    call check_acpi
    call walk_memory_map

    PRINT "cmdline: "
    mov cmdline, %rdi
    call puts
    call newline
    /* Up to 4 GiB is mapped one to one, or the kernel could not reach its
     * zero page and initrd: the last word of the PCI hole reads as ones. */
    mov $0xd0000000, %eax
    cmpl $-1, (%rax)
    CHECK "the PCI hole is mapped and empty"
9:  ret

/* The seed for the kernel's random generator, of which the first word is told: a node
 * (next, type, length, data) of the list that starts in hdr.setup_data. */
check_seed:
    mov 0x250(%rbx), %r12
    mov $16, %r13d              /* nodes at most */
1:  test %r12, %r12
    jz 2f
    cmpl $9, 8(%r12)            /* SETUP_RNG_SEED */
    je 2f
    mov (%r12), %r12
    dec %r13d
    jnz 1b
    xor %r12d, %r12d
2:  test %r12, %r12
    CHECK_IF ne, "setup_data has a random seed"
    test %r12, %r12
    jz 9f
    cmpl $32, 12(%r12)
    CHECK "the seed's length"
    mov 16(%r12), %rax
    FACT "seed", %rax
    call newline
9:  ret

each_range:
    jmp print_range

.data
found_gdt:
    .word 0
    .quad 0

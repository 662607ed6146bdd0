/* What PVH promises at the entry (Xen's docs/misc/pvh.pandoc and
 * xen/include/public/arch-x86/hvm/start_info.h). */
.include "guest.inc"
.include "acpi.inc"
.include "memory_map.inc"

main:
    cmpl $1, boot_is_pvh
    CHECK "entered at the PVH entry"
    jne 9f
    FACT "ebx", boot_info
    FACT "cr0", pvh_cr0
    FACT "cr4", pvh_cr4
    FACT "cs", pvh_cs
    FACT "ds", pvh_ds
    mov pvh_cr0, %eax
    and $0x80000001, %eax
    cmp $1, %eax
    CHECK "protected mode without paging"
    cmpl $0, pvh_cr4
    CHECK "CR4 is zero"
    mov boot_info, %rbx
    cmpl $0x336ec578, (%rbx)
    CHECK "start info magic"
    cmpl $1, 4(%rbx)
    CHECK "start info version"
    mov 12(%rbx), %eax
    FACT "modules", %rax
    cmpl $0, 48(%rbx)
    CHECK_IF ne, "memory map entries"
    call newline
    call check_acpi
    call walk_memory_map
    PRINT "cmdline: "
    mov cmdline, %rdi
    call puts
    call newline
9:  ret

each_range:
    jmp print_range

/* Addresses without a device read as ones and ignore writes, at every width;
 * the IOAPIC and the local APIC are where the MADT says. Wants 128 MiB. */
.include "guest.inc"

.set HOLE, 0xd0001000

main:
    OWN_TABLES
    mov $HOLE, %ebx
    movq $0, (%rbx)
    movl $0, 4(%rbx)
    movw $0, 2(%rbx)
    movb $0, 1(%rbx)
    cmpb $0xff, (%rbx)
    CHECK "one byte"
    cmpw $0xffff, 2(%rbx)
    CHECK "two bytes"
    cmpl $-1, 4(%rbx)
    CHECK "four bytes"
    cmpq $-1, 8(%rbx)
    CHECK "eight bytes"
    cmpl $-1, 3(%rbx)
    CHECK "not aligned"
    mov -4(%rbx), %rax
    cmp $-1, %rax
    CHECK "across a page's end"

    /* Half in RAM, half beyond it. */
    mov $(128 << 20) - 4, %ebx
    movl $0x12345678, (%rbx)
    mov (%rbx), %rax
    movabs $0xffffffff12345678, %rcx
    cmp %rcx, %rax
    CHECK "across the end of RAM"

    /* 16 bytes at once. */
    mov %cr4, %rax
    or $0x600, %eax             /* OSFXSR, OSXMMEXCPT */
    mov %rax, %cr4
    mov $HOLE, %ebx
    movdqu (%rbx), %xmm0
    movdqu %xmm0, sixteen
    cmpq $-1, sixteen
    CHECK "sixteen bytes, low half"
    cmpq $-1, sixteen + 8
    CHECK "sixteen bytes, high half"
    movdqu %xmm0, (%rbx)

    /* String instructions. */
    mov $HOLE, %esi
    lea string, %rdi
    mov $9, %ecx
    rep movsb
    cmpq $-1, string
    CHECK "rep movsb from MMIO"
    lea string, %rsi
    mov $HOLE, %edi
    mov $9, %ecx
    rep movsb

    /* IOAPIC: version register, then a redirection entry that keeps its bits. */
    mov $IOAPIC, %ebx
    movl $1, (%rbx)
    mov 0x10(%rbx), %eax
    FACT "ioapic_version", %rax
    shr $16, %eax
    and $0xff, %eax
    cmp $23, %eax
    CHECK "the IOAPIC has 24 pins"
    movl $0, (%rbx)
    mov 0x10(%rbx), %eax
    FACT "ioapic_id", %rax
    movl $0x10 + 2 * 5, (%rbx)
    mov 0x10(%rbx), %eax
    test $0x10000, %eax
    CHECK_IF nz, "pins are masked after reset"
    movl $0x1a055, 0x10(%rbx)   /* masked, level, active low, vector 0x55 */
    movl $0x10 + 2 * 5 + 1, (%rbx)
    movl $0x01000000, 0x10(%rbx)
    movl $0x10 + 2 * 5, (%rbx)
    mov 0x10(%rbx), %eax
    cmp $0x1a055, %eax
    CHECK "redirection entry, low half"
    movl $0x10 + 2 * 5 + 1, (%rbx)
    mov 0x10(%rbx), %eax
    and $0xff000000, %eax
    cmp $0x01000000, %eax
    CHECK "redirection entry, high half"
    cmpl $0x10 + 2 * 5 + 1, (%rbx)
    CHECK "the index register reads back"

    mov $LAPIC, %ebx
    mov 0x30(%rbx), %eax
    FACT "lapic_version", %rax
    mov 0x20(%rbx), %eax
    shr $24, %eax
    cmp $0, %eax
    CHECK "the boot CPU's APIC id"
    call newline
    ret

.data
.balign 16
sixteen: .quad 0, 0
string: .skip 16

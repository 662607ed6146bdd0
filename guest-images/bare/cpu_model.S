/* What the processor says it can do, and whether KVM holds it to that.
 *
 * Facts, in hexadecimal: leaf1= (ECX), leaf7= (EBX), extended= (0x80000001 ECX), xcr0= and
 * xsize= (leaf 0xd EAX and ECX). Then xsave= and more=: the exception that comes of turning
 * XSAVE on (CR4.OSXSAVE), and of one state more in XCR0 than CPUID offers (AVX or
 * AVX-512); ff is none. */
.include "guest.inc"
.include "interrupts.inc"

.set CR4_OSXSAVE, 1 << 18

main:
    OWN_TABLES
    call interrupts_init
    mov $1, %eax
    cpuid
    mov %ecx, %eax
    FACT "leaf1", %rax
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    mov %ebx, %eax
    FACT "leaf7", %rax
    mov $0x80000001, %eax
    cpuid
    mov %ecx, %eax
    FACT "extended", %rax
    mov $0xd, %eax
    xor %ecx, %ecx
    cpuid
    mov %eax, %r12d
    mov %ecx, %r13d
    FACT "xcr0", %r12
    FACT "xsize", %r13
    call newline

    TRY 1f
    mov %cr4, %rax
    or $CR4_OSXSAVE, %rax
    mov %rax, %cr4
    TRY_END
1:  movzbl fault_vector, %eax
    FACT "xsave", %rax
    cmp $0xff, %eax
    jne 9f

    /* What is offered can be had. */
    TRY 2f
    xor %ecx, %ecx
    xor %edx, %edx
    mov %r12d, %eax
    and $0xe7, %eax
    xsetbv
    TRY_END
2:  movzbl fault_vector, %eax
    cmp $0xff, %eax
    CHECK "XCR0 takes what CPUID offers"

    mov $0x7, %eax
    test $0x4, %r12b
    jz 3f
    mov $0xe7, %eax
    test $0xe0, %r12b
    jz 3f
    mov $0x602e7, %eax          /* AMX and protection keys */
3:  TRY 4f
    xor %ecx, %ecx
    xor %edx, %edx
    xsetbv
    TRY_END
4:  movzbl fault_vector, %eax
    FACT "more", %rax
9:  call newline
    ret

/* Instructions that a kvm-pvm host hands back to the VMM, where CPUID offers
 * them: results, flags and faults must be the processor's. */
.include "guest.inc"
.include "interrupts.inc"

.set CF, 1
.set PF, 4
.set AF, 0x10
.set ZF, 0x40
.set SF, 0x80
.set OF, 0x800
.set AC, 1 << 18
.set STATUS_FLAGS, CF | PF | AF | ZF | SF | OF

/* Whether the status flags are exactly `flags` now. Spoils R15 and flags. */
.macro FLAGS flags, name
    pushfq
    pop %r15
    and $STATUS_FLAGS, %r15d
    cmp $\flags, %r15d
    CHECK "\name: flags"
.endm

/* Skips to `label` unless bit `bit` of `features` is set. */
.macro UNLESS features, bit, label
    btl $\bit, \features
    jnc \label
.endm

main:
    OWN_TABLES
    call interrupts_init
    mov $1, %eax
    cpuid
    mov %ecx, features_1
    xor %eax, %eax
    cpuid
    cmp $7, %eax
    jb 1f
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    mov %ebx, features_7
1:  mov $0x80000001, %eax
    cpuid
    mov %ecx, features_8
    mov %cr4, %rax
    or $0x600, %eax             /* OSFXSR, OSXMMEXCPT */
    mov %rax, %cr4

    call test_cmpxchg16b
    call test_counts
    call test_bmi
    call test_movbe
    call test_smap
    call test_breakpoint
    call test_fpu
    call test_xsave
    ret

test_cmpxchg16b:
    UNLESS features_1, 13, 9f
    PRINT "cmpxchg16b\n"
    movq $1, pair
    movq $2, pair + 8
    mov $1, %eax
    mov $2, %edx
    mov $3, %ebx
    mov $4, %ecx
    lock cmpxchg16b pair
    CHECK "cmpxchg16b, equal"
    cmpq $3, pair
    CHECK "cmpxchg16b stores the low half"
    cmpq $4, pair + 8
    CHECK "cmpxchg16b stores the high half"
    mov $3, %eax
    mov $5, %edx
    mov $-1, %rbx
    lea pair, %rsi
    cmpxchg16b (%rsi)
    CHECK_IF nz, "cmpxchg16b, not equal"
    cmp $3, %rax
    CHECK "cmpxchg16b loads RAX"
    cmp $4, %rdx
    CHECK "cmpxchg16b loads RDX"
    cmpq $3, pair
    CHECK "cmpxchg16b leaves memory"
    /* All other flags stay. */
    mov $4, %edx
    mov $1, %rbx
    xor %r8d, %r8d
    sub $1, %r8                 /* CF, PF, AF, SF */
    lock cmpxchg16b (%rsi)
    FLAGS CF|PF|AF|ZF|SF, "cmpxchg16b"
    TRY 1f
    lock cmpxchg16b pair + 8
1:  cmpq $13, fault_vector
    CHECK "cmpxchg16b faults when not aligned"
    TRY 2f
    movabs $0x200000000, %rdi
    lock cmpxchg16b 0x10(%rdi)
2:  cmpq $14, fault_vector
    CHECK "cmpxchg16b without memory: a page fault"
    testq $1, fault_error
    CHECK "cmpxchg16b without memory: not present"
    movabs $0x200000010, %rdi
    cmp %rdi, fault_cr2
    CHECK "cmpxchg16b without memory: CR2"
    /* The same loop as a kernel's allocator. */
    movq $0, pair
    movq $0, pair + 8
    xor %eax, %eax
    xor %edx, %edx
    mov $1000, %r9d
3:  mov %rax, %rbx
    mov %rdx, %rcx
    inc %rbx
    add $2, %rcx
    lock cmpxchg16b pair
    jnz 3b
    mov %rbx, %rax
    mov %rcx, %rdx
    dec %r9d
    jnz 3b
    cmpq $1000, pair
    CHECK "a thousand of cmpxchg16b"
    cmpq $2000, pair + 8
    CHECK "a thousand of cmpxchg16b, high half"
9:  ret

test_counts:
    UNLESS features_1, 23, 1f
    PRINT "popcnt\n"
    movabs $0xf0f0f0f0f0f0f0f1, %rax
    popcnt %rax, %rbx
    FLAGS 0, "popcnt"
    cmp $33, %rbx
    CHECK "popcnt, 64 bits"
    mov $-1, %rcx
    popcnt %eax, %ecx
    cmp $17, %rcx
    CHECK "popcnt clears the upper half"
    mov $-1, %rcx
    popcnt %ax, %cx
    mov $0xffffffffffff0009, %rdx
    cmp %rdx, %rcx
    CHECK "popcnt, 16 bits, keeps the rest"
    movq $7, pair
    mov $0, %r10d
    popcntq pair(%r10), %r9
    cmp $3, %r9
    CHECK "popcnt from memory"
    xor %eax, %eax
    popcnt %rax, %rbx
    FLAGS ZF, "popcnt of zero"
1:  UNLESS features_8, 5, 2f
    PRINT "lzcnt\n"
    mov $0x1000, %eax
    lzcnt %rax, %rbx
    cmp $51, %rbx
    CHECK "lzcnt"
    xor %eax, %eax
    lzcnt %eax, %ebx
    CHECK_IF c, "lzcnt of zero sets CF"
    cmp $32, %ebx
    CHECK "lzcnt of zero"
2:  ret

test_bmi:
    UNLESS features_7, 3, 1f
    PRINT "bmi1\n"
    mov $0x1000, %eax
    tzcnt %rax, %rbx
    cmp $12, %rbx
    CHECK "tzcnt"
    mov $0xff00, %eax
    mov $0x0ff0, %ecx
    andn %ecx, %eax, %edx
    cmp $0x00f0, %edx
    CHECK "andn"
    blsr %eax, %edx
    cmp $0xfe00, %edx
    CHECK "blsr"
    blsi %eax, %edx
    cmp $0x0100, %edx
    CHECK "blsi"
    blsmsk %eax, %edx
    cmp $0x01ff, %edx
    CHECK "blsmsk"
    mov $0x0406, %ecx
    bextr %ecx, %eax, %edx
    cmp $0xc, %edx
    CHECK "bextr"
1:  UNLESS features_7, 8, 2f
    PRINT "bmi2\n"
    mov $0xabcd, %eax
    mov $0xf0f0, %ecx
    pext %ecx, %eax, %edx
    cmp $0xac, %edx
    CHECK "pext"
    pdep %ecx, %edx, %eax
    cmp $0xa0c0, %eax
    CHECK "pdep"
    mov $-1, %rdx
    mov $-1, %rax
    mulx %rax, %rbx, %rcx
    cmp $1, %rbx
    CHECK "mulx, low"
    cmp $-2, %rcx
    CHECK "mulx, high"
    mov $0x1234, %eax
    rorx $8, %rax, %rbx
    movabs $0x3400000000000012, %rdx
    cmp %rdx, %rbx
    CHECK "rorx"
    mov $68, %ecx
    shlx %rcx, %rax, %rbx
    cmp $0x12340, %rbx
    CHECK "shlx"
    mov $-256, %rax
    sarx %rcx, %rax, %rbx
    cmp $-16, %rbx
    CHECK "sarx"
    mov $8, %ecx
    mov $0x1ff, %eax
    bzhi %rcx, %rax, %rbx
    cmp $0xff, %rbx
    CHECK "bzhi"
2:  UNLESS features_7, 19, 3f
    PRINT "adx\n"
    mov $-1, %rax
    mov $1, %ebx
    xor %ecx, %ecx              /* CF and OF clear */
    adcx %rbx, %rax
    CHECK_IF c, "adcx sets CF"
    cmp $0, %rax
    CHECK "adcx"
3:  ret

test_movbe:
    UNLESS features_1, 22, 9f
    /* KVM on a kvm-pvm host knows MOVBE and refuses it: the #UD comes without
     * a visit to the VMM, while CPUID there still shows the instruction. */
    movabs $0x0102030405060708, %rax
    TRY 9f
    movbe %rax, pair
    TRY_END
    PRINT "movbe\n"
    cmpl $0x04030201, pair
    CHECK "movbe to memory"
    movbe pair, %rbx
    cmp %rax, %rbx
    CHECK "movbe from memory"
9:  ret

test_smap:
    UNLESS features_7, 20, 9f
    PRINT "clac stac\n"
    stac
    pushfq
    clac
    pushfq
    pop %rax
    pop %rbx
    test $AC, %eax
    CHECK "clac clears AC"
    test $AC, %ebx
    CHECK_IF nz, "stac sets AC"
9:  ret

test_breakpoint:
    PRINT "int3\n"
    TRY 1f
    int3
after_int3:
    nop
1:  cmpq $3, fault_vector
    CHECK "int3: the vector"
    lea after_int3, %rax
    cmp %rax, fault_rip
    CHECK "int3: RIP behind it"
    TRY 2f
at_ud2:
    ud2
2:  cmpq $6, fault_vector
    CHECK "ud2: the vector"
    lea at_ud2, %rax
    cmp %rax, fault_rip
    CHECK "ud2: RIP at it"
    ret

test_fpu:
    PRINT "fwait ldmxcsr\n"
    fninit
    fwait
    movl $0x1f00, dword
    ldmxcsr dword
    movl $0, dword
    stmxcsr dword
    cmpl $0x1f00, dword
    CHECK "ldmxcsr and stmxcsr"
    movl $0x1f80, dword
    ldmxcsr dword
    ret

test_xsave:
    UNLESS features_1, 26, 9f
    PRINT "xsave\n"
    mov %cr4, %rax
    or $1 << 18, %rax           /* OSXSAVE */
    mov %rax, %cr4
    xor %ecx, %ecx
    mov $3, %eax                /* x87 and SSE */
    xor %edx, %edx
    xsetbv
    xgetbv
    cmp $3, %eax
    CHECK "xgetbv"
    movabs $0x1122334455667788, %rbx
    movq %rbx, %xmm5
    mov $3, %eax
    xsave area
    cmp %rbx, area + 160 + 5 * 16
    CHECK "xsave stores XMM5"
    testl $2, area + 512
    CHECK_IF nz, "xsave's header says SSE"
    pxor %xmm5, %xmm5
    mov $3, %eax
    xrstor area
    movq %xmm5, %rcx
    cmp %rbx, %rcx
    CHECK "xrstor loads XMM5"
    /* A component that the header leaves out gets its initial state. */
    andl $~2, area + 512
    mov $3, %eax
    xrstor area
    movq %xmm5, %rcx
    test %rcx, %rcx
    CHECK "xrstor initializes what the header leaves out"
    TRY 1f
    mov $3, %eax
    xsave area + 8
1:  cmpq $13, fault_vector
    CHECK "xsave faults when not aligned"

    mov $0xd, %eax
    mov $1, %ecx
    cpuid
    mov %eax, features_d
    UNLESS features_d, 1, 2f
    PRINT "xsavec\n"
    movq %rbx, %xmm5
    movabs $0x1122334455667788, %rbx
    movq %rbx, %xmm5
    mov $3, %eax
    xor %edx, %edx
    xsavec area_compact
    cmp %rbx, area_compact + 160 + 5 * 16
    CHECK "xsavec stores XMM5"
    btl $31, area_compact + 524
    CHECK_IF c, "xsavec's header says compact"
    pxor %xmm5, %xmm5
    mov $3, %eax
    xrstor area_compact
    movq %xmm5, %rcx
    cmp %rbx, %rcx
    CHECK "xrstor loads the compact form"
2:  UNLESS features_d, 0, 9f
    PRINT "xsaveopt\n"
    movabs $0x1122334455667788, %rbx
    movq %rbx, %xmm6
    movq $0, area + 512
    mov $3, %eax
    xor %edx, %edx
    xsaveopt area
    cmp %rbx, area + 160 + 6 * 16
    CHECK "xsaveopt stores XMM6"
9:  ret

.data
.balign 16
pair: .quad 0, 0, 0
dword: .long 0
features_1: .long 0
features_7: .long 0
features_8: .long 0
features_d: .long 0
.bss
.balign 64
area: .skip 1024
area_compact: .skip 1024

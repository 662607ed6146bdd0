/* Starts the processors that the MADT lists, by INIT and SIPI. Each finds its
 * APIC id in CPUID and in its local APIC, says so, and halts.
 * bare.cpus=N: how many the test expects; bare.threads=N, bare.socket=N: how many of
 * them leaf 0xb is to put in a core and in a socket. */
.include "guest.inc"
.include "acpi.inc"
.include "processors.inc"

main:
    call check_acpi
    OWN_TABLES
    mov madt, %rbx
    test %rbx, %rbx
    jz 9f
    cmpl $LAPIC, 36(%rbx)
    CHECK "the MADT's local APIC address"

    call processors_init
    mov $LAPIC, %ebp
    movl $0x1ff, 0xf0(%rbp)
    mov 0x20(%rbp), %r13d
    shr $24, %r13d              /* this processor */
    mov $1, %r12d               /* processors seen */
    mov 4(%rbx), %r14d
    add %rbx, %r14              /* end of the table */
    add $44, %rbx
next_entry:
    cmp %r14, %rbx
    jae all_started
    cmpb $1, (%rbx)             /* an IOAPIC */
    jne 1f
    mov 4(%rbx), %eax
    FACT "ioapic", %rax
    cmp $IOAPIC, %eax
    CHECK "the MADT's IOAPIC address"
1:  cmpb $0, (%rbx)             /* a processor's local APIC */
    jne 4f
    testb $1, 4(%rbx)           /* enabled */
    jz 4f
    movzbl 3(%rbx), %eax
    cmp %r13d, %eax
    je 4f
    call start_processor
    inc %r12d
    /* One after the other, so that each has the lines to itself. */
3:  pause
    cmp %r12d, running
    jb 3b
4:  movzbl 1(%rbx), %eax
    test %eax, %eax
    jz all_started              /* a broken table */
    add %rax, %rbx
    jmp next_entry

all_started:
    PRINT "cpus="
    mov %r12, %rax
    call putdec
    call newline
    ARGUMENT "bare.cpus="
    jc 9f
    cmp %eax, %r12d
    CHECK "as many processors as expected"
    cmp %eax, running
    CHECK "all of them ran"
9:  ret

/* A started processor. */
processor:
    mov $LAPIC, %ebp
    mov 0x20(%rbp), %r13d
    shr $24, %r13d
    PRINT "cpu "
    mov %r13, %rax
    call putdec
    PRINT " runs\n"
    mov $1, %eax
    cpuid
    shr $24, %ebx
    cmp %r13d, %ebx
    CHECK "CPUID leaf 1 has the APIC id"
    xor %eax, %eax
    cpuid
    cmp $0xb, %eax
    jb 1f
    mov $0xb, %eax
    xor %ecx, %ecx
    cpuid
    test %ebx, %ebx
    jz 1f
    cmp %r13d, %edx
    CHECK "CPUID leaf 0xb has the APIC id"
    mov %ebx, %r14d
    ARGUMENT "bare.threads="
    jc 1f
    cmp %eax, %r14d
    CHECK "the threads of a core"
    mov $0xb, %eax
    mov $1, %ecx
    cpuid
    mov %ebx, %r14d
    ARGUMENT "bare.socket="
    jc 1f
    cmp %eax, %r14d
    CHECK "the processors of a socket"
1:  lock incl running
    jmp stop

.data
.balign 4
running: .long 1

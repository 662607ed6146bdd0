/* SYSCALL from user mode, and user code that only pretends one.
 *
 * A real SYSCALL arrives at LSTAR with CPL 0, the return address in RCX, RFLAGS
 * in R11 and the SFMASK bits clear. User code that jumps to the LSTAR address
 * gets a page fault instead, whatever it puts into RCX, R11 and RFLAGS:
 * kernel code must never run for it. */
.include "guest.inc"
.include "interrupts.inc"
.include "user.inc"

.set MSR_STAR, 0xc0000081
.set MSR_LSTAR, 0xc0000082
.set MSR_SFMASK, 0xc0000084
.set SFMASK, 0x257fd5           /* what Linux masks */
.set USER_FLAGS, 0x202          /* IF */

.macro WRMSR64 msr, value
    mov $\msr, %ecx
    mov \value, %rax
    mov %rax, %rdx
    shr $32, %rdx
    wrmsr
.endm

/* Runs user code at `label` until it comes back by an exception or through
 * syscall_entry; goes on after this macro. */
.macro USER label, flags=USER_FLAGS
    TRY 9910f
    movq $0, entries
    lea \label, %rdi
    mov $\flags, %esi
    jmp enter_user
9910:
.endm

/* `label` of user code must end in the page fault of a fetch at `address`. */
.macro FORGED name, label, address=syscall_entry
    USER \label
    cmpq $0, entries
    CHECK "\name: no kernel code runs"
    cmpq $14, fault_vector
    CHECK "\name: a page fault"
    cmpq $0x15, fault_error     /* present, user, fetch */
    CHECK "\name: its error code"
    lea \address, %rax
    cmp %rax, fault_cr2
    CHECK "\name: CR2"
    cmp %rax, fault_rip
    CHECK "\name: RIP"
    cmpq $SEL_USER_CODE, fault_cs
    CHECK "\name: CS"
    cmpq $SEL_USER_DATA, fault_ss
    CHECK "\name: SS"
    testq $0x200, fault_rflags
    CHECK_IF nz, "\name: IF is still set"
.endm

main:
    OWN_TABLES
    call interrupts_init
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_SCE | EFER_NXE, %eax
    wrmsr
    movabs $(SEL_CODE << 32) | (0x20 << 48), %r8
    WRMSR64 MSR_STAR, %r8
    lea syscall_entry, %r8
    WRMSR64 MSR_LSTAR, %r8
    mov $SFMASK, %r8
    WRMSR64 MSR_SFMASK, %r8

    USER genuine
    call check_genuine
    lea genuine_return, %rax
    cmp %rax, entry_rcx
    CHECK "SYSCALL: RCX"
    cmpq $USER_FLAGS, entry_r11
    CHECK "SYSCALL: R11"
    PRINT "genuine\n"

    USER genuine_flags
    call check_genuine
    mov entry_r11, %rax
    and $0xcd5, %eax
    cmp $0x4d5, %eax            /* DF, SF, ZF, AF, PF, CF */
    CHECK "SYSCALL: the user's flags in R11"
    PRINT "genuine with flags\n"

    /* Back by SYSRET, and again: a thousand round trips, or bare.rounds=N. */
    mov $1000, %r12d
    ARGUMENT "bare.rounds="
    jc 1f
    mov %rax, %r12
1:  TRY returned
    movq $0, entries
    lea -1(%r12), %rax
    mov %rax, sysret_rounds
    lea round_trips, %rdi
    mov $USER_FLAGS, %esi
    jmp enter_user
returned:
    cmp %r12, entries
    CHECK "as many entries as round trips"
    cmp %r12, entry_rdi
    CHECK "registers pass through SYSCALL and SYSRET"
    PRINT "round trips\n"

    FORGED "jump", jump
    FORGED "jump, R11 as after SYSCALL", jump_r11
    FORGED "jump, RCX at kernel code", jump_rcx
    FORGED "jump, flags as after SYSCALL", jump_popf
    FORGED "jump, flags set", jump_flags
    FORGED "return", return
    FORGED "call", call_entry
    FORGED "iret", iret_clear
    FORGED "jump behind the entry", jump_behind, syscall_entry+1
    FORGED "jump before the entry", jump_before, syscall_entry-1
    FORGED "jump to main", jump_main, main
    PRINT "forgeries refused\n"

    /* After all that a real one still works. */
    USER genuine
    call check_genuine

    /* Data accesses to the entry's address are no fetches. */
    USER read_entry
    cmpq $14, fault_vector
    CHECK "read: a page fault"
    cmpq $5, fault_error
    CHECK "read: its error code"
    lea syscall_entry, %rax
    cmp %rax, fault_cr2
    CHECK "read: CR2"
    lea read_entry_at, %rax
    cmp %rax, fault_rip
    CHECK "read: RIP"
    USER write_entry
    cmpq $7, fault_error
    CHECK "write: its error code"

    /* Page faults of the kernel itself pass too. */
    TRY 1f
    movabs $0x200000000, %rax
    mov (%rax), %rax
1:  cmpq $14, fault_vector
    CHECK "kernel read: a page fault"
    cmpq $0, fault_error
    CHECK "kernel read: its error code"
    movabs $0x200000000, %rax
    cmp %rax, fault_cr2
    CHECK "kernel read: CR2"
    ret

/* Whether kernel code at LSTAR ran as SYSCALL has it run. */
check_genuine:
    cmpq $1, entries
    CHECK "SYSCALL: the entry runs once"
    cmpq $-1, fault_vector
    CHECK "SYSCALL: no exception"
    cmpq $SEL_CODE, entry_cs
    CHECK "SYSCALL: CS"
    /* Where Mayfly completes the SYSCALL, SS is null: 64-bit code cannot tell. */
    cmpq $0, entry_ss
    je 1f
    cmpq $SEL_DATA, entry_ss
    CHECK "SYSCALL: SS"
1:
    testq $SFMASK, entry_rflags
    CHECK "SYSCALL: masked flags are clear"
    lea user_stack_top, %rax
    cmp %rax, entry_rsp
    CHECK "SYSCALL: RSP"
    ret

    nop
syscall_entry:
    mov %rsp, entry_rsp
    lea entry_stack_top, %rsp
    pushfq
    pop entry_rflags
    cld
    mov %rcx, entry_rcx
    mov %r11, entry_r11
    mov %rdi, entry_rdi
    xor %eax, %eax
    mov %cs, %eax
    mov %rax, entry_cs
    mov %ss, %eax
    mov %rax, entry_ss
    incq entries
    cmpq $0, sysret_rounds
    je 1f
    decq sysret_rounds
    mov entry_rsp, %rsp
    sysretq
1:  mov try_rsp, %rsp
    mov try_resume, %rax
    movq $0, try_resume
    jmp *%rax

.section .user, "awx"
genuine:
    syscall
genuine_return:
    ud2

genuine_flags:
    push $0x6d5                 /* IF, DF, SF, ZF, AF, PF, CF */
    popfq
    syscall
    ud2

round_trips:
    xor %edi, %edi
1:  inc %rdi
    syscall
    jmp 1b

.macro GO_TO_ENTRY
    lea syscall_entry, %rax
    jmp *%rax
.endm

jump:
    GO_TO_ENTRY

jump_r11:
    lea genuine_return, %rcx
    mov $USER_FLAGS, %r11d
    GO_TO_ENTRY

jump_rcx:
    lea main, %rcx
    mov $2, %r11d
    GO_TO_ENTRY

/* POPF at CPL 3 leaves IF alone; that is what makes the forgery visible. */
jump_popf:
    lea genuine_return, %rcx
    mov $USER_FLAGS, %r11d
    lea syscall_entry, %rax
    push $2
    popfq
    jmp *%rax

jump_flags:
    lea syscall_entry, %rax
    push $0x6d5
    popfq
    jmp *%rax

return:
    lea syscall_entry, %rax
    push %rax
    ret

call_entry:
    lea syscall_entry, %rax
    call *%rax

/* IRET at CPL 3 leaves IF alone, too. */
iret_clear:
    lea user_stack_top, %rdx
    lea syscall_entry, %rax
    push $SEL_USER_DATA
    push %rdx
    push $2
    push $SEL_USER_CODE
    push %rax
    iretq

jump_behind:
    lea syscall_entry + 1, %rax
    jmp *%rax

jump_before:
    lea syscall_entry - 1, %rax
    jmp *%rax

jump_main:
    lea main, %rax
    jmp *%rax

read_entry:
    lea syscall_entry, %rbx
read_entry_at:
    mov (%rbx), %rax
    ud2

write_entry:
    lea syscall_entry, %rbx
    mov %rax, (%rbx)
    ud2

.data
.balign 8
sysret_rounds: .quad 0
entries: .quad 0
entry_rsp: .quad 0
entry_rflags: .quad 0
entry_rcx: .quad 0
entry_r11: .quad 0
entry_rdi: .quad 0
entry_cs: .quad 0
entry_ss: .quad 0
.bss
.balign 16
    .skip 4096
entry_stack_top:

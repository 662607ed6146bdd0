//! SYSCALL from user mode, genuine and forged.

use super::guest::{DATA, End, Guest, KERNEL_CODE, USER_CODE, guest, is_kvm_pvm};

const LSTAR: u64 = KERNEL_CODE + 0x1000;
const PAGE_FAULT_HANDLER: u64 = KERNEL_CODE + 0x2000;

guest! { enter_user:
    "mov ecx, 0xc0000081", "xor eax, eax", "mov edx, 0x00180008", "wrmsr",
    "mov ecx, 0xc0000084", "mov eax, 0x257fd5", "xor edx, edx", "wrmsr",
    "mov ecx, 0xc0000082", "mov eax, 0x11000", "xor edx, edx", "wrmsr",
    "push 0x23", "push 0x3ff000", "push 0x202", "push 0x2b", "push 0x200000", "iretq",
}

// Stores RSP, RFLAGS, RCX, R11, CS and SS; returns by SYSRET until RDI is 0.
guest! { syscall_entry:
    "mov [0x8000], rsp",
    "mov rsp, 0xe000",
    "pushfq", "pop qword ptr [0x8008]",
    "mov [0x8010], rcx", "mov [0x8018], r11",
    "mov [0x8020], cs", "mov [0x8028], ss",
    "inc qword ptr [0x8030]",
    "test rdi, rdi", "jz 2f",
    "mov rsp, [0x8000]", "sysretq",
    "2:", "mov eax, 0x51", "out 0xf4, al",
}

// A handler that begins with an instruction the breakpoint displaces.
guest! { page_fault_handler:
    "clac",
    "mov rax, [rsp]", "mov [0x8040], rax",
    "mov rax, [rsp + 8]", "mov [0x8048], rax",
    "mov rax, cr2", "mov [0x8050], rax",
    "mov eax, 0xbad", "out 0xf4, al",
}

guest! { three_syscalls:
    "mov edi, 1", "syscall", "syscall", "xor edi, edi", "std", "syscall", "hlt",
}
guest! { forged: "xor edi, edi", "mov rcx, 0x200000", "mov r11, 0x202", "mov rax, 0x11000", "jmp rax" }
guest! { touches_the_kernel: "mov rax, [0x8000]", "hlt" }

fn guest_with(user: &[u8]) -> Guest {
    let guest = Guest::new(enter_user());
    guest.ram.write(LSTAR, syscall_entry()).unwrap();
    guest
        .ram
        .write(PAGE_FAULT_HANDLER, page_fault_handler())
        .unwrap();
    guest.ram.write(USER_CODE, user).unwrap();
    guest.set_gate(14, PAGE_FAULT_HANDLER);
    // The handler's CLAC is only defined with SMAP known; CR4.SMAP stays as it is.
    guest
}

#[test]
fn syscall_and_sysret_work() {
    let mut guest = guest_with(three_syscalls());
    assert_eq!(guest.run(), End::Done(0x51));
    assert_eq!(guest.word(DATA), 0x3f_f000, "RSP is the user's");
    let flags = guest.word(DATA + 8);
    assert_eq!(flags & 0x1_0600, 0, "IF, DF and RF are clear");
    assert_eq!(
        guest.word(DATA + 0x10),
        USER_CODE + 14,
        "RCX is the return address"
    );
    assert_eq!(guest.word(DATA + 0x18) & 0x600, 0x600, "R11 has IF and DF");
    assert_eq!(guest.word(DATA + 0x20) as u16, 0x08, "CS");
    // Null where the emulator completes the SYSCALL (see `syscall::complete`).
    let ss = if is_kvm_pvm() { 0 } else { 0x10 };
    assert_eq!(guest.word(DATA + 0x28) as u16, ss, "SS");
    assert_eq!(guest.word(DATA + 0x30), 3);
    let counts = guest.counts();
    if is_kvm_pvm() {
        assert_eq!((counts.syscalls, counts.hooks_planted), (3, 1));
    } else {
        assert_eq!(counts, Default::default());
    }
}

#[test]
fn a_jump_to_lstar_is_a_page_fault() {
    let mut guest = guest_with(forged());
    assert_eq!(guest.run(), End::Done(0xbad));
    assert_eq!(guest.word(DATA + 0x30), 0, "the entry point never ran");
    assert_eq!(guest.word(DATA + 0x40) & !0x10, 5, "error code");
    assert_eq!(guest.word(DATA + 0x48), LSTAR);
    assert_eq!(guest.word(DATA + 0x50), LSTAR);
    assert_eq!(guest.counts().syscalls, 0);
}

#[test]
fn other_page_faults_reach_the_guest() {
    let mut guest = guest_with(touches_the_kernel());
    assert_eq!(guest.run(), End::Done(0xbad));
    assert_eq!(guest.word(DATA + 0x48), USER_CODE);
    assert_eq!(guest.word(DATA + 0x50), DATA);
}

guest! { patches_its_handler:
    "mov ecx, 0xc0000081", "xor eax, eax", "mov edx, 0x00180008", "wrmsr",
    "mov ecx, 0xc0000084", "mov eax, 0x257fd5", "xor edx, edx", "wrmsr",
    "mov ecx, 0xc0000082", "mov eax, 0x11000", "xor edx, edx", "wrmsr",
    // CLAC becomes a NOP, as alternatives patching does it.
    "mov word ptr [0x12000], 0x1f0f", "mov byte ptr [0x12002], 0",
    "popcnt rax, rax",
    "push 0x23", "push 0x3ff000", "push 0x202", "push 0x2b", "push 0x200000", "iretq",
}

#[test]
fn a_handler_that_is_patched_is_hooked_anew() {
    for user in [three_syscalls(), touches_the_kernel()] {
        let mut guest = guest_with(user);
        guest.ram.write(KERNEL_CODE, patches_its_handler()).unwrap();
        let expected = if user == three_syscalls() {
            0x51
        } else {
            0xbad
        };
        assert_eq!(guest.run(), End::Done(expected));
        let Some(hooks) = &guest.hooks else { continue };
        assert_eq!(hooks.planted(), 2);
        hooks.unplant();
        assert_eq!(guest.word(PAGE_FAULT_HANDLER) & 0xff_ffff, 0x00_1f0f);
    }
}

// The user reads a page, asks the kernel to map another there, and reads again.
guest! { reads_twice:
    "mov rbx, [0x700000]", "mov edi, 1", "syscall",
    "mov rsi, [0x700000]", "xor edi, edi", "syscall", "hlt",
}
guest! { remaps:
    "mov rsp, 0xe000", "test rdi, rdi", "jz 2f",
    "mov qword ptr [0x4018], 0x87",
    "mov eax, 2", "invpcid rax, [0x8000]",
    "mov rsp, 0x3ff000", "sysretq",
    "2:", "mov rax, rbx", "shl rax, 8", "or rax, rsi", "out 0xf4, al",
}

#[test]
fn invpcid_makes_a_changed_mapping_seen() {
    // CPUID.7.EBX: INVPCID.
    if std::arch::x86_64::__cpuid_count(7, 0).ebx & 1 << 10 == 0 {
        return;
    }
    let mut guest = guest_with(reads_twice());
    guest.ram.write(LSTAR, remaps()).unwrap();
    // 0x60_0000 leads to the second 2 MiB of memory, then to the first.
    guest.ram.write_u64(0x4018, 0x20_0087).unwrap();
    guest.ram.write_u64(0x30_0000, 0x77).unwrap();
    guest.ram.write_u64(0x10_0000, 0x88).unwrap();
    assert_eq!(guest.run(), End::Done(0x7788));
}

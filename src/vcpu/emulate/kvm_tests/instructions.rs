//! Instructions at CPL 0, as a kernel uses them.

use super::guest::{DATA, End, Guest, guest, is_kvm_pvm};

guest! { exchange:
    "mov rax, 1", "mov rdx, 2", "mov rbx, 3", "mov rcx, 4",
    "lock cmpxchg16b [0x8000]",
    "setz dil",
    "mov rax, 9",
    "cmpxchg16b [0x8000]",
    "setz sil",
    "mov [0x8010], rax", "mov [0x8018], rdx",
    "movzx eax, dil", "shl eax, 8", "mov al, sil",
    "out 0xf4, al",
}

#[test]
fn cmpxchg16b_stores_when_equal_and_loads_when_not() {
    let mut guest = Guest::new(exchange());
    guest.ram.write_u64(DATA, 1).unwrap();
    guest.ram.write_u64(DATA + 8, 2).unwrap();
    assert_eq!(guest.run(), End::Done(0x100));
    let found = [0, 8, 16, 24].map(|offset| guest.word(DATA + offset));
    assert_eq!(found, [3, 4, 3, 4]);
    if is_kvm_pvm() {
        assert_eq!(guest.counts().by_mnemonic.get("cmpxchg16b"), Some(&2));
    }
}

guest! { exchange_misaligned: "lock cmpxchg16b [0x8008]", "hlt" }
guest! { exchange_unmapped: "mov rdi, 0x40000000", "lock cmpxchg16b [rdi]", "hlt" }

#[test]
fn cmpxchg16b_faults_as_the_processor_does() {
    assert_eq!(Guest::new(exchange_misaligned()).run(), End::Fault(13, 0));
    assert_eq!(
        Guest::new(exchange_unmapped()).run(),
        End::Fault(14, 0x4000_0000)
    );
}

guest! { count_bits:
    "mov rax, 0xf0f0",
    "popcnt rbx, rax",
    "tzcnt rdx, rax",
    "mov rax, rbx", "shl rax, 8", "or rax, rdx",
    "out 0xf4, al",
}

// LZCNT is not here: KVM's emulator runs it as BSR without asking us.
#[test]
fn bits_are_counted() {
    assert_eq!(Guest::new(count_bits()).run(), End::Done(0x08_04));
}

// What is saved by one instruction is lost, restored, and saved by another.
guest! { save_standard:
    "mov eax, 0x3f80", "mov [0x8000], eax", "ldmxcsr [0x8000]",
    "movdqu xmm3, [0x8100]",
    "mov eax, 7", "xor edx, edx",
    "xsave [0x9000]",
    "movdqu xmm3, [0x8200]",
    "mov dword ptr [0x8000], 0x1f80", "ldmxcsr [0x8000]",
    "mov eax, 7", "xor edx, edx",
    "xrstor [0x9000]",
    "stmxcsr [0x8008]",
    "mov eax, 7", "xsaveopt [0xa000]",
    "fwait",
    "movdqu [0x8200], xmm3", "mov rax, [0x8200]",
    "out 0xf4, al",
}
guest! { save_compacted:
    "movdqu xmm3, [0x8100]",
    "mov eax, 7", "xor edx, edx",
    "xsavec [0x9000]",
    "xsaves [0xa000]",
    "movdqu xmm3, [0x8200]",
    "xrstors [0x9000]",
    "movdqu [0x8200], xmm3", "mov rax, [0x8200]",
    "out 0xf4, al",
}

const PATTERN: u64 = 0x1122_3344_5566_7788;
const XMM3: u64 = 160 + 48;

fn with_pattern(code: &[u8]) -> Guest {
    let guest = Guest::new(code);
    guest.ram.write_u64(DATA + 0x100, PATTERN).unwrap();
    guest
}

#[test]
fn extended_state_survives_saving_and_restoring() {
    let mut guest = with_pattern(save_standard());
    assert_eq!(guest.run(), End::Done(PATTERN));
    assert_eq!(guest.word(DATA + 8) as u32, 0x3f80);
    for area in [0x9000, 0xa000] {
        assert_eq!(guest.word(area + XMM3), PATTERN);
        assert_eq!(guest.word(area + 512) & 2, 2);
        assert_eq!(guest.word(area + 520), 0, "the standard form");
    }
}

#[test]
fn extended_state_survives_in_the_compacted_form() {
    // CPUID.(0xd,1).EAX: XSAVEC and XSAVES, which emulated processors may lack.
    if std::arch::x86_64::__cpuid_count(0xd, 1).eax & 0b1010 != 0b1010 {
        return;
    }
    let mut guest = with_pattern(save_compacted());
    assert_eq!(guest.run(), End::Done(PATTERN));
    for area in [0x9000, 0xa000] {
        assert_eq!(guest.word(area + XMM3), PATTERN);
        assert_eq!(guest.word(area + 520), 1 << 63 | 7);
    }
}

guest! { breakpoint: "int3", "mov eax, 7", "out 0xf4, al" }
guest! { breakpoint_handler: "mov rax, [rsp]", "mov [0x8000], rax", "iretq" }

#[test]
fn a_kernels_own_breakpoint_is_delivered_past_the_instruction() {
    let mut guest = Guest::new(breakpoint());
    guest.ram.write(0x1_1000, breakpoint_handler()).unwrap();
    guest.set_gate(3, 0x1_1000);
    assert_eq!(guest.run(), End::Done(7));
    assert_eq!(guest.word(DATA), super::guest::KERNEL_CODE + 1);
}

guest! { interrupt: "int 31", "mov eax, 8", "out 0xf4, al" }

#[test]
fn int_n_reaches_its_gate() {
    let mut guest = Guest::new(interrupt());
    guest.ram.write(0x1_1000, breakpoint_handler()).unwrap();
    guest.set_gate(31, 0x1_1000);
    assert_eq!(guest.run(), End::Done(8));
    assert_eq!(guest.word(DATA), super::guest::KERNEL_CODE + 2);
}

guest! { far_interrupt: "int 0x80", "mov eax, 9", "out 0xf4, al" }

#[test]
fn int_n_past_the_exceptions_reaches_its_gate() {
    let mut guest = Guest::new(far_interrupt());
    guest.ram.write(0x1_1000, breakpoint_handler()).unwrap();
    guest.set_gate(0x80, 0x1_1000);
    assert_eq!(guest.run(), End::Done(9));
    assert_eq!(guest.word(DATA), super::guest::KERNEL_CODE + 2);
}

guest! { not_available: "mov rax, cr0", "or rax, 8", "mov cr0, rax", "xsave [0x9000]", "hlt" }
guest! { bad_header:
    "mov qword ptr [0x9208], 1",
    "mov eax, 7", "xor edx, edx", "xrstor [0x9000]", "hlt",
}

#[test]
fn xsave_instructions_fault_as_the_processor_does() {
    assert_eq!(Guest::new(not_available()).run(), End::Fault(7, 0));
    assert_eq!(Guest::new(bad_header()).run(), End::Fault(13, 0));
}

guest! { extended_control:
    "xor ecx, ecx", "xgetbv", "mov [0x8000], rax",
    "xor edx, edx", "mov eax, 3", "xsetbv",
    "xgetbv", "out 0xf4, al",
}

#[test]
fn xcr0_is_read_and_written() {
    let mut guest = Guest::new(extended_control());
    assert_eq!(guest.run(), End::Done(3));
    assert_eq!(guest.word(DATA), 7);
}

guest! { user_probe:
    // Kernel reads and writes a user page with SMAP on: only AC opens it.
    "mov rax, cr4", "or rax, 0x200000", "mov cr4, rax",
    "stac", "mov rdi, 0x300000", "lock cmpxchg16b [rdi]", "clac",
    "lock cmpxchg16b [rdi]", "hlt",
}

#[test]
fn smap_keeps_the_kernel_out_of_user_pages() {
    let mut guest = Guest::new(user_probe());
    assert_eq!(guest.run(), End::Fault(14, 0x30_0000));
}

guest! { software_nmi: "int 2", "hlt" }

#[test]
fn int_2_reaches_the_handler_of_nmis() {
    assert_eq!(Guest::new(software_nmi()).run(), End::Fault(2, 0));
}

guest! { counted_late: "popcnt rax, rcx", "out 0xf4, al" }

/// What [`super::super::Stop::Retry`] relies on.
#[test]
fn an_instruction_left_alone_is_handed_back_again() {
    let mut guest = Guest::new(counted_late());
    let mut regs = guest.vcpu.get_regs().unwrap();
    regs.rcx = 0xff;
    guest.vcpu.set_regs(&regs).unwrap();
    if is_kvm_pvm() {
        for _ in 0..3 {
            let exit = guest.vcpu.run().unwrap();
            assert!(matches!(exit, kvm_ioctls::VcpuExit::InternalError));
        }
    }
    assert_eq!(guest.run(), End::Done(8));
}

//! User code that accesses a device, which KVM has to interpret.

use super::guest::{End, Guest, USER_CODE, guest, is_kvm_pvm};

const DEVICE: u64 = 0x40_0000;

guest! { enter_user_for_device:
    "push 0x23", "push 0x3ff000", "push 0x202", "push 0x2b", "push 0x200000", "iretq",
}

guest! { covered_in_user_mode: "mov edi, 0x400000", "vmovdqu xmm0, [rdi]", "movups [0x200100], xmm0", "mov rax, [0x8000]" }
guest! { uncovered_in_user_mode: "mov edi, 0x400000", "fld qword ptr [rdi]", "mov rax, [0x8000]" }

/// With a page of user addresses that leads to where no RAM is.
fn guest_with(user: &[u8]) -> Guest {
    let guest = Guest::new(enter_user_for_device());
    guest.ram.write(USER_CODE, user).unwrap();
    guest.ram.write_u64(0x4010, 0xd000_0087).unwrap();
    assert_eq!(DEVICE, 2 << 21);
    guest
}

#[test]
fn vectors_are_loaded_from_devices() {
    if !is_kvm_pvm() {
        return;
    }
    let mut guest = guest_with(covered_in_user_mode());
    assert_eq!(guest.run(), End::Fault(14, 0x8000));
    assert_eq!(guest.word(USER_CODE + 0x100), u64::MAX);
    assert_eq!(guest.word(USER_CODE + 0x108), u64::MAX);
}

#[test]
fn what_is_not_covered_is_undefined_in_user_mode_and_no_end() {
    if !is_kvm_pvm() {
        return;
    }
    let mut guest = guest_with(uncovered_in_user_mode());
    assert_eq!(guest.run(), End::Fault(6, 0));
    assert_eq!(guest.counts().undefined_in_user_mode, 1);
}

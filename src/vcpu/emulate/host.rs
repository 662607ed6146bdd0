//! Atomic accesses to guest RAM through its host mapping.
//!
//! Other vCPUs run at the same time, so these are the processor's own locked
//! instructions on the very memory the guest sees.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::memory::ram::GuestRam;

/// Whether this processor has CMPXCHG16B.
pub(super) fn has_cmpxchg16b() -> bool {
    std::arch::is_x86_feature_detected!("cmpxchg16b")
}

/// MAXPHYADDR of this processor (CPUID 0x80000008 EAX\[7:0\]).
pub(super) fn physical_bits() -> u32 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    let highest = std::arch::x86_64::__cpuid(0x8000_0000).eax;
    let bits = if highest >= ADDRESS_SIZES {
        std::arch::x86_64::__cpuid(ADDRESS_SIZES).eax & 0xff
    } else {
        36
    };
    bits.clamp(32, 52)
}

/// Replaces the aligned word at `gpa` if it still is `old`. False if it is not, or not RAM.
pub(super) fn replace_u64(ram: &GuestRam, gpa: u64, old: u64, new: u64) -> bool {
    if !gpa.is_multiple_of(8) {
        return false;
    }
    let Ok(pointer) = ram.host_ptr(gpa, 8) else {
        return false;
    };
    // SAFETY: `host_ptr` vouches for 8 mapped bytes that live as long as `ram`;
    // guest pages and host pages share alignment, so `gpa % 8 == 0` aligns it;
    // all concurrent accesses are the guest's or atomic.
    let word = unsafe { AtomicU64::from_ptr(pointer.cast()) };
    let replaced = word
        .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok();
    if replaced {
        ram.mark_dirty(gpa, 8);
    }
    replaced
}

/// Replaces the byte at `gpa` if it still is `old`. False if it is not, or not RAM.
pub(super) fn replace_u8(ram: &GuestRam, gpa: u64, old: u8, new: u8) -> bool {
    let Ok(pointer) = ram.host_ptr(gpa, 1) else {
        return false;
    };
    // SAFETY: `host_ptr` vouches for one mapped byte that lives as long as
    // `ram`; all concurrent accesses are the guest's or atomic.
    let byte = unsafe { AtomicU8::from_ptr(pointer) };
    let replaced = byte
        .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok();
    if replaced {
        ram.mark_dirty(gpa, 1);
    }
    replaced
}

/// The byte at `gpa`, if that is RAM.
pub(super) fn load_u8(ram: &GuestRam, gpa: u64) -> Option<u8> {
    let mut byte = [0];
    ram.read(gpa, &mut byte).ok()?;
    Some(u8::from_le_bytes(byte))
}

/// LOCK CMPXCHG16B on guest RAM: the value found at `gpa`, which was replaced if it was `old`.
///
/// `None` if the 16 bytes are not RAM, not aligned, or this processor lacks the instruction.
pub(super) fn compare_exchange_u128(
    ram: &GuestRam,
    gpa: u64,
    old: u128,
    new: u128,
) -> Option<u128> {
    if !gpa.is_multiple_of(16) || !has_cmpxchg16b() {
        return None;
    }
    let pointer = ram.host_ptr(gpa, 16).ok()?;
    // SAFETY: `host_ptr` vouches for 16 mapped bytes, `gpa % 16 == 0` aligns
    // them, and the processor has the instruction.
    let found = unsafe { lock_cmpxchg16b(pointer, old, new) };
    ram.mark_dirty(gpa, 16);
    Some(found)
}

/// Whether [`compare_exchange`] can be used on these bytes: RAM within one cache line.
pub(super) fn is_exchangeable(ram: &GuestRam, gpa: u64, size: usize) -> bool {
    const LINE: u64 = 64;
    matches!(size, 1 | 2 | 4 | 8) && gpa % LINE + size as u64 <= LINE && ram.contains(gpa, size)
}

/// LOCK CMPXCHG on guest RAM: the number of `size` bytes found at `gpa`, which
/// was replaced if it was `old`. Any alignment within a cache line will do.
///
/// `None` if [`is_exchangeable`] says no.
pub(super) fn compare_exchange(
    ram: &GuestRam,
    gpa: u64,
    size: usize,
    old: u64,
    new: u64,
) -> Option<u64> {
    if !is_exchangeable(ram, gpa, size) {
        return None;
    }
    let pointer = ram.host_ptr(gpa, size).ok()?;
    let mut found = old;
    // SAFETY: `host_ptr` vouches for `size` mapped bytes that live as long as
    // `ram`; the instruction has no alignment of its own, and as they lie within
    // a line there is no split lock. All concurrent accesses are the guest's or atomic.
    unsafe {
        use std::arch::asm;
        match size {
            1 => asm!("lock cmpxchg byte ptr [{at}], {new}", at = in(reg) pointer,
                new = in(reg_byte) new as u8, inout("rax") found, options(nostack)),
            2 => asm!("lock cmpxchg word ptr [{at}], {new:x}", at = in(reg) pointer,
                new = in(reg) new, inout("rax") found, options(nostack)),
            4 => asm!("lock cmpxchg dword ptr [{at}], {new:e}", at = in(reg) pointer,
                new = in(reg) new, inout("rax") found, options(nostack)),
            _ => asm!("lock cmpxchg qword ptr [{at}], {new}", at = in(reg) pointer,
                new = in(reg) new, inout("rax") found, options(nostack)),
        }
    }
    ram.mark_dirty(gpa, size);
    Some(found & super::regs::mask(size))
}

/// The instruction itself: `core`'s wrapper needs a runtime library in unoptimised builds.
///
/// # Safety
/// `pointer` is valid for 16 bytes and 16-byte aligned; the processor has CMPXCHG16B.
unsafe fn lock_cmpxchg16b(pointer: *mut u8, old: u128, new: u128) -> u128 {
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: by the caller's promise. RBX is the compiler's own, so it is
    // exchanged for the operand's low half and put back; `reg` may still choose
    // it, which is no harm for that half but would be for the pointer.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b [rdi]",
            "mov rbx, {new_low}",
            new_low = inout(reg) new as u64 => _,
            in("rdi") pointer,
            inout("rax") low,
            inout("rdx") high,
            in("rcx") (new >> 64) as u64,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

/// A random word from the processor's generator; `None` if it has none or none is ready.
pub(super) fn random() -> Option<u64> {
    if !std::arch::is_x86_feature_detected!("rdrand") {
        return None;
    }
    let mut word = 0;
    // SAFETY: the processor has RDRAND, as was just asked.
    let ready = unsafe { std::arch::x86_64::_rdrand64_step(&mut word) };
    (ready == 1).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced_only_if_they_are_what_was_expected() {
        let ram = GuestRam::new(1 << 20).unwrap();
        ram.write_u64(0x100, 5).unwrap();
        assert!(!replace_u64(&ram, 0x100, 4, 9));
        assert!(replace_u64(&ram, 0x100, 5, 9));
        assert_eq!(ram.read_u64(0x100).unwrap(), 9);
        assert!(!replace_u64(&ram, 0x101, 0, 1), "not aligned");
        assert!(!replace_u64(&ram, 1 << 20, 0, 1), "not RAM");
        assert!(!replace_u8(&ram, u64::MAX, 0, 1), "not RAM");
    }

    #[test]
    fn sixteen_bytes_are_exchanged_between_threads_without_loss() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let add = || {
            for _ in 0..10_000 {
                let mut seen = 0u128;
                loop {
                    let next = seen + (1 << 64) + 1;
                    let found = compare_exchange_u128(&ram, 0x2000, seen, next).unwrap();
                    if found == seen {
                        break;
                    }
                    seen = found;
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(add);
            scope.spawn(add);
        });
        assert_eq!(ram.read_u64(0x2000).unwrap(), 20_000);
        assert_eq!(ram.read_u64(0x2008).unwrap(), 20_000);
    }
}

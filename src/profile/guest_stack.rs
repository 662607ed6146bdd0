//! A copy of what lies on a guest's stack.
//!
//! Nothing changes in the guest, not even an accessed bit. What the page tables hold
//! is the guest's, and is checked as the emulator checks it.

use kvm_bindings::kvm_sregs;

use crate::memory::GuestRam;
use crate::vcpu::emulate::look;

const CR0_PG: u64 = 1 << 31;
const EFER_LMA: u64 = 1 << 10;
const PAGE: u64 = 4096;

/// Copies what lies from `rsp` upwards in a vCPU that runs 64-bit code, as far as
/// pages are mapped to RAM, and returns how many bytes that are.
pub(super) fn read(ram: &GuestRam, sregs: &kvm_sregs, rsp: u64, to: &mut [u8]) -> usize {
    let is_long = sregs.efer & EFER_LMA != 0 && sregs.cr0 & CR0_PG != 0;
    if !is_long || sregs.cs.l == 0 || !rsp.is_multiple_of(8) {
        return 0;
    }
    let (mut at, mut done) = (rsp, 0);
    while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let in_page = usize::try_from(PAGE - at % PAGE).unwrap_or(rest.len());
        let len = in_page.min(rest.len());
        let copied = look(ram, sregs, at)
            .zip(rest.get_mut(..len))
            .is_some_and(|(gpa, part)| ram.read(gpa, part).is_ok());
        if !copied {
            break;
        }
        done = done.saturating_add(len);
        at = at.wrapping_add(len as u64);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CR4_PAE: u64 = 1 << 5;
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    const ROOT: u64 = 0x1000;

    fn long_mode() -> kvm_sregs {
        let mut sregs = kvm_sregs {
            cr0: CR0_PG | 1,
            cr3: ROOT,
            cr4: CR4_PAE,
            efer: EFER_LMA,
            ..Default::default()
        };
        sregs.cs.l = 1;
        sregs
    }

    /// Two pages at 0xffffc90000003000, one after the other in reverse order in RAM.
    fn machine() -> GuestRam {
        let ram = GuestRam::new(1 << 20).unwrap();
        let linear = 0xffff_c900_0000_3000u64;
        for (table, shift, next) in [
            (ROOT, 39, 0x2000),
            (0x2000, 30, 0x3000),
            (0x3000, 21, 0x4000),
        ] {
            let at = table + (linear >> shift) % 512 * 8;
            ram.write_u64(at, next | PRESENT).unwrap();
        }
        ram.write_u64(0x4000 + 3 * 8, 0x9000 | PRESENT).unwrap();
        ram.write_u64(0x4000 + 4 * 8, 0x8000 | PRESENT).unwrap();
        ram.write(0x9ff8, &[1; 8]).unwrap();
        ram.write(0x8000, &[2; 8]).unwrap();
        ram
    }

    #[test]
    fn a_stack_is_read_across_pages_up_to_its_end() {
        let ram = machine();
        let mut room = [0; MAX];
        const MAX: usize = 8192;
        let read = |rsp, room: &mut [u8]| read(&ram, &long_mode(), rsp, room);
        assert_eq!(read(0xffff_c900_0000_3ff8, &mut room), 8 + 4096);
        assert_eq!(room[..16], [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(read(0xffff_c900_0000_5000, &mut room), 0);
        assert_eq!(read(0xffff_c900_0000_3ff9, &mut room), 0);
        assert_eq!(read(0xffff_c900_0000_3000, &mut room), MAX);
    }

    #[test]
    fn large_pages_end_a_walk_early() {
        let ram = GuestRam::new(4 << 20).unwrap();
        ram.write_u64(ROOT, 0x2000 | PRESENT).unwrap();
        ram.write_u64(0x2000, 0x3000 | PRESENT).unwrap();
        ram.write_u64(0x3000 + 8, PRESENT | LARGE).unwrap();
        ram.write(0x5008, b"mayfly!!").unwrap();
        let mut room = [0; 8];
        assert_eq!(read(&ram, &long_mode(), 0x20_5008, &mut room), 8);
        assert_eq!(&room, b"mayfly!!");
    }

    proptest! {
        #[test]
        fn hostile_tables_end(
            entries in prop::collection::vec((0u64..512, any::<u64>()), 0..40),
            rsp: u64,
            cr3: u64,
            cr4: u64,
        ) {
            let ram = GuestRam::new(1 << 20).unwrap();
            for (index, entry) in entries {
                ram.write_u64(ROOT + index * 8, entry & 0xf_ffff | 3).unwrap();
            }
            let mut sregs = long_mode();
            sregs.cr4 = cr4 | CR4_PAE;
            let mut room = [0; 8192];
            for cr3 in [cr3, ROOT] {
                sregs.cr3 = cr3;
                prop_assert!(read(&ram, &sregs, rsp & !7, &mut room) <= room.len());
            }
        }
    }
}

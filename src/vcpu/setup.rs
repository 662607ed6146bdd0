//! The state in which the boot vCPU executes its first instruction.
//!
//! Two protocols, two states: 64-bit long mode with identity page tables (the
//! 64-bit Linux boot protocol, Documentation/arch/x86/boot.rst) and flat 32-bit
//! protected mode without paging (PVH, the Xen x86/HVM direct boot ABI).
//! The other vCPUs start from KVM's reset state and wait for INIT and SIPI.
//!
//! The functions only compute registers; a unit test holds the result against
//! the checks VMX and SVM make at VM entry, which no machine of ours could.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use crate::boot::Entry;
use crate::memory::layout::{GDT_ADDR, PD_ADDR, PDPT_ADDR, PML4_ADDR};
use crate::memory::{GuestRam, MemoryError};

/// CR0.PE: protected mode.
pub const CR0_PE: u64 = 1;
/// CR0.ET: reads as one on every processor since the 486.
pub const CR0_ET: u64 = 1 << 4;
/// CR0.PG: paging.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PAE: physical address extension, needed for long mode.
pub const CR4_PAE: u64 = 1 << 5;
/// EFER.LME: long mode enabled.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA: long mode active.
pub const EFER_LMA: u64 = 1 << 10;
/// RFLAGS bit 1, which is always one.
const RFLAGS_RESERVED: u64 = 2;

/// Selector of the boot code segment (`__BOOT_CS`).
const BOOT_CS: u16 = 0x10;
/// Selector of the boot data segment (`__BOOT_DS`).
const BOOT_DS: u16 = 0x18;
/// Selector of the task state segment that VM entry wants busy.
const BOOT_TR: u16 = 0x20;

/// Page-table bits: present, writable.
const PTE_PRESENT_RW: u64 = 0b11;
/// Page-directory bit: maps a 2 MiB page.
const PDE_LARGE: u64 = 1 << 7;

/// A segment register as both the hidden part of the register and the descriptor in the GDT.
fn segment(selector: u16, type_: u8, limit: u32, s: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 0,
        s,
        l: 0,
        g: u8::from(limit > 0xf_ffff),
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The flat segments of one entry mode: code, data, TSS.
fn segments(long_mode: bool) -> [kvm_segment; 3] {
    let mut code = segment(BOOT_CS, 0xb, 0xffff_ffff, 1);
    code.l = u8::from(long_mode);
    code.db = u8::from(!long_mode);
    let mut data = segment(BOOT_DS, 0x3, 0xffff_ffff, 1);
    data.db = 1;
    let tss = segment(BOOT_TR, 0xb, 0x67, 0);
    [code, data, tss]
}

/// The descriptor that loads as `segment` (Intel SDM vol. 3 §3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let base = segment.base;
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

/// Writes the GDT, and for long mode the identity page tables over 4 GiB.
///
/// # Errors
/// [`MemoryError`] if guest memory ends below these structures.
pub fn write_boot_tables(ram: &GuestRam, entry: &Entry) -> Result<(), MemoryError> {
    let long_mode = matches!(entry, Entry::Linux64 { .. });
    let [code, data, tss] = segments(long_mode);
    let gdt = [
        0,
        0,
        descriptor(&code),
        descriptor(&data),
        descriptor(&tss),
        0,
    ];
    for (index, value) in (0u64..).zip(gdt) {
        ram.write_u64(GDT_ADDR + 8 * index, value)?;
    }
    if long_mode {
        write_page_tables(ram)?;
    }
    Ok(())
}

/// Maps the first 4 GiB to themselves: one PML4 entry, four PDPT entries, 2 MiB pages.
fn write_page_tables(ram: &GuestRam) -> Result<(), MemoryError> {
    ram.write_u64(PML4_ADDR, PDPT_ADDR | PTE_PRESENT_RW)?;
    let mut directories = Vec::with_capacity(4 * 4096);
    for gib in 0..4 {
        ram.write_u64(
            PDPT_ADDR + 8 * gib,
            (PD_ADDR + 0x1000 * gib) | PTE_PRESENT_RW,
        )?;
    }
    for page in 0..4 * 512u64 {
        let entry = page << 21 | PTE_PRESENT_RW | PDE_LARGE;
        directories.extend_from_slice(&entry.to_le_bytes());
    }
    ram.write(PD_ADDR, &directories)
}

/// The general registers of the boot vCPU.
pub fn boot_regs(entry: &Entry) -> kvm_regs {
    match *entry {
        Entry::Linux64 { rip, rsi } => kvm_regs {
            rip,
            rsi,
            rflags: RFLAGS_RESERVED,
            ..Default::default()
        },
        Entry::Pvh { rip, rbx } => kvm_regs {
            rip,
            rbx,
            rflags: RFLAGS_RESERVED,
            ..Default::default()
        },
    }
}

/// The system registers of the boot vCPU, made from those KVM gives after reset.
pub fn boot_sregs(reset: &kvm_sregs, entry: &Entry) -> kvm_sregs {
    let mut sregs = *reset;
    let long_mode = matches!(entry, Entry::Linux64 { .. });
    let [code, data, tss] = segments(long_mode);
    sregs.cs = code;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = tss;
    sregs.gdt.base = GDT_ADDR;
    sregs.gdt.limit = 6 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    if long_mode {
        sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
        sregs.cr3 = PML4_ADDR;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME | EFER_LMA;
    } else {
        sregs.cr0 = CR0_PE | CR0_ET;
        sregs.cr3 = 0;
        sregs.cr4 = 0;
        sregs.efer = 0;
    }
    sregs
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: Entry = Entry::Linux64 {
        rip: 0x100_0000,
        rsi: 0x7000,
    };
    const PVH: Entry = Entry::Pvh {
        rip: 0x100_0000,
        rbx: 0x6000,
    };

    /// KVM's reset state, as far as the checks look at it: LDTR unusable-like, GDT/IDT limits 0xffff.
    fn reset() -> kvm_sregs {
        let mut sregs = kvm_sregs::default();
        sregs.ldt.type_ = 2;
        sregs.ldt.present = 1;
        sregs.ldt.limit = 0xffff;
        sregs.apic_base = 0xfee0_0900;
        sregs
    }

    fn canonical(address: u64) -> bool {
        let top = (address as i64) >> 47;
        top == 0 || top == -1
    }

    /// Intel SDM vol. 3 §27.3.1.2, "Checks on Guest Segment Registers", for a
    /// guest that is not in virtual-8086 mode, with "unrestricted guest" off
    /// (the stricter case).
    fn vmx_segment_checks(s: &kvm_sregs) {
        let long = s.efer & EFER_LMA != 0;
        assert_eq!(s.tr.selector & 4, 0, "TR.TI");
        assert_eq!(s.ldt.selector & 4, 0, "LDTR.TI");
        assert_eq!(s.ss.selector & 3, s.cs.selector & 3, "SS.RPL = CS.RPL");
        for seg in [&s.tr, &s.fs, &s.gs, &s.ldt] {
            assert!(canonical(seg.base));
        }
        for seg in [&s.cs, &s.ss, &s.ds, &s.es] {
            assert_eq!(seg.base >> 32, 0);
        }
        // CS: accessed code segment, 9, 11 (non-conforming: DPL = SS.DPL).
        assert!(matches!(s.cs.type_, 9 | 11), "CS type");
        assert_eq!(s.cs.dpl, s.ss.dpl);
        // SS: 3 or 7; DS, ES, FS, GS: accessed, and readable if code.
        assert!(matches!(s.ss.type_, 3 | 7), "SS type");
        assert_eq!(s.ss.dpl as u16, s.ss.selector & 3, "SS.DPL = SS.RPL");
        for seg in [&s.ds, &s.es, &s.fs, &s.gs] {
            assert_eq!(seg.type_ & 1, 1, "accessed");
            assert!(seg.type_ & 8 == 0 || seg.type_ & 2 != 0, "code is readable");
            assert!(seg.type_ > 11 || u16::from(seg.dpl) >= seg.selector & 3);
        }
        for seg in [&s.cs, &s.ss, &s.ds, &s.es, &s.fs, &s.gs] {
            assert_eq!((seg.s, seg.present, seg.unusable), (1, 1, 0));
            granularity(seg);
        }
        assert!(!(long && s.cs.l == 1 && s.cs.db == 1), "CS.L and CS.D");
        // TR: busy TSS, 64-bit if in long mode (3 is allowed only outside it).
        assert!(s.tr.type_ == 11 || (!long && s.tr.type_ == 3), "TR type");
        assert_eq!((s.tr.s, s.tr.present, s.tr.unusable), (0, 1, 0));
        granularity(&s.tr);
        if s.ldt.unusable == 0 {
            assert_eq!((s.ldt.type_, s.ldt.s, s.ldt.present), (2, 0, 1));
            granularity(&s.ldt);
        }
    }

    /// G is 0 unless the low 12 bits of the limit are all ones, 1 if any of the top 12 is set.
    fn granularity(seg: &kvm_segment) {
        if seg.limit & 0xfff != 0xfff {
            assert_eq!(seg.g, 0, "limit {:#x}", seg.limit);
        }
        if seg.limit & 0xfff0_0000 != 0 {
            assert_eq!(seg.g, 1, "limit {:#x}", seg.limit);
        }
    }

    /// Intel SDM vol. 3 §27.3.1.1, control registers, debug registers and MSRs.
    fn vmx_control_checks(s: &kvm_sregs) {
        assert_eq!(s.cr0 >> 32, 0);
        assert!(s.cr0 & CR0_PG == 0 || s.cr0 & CR0_PE != 0, "PG needs PE");
        assert!(
            s.cr0 & (1 << 29) == 0 || s.cr0 & (1 << 30) != 0,
            "NW needs CD"
        );
        let lma = s.efer & EFER_LMA != 0;
        assert_eq!(
            lma,
            s.efer & EFER_LME != 0 && s.cr0 & CR0_PG != 0,
            "LMA = LME and PG"
        );
        assert!(!lma || s.cr4 & CR4_PAE != 0, "long mode needs PAE");
        assert!(s.cr4 & (1 << 17) == 0 || lma, "PCIDE only in long mode");
        assert_eq!(s.cr3 >> 36, 0, "CR3 within any physical-address width");
        assert_eq!(s.cr3 & 0xfff, 0);
    }

    /// Intel SDM vol. 3 §27.3.1.3 and §27.3.1.4: descriptor tables, RIP, RFLAGS.
    fn vmx_table_checks(s: &kvm_sregs, r: &kvm_regs) {
        assert!(canonical(s.gdt.base) && canonical(s.idt.base));
        if s.cs.l == 0 {
            assert_eq!(r.rip >> 32, 0, "RIP in 32-bit code");
        } else {
            assert!(canonical(r.rip));
        }
        assert_eq!(r.rflags & 2, 2, "RFLAGS bit 1");
        assert_eq!(r.rflags & (1 << 3 | 1 << 5 | 1 << 15), 0, "reserved bits");
        assert_eq!(r.rflags >> 22, 0, "reserved bits");
        assert_eq!(r.rflags & (1 << 17), 0, "no VM86");
    }

    /// AMD APM vol. 2 §15.5.1, "Canonicalization and Consistency Checks".
    fn svm_checks(s: &kvm_sregs) {
        let (cd, nw) = (s.cr0 & (1 << 30) != 0, s.cr0 & (1 << 29) != 0);
        assert!(cd || !nw, "CR0.CD zero and CR0.NW set");
        assert_eq!(s.cr0 >> 32, 0, "CR0[63:32]");
        assert_eq!(s.cr4 >> 32, 0, "CR4[63:32]");
        assert_eq!(s.efer & !0xfd01, 0, "EFER must-be-zero bits");
        let (lme, pg) = (s.efer & EFER_LME != 0, s.cr0 & CR0_PG != 0);
        if lme && pg {
            assert_ne!(s.cr4 & CR4_PAE, 0, "LME and PG need PAE");
            assert_ne!(s.cr0 & CR0_PE, 0, "LME and PG need PE");
            assert!(!(s.cs.l == 1 && s.cs.db == 1), "CS.L and CS.D");
        }
    }

    #[test]
    fn both_entry_states_pass_the_vm_entry_checks() {
        for entry in [LINUX, PVH] {
            let (sregs, regs) = (boot_sregs(&reset(), &entry), boot_regs(&entry));
            vmx_segment_checks(&sregs);
            vmx_control_checks(&sregs);
            vmx_table_checks(&sregs, &regs);
            svm_checks(&sregs);
        }
    }

    #[test]
    fn linux_starts_in_64_bit_mode_with_the_selectors_it_expects() {
        let sregs = boot_sregs(&reset(), &LINUX);
        assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
        assert_eq!((sregs.cs.l, sregs.cs.db), (1, 0));
        assert_eq!(boot_regs(&LINUX).rsi, 0x7000);
    }

    #[test]
    fn pvh_starts_flat_32_bit_with_paging_off() {
        let sregs = boot_sregs(&reset(), &PVH);
        assert_eq!((sregs.cs.l, sregs.cs.db), (0, 1));
        assert_eq!(sregs.cr0, CR0_PE | CR0_ET);
        assert_eq!((sregs.cr4, sregs.efer), (0, 0));
        assert_eq!(sregs.tr.limit, 0x67);
        assert_eq!(boot_regs(&PVH).rbx, 0x6000);
    }

    #[test]
    fn the_gdt_holds_what_the_registers_hold() {
        let ram = GuestRam::new(1 << 20).unwrap();
        write_boot_tables(&ram, &LINUX).unwrap();
        assert_eq!(ram.read_u64(GDT_ADDR).unwrap(), 0);
        assert_eq!(
            ram.read_u64(GDT_ADDR + 0x10).unwrap(),
            0x00af_9b00_0000_ffff
        );
        assert_eq!(
            ram.read_u64(GDT_ADDR + 0x18).unwrap(),
            0x00cf_9300_0000_ffff
        );
        assert_eq!(
            ram.read_u64(GDT_ADDR + 0x20).unwrap(),
            0x0000_8b00_0000_0067
        );
    }

    #[test]
    fn the_page_tables_map_four_gib_to_themselves() {
        let ram = GuestRam::new(1 << 20).unwrap();
        write_boot_tables(&ram, &LINUX).unwrap();
        for address in [0u64, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff] {
            let pdpt = ram.read_u64(PML4_ADDR + 8 * (address >> 39)).unwrap() & !0xfff;
            let pd = ram.read_u64(pdpt + 8 * (address >> 30)).unwrap() & !0xfff;
            let entry = ram.read_u64(pd + 8 * (address >> 21 & 0x1ff)).unwrap();
            assert_eq!(entry & !0xfff, address & !0x1f_ffff);
            assert_eq!(entry & 0xfff, PTE_PRESENT_RW | PDE_LARGE);
        }
    }
}

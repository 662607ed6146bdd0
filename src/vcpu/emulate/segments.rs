//! LSL, LAR, VERR and VERW: what a segment descriptor allows (SDM vol. 3 §5.10).

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::paging::{Kind, Privilege, bits};
use super::regs::{rflags, set_flags};

/// Bits of a descriptor's second doubleword that LAR tells.
const ACCESS_RIGHTS: u64 = 0x00f0_ff00;
const CR0_PE: u64 = 1;

/// An entry of the GDT or LDT.
#[derive(Clone, Copy)]
struct Descriptor(u64);

impl Descriptor {
    fn is_code_or_data(self) -> bool {
        self.0 >> 44 & 1 != 0
    }

    /// The four type bits.
    fn kind(self) -> u64 {
        self.0 >> 40 & 0xf
    }

    fn is_code(self) -> bool {
        self.is_code_or_data() && self.kind() & 8 != 0
    }

    fn is_conforming_code(self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    fn is_readable(self) -> bool {
        self.is_code_or_data() && (!self.is_code() || self.kind() & 2 != 0)
    }

    fn is_writable(self) -> bool {
        self.is_code_or_data() && !self.is_code() && self.kind() & 2 != 0
    }

    fn level(self) -> u64 {
        self.0 >> 45 & 3
    }

    /// The limit in bytes.
    fn limit(self) -> u64 {
        let raw = self.0 & 0xffff | self.0 >> 32 & 0xf_0000;
        if self.0 >> 55 & 1 != 0 {
            raw << 12 | 0xfff
        } else {
            raw
        }
    }

    /// Whether LAR (LSL, if `limits`) knows a system descriptor of this type.
    fn is_known_to(self, limits: bool, long_mode: bool) -> bool {
        match (self.kind(), long_mode) {
            _ if self.is_code_or_data() => true,
            // TSS, free and busy.
            (9 | 11, _) | (1 | 3, false) => true,
            // LDT: only LSL takes it in IA-32e mode.
            (2, _) => limits || !long_mode,
            // Call and task gates have no limit.
            (12, _) | (4 | 5, false) => !limits,
            _ => false,
        }
    }
}

/// Sets ZF if the descriptor may be looked at, and loads what was asked for.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    if cpu.sregs.cr0 & CR0_PE == 0 || cpu.regs.rflags & rflags::VM != 0 {
        return Err(Exception::invalid_opcode().into());
    }
    let loads = matches!(insn.mnemonic(), Mnemonic::Lsl | Mnemonic::Lar);
    let selector = cpu.value(insn, u32::from(loads))? & 0xffff;
    let long_mode = cpu.sregs.efer & bits::EFER_LMA != 0;
    let found = descriptor(cpu, selector)?.filter(|descriptor| {
        let level = u64::from(cpu.cpl()).max(selector & 3);
        let visible = descriptor.is_conforming_code() || level <= descriptor.level();
        visible
            && match insn.mnemonic() {
                Mnemonic::Lsl => descriptor.is_known_to(true, long_mode),
                Mnemonic::Lar => descriptor.is_known_to(false, long_mode),
                Mnemonic::Verr => descriptor.is_readable(),
                _ => descriptor.is_writable(),
            }
    });
    let Some(descriptor) = found else {
        set_flags(&mut cpu.regs, rflags::ZF, 0);
        return Ok(());
    };
    set_flags(&mut cpu.regs, rflags::ZF, rflags::ZF);
    match insn.mnemonic() {
        Mnemonic::Lsl => cpu.set_value(insn, 0, descriptor.limit()),
        Mnemonic::Lar => cpu.set_value(insn, 0, descriptor.0 >> 32 & ACCESS_RIGHTS),
        _ => Ok(()),
    }
}

/// The descriptor of `selector`; `None` if it is null or beyond its table.
fn descriptor(cpu: &mut Cpu<'_>, selector: u64) -> Result<Option<Descriptor>, Stop> {
    const LOCAL: u64 = 4;
    let (base, limit) = if selector & LOCAL == 0 {
        (cpu.sregs.gdt.base, u64::from(cpu.sregs.gdt.limit))
    } else {
        let ldt = &cpu.sregs.ldt;
        if ldt.unusable != 0 || ldt.present == 0 {
            return Ok(None);
        }
        (ldt.base, u64::from(ldt.limit))
    };
    if selector & !3 == 0 || selector | 7 > limit {
        return Ok(None);
    }
    let mut bytes = [0; 8];
    let at = base.wrapping_add(selector & !7);
    cpu.read_as(at, &mut bytes, Kind::Read, Privilege::Implicit)?;
    Ok(Some(Descriptor(u64::from_le_bytes(bytes))))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine, USER_DATA, assemble};
    use super::*;

    assemble! { limit_64: "lsl rax, rcx" }
    assemble! { limit_16: "lsl ax, cx" }
    assemble! { rights_32: "lar eax, cx" }
    assemble! { rights_of_memory: "lar eax, [rdi]" }
    assemble! { readable: "verr cx" }
    assemble! { writable: "verw cx" }

    /// Descriptors as the manual's figures (vol. 3 §3.4.5, §7.2.3) have them.
    const TABLE: [u64; 16] = [
        0x00af_9b00_0000_ffff, // 0x00: never looked at
        0x00af_9b00_0000_ffff, // 0x08: 64-bit code, DPL 0
        0x00cf_9300_0000_ffff, // 0x10: data, DPL 0, 4 GiB
        0x00cf_f300_0000_ffff, // 0x18: data, DPL 3
        0x0040_f100_0000_1234, // 0x20: data, DPL 3, read-only, 0x1234 bytes
        0x00a0_f900_0000_0000, // 0x28: code, DPL 3, execute-only
        0x00a0_9f00_0000_0000, // 0x30: conforming code, DPL 0, readable
        0x0000_8200_0000_0fff, // 0x38: LDT, DPL 0
        0x0000_8b00_0000_0067, // 0x40: busy TSS
        0x0000_e900_0000_0067, // 0x48: free TSS, DPL 3
        0x0000_8c00_0008_0000, // 0x50: call gate
        0x0000_8e00_0008_0000, // 0x58: interrupt gate
        0x0000_8100_0000_002b, // 0x60: 16-bit TSS
        0x000f_f300_0000_ffff, // 0x68: data, DPL 3, 1 MiB
        0,
        0x00cf_7300_0000_ffff, // 0x78: not present, DPL 3
    ];

    fn machine() -> Machine {
        let mut machine = Machine::new();
        for (at, entry) in (KERNEL_DATA..).step_by(8).zip(TABLE) {
            machine.ram.write_u64(at, entry).unwrap();
        }
        (machine.sregs.gdt.base, machine.sregs.gdt.limit) = (KERNEL_DATA, 0x7f);
        machine
    }

    /// What RAX becomes, or nothing if ZF is clear, in which case it must stay.
    fn loaded(machine: &mut Machine, code: &[u8], selector: u64) -> Option<u64> {
        const BEFORE: u64 = 0x5555_5555_5555_5555;
        (machine.regs.rax, machine.regs.rcx) = (BEFORE, selector | 0xabcd_0000);
        machine.regs.rflags = 0x8d7;
        machine.run(code).unwrap();
        let found = machine.regs.rflags & rflags::ZF != 0;
        assert_eq!(machine.regs.rflags | rflags::ZF, 0x8d7, "only ZF changes");
        assert!(found || machine.regs.rax == BEFORE);
        found.then_some(machine.regs.rax)
    }

    #[test]
    fn limits_are_in_bytes() {
        let mut machine = machine();
        let mut limit = |selector| loaded(&mut machine, limit_64(), selector);
        assert_eq!(limit(0x10), Some(0xffff_ffff));
        assert_eq!(limit(0x20), Some(0x1234));
        assert_eq!(limit(0x68), Some(0xf_ffff));
        assert_eq!(limit(0x38), Some(0xfff), "LDT");
        assert_eq!(limit(0x40), Some(0x67), "TSS");
        assert_eq!(limit(0x78), Some(0xffff_ffff), "presence does not matter");
        assert_eq!(limit(0x50), None, "gates have none");
        assert_eq!(limit(0x60), None, "16-bit TSS in IA-32e mode");
        assert_eq!(limit(0x70), None, "type 0");
        assert_eq!(
            loaded(&mut machine, limit_16(), 0x10),
            Some(0x5555_5555_5555_ffff)
        );
    }

    #[test]
    fn rights_come_masked() {
        let mut machine = machine();
        let mut rights = |selector| loaded(&mut machine, rights_32(), selector);
        assert_eq!(rights(0x08), Some(0x00a0_9b00));
        assert_eq!(rights(0x18), Some(0x00c0_f300));
        assert_eq!(rights(0x48), Some(0x0000_e900));
        assert_eq!(rights(0x50), Some(0x0000_8c00), "call gate");
        assert_eq!(rights(0x58), None, "interrupt gate");
        assert_eq!(rights(0x38), None, "LDT in IA-32e mode");
        machine.sregs.efer = 0;
        machine.sregs.cr0 &= !(1 << 31);
        machine.sregs.cs.l = 0;
        machine.sregs.cs.db = 1;
        // In a 32-bit code segment the same bytes are the same instruction.
        let mut rights = |selector| loaded(&mut machine, rights_32(), selector);
        assert_eq!(rights(0x38), Some(0x8200), "LDT");
        assert_eq!(rights(0x60), Some(0x8100), "16-bit TSS");
    }

    #[test]
    fn privilege_hides_descriptors() {
        let mut machine = machine();
        let mut limit = |selector| loaded(&mut machine, limit_64(), selector);
        assert_eq!(limit(0x13), None, "RPL 3, DPL 0");
        assert_eq!(limit(0x1b), Some(0xffff_ffff));
        assert_eq!(limit(0x33), Some(0xfff), "conforming, one page");
        machine.enter_user_mode();
        let mut limit = |selector| loaded(&mut machine, limit_64(), selector);
        assert_eq!(limit(0x10), None, "CPL 3, DPL 0");
        assert_eq!(limit(0x4b), Some(0x67));
    }

    #[test]
    fn reading_and_writing_are_verified() {
        let mut machine = machine();
        let mut verify = |selector| {
            [readable(), writable()].map(|code| loaded(&mut machine, code, selector).is_some())
        };
        assert_eq!(verify(0x10), [true, true]);
        assert_eq!(verify(0x20), [true, false]);
        assert_eq!(verify(0x08), [true, false], "code");
        assert_eq!(verify(0x28), [false, false], "execute-only");
        assert_eq!(verify(0x40), [false, false], "a system descriptor");
        assert_eq!(verify(0x33), [true, false], "conforming, whatever the RPL");
        assert_eq!(verify(0x13), [false, false]);
        assert_eq!(verify(0), [false, false]);
    }

    #[test]
    fn selectors_stay_within_their_table() {
        let mut machine = machine();
        for null in 0..4 {
            assert_eq!(loaded(&mut machine, rights_32(), null), None);
        }
        assert_eq!(loaded(&mut machine, rights_32(), 0x80), None);
        machine.sregs.gdt.limit = 0x7e;
        assert_eq!(loaded(&mut machine, limit_64(), 0x78), None);
        machine.sregs.ldt.unusable = 1;
        assert_eq!(loaded(&mut machine, limit_64(), 0x14), None);
        (machine.sregs.ldt.unusable, machine.sregs.ldt.present) = (0, 1);
        (machine.sregs.ldt.base, machine.sregs.ldt.limit) = (KERNEL_DATA + 0x20, 7);
        assert_eq!(loaded(&mut machine, limit_64(), 0x04), Some(0x1234));
        assert_eq!(loaded(&mut machine, limit_64(), 0x0c), None);
    }

    #[test]
    fn the_table_is_read_as_the_processor_itself_reads_it() {
        let mut machine = machine();
        machine.enter_user_mode();
        machine.regs.rdi = USER_DATA;
        machine.ram.write(USER_DATA, &[0x1b, 0]).unwrap();
        machine.run(rights_of_memory()).unwrap();
        assert_eq!(
            machine.regs.rax, 0x00c0_f300,
            "the kernel's page, from CPL 3"
        );
        machine.sregs.gdt.base = END_OF_MAP - 4 - 0x18;
        assert_eq!(
            machine.fault(rights_of_memory()),
            Exception::page_fault(END_OF_MAP, 0)
        );
        machine.sregs.cr0 &= !CR0_PE;
        assert_eq!(machine.fault(readable()), Exception::invalid_opcode());
    }
}

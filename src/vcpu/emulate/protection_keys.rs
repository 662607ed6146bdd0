//! RDPKRU and WRPKRU, on the vCPU's XSAVE image alone: the guest's rights are
//! never loaded into the VMM's own register.

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::paging::bits::CR4_PKE;
use super::regs::mask;

/// Component 9 of the XSAVE state is PKRU.
const COMPONENT: u32 = 9;

impl Cpu<'_> {
    /// The guest's PKRU: zero if that component is in its initial configuration.
    pub fn pkru(&mut self) -> Result<u32, Stop> {
        let place = self.host.xsave.component(COMPONENT);
        let image = self.state.image()?;
        let in_use = image.in_use() >> COMPONENT & 1 != 0;
        Ok(place
            .filter(|_| in_use)
            .map_or(0, |place| image.number(place.offset, 4) as u32))
    }

    fn set_pkru(&mut self, value: u32) -> Result<(), Stop> {
        let place = self.host.xsave.component(COMPONENT);
        let place = place.ok_or(Exception::invalid_opcode())?;
        let image = self.state.image_mut()?;
        image.put(place.offset, &value.to_le_bytes());
        image.set_in_use(image.in_use() | place.bit());
        Ok(())
    }
}

/// Executes one of the two. Both are the user's as well as the kernel's.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    if cpu.sregs.cr4 & CR4_PKE == 0 {
        return Err(Exception::invalid_opcode().into());
    }
    let writes = insn.mnemonic() == Mnemonic::Wrpkru;
    let must_be_zero = cpu.regs.rcx | if writes { cpu.regs.rdx } else { 0 };
    if must_be_zero & mask(4) != 0 {
        return Err(Exception::general_protection().into());
    }
    if writes {
        return cpu.set_pkru(cpu.regs.rax as u32);
    }
    (cpu.regs.rax, cpu.regs.rdx) = (u64::from(cpu.pkru()?), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, USER_DATA, assemble};
    use super::super::xsave_layout::tests::sample;
    use super::*;

    assemble! { read_rights: "rdpkru" }
    assemble! { write_rights: "wrpkru" }
    assemble! { read_user_page: "mov rax, [rdi]" }

    fn machine() -> Machine {
        let mut machine = Machine::new();
        machine.sregs.cr4 |= CR4_PKE;
        machine.host.xsave = sample();
        machine.enter_user_mode();
        machine
    }

    #[test]
    fn rights_are_kept_in_the_image() {
        let mut machine = machine();
        (machine.regs.rax, machine.regs.rdx) = (u64::MAX, 7);
        machine.run(read_rights()).unwrap();
        assert_eq!((machine.regs.rax, machine.regs.rdx), (0, 0), "initial");
        machine.regs.rax = 0xffff_ffff_5555_5554;
        machine.run(write_rights()).unwrap();
        assert_eq!(machine.state.image.in_use(), 1 << 9);
        machine.regs.rax = 0;
        machine.run(read_rights()).unwrap();
        assert_eq!(machine.regs.rax, 0x5555_5554);
    }

    #[test]
    fn written_rights_hold_for_the_next_access() {
        let mut machine = machine();
        // The user page's entry gets key 1.
        let entry = 0x20_0087 | 1 << 59;
        machine.ram.write_u64(0x4008, entry).unwrap();
        machine.regs.rdi = USER_DATA;
        machine.run(read_user_page()).unwrap();
        machine.regs.rax = 0b0100;
        machine.run(write_rights()).unwrap();
        assert_eq!(
            machine.fault(read_user_page()),
            Exception::page_fault(USER_DATA, 0x25)
        );
    }

    #[test]
    fn other_registers_must_be_zero() {
        let mut machine = machine();
        machine.regs.rdx = 1;
        assert_eq!(
            machine.fault(write_rights()),
            Exception::general_protection()
        );
        (machine.regs.rdx, machine.regs.rcx) = (0, 1);
        for code in [read_rights(), write_rights()] {
            assert_eq!(machine.fault(code), Exception::general_protection());
        }
        machine.sregs.cr4 &= !CR4_PKE;
        for code in [read_rights(), write_rights()] {
            assert_eq!(machine.fault(code), Exception::invalid_opcode());
        }
    }
}

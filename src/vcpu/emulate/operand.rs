//! An instruction's operands: registers, immediates and memory.

use iced_x86::{Instruction, OpKind, Register};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::regs;
use super::vector::elements;
use super::vectors::Vector;

impl Cpu<'_> {
    /// The linear address of memory operand `index`.
    ///
    /// # Errors
    /// `#GP(0)`, or `#SS(0)` through the stack segment, where it is not canonical.
    pub fn address(&self, insn: &Instruction, index: u32) -> Result<u64, Stop> {
        self.address_beyond(insn, index, 0)
    }

    /// The address `distance` bytes beyond the operand's, with the same checks.
    pub fn address_beyond(
        &self,
        insn: &Instruction,
        index: u32,
        distance: i64,
    ) -> Result<u64, Stop> {
        let linear = insn
            .virtual_address(index, 0, |register, _, _| self.address_part(register))
            .ok_or(Stop::NotCovered)?
            .wrapping_add_signed(distance);
        self.checked(insn.memory_segment(), linear)
    }

    /// The linear address of `offset` in a segment, with the same checks.
    pub fn linear(&self, segment: Register, offset: u64) -> Result<u64, Stop> {
        let base = self.address_part(segment).ok_or(Stop::NotCovered)?;
        self.checked(segment, base.wrapping_add(offset))
    }

    /// The linear address of element `element` of memory operand `index`, whose
    /// index register is a vector and holds `indices`.
    ///
    /// # Errors
    /// As [`Cpu::address`].
    pub fn element_address(
        &self,
        insn: &Instruction,
        index: u32,
        element: usize,
        indices: &Vector,
    ) -> Result<u64, Stop> {
        let linear = insn
            .virtual_address(index, element, |register, element, size| {
                if register.is_vector_register() {
                    return Some(elements::get(indices, size, element));
                }
                self.address_part(register)
            })
            .ok_or(Stop::NotCovered)?;
        self.checked(insn.memory_segment(), linear)
    }

    fn checked(&self, segment: Register, linear: u64) -> Result<u64, Stop> {
        if !self.is_64_bit() {
            return Ok(linear & 0xffff_ffff);
        }
        if self.walker().is_canonical(linear) {
            return Ok(linear);
        }
        Err(if segment == Register::SS {
            Exception::stack_fault().into()
        } else {
            Exception::general_protection().into()
        })
    }

    /// The same where it must be a multiple of `alignment`, else `#GP(0)`.
    pub fn aligned_address(
        &self,
        insn: &Instruction,
        index: u32,
        alignment: u64,
    ) -> Result<u64, Stop> {
        let linear = self.address(insn, index)?;
        if linear % alignment != 0 {
            return Err(Exception::general_protection().into());
        }
        Ok(linear)
    }

    /// Base of a segment, or value of a register, as address arithmetic uses it.
    fn address_part(&self, register: Register) -> Option<u64> {
        if let Some(segment) = regs::segment(&self.sregs, register) {
            let flat = self.is_64_bit() && !matches!(register, Register::FS | Register::GS);
            return Some(if flat { 0 } else { segment.base });
        }
        regs::read(&self.regs, register)
    }

    /// Size of operand `index` in bytes.
    pub fn operand_size(&self, insn: &Instruction, index: u32) -> usize {
        match insn.op_kind(index) {
            OpKind::Register => insn.op_register(index).size(),
            _ => insn.memory_size().size(),
        }
    }

    /// The value of a general register, immediate or memory operand of up to 8 bytes.
    pub fn value(&mut self, insn: &Instruction, index: u32) -> Result<u64, Stop> {
        match insn.op_kind(index) {
            OpKind::Register => {
                regs::read(&self.regs, insn.op_register(index)).ok_or(Stop::NotCovered)
            }
            OpKind::Memory => {
                let at = self.address(insn, index)?;
                self.read_number(at, self.operand_size(insn, index))
            }
            _ => insn.try_immediate(index).map_err(|_| Stop::NotCovered),
        }
    }

    /// Writes a general register or a memory operand of up to 8 bytes.
    pub fn set_value(&mut self, insn: &Instruction, index: u32, value: u64) -> Result<(), Stop> {
        match insn.op_kind(index) {
            OpKind::Register => {
                regs::write(&mut self.regs, insn.op_register(index), value).ok_or(Stop::NotCovered)
            }
            OpKind::Memory => {
                let at = self.address(insn, index)?;
                self.write_number(at, self.operand_size(insn, index), value)
            }
            _ => Err(Stop::NotCovered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exception::Exception;
    use super::super::testing::{KERNEL_DATA, Machine, RIP, assemble};

    assemble! { from_scaled_index: "mov rax, [rbx + rcx * 4 + 0x10]" }
    assemble! { from_gs: "mov rax, gs:[0x8000]" }
    assemble! { from_rip: ".byte 0x48, 0x8b, 0x05, 0x10, 0, 0, 0" }
    assemble! { from_32_bit_address: "mov rax, [ebx]" }
    assemble! { byte_to_ah: "mov ah, [rbx]" }
    assemble! { from_stack: "mov rax, [rsp]" }
    assemble! { across_pages: "mov [rbx], rcx" }
    assemble! { immediate: "mov qword ptr [rbx], -2" }

    #[test]
    fn addresses_add_up() {
        let mut machine = Machine::new();
        machine.ram.write_u64(KERNEL_DATA, 0xfeed).unwrap();
        machine.regs.rbx = KERNEL_DATA - 0x30;
        machine.regs.rcx = 8;
        machine.run(from_scaled_index()).unwrap();
        assert_eq!(machine.regs.rax, 0xfeed);
        assert_eq!(machine.regs.rip, RIP + from_scaled_index().len() as u64);
    }

    #[test]
    fn only_fs_and_gs_have_a_base_in_long_mode() {
        let mut machine = Machine::new();
        machine.ram.write_u64(KERNEL_DATA + 0x40, 0xbeef).unwrap();
        (machine.sregs.gs.base, machine.sregs.ds.base) = (0x40, 0x999);
        machine.run(from_gs()).unwrap();
        assert_eq!(machine.regs.rax, 0xbeef);
    }

    #[test]
    fn rip_relative_counts_from_the_next_instruction() {
        let mut machine = Machine::new();
        machine.ram.write(RIP + 0x17, &[0x11]).unwrap();
        machine.run(from_rip()).unwrap();
        assert_eq!(machine.regs.rax, 0x11);
    }

    #[test]
    fn a_32_bit_address_drops_the_upper_half() {
        let mut machine = Machine::new();
        machine.ram.write_u64(KERNEL_DATA, 0xabc).unwrap();
        machine.regs.rbx = 7 << 32 | KERNEL_DATA;
        machine.run(from_32_bit_address()).unwrap();
        assert_eq!(machine.regs.rax, 0xabc);
    }

    #[test]
    fn a_byte_lands_in_ah() {
        let mut machine = Machine::new();
        machine.ram.write(KERNEL_DATA, &[0x5a]).unwrap();
        (machine.regs.rbx, machine.regs.rax) = (KERNEL_DATA, 0x1111);
        machine.run(byte_to_ah()).unwrap();
        assert_eq!(machine.regs.rax, 0x5a11);
    }

    #[test]
    fn addresses_that_are_not_canonical_fault() {
        let mut machine = Machine::new();
        machine.regs.rbx = 1 << 47;
        machine.regs.rsp = 1 << 47;
        assert_eq!(
            machine.fault(across_pages()),
            Exception::general_protection()
        );
        assert_eq!(machine.fault(from_stack()), Exception::stack_fault());
    }

    #[test]
    fn a_write_across_pages_is_whole_or_nothing() {
        let mut machine = Machine::new();
        let last = super::super::testing::END_OF_MAP;
        (machine.regs.rbx, machine.regs.rcx) = (last - 4, u64::MAX);
        assert_eq!(
            machine.fault(across_pages()),
            Exception::page_fault(last, 2)
        );
        assert_eq!(machine.ram.read_u64(last - 8).unwrap(), 0);
        machine.regs.rbx = 0x20_0000 - 4;
        machine.run(across_pages()).unwrap();
        assert_eq!(machine.ram.read_u64(0x20_0000).unwrap(), 0xffff_ffff);
    }

    #[test]
    fn immediates_are_sign_extended() {
        let mut machine = Machine::new();
        machine.regs.rbx = KERNEL_DATA;
        machine.run(immediate()).unwrap();
        assert_eq!(machine.ram.read_u64(KERNEL_DATA).unwrap(), u64::MAX - 1);
    }
}

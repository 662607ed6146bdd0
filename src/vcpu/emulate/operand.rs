//! An instruction's operands: registers, immediates and memory.

use iced_x86::{Instruction, OpKind, Register};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::regs;

impl Cpu<'_> {
    /// The linear address of memory operand `index`.
    ///
    /// # Errors
    /// `#GP(0)`, or `#SS(0)` through the stack segment, where it is not canonical.
    pub fn address(&self, insn: &Instruction, index: u32) -> Result<u64, Stop> {
        let linear = insn
            .virtual_address(index, 0, |register, _, _| self.address_part(register))
            .ok_or(Stop::NotCovered)?;
        if !self.is_64_bit() {
            return Ok(linear & 0xffff_ffff);
        }
        if self.walker().is_canonical(linear) {
            return Ok(linear);
        }
        Err(if insn.memory_segment() == Register::SS {
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

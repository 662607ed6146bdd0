//! One vector instruction: its operands, its opmask, and where its result goes.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::vectors::{self, Form, Vector};
use super::elements;

/// Elements that an EVEX instruction works on (SDM vol. 1 §15.6.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    /// One bit an element; all ones without an opmask.
    pub bits: u64,
    /// Whether the other elements of the destination become zero, instead of staying.
    pub zeroing: bool,
}

impl Mask {
    const NONE: Self = Self {
        bits: u64::MAX,
        zeroing: false,
    };

    /// Whether element `index` takes part.
    pub fn has(self, index: usize) -> bool {
        index < 64 && self.bits >> index & 1 != 0
    }

    /// Whether each of the first `count` elements takes part.
    fn is_full(self, count: usize) -> bool {
        let first = first_bits(count);
        self.bits & first == first
    }

    fn is_empty(self, count: usize) -> bool {
        self.bits & first_bits(count) == 0
    }
}

/// `count` low ones.
pub(crate) fn first_bits(count: usize) -> u64 {
    1u64.checked_shl(count as u32)
        .map_or(u64::MAX, |bit| bit - 1)
}

/// A vector instruction that may be executed.
pub(crate) struct Operation<'i> {
    pub insn: &'i Instruction,
    pub form: Form,
    pub mask: Mask,
    /// Operands, immediates not among them.
    pub operands: u32,
    /// Length of its vectors in bytes: 16, 32 or 64.
    pub len: usize,
}

impl<'i> Operation<'i> {
    /// The instruction, once its checks are passed.
    ///
    /// # Errors
    /// `#UD` or `#NM` where the guest has not enabled it.
    pub fn new(cpu: &mut Cpu<'_>, insn: &'i Instruction) -> Result<Self, Stop> {
        let form = Form::enabled(cpu, insn)?;
        let mask = match insn.op_mask() {
            Register::None => Mask::NONE,
            register => Mask {
                bits: vectors::opmask(cpu, register)?,
                zeroing: insn.zeroing_masking(),
            },
        };
        let operands = (0..insn.op_count())
            .filter(|index| matches!(insn.op_kind(*index), OpKind::Register | OpKind::Memory))
            .count() as u32;
        Ok(Self {
            insn,
            form,
            mask,
            operands,
            len: vectors::length(insn),
        })
    }

    /// The same with elements chosen otherwise than by an opmask; the others read as zero.
    pub fn masked_by(&self, bits: u64) -> Self {
        let mask = Mask {
            bits,
            zeroing: true,
        };
        Self { mask, ..*self }
    }

    /// The 8-bit immediate, if there is one.
    pub fn immediate(&self) -> Option<u8> {
        (0..self.insn.op_count())
            .find(|index| self.insn.op_kind(*index) == OpKind::Immediate8)
            .map(|_| self.insn.immediate8())
    }

    /// The same of an instruction that must have one.
    pub fn imm(&self) -> Result<usize, Stop> {
        self.immediate().map(usize::from).ok_or(Stop::NotCovered)
    }

    /// Index of the last operand that is no immediate.
    pub fn last(&self) -> u32 {
        self.operands.saturating_sub(1)
    }

    /// Index of the one before it: the first source, or the destination where that is one.
    pub fn before_last(&self) -> u32 {
        self.operands.saturating_sub(2)
    }

    /// Whether operand `index` lies in memory.
    pub fn is_memory(&self, index: u32) -> bool {
        self.insn.op_kind(index) == OpKind::Memory
    }

    /// Whether operand `index` is an opmask register.
    pub fn is_opmask(&self, index: u32) -> bool {
        self.insn.op_kind(index) == OpKind::Register && self.insn.op_register(index).is_k()
    }

    /// Source operand `index`: a register, all of a memory operand, or an element of
    /// memory in each place.
    pub fn source(&self, cpu: &mut Cpu<'_>, index: u32) -> Result<Vector, Stop> {
        self.read(cpu, index, 0)
    }

    /// The same, where memory is read by elements of `size` bytes: those that the
    /// opmask leaves out are neither read nor can they fault (SDM vol. 1 §15.6.4).
    pub fn masked_source(
        &self,
        cpu: &mut Cpu<'_>,
        index: u32,
        size: usize,
    ) -> Result<Vector, Stop> {
        self.read(cpu, index, size)
    }

    fn read(&self, cpu: &mut Cpu<'_>, index: u32, size: usize) -> Result<Vector, Stop> {
        if !self.is_memory(index) {
            return vectors::register(cpu, self.insn.op_register(index), self.len);
        }
        let memory = self.insn.memory_size();
        let bytes = memory.size().min(64);
        let at = cpu.aligned_address(self.insn, index, self.alignment(bytes))?;
        let count = match size {
            0 => 0,
            size if self.insn.is_broadcast() => elements::count(self.len, size),
            size => elements::count(bytes, size),
        };
        let mut value = [0; 64];
        if size == 0 || self.mask.is_full(count) {
            cpu.read(at, value.get_mut(..bytes).unwrap_or(&mut []))?;
        } else if self.insn.is_broadcast() || count == 1 {
            if !self.mask.is_empty(count) {
                cpu.read(at, value.get_mut(..bytes).unwrap_or(&mut []))?;
            }
        } else {
            for (index, element) in value.chunks_mut(size).take(count).enumerate() {
                if self.mask.has(index) {
                    let offset = index.saturating_mul(size) as u64;
                    cpu.read(at.wrapping_add(offset), element)?;
                }
            }
        }
        Ok(if self.insn.is_broadcast() {
            elements::splat(&value, bytes)
        } else {
            value
        })
    }

    /// What a memory operand must be a multiple of: the SSE forms ask for 16.
    fn alignment(&self, bytes: usize) -> u64 {
        use Mnemonic::{Lddqu, Movdqu, Movupd, Movups};
        let lenient = matches!(self.insn.mnemonic(), Movups | Movupd | Movdqu | Lddqu);
        if self.form == Form::Sse && bytes == 16 && !lenient {
            16
        } else {
            1
        }
    }

    /// Completes with `value` of `len` bytes: each element of `size` bytes goes to
    /// operand 0 if the opmask has it.
    pub fn finish(
        &self,
        cpu: &mut Cpu<'_>,
        value: &Vector,
        len: usize,
        size: usize,
    ) -> Result<(), Stop> {
        if self.is_memory(0) {
            let at = cpu.address(self.insn, 0)?;
            return self.store(cpu, at, value, len, size);
        }
        let to = self.insn.op_register(0);
        let count = elements::count(len, size);
        if self.mask.is_full(count) {
            return vectors::set_register(cpu, to, self.form, value, len);
        }
        let old = vectors::register(cpu, to, len)?;
        self.merge_and_write(cpu, &old, value, len, size)
    }

    /// The same with `base` in place of the destination's old value.
    pub fn merge_and_write(
        &self,
        cpu: &mut Cpu<'_>,
        base: &Vector,
        value: &Vector,
        len: usize,
        size: usize,
    ) -> Result<(), Stop> {
        let merged = elements::from_fn(len, size, |index| {
            if self.mask.has(index) {
                elements::get(value, size, index)
            } else if self.mask.zeroing {
                0
            } else {
                elements::get(base, size, index)
            }
        });
        vectors::set_register(cpu, self.insn.op_register(0), self.form, &merged, len)
    }

    /// Completes an instruction that computes element 0 alone: the opmask's first
    /// bit decides about it, and the rest of `value` is written whatever it says.
    pub fn finish_scalar(
        &self,
        cpu: &mut Cpu<'_>,
        value: &Vector,
        size: usize,
    ) -> Result<(), Stop> {
        let mut result = *value;
        if !self.mask.has(0) {
            let kept = if self.mask.zeroing {
                0
            } else {
                let old = vectors::register(cpu, self.insn.op_register(0), 16)?;
                elements::get(&old, size, 0)
            };
            elements::put(&mut result, size, 0, kept);
        }
        vectors::set_register(cpu, self.insn.op_register(0), self.form, &result, 16)
    }

    /// Completes a comparison of `count` elements, whose results are the bits of `value`.
    pub fn finish_opmask(&self, cpu: &mut Cpu<'_>, value: u64, count: usize) -> Result<(), Stop> {
        let value = value & self.mask.bits & first_bits(count);
        vectors::set_opmask(cpu, self.insn.op_register(0), value)
    }

    /// Writes to memory the elements that the opmask has; nothing if one of them faults.
    pub fn store(
        &self,
        cpu: &mut Cpu<'_>,
        at: u64,
        value: &Vector,
        len: usize,
        size: usize,
    ) -> Result<(), Stop> {
        let count = elements::count(len, size);
        if self.mask.is_full(count) {
            return cpu.write(at, value.get(..len).ok_or(Stop::NotCovered)?);
        }
        let taken = || {
            let elements = value.chunks(size.max(1)).take(count).enumerate();
            elements
                .filter(|(index, _)| self.mask.has(*index))
                .map(|(index, element)| (at.wrapping_add((index * size) as u64), element))
        };
        for (at, element) in taken() {
            cpu.probe_write(at, element.len())?;
        }
        for (at, element) in taken() {
            cpu.write(at, element)?;
        }
        Ok(())
    }
}

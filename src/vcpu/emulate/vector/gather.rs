//! Elements from addresses in a vector, or to them.

use iced_x86::{Mnemonic, OpKind};

use super::super::cpu::Cpu;
use super::super::error::Stop;
use super::super::vectors;
use super::elements;
use super::operation::{Operation, first_bits};

/// VGATHER, VPGATHER, VSCATTER and VPSCATTER.
///
/// Each element done leaves its mask, so that a fault in between loses nothing
/// (SDM vol. 2, VPGATHERDD): here the mask is written once, at the end or at the fault.
pub(super) fn gather(cpu: &mut Cpu<'_>, op: &Operation<'_>) -> Result<(), Stop> {
    use Mnemonic::*;
    let insn = op.insn;
    let size = match insn.mnemonic() {
        Vpgatherdd | Vpgatherqd | Vgatherdps | Vgatherqps | Vpscatterdd | Vpscatterqd
        | Vscatterdps | Vscatterqps => 4,
        _ => 8,
    };
    let scatters = op.is_memory(0);
    let (data, memory) = if scatters { (1, 0) } else { (0, 1) };
    let data = insn.op_register(data);
    let index_register = insn.memory_index();
    let index_size = if insn.is_vsib64() { 8 } else { 4 };
    let count =
        elements::count(data.size(), size).min(elements::count(index_register.size(), index_size));
    let indices = vectors::register(cpu, index_register, 64)?;
    let mut value = vectors::register(cpu, data, 64)?;
    let by_vector = op.operands == 3 && insn.op_kind(2) == OpKind::Register;
    let mut left = if by_vector {
        let signs = op.source(cpu, 2)?;
        elements::signs(&signs, count * size, size)
    } else {
        op.mask.bits & first_bits(count)
    };
    let mut result = Ok(());
    for index in 0..count {
        if left >> index & 1 == 0 {
            continue;
        }
        let one = cpu
            .element_address(insn, memory, index, &indices)
            .and_then(|at| {
                if scatters {
                    cpu.write_number(at, size, elements::get(&value, size, index))
                } else {
                    let read = cpu.read_number(at, size)?;
                    elements::put(&mut value, size, index, read);
                    Ok(())
                }
            });
        if let Err(stop) = one {
            result = Err(stop);
            break;
        }
        left &= !(1 << index);
    }
    if !scatters {
        let len = count * size;
        let value = elements::first(&value, len);
        vectors::set_register(cpu, data, op.form, &value, len)?;
    }
    if by_vector {
        let mask = elements::from_fn(count * size, size, |index| {
            if left >> index & 1 != 0 { u64::MAX } else { 0 }
        });
        vectors::set_register(cpu, insn.op_register(2), op.form, &mask, count * size)?;
    } else {
        vectors::set_opmask(cpu, insn.op_mask(), left)?;
    }
    result
}

//! Instructions executed beyond the one that KVM handed back.
//!
//! On kvm-pvm hosts each vector instruction of a kernel costs an exit and two
//! exchanges of the XSAVE image, some 40 µs; and they come in loops of
//! thousands. So once one is done, those that follow are executed here as well, as
//! long as each is a vector instruction or one of the everyday ones that make up
//! such loops. Before anything else the vCPU is left exactly there, and KVM goes on.
//!
//! The instructions are the guest's own in their order, with their faults; only
//! the interrupts in between wait, for a millisecond at most. Accesses outside RAM
//! end the run, since KVM has devices of its own (the local APIC, ioeventfds).

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind};

use super::cpu::Cpu;
use super::error::Stop;
use super::failure::{InstructionBytes, MAX_INSTRUCTION};
use super::memory::left_in_page;
use super::paging::Kind;
use super::regs::rflags;
use super::{decode, execute, vector};

/// Instructions that are executed at most: less than a millisecond.
const MAX_INSTRUCTIONS: u32 = 2000;
/// Everyday instructions after the last vector instruction: KVM does them as well.
const MAX_TAIL: u32 = 64;

/// Goes on at RIP after a vector instruction.
///
/// # Errors
/// A fault or trap of one of the instructions: the registers are as it wants
/// them, and all before it have completed.
pub(super) fn run(cpu: &mut Cpu<'_>, counts: &mut [u64]) -> Result<(), Stop> {
    if cpu.regs.rflags & rflags::TF != 0 || !cpu.is_64_bit() {
        return Ok(());
    }
    let mut code = Code::default();
    let mut tail = 0;
    for _ in 0..MAX_INSTRUCTIONS {
        // Nothing executed here writes system registers.
        let before = cpu.regs;
        match next(cpu, &mut code, counts) {
            Ok(Next::Vector) => tail = 0,
            Ok(Next::Everyday) => tail += 1,
            Err(Stop::Trap(exception)) => return Err(Stop::Trap(exception)),
            Err(stop) => {
                cpu.regs = before;
                return match stop {
                    Stop::Fault(_) | Stop::Failed(_) => Err(stop),
                    // KVM's turn, or to be tried anew.
                    _ => Ok(()),
                };
            }
        }
        if tail > MAX_TAIL {
            break;
        }
    }
    Ok(())
}

enum Next {
    Vector,
    Everyday,
}

fn next(cpu: &mut Cpu<'_>, code: &mut Code, counts: &mut [u64]) -> Result<Next, Stop> {
    // A page that cannot be fetched from is for KVM to tell the guest.
    let bytes = code.fetch(cpu).map_err(|_| Stop::NotCovered)?;
    let insn = decode(cpu, &bytes)?;
    if vector::is_covered(&insn) {
        execute(cpu, &insn, counts)?;
        return Ok(Next::Vector);
    }
    if !is_everyday(&insn) {
        return Err(Stop::NotCovered);
    }
    cpu.ram_only = true;
    let result = execute(cpu, &insn, counts);
    cpu.ram_only = false;
    result.map(|()| Next::Everyday)
}

/// Whether the instruction is one that is executed here and touches nothing but
/// general registers, status flags, RIP and memory.
fn is_everyday(insn: &Instruction) -> bool {
    use Mnemonic::*;
    let known = matches!(
        insn.mnemonic(),
        Nop | Endbr64
            | Mov
            | Movzx
            | Movsx
            | Movsxd
            | Movbe
            | Movnti
            | Lea
            | Bswap
            | Cdqe
            | Cdq
            | Cqo
            | Add
            | Adc
            | Adcx
            | Adox
            | Sub
            | Sbb
            | Cmp
            | And
            | Test
            | Or
            | Xor
            | Inc
            | Dec
            | Neg
            | Not
            | Mul
            | Imul
            | Mulx
            | Shl
            | Sal
            | Shr
            | Sar
            | Rol
            | Ror
            | Shld
            | Shrd
            | Rorx
            | Sarx
            | Shlx
            | Shrx
            | Andn
            | Bextr
            | Bzhi
            | Bt
            | Bsf
            | Bsr
            | Tzcnt
            | Lzcnt
            | Popcnt
            | Crc32
            | Push
            | Pop
            | Leave
            | Jmp
            | Call
            | Ret
            | Sfence
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
    ) || insn.condition_code() != ConditionCode::None;
    known
        && (0..insn.op_count()).all(|index| {
            insn.op_kind(index) != OpKind::Register || insn.op_register(index).is_gpr()
        })
}

/// The page that code was last fetched from, as a processor keeps a translation.
#[derive(Default)]
struct Code {
    page: Option<(u64, u64)>,
}

impl Code {
    fn fetch(&mut self, cpu: &mut Cpu<'_>) -> Result<InstructionBytes, Stop> {
        let linear = cpu.regs.rip;
        if left_in_page(linear) < MAX_INSTRUCTION {
            return super::fetch(cpu);
        }
        let (page, offset) = (linear & !0xfff, linear & 0xfff);
        let gpa = match self.page {
            Some((known, gpa)) if known == page => gpa,
            _ => {
                let gpa = cpu.translate(page, Kind::Fetch)?;
                self.page = Some((page, gpa));
                gpa
            }
        };
        let mut bytes = [0; MAX_INSTRUCTION];
        cpu.ram
            .read(gpa | offset, &mut bytes)
            .map_err(|_| Stop::NotCovered)?;
        Ok(InstructionBytes::new(&bytes))
    }
}

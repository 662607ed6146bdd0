//! The emulator against this very processor: the same unprivileged instruction is
//! run here and emulated, and all that the manual defines has to agree.

use proptest::prelude::*;

use super::regs::rflags::STATUS;
use super::testing::{KERNEL_DATA, Machine};

/// What an instruction under test works on: three registers, flags and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub flags: u64,
    /// RDI points at the word in the middle, number 4.
    pub memory: [u64; 8],
}

/// One instruction, in both ways.
pub struct Case {
    pub name: &'static str,
    pub code: &'static [u8],
    pub available: bool,
    pub native: fn(&mut State),
    /// The flags that the manual defines after the instruction.
    pub defined: fn(&State) -> u64,
}

impl Case {
    /// Runs it in both ways from `before`.
    pub fn check(&self, machine: &mut Machine, before: State) -> Result<(), TestCaseError> {
        let mut emulated = emulate(machine, self.code, before);
        if !self.available {
            return Ok(());
        }
        let mut expected = before;
        (self.native)(&mut expected);
        let defined = (self.defined)(&before);
        expected.flags &= defined;
        emulated.flags &= defined;
        prop_assert_eq!(emulated, expected, "{}", self.name);
        Ok(())
    }
}

const MEMORY: u64 = KERNEL_DATA + 0x100;

fn emulate(machine: &mut Machine, code: &[u8], before: State) -> State {
    for (at, word) in (MEMORY..).step_by(8).zip(before.memory) {
        machine.ram.write_u64(at, word).unwrap();
    }
    let regs = &mut machine.regs;
    [regs.rax, regs.rcx, regs.rdx, regs.rflags] =
        [before.rax, before.rcx, before.rdx, before.flags];
    regs.rdi = MEMORY + 32;
    machine
        .run(code)
        .unwrap_or_else(|stop| panic!("{code:02x?}: {stop:?}"));
    let mut memory = [0; 8];
    for (at, word) in (MEMORY..).step_by(8).zip(&mut memory) {
        *word = machine.ram.read_u64(at).unwrap();
    }
    let regs = &machine.regs;
    State {
        rax: regs.rax,
        rcx: regs.rcx,
        rdx: regs.rdx,
        flags: regs.rflags,
        memory,
    }
}

/// Numbers with few and with many bits, and small ones.
pub fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b & a.rotate_left(7)),
        0..256u64,
        (0..64u32).prop_map(|bit| 1 << bit),
        Just(u64::MAX),
        Just(i32::MIN as u64),
    ]
}

/// Any state, with `rcx` of the caller's kind.
pub fn state(rcx: impl Strategy<Value = u64>) -> impl Strategy<Value = State> {
    let memory = prop::array::uniform8(number());
    (number(), rcx, number(), any::<u64>(), any::<bool>(), memory).prop_map(
        |(rax, rcx, rdx, flags, equal, mut memory)| {
            if equal {
                // For those that compare.
                memory[4] = rax;
            }
            State {
                rax,
                rcx,
                rdx,
                flags: 2 | flags & STATUS,
                memory,
            }
        },
    )
}

/// The cases of one function, each an instruction on RAX, RCX, RDX and what is at RDI.
macro_rules! cases {
    ($group:ident: $($name:ident, $feature:tt, $defined:expr, $code:literal;)+) => {
        $(mod $name {
            $crate::vcpu::emulate::testing::assemble! { $name: $code }

            pub fn code() -> &'static [u8] {
                $name()
            }

            pub fn native(state: &mut super::State) {
                let memory = state.memory.as_mut_ptr();
                // SAFETY: an unprivileged instruction on four registers, flags
                // that are read back by PUSHFQ, and the words around RDI.
                unsafe {
                    std::arch::asm!(
                        "push {flags}", "popfq",
                        $code,
                        "pushfq", "pop {flags}",
                        flags = inout(reg) state.flags,
                        inout("rax") state.rax,
                        inout("rcx") state.rcx,
                        inout("rdx") state.rdx,
                        in("rdi") memory.wrapping_add(4),
                    );
                }
            }
        })+

        fn $group() -> Vec<$crate::vcpu::emulate::processor_testing::Case> {
            vec![$($crate::vcpu::emulate::processor_testing::Case {
                name: $code,
                code: $name::code(),
                available: std::arch::is_x86_feature_detected!($feature),
                native: $name::native,
                defined: $defined,
            }),+]
        }
    };
}
pub(super) use cases;

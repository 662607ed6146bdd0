//! What the emulator's unit tests share: a processor without KVM, and an assembler.

use std::ops::{Deref, DerefMut};

use super::error::Stop;
use super::exception::Exception;
use super::failure::InstructionBytes;
use super::sandbox::Sandbox;
use super::{decode, dispatch};
use crate::devices::bus::Bus;
use crate::memory::ram::GuestRam;

/// Where code seems to be; its bytes are given, not fetched.
pub const RIP: u64 = 0x10_0000;
/// A supervisor page, and the first user page: memory is mapped one to one.
pub const KERNEL_DATA: u64 = 0x8000;
pub const USER_DATA: u64 = 0x20_0000;
/// One past the last mapped address.
pub const END_OF_MAP: u64 = 0x40_0000;

/// A [`Sandbox`] in long mode at CPL 0, with 4 MiB of RAM and page tables at 0x2000.
pub struct Machine(Sandbox);

impl Deref for Machine {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        &self.0
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Sandbox {
        &mut self.0
    }
}

impl Machine {
    pub fn new() -> Self {
        let ram = GuestRam::new(END_OF_MAP).unwrap();
        let mut sandbox = Sandbox::new(ram, Bus::new());
        sandbox.map_one_to_one(0x2000).unwrap();
        (sandbox.regs.rip, sandbox.regs.rsp) = (RIP, 0xf000);
        Self(sandbox)
    }

    /// Executes one instruction; its effects on registers stand unless it stops.
    pub fn run(&mut self, code: &[u8]) -> Result<(), Stop> {
        let mut cpu = self.cpu();
        let insn = decode(&mut cpu, &InstructionBytes::new(code))?;
        dispatch(&mut cpu, &insn)?;
        let (regs, sregs) = (cpu.regs, cpu.sregs);
        (self.regs, self.sregs) = (regs, sregs);
        Ok(())
    }

    /// The fault that an instruction raises.
    pub fn fault(&mut self, code: &[u8]) -> Exception {
        match self.run(code) {
            Err(Stop::Fault(exception)) => exception,
            other => panic!("{code:02x?} gave {other:?}, not a fault"),
        }
    }

    /// Goes to CPL 3.
    pub fn enter_user_mode(&mut self) {
        self.sregs.cs.selector = 0x2b;
    }
}

/// Assembles code: `assemble! { name: "instruction", … }` gives `fn name() -> &'static [u8]`. Names are symbols, so no
/// two in the crate may be the same; global ones, since the function may be
/// inlined into another object file than the one that holds the code.
macro_rules! assemble {
    ($name:ident: $($line:literal),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata",
            concat!(".globl mayfly_test_", stringify!($name)),
            concat!(".globl mayfly_test_", stringify!($name), "_end"),
            concat!(".hidden mayfly_test_", stringify!($name)),
            concat!(".hidden mayfly_test_", stringify!($name), "_end"),
            concat!("mayfly_test_", stringify!($name), ":"),
            $($line,)+
            concat!("mayfly_test_", stringify!($name), "_end:"),
            ".popsection",
        );

        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: takes two addresses, touches nothing.
            unsafe {
                std::arch::asm!(
                    concat!("lea {}, [rip + mayfly_test_", stringify!($name), "]"),
                    concat!("lea {}, [rip + mayfly_test_", stringify!($name), "_end]"),
                    out(reg) start,
                    out(reg) end,
                    options(nomem, nostack, preserves_flags),
                );
            }
            // SAFETY: both lie in the read-only section above, `end` after `start`.
            unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
        }
    };
}
pub(super) use assemble;

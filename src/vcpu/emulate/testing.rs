//! What the emulator's unit tests share: a processor without KVM, and an assembler.

use std::collections::HashMap;
use std::sync::LazyLock;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use super::cpu::{Cpu, Host};
use super::error::{EmulateError, Stop};
use super::exception::Exception;
use super::failure::InstructionBytes;
use super::state::{VcpuState, XsaveImage};
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

/// State that KVM would hold.
pub struct FakeState {
    pub image: XsaveImage,
    pub xcr0: u64,
    pub msrs: HashMap<u32, u64>,
    pub flushes: u32,
}

impl VcpuState for FakeState {
    fn xsave(&mut self) -> Result<XsaveImage, EmulateError> {
        Ok(self.image.clone())
    }
    fn set_xsave(&mut self, image: &XsaveImage) -> Result<(), EmulateError> {
        self.image = image.clone();
        Ok(())
    }
    fn xcr0(&mut self) -> Result<u64, EmulateError> {
        Ok(self.xcr0)
    }
    fn set_xcr0(&mut self, value: u64) -> Result<bool, EmulateError> {
        let valid = value & 1 != 0;
        if valid {
            self.xcr0 = value;
        }
        Ok(valid)
    }
    fn msr(&mut self, index: u32) -> Result<Option<u64>, EmulateError> {
        Ok(self.msrs.get(&index).copied())
    }
    fn flush_tlb(&mut self, _: &kvm_sregs) -> Result<(), EmulateError> {
        self.flushes += 1;
        Ok(())
    }
}

/// Asked once: CPUID is slow in a VM.
static HOST: LazyLock<Host> = LazyLock::new(Host::detect);

/// A processor in long mode at CPL 0, with 4 MiB of RAM and page tables at 0x2000.
pub struct Machine {
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub ram: GuestRam,
    pub bus: Bus,
    pub host: Host,
    pub state: FakeState,
}

impl Machine {
    pub fn new() -> Self {
        let ram = GuestRam::new(END_OF_MAP).unwrap();
        ram.write_u64(0x2000, 0x3007).unwrap();
        ram.write_u64(0x3000, 0x4007).unwrap();
        ram.write_u64(0x4000, 0x83).unwrap();
        ram.write_u64(0x4008, 0x20_0087).unwrap();
        Self {
            regs: kvm_regs {
                rip: RIP,
                rsp: 0xf000,
                rflags: 2,
                ..Default::default()
            },
            sregs: kvm_sregs {
                cs: kvm_segment {
                    selector: 8,
                    l: 1,
                    ..Default::default()
                },
                cr0: 0x8005_0033,
                cr3: 0x2000,
                cr4: 0x4_0620,
                efer: 0xd01,
                ..Default::default()
            },
            ram,
            bus: Bus::new(),
            host: HOST.clone(),
            state: FakeState {
                image: XsaveImage::initial(),
                xcr0: 7,
                msrs: HashMap::new(),
                flushes: 0,
            },
        }
    }

    pub fn cpu(&mut self) -> Cpu<'_> {
        Cpu {
            regs: self.regs,
            sregs: self.sregs,
            ram: &self.ram,
            mmio: &self.bus,
            state: &mut self.state,
            host: &self.host,
        }
    }

    /// Executes one instruction; its effects on registers stand unless it stops.
    pub fn run(&mut self, code: &[u8]) -> Result<(), Stop> {
        let mut cpu = self.cpu();
        let insn = decode(&mut cpu, &InstructionBytes::new(code))?;
        dispatch(&mut cpu, &insn)?;
        (self.regs, self.sregs) = (cpu.regs, cpu.sregs);
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
/// two in the crate may be the same.
macro_rules! assemble {
    ($name:ident: $($line:literal),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata",
            // The compiler may put the function below into another object file.
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

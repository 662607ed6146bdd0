//! The emulator without KVM: one vCPU whose whole state is plain memory.
//!
//! For fuzzers and tests: any bytes are decoded and executed against guest RAM,
//! a bus of devices and registers of the caller's choosing, exactly as
//! [`super::Emulator`] would for an instruction that KVM handed back.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use iced_x86::Mnemonic;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use super::cpu::{Cpu, Host};
use super::error::{EmulateError, Stop};
use super::exception::Exception;
use super::failure::InstructionBytes;
use super::state::{IMAGE_SIZE, VcpuState, XsaveImage};
use super::{decode, dispatch, fetch, run_ahead};
use crate::devices::bus::Bus;
use crate::memory::{GuestRam, MemoryError};

/// Asked once: CPUID is slow in a VM.
static HOST: LazyLock<Host> = LazyLock::new(Host::detect);

/// How an instruction ended.
#[derive(Debug)]
pub enum Outcome {
    /// It completed; registers and memory have its results.
    Done,
    /// It raised an exception; the general registers are as they were before it.
    Fault {
        /// IDT vector.
        vector: u8,
        /// Error code, for the vectors that push one.
        error: Option<u32>,
        /// What CR2 became (page faults); it is in [`Sandbox::sregs`] too.
        cr2: Option<u64>,
    },
    /// It completed and raised an event (INT n); RIP is past it.
    Trap {
        /// IDT vector.
        vector: u8,
    },
    /// The emulator has no semantics for it; nothing has changed.
    NotCovered,
    /// Page tables or memory kept changing meanwhile: to be run anew.
    Retry,
    /// The paging mode is not one that the page walk knows.
    PagingMode,
    /// The vCPU's state could not be reached: never, in a sandbox.
    Failed(EmulateError),
}

/// The part of a vCPU's state that KVM holds for a real one.
pub struct SandboxState {
    pub(super) image: XsaveImage,
    /// XCR0. The sandbox takes any new value that has bit 0.
    pub xcr0: u64,
    /// The model-specific registers there are; others cannot be read or written.
    pub msrs: BTreeMap<u32, u64>,
    /// How often cached translations were dropped.
    pub flushes: u32,
}

impl VcpuState for SandboxState {
    fn image(&mut self) -> Result<&XsaveImage, EmulateError> {
        Ok(&self.image)
    }

    fn image_mut(&mut self) -> Result<&mut XsaveImage, EmulateError> {
        Ok(&mut self.image)
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

    fn set_msr(&mut self, index: u32, value: u64) -> Result<bool, EmulateError> {
        let known = self.msrs.get_mut(&index);
        Ok(known.map(|msr| *msr = value).is_some())
    }

    fn flush_tlb(&mut self, _: &kvm_sregs) -> Result<(), EmulateError> {
        self.flushes = self.flushes.wrapping_add(1);
        Ok(())
    }
}

/// One vCPU without KVM.
pub struct Sandbox {
    /// General registers, RIP and RFLAGS.
    pub regs: kvm_regs,
    /// Segments, control registers, EFER.
    pub sregs: kvm_sregs,
    /// Guest RAM; writes to it by others are seen, as on a machine with several vCPUs.
    pub ram: GuestRam,
    /// Where accesses outside RAM go.
    pub bus: Bus,
    /// XSAVE image, XCR0 and MSRs.
    pub state: SandboxState,
    pub(super) host: Host,
}

impl Sandbox {
    /// A vCPU in 64-bit mode at CPL 0 with SSE and XSAVE enabled, RIP 0 and a
    /// page-table root at 0: [`Sandbox::map_one_to_one`] makes the tables.
    pub fn new(ram: GuestRam, bus: Bus) -> Self {
        Self {
            regs: kvm_regs {
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
                cr4: 0x4_0620,
                efer: 0xd01,
                ..Default::default()
            },
            ram,
            bus,
            state: SandboxState {
                image: XsaveImage::initial(),
                xcr0: 7,
                msrs: BTreeMap::new(),
                flushes: 0,
            },
            host: HOST.clone(),
        }
    }

    /// Writes page tables at `root` (three pages, 4 KiB aligned) that map the
    /// first 2 MiB for the kernel and the next for users too, and loads CR3.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] if the tables do not fit into RAM.
    pub fn map_one_to_one(&mut self, root: u64) -> Result<(), MemoryError> {
        let (pointers, directory) = (root.saturating_add(0x1000), root.saturating_add(0x2000));
        self.ram.write_u64(root, pointers | 7)?;
        self.ram.write_u64(pointers, directory | 7)?;
        self.ram.write_u64(directory, 0x83)?;
        self.ram.write_u64(directory.saturating_add(8), 0x20_0087)?;
        self.sregs.cr3 = root;
        Ok(())
    }

    /// The XSAVE image in the standard form, as KVM exchanges it.
    pub fn xsave(&self) -> &[u8; IMAGE_SIZE] {
        &self.state.image.0
    }

    /// The same, to be changed.
    pub fn xsave_mut(&mut self) -> &mut [u8; IMAGE_SIZE] {
        &mut self.state.image.0
    }

    /// Executes the instruction that `bytes` begin with as if it stood at RIP.
    ///
    /// Of more than 15 bytes the rest is ignored.
    pub fn run(&mut self, bytes: &[u8]) -> Outcome {
        let bytes = InstructionBytes::new(bytes);
        self.finish(|cpu| execute(cpu, &bytes))
    }

    /// Fetches the instruction at RIP through the page tables and executes it.
    pub fn run_at_rip(&mut self) -> Outcome {
        self.finish(|cpu| {
            let bytes = fetch(cpu)?;
            execute(cpu, &bytes)
        })
    }

    /// Executes instructions at RIP as the emulator does after one on vectors: up to
    /// one that is KVM's to execute, a fault, or a bound of some thousands.
    ///
    /// [`Outcome::Done`] wherever it stops without a fault, even at once.
    pub fn run_ahead(&mut self) -> Outcome {
        let mut counts = vec![0; Mnemonic::values().len()];
        let mut cpu = self.cpu();
        let result = run_ahead::run(&mut cpu, &mut counts);
        self.regs = cpu.regs;
        self.outcome(result)
    }

    /// Takes over what the instruction has done, as far as its end allows.
    fn finish(&mut self, instruction: impl FnOnce(&mut Cpu<'_>) -> Result<(), Stop>) -> Outcome {
        let mut cpu = self.cpu();
        let result = instruction(&mut cpu);
        let (regs, sregs) = (cpu.regs, cpu.sregs);
        if matches!(result, Ok(()) | Err(Stop::Trap(_))) {
            (self.regs, self.sregs) = (regs, sregs);
        }
        self.outcome(result)
    }

    fn outcome(&mut self, result: Result<(), Stop>) -> Outcome {
        match result {
            Ok(()) => Outcome::Done,
            Err(Stop::Fault(exception)) => self.fault(exception),
            Err(Stop::Trap(exception)) => Outcome::Trap {
                vector: exception.vector,
            },
            Err(Stop::NotCovered) => Outcome::NotCovered,
            Err(Stop::Retry) => Outcome::Retry,
            Err(Stop::PagingMode) => Outcome::PagingMode,
            Err(Stop::Failed(error)) => Outcome::Failed(error),
        }
    }

    fn fault(&mut self, exception: Exception) -> Outcome {
        if let Some(cr2) = exception.cr2 {
            self.sregs.cr2 = cr2;
        }
        Outcome::Fault {
            vector: exception.vector,
            error: exception.error_code,
            cr2: exception.cr2,
        }
    }

    pub(super) fn cpu(&mut self) -> Cpu<'_> {
        Cpu {
            regs: self.regs,
            sregs: self.sregs,
            ram: &self.ram,
            mmio: &self.bus,
            state: &mut self.state,
            ram_only: false,
            host: &self.host,
        }
    }
}

fn execute(cpu: &mut Cpu<'_>, bytes: &InstructionBytes) -> Result<(), Stop> {
    let insn = decode(cpu, bytes)?;
    dispatch(cpu, &insn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox() -> Sandbox {
        let ram = GuestRam::new(4 << 20).unwrap();
        let mut sandbox = Sandbox::new(ram, Bus::new());
        sandbox.map_one_to_one(0x2000).unwrap();
        sandbox
    }

    #[test]
    fn an_instruction_in_memory_is_fetched_and_executed() {
        let mut sandbox = sandbox();
        // popcnt rax, rcx across two pages.
        sandbox
            .ram
            .write(0x9ffe, &[0xf3, 0x48, 0x0f, 0xb8, 0xc1])
            .unwrap();
        (sandbox.regs.rip, sandbox.regs.rcx) = (0x9ffe, 0xff0f);
        assert!(matches!(sandbox.run_at_rip(), Outcome::Done));
        assert_eq!((sandbox.regs.rax, sandbox.regs.rip), (12, 0xa003));
    }

    #[test]
    fn rip_has_32_bits_outside_64_bit_code() {
        let mut sandbox = sandbox();
        (sandbox.sregs.cs.l, sandbox.sregs.cs.db) = (0, 1);
        sandbox.regs.rip = 0xffff_ffff;
        assert!(matches!(sandbox.run(&[0x90]), Outcome::Done));
        assert_eq!(sandbox.regs.rip, 0);
    }

    #[test]
    fn every_end_is_told() {
        let mut sandbox = sandbox();
        sandbox.regs.rdi = 0x40_0000;
        // cmpxchg16b [rdi]
        let outcome = sandbox.run(&[0x48, 0x0f, 0xc7, 0x0f]);
        assert!(
            matches!(
                outcome,
                Outcome::Fault {
                    vector: 14,
                    error: Some(2),
                    cr2: Some(0x40_0000)
                }
            ),
            "{outcome:?}"
        );
        assert_eq!((sandbox.regs.rip, sandbox.sregs.cr2), (0, 0x40_0000));
        assert!(matches!(sandbox.run(&[0xcc]), Outcome::Trap { vector: 3 }));
        assert_eq!(sandbox.regs.rip, 1);
        // HLT, and no instruction at all.
        assert!(matches!(sandbox.run(&[0xf4]), Outcome::NotCovered));
        assert!(matches!(sandbox.run(&[]), Outcome::NotCovered));
        assert_eq!(sandbox.regs.rip, 1);
    }
}

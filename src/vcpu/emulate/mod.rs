//! The fallback emulator: instructions that KVM hands back, executed here.
//!
//! On hardware KVM this is idle. On kvm-pvm hosts guest kernel code runs in
//! KVM's own instruction emulator, which stops at what it does not know
//! (CMPXCHG16B, CLAC, the XSAVE family …) with `KVM_EXIT_INTERNAL_ERROR`; the
//! vCPU thread then calls [`Emulator::on_emulation_failure`] and runs on.
//!
//! ```text
//! failure  bytes at RIP ─► iced-x86 ─► dispatch ─► one file a family of instructions
//!                                                   │  operand, regs      registers
//!                                                   │  memory ─► paging   linear → RAM or device
//!                                                   │  state              FPU, XCR0, MSRs by ioctl
//!                                                   │  native             stubs that the processor executes
//!                                     registers ◄───┴► exception          what the guest gets instead
//! ahead    after a vector instruction, those that follow as well
//! hooks    the planted breakpoint by which SYSCALL is completed
//! ```
//!
//! A new instruction is a line in [`dispatch`] and a function in its family; on
//! vectors, a row in a table of [`native`] or a line in [`vector`].

mod amx;
mod bases;
mod bits;
#[cfg(test)]
mod bits_tests;
mod caches;
mod cmpxchg16b;
mod cpu;
mod error;
mod exception;
mod failure;
mod features;
mod flags;
mod fpu;
mod hooks;
#[cfg(test)]
mod hooks_tests;
mod host;
#[cfg(test)]
mod hostile_tests;
mod integer;
#[cfg(test)]
mod kvm_tests;
mod memory;
mod native;
mod operand;
mod paging;
#[cfg(test)]
mod processor_testing;
mod protection_keys;
#[cfg(test)]
mod reference_tests;
mod registers;
mod regs;
mod run_ahead;
#[cfg(test)]
mod run_ahead_tests;
mod sandbox;
mod segments;
mod state;
mod syscall;
mod system;
#[cfg(test)]
mod testing;
mod update;
mod vector;
mod vectors;
mod xsave;
mod xsave_layout;
#[cfg(test)]
mod xsave_tests;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic};
use kvm_ioctls::VcpuFd;

use self::cpu::{Cpu, Host};
use self::error::Stop;
use self::exception::Exception;
use self::failure::{InstructionBytes, MAX_INSTRUCTION};
use self::hooks::{Breakpoint, VcpuHook};
use self::paging::Kind;
use self::registers::Registers;
use self::state::{KvmState, VcpuState};
use crate::devices::bus::Bus;
use crate::memory::ram::GuestRam;

pub use self::error::EmulateError;
pub use self::hooks::SharedHooks;
pub(crate) use self::paging::look;
pub use self::sandbox::{Outcome, Sandbox, SandboxState};

/// What an [`Emulator`] has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmulatorCounts {
    /// Instructions executed (or answered with a fault), by lower-case mnemonic.
    pub by_mnemonic: BTreeMap<String, u64>,
    /// Times a breakpoint was planted, over all vCPUs of the VM.
    pub hooks_planted: u64,
    /// SYSCALLs completed.
    pub syscalls: u64,
    /// Page faults that went through the planted breakpoint to the guest.
    pub page_faults: u64,
    /// Instructions of user code that the emulator does not know: the program got `#UD`.
    pub undefined_in_user_mode: u64,
}

impl EmulatorCounts {
    /// Instructions emulated, of all kinds.
    pub fn instructions(&self) -> u64 {
        self.by_mnemonic.values().sum()
    }
}

/// One vCPU's fallback emulator, owned by the vCPU's thread.
pub struct Emulator {
    ram: GuestRam,
    mmio: Arc<Bus>,
    /// Found out at the first emulation: most VMs never need it.
    host: OnceCell<Host>,
    hook: Option<VcpuHook>,
    counts: Vec<u64>,
    undefined_in_user_mode: u64,
}

impl Emulator {
    /// An emulator that reaches `ram`, and devices through `mmio`.
    ///
    /// `hooks` is the VM's table on hosts where SYSCALL needs completing; with
    /// `None` nothing is ever planted.
    pub fn new(ram: GuestRam, mmio: Arc<Bus>, hooks: Option<Arc<SharedHooks>>) -> Self {
        Self {
            ram,
            mmio,
            host: OnceCell::new(),
            hook: hooks.map(VcpuHook::new),
            counts: vec![0; Mnemonic::values().len()],
            undefined_in_user_mode: 0,
        }
    }

    /// The MSRs whose writes [`Emulator::on_wrmsr`] must see where hooks are used.
    pub fn filtered_msrs() -> &'static [u32] {
        &[
            syscall::IA32_STAR,
            syscall::IA32_LSTAR,
            syscall::IA32_SFMASK,
        ]
    }

    /// KVM_EXIT_INTERNAL_ERROR: executes the instruction at RIP, or injects the
    /// exception it raises. The vCPU can be run again after `Ok`.
    ///
    /// Registers are taken from and left in the `kvm_run` page where
    /// KVM_CAP_SYNC_REGS is on for this vCPU (`kvm_valid_regs`); they reach KVM
    /// with the next run.
    ///
    /// # Errors
    /// [`EmulateError::NotCovered`] tells which instruction the emulator does
    /// not know; the vCPU is then as KVM left it.
    pub fn on_emulation_failure(&mut self, vcpu: &mut VcpuFd) -> Result<(), EmulateError> {
        let given = failure::instruction_bytes(vcpu)?;
        let before = registers::read(vcpu)?;
        let mut state = KvmState::new(vcpu);
        let mut cpu = Cpu {
            regs: before.regs,
            sregs: before.sregs,
            ram: &self.ram,
            mmio: &self.mmio,
            state: &mut state,
            ram_only: false,
            host: self.host.get_or_init(Host::detect),
        };
        let mut seen = given.unwrap_or_default();
        let result = match step(
            &mut cpu,
            given,
            &mut seen,
            self.hook.as_mut(),
            &mut self.counts,
        ) {
            // Where kernel code runs natively, it does so sooner than here.
            Ok(Done::Vector) if self.hook.is_some() && cpu.cpl() == 0 => {
                run_ahead::run(&mut cpu, &mut self.counts)
            }
            result => result.map(|_| ()),
        };
        let mut after = Registers {
            regs: cpu.regs,
            sregs: cpu.sregs,
        };
        let exception = match result {
            Ok(()) | Err(Stop::Retry) => None,
            Err(Stop::Trap(exception) | Stop::Fault(exception)) => Some(exception),
            // An unprivileged program cannot be allowed to end the VM.
            Err(Stop::NotCovered) if cpu.cpl() == 3 => {
                self.undefined_in_user_mode = self.undefined_in_user_mode.wrapping_add(1);
                Some(Exception::invalid_opcode())
            }
            Err(Stop::NotCovered) => return Err(not_covered(&seen, &before, cpu.cpl())),
            Err(Stop::PagingMode) => {
                return Err(EmulateError::PagingMode {
                    rip: before.regs.rip,
                });
            }
            Err(Stop::Failed(error)) => return Err(error),
        };
        state.flush()?;
        if let Some(cr2) = exception.and_then(|exception| exception.cr2) {
            after.sregs.cr2 = cr2;
        }
        registers::write(vcpu, &before, &after)?;
        exception.map_or(Ok(()), |exception| registers::inject(vcpu, &exception))
    }

    /// The MSR filter's exit for one of [`Emulator::filtered_msrs`]: writes the
    /// MSR and plants the hook once LSTAR is known.
    ///
    /// False if KVM refuses the value: the guest is then to get `#GP` (`error`
    /// of the exit set to 1).
    ///
    /// # Errors
    /// [`EmulateError::Kvm`] if an ioctl fails.
    pub fn on_wrmsr(
        &mut self,
        vcpu: &mut VcpuFd,
        index: u32,
        value: u64,
    ) -> Result<bool, EmulateError> {
        let mut state = KvmState::new(vcpu);
        let accepted = state.set_msr(index, value)?;
        if accepted && let Some(hook) = &mut self.hook {
            hook.msrs(&mut state)?.write(index, value);
            self.before_run(vcpu)?;
        }
        Ok(accepted)
    }

    /// To be called after each exit where hooks are used: plants anew what the
    /// guest has written over or moved. Costs a comparison of 17 bytes.
    ///
    /// # Errors
    /// [`EmulateError::Kvm`] if an ioctl fails.
    pub fn before_run(&mut self, vcpu: &mut VcpuFd) -> Result<(), EmulateError> {
        let Some(hook) = &mut self.hook else {
            return Ok(());
        };
        let sregs = registers::system(vcpu)?;
        let host = self.host.get_or_init(Host::detect);
        let mut state = KvmState::new(vcpu);
        hook.check(&self.ram, &sregs, host.physical_bits, &mut state)
    }

    /// What has been done so far.
    pub fn counts(&self) -> EmulatorCounts {
        let by_mnemonic = Mnemonic::values()
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
            .map(|(mnemonic, count)| (name(mnemonic), *count))
            .collect();
        let hook = self.hook.as_ref();
        EmulatorCounts {
            by_mnemonic,
            hooks_planted: hook.map_or(0, |hook| hook.shared().planted()),
            syscalls: hook.map_or(0, |hook| hook.syscalls),
            page_faults: hook.map_or(0, |hook| hook.page_faults),
            undefined_in_user_mode: self.undefined_in_user_mode,
        }
    }
}

/// What kind of instruction was completed.
enum Done {
    /// One on vector registers: more are likely to follow.
    Vector,
    Other,
}

/// One instruction. `seen` becomes its bytes, for an error's text. The registers
/// are as before it unless it completes.
fn step(
    cpu: &mut Cpu<'_>,
    given: Option<InstructionBytes>,
    seen: &mut InstructionBytes,
    hook: Option<&mut VcpuHook>,
    counts: &mut [u64],
) -> Result<Done, Stop> {
    let before = (cpu.regs, cpu.sregs);
    let result = try_step(cpu, given, seen, hook, counts);
    if !matches!(result, Ok(_) | Err(Stop::Trap(_))) {
        (cpu.regs, cpu.sregs) = before;
    }
    result
}

fn try_step(
    cpu: &mut Cpu<'_>,
    given: Option<InstructionBytes>,
    seen: &mut InstructionBytes,
    hook: Option<&mut VcpuHook>,
    counts: &mut [u64],
) -> Result<Done, Stop> {
    // KVM gives what it had fetched, which ends with the page of the first byte.
    *seen = match given {
        Some(bytes) if bytes.as_slice().len() == MAX_INSTRUCTION => bytes,
        _ => fetch(cpu)?,
    };
    if let Some(hook) = hook
        && seen.first() == Some(hooks::BREAKPOINT)
        && cpu.cpl() == 0
        && cpu.is_64_bit()
    {
        match hook.on_breakpoint(cpu)? {
            Breakpoint::Syscall => return Ok(Done::Other),
            Breakpoint::PageFault(displaced) => {
                *seen = seen.with_first(displaced);
                let insn = decode(cpu, seen)?;
                dispatch(cpu, &insn)?;
                return Ok(Done::Other);
            }
            Breakpoint::Guests => {}
        }
    }
    let insn = decode(cpu, seen)?;
    execute(cpu, &insn, counts)?;
    Ok(if vector::is_covered(&insn) {
        Done::Vector
    } else {
        Done::Other
    })
}

/// Executes and counts.
fn execute(cpu: &mut Cpu<'_>, insn: &Instruction, counts: &mut [u64]) -> Result<(), Stop> {
    let result = dispatch(cpu, insn);
    let done = matches!(result, Ok(()) | Err(Stop::Fault(_) | Stop::Trap(_)));
    if done && let Some(count) = counts.get_mut(insn.mnemonic() as usize) {
        *count += 1;
    }
    result
}

/// The bytes at RIP, through the page tables: up to the first page that faults.
fn fetch(cpu: &mut Cpu<'_>) -> Result<InstructionBytes, Stop> {
    let linear = code_address(cpu, 0);
    let privilege = cpu.privilege();
    let mut bytes = [0; MAX_INSTRUCTION];
    let first_page = (4096 - (linear & 0xfff) as usize).min(MAX_INSTRUCTION);
    let (now, later) = bytes.split_at_mut(first_page);
    cpu.read_as(linear, now, Kind::Fetch, privilege)?;
    let next = linear.wrapping_add(first_page as u64);
    let whole = cpu.read_as(next, later, Kind::Fetch, privilege).is_ok();
    let len = if whole { MAX_INSTRUCTION } else { first_page };
    Ok(InstructionBytes::new(bytes.get(..len).unwrap_or(&bytes)))
}

/// The linear address `offset` bytes beyond RIP.
fn code_address(cpu: &Cpu<'_>, offset: usize) -> u64 {
    let at = cpu.regs.rip.wrapping_add(offset as u64);
    if cpu.is_64_bit() {
        at
    } else {
        cpu.sregs.cs.base.wrapping_add(at) & 0xffff_ffff
    }
}

/// Decodes, and moves RIP past the instruction.
fn decode(cpu: &mut Cpu<'_>, bytes: &InstructionBytes) -> Result<Instruction, Stop> {
    let mut decoder = Decoder::with_ip(
        cpu.bitness(),
        bytes.as_slice(),
        cpu.regs.rip,
        DecoderOptions::NONE,
    );
    let insn = decoder.decode();
    if insn.is_invalid() {
        return Err(undecodable(cpu, bytes, decoder.last_error()));
    }
    cpu.regs.rip = if cpu.is_64_bit() {
        insn.next_ip()
    } else {
        insn.next_ip() & 0xffff_ffff
    };
    Ok(insn)
}

/// What stops bytes that are no instruction: the fault of the page that the rest
/// of one would be in, `#UD` for VEX and EVEX encodings that the processor
/// reserves or forbids; of others nothing is known.
fn undecodable(cpu: &mut Cpu<'_>, bytes: &InstructionBytes, error: DecoderError) -> Stop {
    const VEX_OR_EVEX: [u8; 3] = [0xc4, 0xc5, 0x62];
    let len = bytes.as_slice().len();
    if error == DecoderError::NoMoreBytes {
        let next = code_address(cpu, len);
        let privilege = cpu.privilege();
        let rest = cpu.read_as(next, &mut [0], Kind::Fetch, privilege);
        return rest.err().unwrap_or(Stop::NotCovered);
    }
    let first = bytes.first().unwrap_or(0);
    let lenient = DecoderOptions::NO_INVALID_CHECK;
    let insn = Decoder::new(cpu.bitness(), bytes.as_slice(), lenient).decode();
    let is_vector = cpu.is_64_bit() && VEX_OR_EVEX.contains(&first);
    if is_vector || vector::is_covered(&insn) {
        Exception::invalid_opcode().into()
    } else {
        Stop::NotCovered
    }
}

/// From an instruction to its semantics.
fn dispatch(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Cmpxchg16b => cmpxchg16b::execute(cpu, insn),
        Clac | Stac | Clc | Stc | Cmc | Cld | Std | Cli => flags::execute(cpu, insn),
        Popcnt | Lzcnt | Tzcnt | Andn | Bextr | Bzhi | Blsi | Blsr | Blsmsk | Pdep | Pext
        | Rorx | Sarx | Shlx | Shrx | Mulx | Adcx | Adox | Movbe | Crc32 => {
            bits::execute(cpu, insn)
        }
        Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xsavec | Xsavec64 | Xsaves | Xsaves64
        | Xrstor | Xrstor64 | Xrstors | Xrstors64 => xsave::execute(cpu, insn),
        Wait | Ldmxcsr | Vldmxcsr | Stmxcsr | Vstmxcsr | Fxsave | Fxsave64 | Fxrstor
        | Fxrstor64 | Fninit | Fnclex | Emms | Fldcw | Fnstcw | Fnstsw => fpu::execute(cpu, insn),
        Xgetbv | Xsetbv | Clts | Invpcid | Rdpid | Rdtsc | Rdtscp | Rdrand | Rdseed | Int3
        | Int => system::execute(cpu, insn),
        Lsl | Lar | Verr | Verw => segments::execute(cpu, insn),
        Rdfsbase | Rdgsbase | Wrfsbase | Wrgsbase | Swapgs => bases::execute(cpu, insn),
        Rdpkru | Wrpkru => protection_keys::execute(cpu, insn),
        Lfence | Mfence | Sfence | Serialize | Prefetchnta | Prefetcht0 | Prefetcht1
        | Prefetcht2 | Prefetchw | Prefetchwt1 | Prefetch | Cldemote | Reservednop | Rdsspd
        | Rdsspq | Clflush | Clflushopt | Clwb | Wbinvd | Wbnoinvd | Invd | Monitor | Mwait
        | Monitorx | Mwaitx | Umonitor | Umwait | Tpause | Rdpru => caches::execute(cpu, insn),
        Movnti | Movdiri | Movdir64b | Clzero => caches::store(cpu, insn),
        Tilerelease | Ldtilecfg | Sttilecfg => amx::execute(cpu, insn),
        _ if vector::is_covered(insn) => vector::execute(cpu, insn),
        _ => integer::execute(cpu, insn),
    }
}

fn name(mnemonic: Mnemonic) -> String {
    format!("{mnemonic:?}").to_lowercase()
}

fn not_covered(bytes: &InstructionBytes, at: &Registers, cpl: u8) -> EmulateError {
    let bitness = if at.sregs.cs.l != 0 { 64 } else { 32 };
    let insn = Decoder::new(bitness, bytes.as_slice(), DecoderOptions::NONE).decode();
    let len = match insn.len() {
        0 => bytes.as_slice().len(),
        len => len,
    };
    let bytes = bytes
        .as_slice()
        .iter()
        .take(len)
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ");
    EmulateError::NotCovered {
        mnemonic: name(insn.mnemonic()),
        bytes,
        rip: at.regs.rip,
        cpl,
    }
}

//! A VM of one vCPU in long mode: flat segments, an IDT that reports, 4 MiB.
//!
//! ```text
//! 0x1000 GDT      0x2000 PML4  0x3000 PDPT  0x4000 page directory
//! 0x5000 IDT      0x6000 TSS   0x7000 default handlers, 16 bytes each
//! 0x8000..0xf000 data          0xf000 top of the kernel stack
//! 0x10000 kernel code          0x1ff000 top of TSS.RSP0
//! 0x200000 user code           0x3ff000 top of the user stack
//! ```

use std::path::Path;
use std::sync::Arc;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};

use super::super::{EmulateError, Emulator, EmulatorCounts, SharedHooks};
use crate::devices::bus::Bus;
use crate::memory::ram::GuestRam;
use crate::vcpu::msr;

pub const KERNEL_CODE: u64 = 0x1_0000;
pub const USER_CODE: u64 = 0x20_0000;
pub const DATA: u64 = 0x8000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const HANDLERS: u64 = 0x7000;
const RAM_SIZE: u64 = 4 << 20;
/// A guest that does not end is stopped after so many exits.
const MAX_EXITS: usize = 100_000;
const DONE_PORT: u16 = 0xf4;
const FAULT_PORT: u16 = 0xf5;

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// `out 0xf4, al`: RAX.
    Done(u64),
    /// An exception reached the default handler: vector and CR2.
    Fault(u8, u64),
}

/// Whether the host's KVM leaves SYSCALL half done.
pub fn is_kvm_pvm() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

pub struct Guest {
    pub ram: GuestRam,
    pub vcpu: VcpuFd,
    pub emulator: Emulator,
    pub hooks: Option<Arc<SharedHooks>>,
    /// Instructions that KVM has handed back.
    pub failures: usize,
    _vm: VmFd,
}

impl Guest {
    /// A guest about to run `code` at CPL 0.
    pub fn new(code: &[u8]) -> Self {
        let kvm = Kvm::new().expect("these tests need a /dev/kvm that may be opened");
        let vm = kvm.create_vm().unwrap();
        let ram = GuestRam::new(RAM_SIZE).unwrap();
        map_memory(&vm, &ram);
        let hooks = is_kvm_pvm().then(|| Arc::new(SharedHooks::new(ram.clone())));
        if hooks.is_some() {
            msr::watch_writes(&vm, Emulator::filtered_msrs()).unwrap();
        }
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        vcpu.set_cpuid2(&cpuid).unwrap();
        if kvm.check_extension(Cap::SyncRegs) {
            vcpu.set_sync_valid_reg(SyncReg::Register);
            vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
        }
        write_tables(&ram);
        ram.write(KERNEL_CODE, code).unwrap();
        set_up_registers(&vcpu);
        let emulator = Emulator::new(ram.clone(), Arc::new(Bus::new()), hooks.clone());
        Self {
            ram,
            vcpu,
            emulator,
            hooks,
            failures: 0,
            _vm: vm,
        }
    }

    /// Runs to the end.
    pub fn run(&mut self) -> End {
        self.try_run().unwrap()
    }

    pub fn try_run(&mut self) -> Result<End, EmulateError> {
        for _ in 0..MAX_EXITS {
            enum Next {
                End(u16),
                Emulate,
                Wrmsr(u32, u64),
            }
            let next = match self.vcpu.run().unwrap() {
                VcpuExit::IoOut(port @ (DONE_PORT | FAULT_PORT), _) => Next::End(port),
                VcpuExit::InternalError => Next::Emulate,
                VcpuExit::X86Wrmsr(exit) => Next::Wrmsr(exit.index, exit.data),
                other => panic!("unexpected exit {other:?}"),
            };
            match next {
                Next::End(DONE_PORT) => return Ok(End::Done(self.vcpu.get_regs().unwrap().rax)),
                Next::End(_) => {
                    let vector = self.vcpu.get_regs().unwrap().rax as u8;
                    return Ok(End::Fault(vector, self.vcpu.get_sregs().unwrap().cr2));
                }
                Next::Emulate => {
                    self.failures += 1;
                    self.emulator.on_emulation_failure(&mut self.vcpu)?;
                }
                Next::Wrmsr(index, value) => {
                    assert!(self.emulator.on_wrmsr(&mut self.vcpu, index, value)?);
                }
            }
            self.emulator.before_run(&mut self.vcpu)?;
        }
        panic!("the guest does not end");
    }

    pub fn counts(&self) -> EmulatorCounts {
        self.emulator.counts()
    }

    pub fn word(&self, addr: u64) -> u64 {
        self.ram.read_u64(addr).unwrap()
    }

    /// Points an IDT gate at `handler`.
    pub fn set_gate(&self, vector: u64, handler: u64) {
        write_gate(&self.ram, vector, handler);
    }
}

fn map_memory(vm: &VmFd, ram: &GuestRam) {
    for (slot, (range, host)) in (0..).zip(ram.regions()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: range.start,
            memory_size: range.len,
            userspace_addr: host,
        };
        // SAFETY: the range is mapped for as long as `ram` lives, which the guest owns beside the VM.
        unsafe { vm.set_user_memory_region(region) }.unwrap();
    }
}

fn write_tables(ram: &GuestRam) {
    let words = |at: u64, words: &[u64]| {
        for (at, word) in (at..).step_by(8).zip(words) {
            ram.write_u64(at, *word).unwrap();
        }
    };
    // Null, kernel code and data, user 32-bit code, user data, user code, TSS.
    words(
        GDT,
        &[
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x0000_8b00_6000_0067,
            0,
        ],
    );
    words(0x2000, &[0x3007]);
    words(0x3000, &[0x4007]);
    // The first 2 MiB are the kernel's, the second the user's.
    words(0x4000, &[0x83, 0x20_0087]);
    ram.write(TSS + 4, &0x1f_f000_u64.to_le_bytes()).unwrap();
    for vector in 0..32u8 {
        let at = HANDLERS + 16 * u64::from(vector);
        // mov eax, vector; out 0xf5, al; hlt
        ram.write(at, &[0xb8, vector, 0, 0, 0, 0xe6, 0xf5, 0xf4])
            .unwrap();
        write_gate(ram, vector.into(), at);
    }
}

fn write_gate(ram: &GuestRam, vector: u64, handler: u64) {
    let low = handler & 0xffff | 0x08 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
    ram.write_u64(IDT + 16 * vector, low).unwrap();
    ram.write_u64(IDT + 16 * vector + 8, handler >> 32).unwrap();
}

fn set_up_registers(vcpu: &VcpuFd) {
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let code = kvm_segment {
        selector: 0x08,
        type_: 11,
        l: 1,
        ..flat
    };
    let data = kvm_segment {
        selector: 0x10,
        type_: 3,
        db: 1,
        ..flat
    };
    let mut sregs = vcpu.get_sregs().unwrap();
    sregs.cs = code;
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.tr = kvm_segment {
        base: TSS,
        limit: 0x67,
        selector: 0x30,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x3f);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 0xfff);
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = 0x2000;
    // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE.
    sregs.cr4 = 0x4_0620;
    sregs.efer = 0xd01;
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    regs.rip = KERNEL_CODE;
    regs.rsp = 0xf000;
    regs.rflags = 2;
    vcpu.set_regs(&regs).unwrap();
    let mut xcrs = vcpu.get_xcrs().unwrap();
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].xcr = 0;
    xcrs.xcrs[0].value = 7;
    vcpu.set_xcrs(&xcrs).unwrap();
}

pub(super) use super::super::testing::assemble as guest;

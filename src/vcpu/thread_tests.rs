//! The exit loop with a vCPU of its own, in flat 32-bit mode.

use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VmFd};

use super::*;
use crate::boot::Entry;
use crate::devices::BusDevice;
use crate::devices::debug_exit::{self, DebugExit, DebugExitState};
use crate::interrupts::IrqchipMode;
use crate::memory::GuestRam;
use crate::memory::layout::{MMIO32_START, PORT_DEBUG_EXIT};
use crate::vcpu::setup;
use crate::vm::lifecycle::History;

const CODE: u64 = 0x1000;
const COPY: u64 = 0x2000;
const COUNT: usize = 200;

/// Copies [`COUNT`] bytes from [`MMIO32_START`] to [`COPY`], then ends the VM.
const COPY_FROM_DEVICE: [u8; 24] = [
    0xfc, // cld
    0xbe, 0x00, 0x00, 0x00, 0xd0, // mov esi, MMIO32_START
    0xbf, 0x00, 0x20, 0x00, 0x00, // mov edi, COPY
    0xb9, 0xc8, 0x00, 0x00, 0x00, // mov ecx, COUNT
    0xf3, 0xa4, // rep movsb
    0xb0, 0x07, // mov al, 7
    0xe6, 0xf4, // out PORT_DEBUG_EXIT, al
    0xeb, 0xfe, // jmp $
];

/// A VM whose one vCPU is about to run `code`, with `device` in the MMIO window.
struct Guest {
    ram: GuestRam,
    machine: Arc<Machine>,
    vcpu: Vcpu,
    _vm: Arc<VmFd>,
}

fn guest(code: &[u8], device: impl FnOnce(&Arc<Lifecycle>) -> Arc<Mutex<dyn BusDevice>>) -> Guest {
    let kvm = Kvm::new().expect("this test needs a /dev/kvm that may be opened");
    let vm = Arc::new(kvm.create_vm().unwrap());
    let ram = GuestRam::new(1 << 20).unwrap();
    for (range, host_address) in ram.regions() {
        let region = kvm_userspace_memory_region {
            memory_size: range.len,
            userspace_addr: host_address,
            ..Default::default()
        };
        // SAFETY: the region is the mapping of `ram`, which outlives the vCPU's thread.
        unsafe { vm.set_user_memory_region(region) }.unwrap();
    }
    let interrupts = Arc::new(Interrupts::new(vm.clone(), IrqchipMode::Split, 1).unwrap());
    let fd = vm.create_vcpu(0).unwrap();
    let history = Arc::new(History::new(Instant::now(), false).unwrap());
    let lifecycle = Arc::new(Lifecycle::new(history, 1));
    let exit = DebugExit::from_state(DebugExitState::default(), lifecycle.clone());
    let (mut pio, mut mmio) = (Bus::new(), Bus::new());
    let port = u64::from(PORT_DEBUG_EXIT);
    pio.insert(port, debug_exit::LEN, Arc::new(Mutex::new(exit)))
        .unwrap();
    mmio.insert(MMIO32_START, 0x1000, device(&lifecycle))
        .unwrap();

    let entry = Entry::Pvh { rip: CODE, rbx: 0 };
    setup::write_boot_tables(&ram, &entry).unwrap();
    ram.write(CODE, code).unwrap();
    fd.set_sregs(&setup::boot_sregs(&fd.get_sregs().unwrap(), &entry))
        .unwrap();
    fd.set_regs(&setup::boot_regs(&entry)).unwrap();
    let machine = Arc::new(Machine {
        pio: Arc::new(pio),
        mmio: Arc::new(mmio),
        interrupts,
        lifecycle,
        clock: Clock::new(vm.clone()),
        symbols: None,
    });
    Guest {
        ram,
        vcpu: Vcpu::new(0, fd, machine.clone(), None),
        machine,
        _vm: vm,
    }
}

/// What the device answers at `offset`.
fn pattern(offset: u64) -> u8 {
    (offset as u8).wrapping_mul(7) ^ 0x5a
}

/// Has the VM paused in the middle of every seventh read.
struct PausingDevice {
    lifecycle: Arc<Lifecycle>,
    pauser: Sender<()>,
}

impl BusDevice for PausingDevice {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(pattern(offset));
        if offset.is_multiple_of(7) {
            self.pauser.send(()).unwrap();
            while self.lifecycle.gate().state() == GateState::Running {
                thread::yield_now();
            }
        }
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

/// Pauses and resumes whenever it is asked to, and counts.
fn pauser(lifecycle: Arc<Lifecycle>, requests: mpsc::Receiver<()>) -> JoinHandle<usize> {
    thread::spawn(move || {
        requests
            .iter()
            .inspect(|()| {
                // The one vCPU is between two runs: it needs no kick.
                lifecycle.gate().pause(|| ());
                lifecycle.gate().resume();
            })
            .count()
    })
}

#[test]
fn a_pause_within_a_string_instruction_loses_no_access() {
    let (requests, receiver) = mpsc::channel();
    let guest = guest(&COPY_FROM_DEVICE, |lifecycle| {
        Arc::new(Mutex::new(PausingDevice {
            lifecycle: lifecycle.clone(),
            pauser: requests,
        }))
    });
    let pauses = pauser(guest.machine.lifecycle.clone(), receiver);
    guest.vcpu.run();
    assert_eq!(
        guest.machine.lifecycle.reason(),
        Some(ExitReason::GuestStatus { status: 7 })
    );
    let mut copy = [0; COUNT];
    guest.ram.read(COPY, &mut copy).unwrap();
    assert_eq!(copy.to_vec(), (0..200).map(pattern).collect::<Vec<_>>());
    // Its requests end with the device.
    drop(guest.machine);
    assert_eq!(pauses.join().unwrap(), COUNT.div_ceil(7));
}

struct BrokenDevice;

impl BusDevice for BrokenDevice {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {
        panic!("on purpose");
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

#[test]
fn a_vcpu_thread_that_panics_ends_the_vm() {
    let guest = guest(&COPY_FROM_DEVICE, |_| Arc::new(Mutex::new(BrokenDevice)));
    let (machine, vcpu) = (guest.machine, guest.vcpu);
    assert!(thread::spawn(move || vcpu.run()).join().is_err());
    assert!(matches!(
        machine.lifecycle.reason(),
        Some(ExitReason::HostError { .. })
    ));
    // Nobody is waited for who will not come.
    machine.lifecycle.gate().pause(|| ());
}

//! Lines and vectors under the machine's own KVM: what arrives in the local APIC of a
//! vCPU that never runs.

use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VcpuFd};

use super::*;
use crate::devices::BusDevice;
use crate::devices::ioapic::Msi;
use crate::devices::virtio::transport::Doorbells;

/// Spurious-interrupt vector register (Intel SDM vol. 3 §11.9), with its enable bit.
const SVR: usize = 0xf0;
const SVR_ENABLED: u32 = 0x1ff;
/// Interrupt request register: eight dwords, 16 bytes apart.
const IRR: usize = 0x200;

struct Machine {
    interrupts: Interrupts,
    vcpu: VcpuFd,
    vm: Arc<VmFd>,
}

fn machine(mode: IrqchipMode) -> Machine {
    let kvm = Kvm::new().expect("this test needs a /dev/kvm that may be opened");
    let vm = Arc::new(kvm.create_vm().unwrap());
    let interrupts = Interrupts::new(vm.clone(), mode, 1).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let machine = Machine {
        interrupts,
        vcpu,
        vm,
    };
    machine.forget();
    machine
}

impl Machine {
    /// Enables the local APIC, with no interrupt waiting in it.
    fn forget(&self) {
        let mut lapic = self.vcpu.get_lapic().unwrap();
        let mut set = |at: usize, value: u32| {
            for (register, byte) in lapic.regs[at..at + 4].iter_mut().zip(value.to_le_bytes()) {
                *register = byte as _;
            }
        };
        set(SVR, SVR_ENABLED);
        (0..8).for_each(|i| set(IRR + 16 * i, 0));
        self.vcpu.set_lapic(&lapic).unwrap();
    }

    /// Whether `vector` waits in the local APIC.
    fn has(&self, vector: usize) -> bool {
        let lapic = self.vcpu.get_lapic().unwrap();
        let byte = lapic.regs[IRR + vector / 32 * 16 + vector % 32 / 8] as u8;
        byte >> (vector % 8) & 1 != 0
    }

    /// An irqfd may deliver from a kernel thread.
    fn gets(&self, vector: usize) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.has(vector) {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Programs pin `pin` of Mayfly's IOAPIC.
    fn program(&self, pin: u8, low: u32) {
        let ioapic = self.interrupts.ioapic().unwrap();
        let mut ioapic = ioapic.lock().unwrap();
        ioapic.write(0, &[0x10 + 2 * pin]);
        ioapic.write(0x10, &low.to_le_bytes());
    }
}

fn to_first_cpu(vector: u32) -> Msi {
    Msi {
        address: 0xfee0_0000,
        data: vector,
    }
}

#[test]
fn a_vectors_message_arrives_in_both_modes() {
    for mode in [IrqchipMode::Split, IrqchipMode::Kernel] {
        let machine = machine(mode);
        let vectors = machine.interrupts.msi_vectors(2).unwrap();
        vectors[0].set_route(Some(to_first_cpu(0x31)));
        vectors[1].set_route(Some(to_first_cpu(0x77)));
        vectors[1].fd().write(1).unwrap();
        assert!(machine.gets(0x77), "{mode:?}");
        assert!(!machine.has(0x31), "{mode:?}");
        vectors[0].fd().write(1).unwrap();
        assert!(machine.gets(0x31), "{mode:?}");

        machine.forget();
        vectors[0].set_route(Some(to_first_cpu(0x41)));
        vectors[1].set_route(None);
        vectors[1].fd().write(1).unwrap();
        vectors[0].fd().write(1).unwrap();
        assert!(machine.gets(0x41), "{mode:?}");
        assert!(!machine.has(0x31) && !machine.has(0x77), "{mode:?}");
    }
}

#[test]
fn a_pins_irqfd_follows_the_redirection_table() {
    let machine = machine(IrqchipMode::Split);
    machine.program(6, 0x35);
    let fds = [5, 6].map(|pin| machine.interrupts.edge_irqfd(pin).unwrap());
    fds[1].write(1).unwrap();
    assert!(machine.gets(0x35));
    machine.program(5, 0x51);
    fds[0].write(1).unwrap();
    assert!(machine.gets(0x51));

    machine.forget();
    machine.program(5, 0x1_0051);
    fds[0].write(1).unwrap();
    fds[1].write(1).unwrap();
    assert!(machine.gets(0x35));
    assert!(!machine.has(0x51), "the pin is masked");
}

#[test]
fn kvms_own_pins_still_work_beside_a_vector() {
    let machine = machine(IrqchipMode::Kernel);
    let vector = machine.interrupts.msi_vector().unwrap();
    vector.set_route(Some(to_first_cpu(0x31)));
    let mut chip = kvm_bindings::kvm_irqchip {
        chip_id: kvm_bindings::KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    machine.vm.get_irqchip(&mut chip).unwrap();
    // SAFETY: the member of the union is the one that the chip's number says.
    let mut ioapic = unsafe { chip.chip.ioapic };
    ioapic.redirtbl[7].bits = 0x65;
    ioapic.redirtbl[10].bits = 0x8066;
    chip.chip.ioapic = ioapic;
    machine.vm.set_irqchip(&chip).unwrap();

    let fd = machine.interrupts.edge_irqfd(7).unwrap();
    fd.write(1).unwrap();
    assert!(machine.gets(0x65));
    machine.interrupts.level_line(10).set_level(true);
    assert!(machine.gets(0x66));
}

#[test]
fn a_level_line_is_one_for_all_who_share_it() {
    let machine = machine(IrqchipMode::Split);
    machine.program(10, 0x8042);
    let [a, b] = [(); 2].map(|()| machine.interrupts.level_line(10));
    a.set_level(true);
    assert!(machine.has(0x42));
    b.set_level(true);
    a.set_level(false);
    machine.forget();
    machine.interrupts.end_of_interrupt(0x42);
    assert!(machine.has(0x42), "the other device still holds the line");
    b.set_level(false);
    machine.forget();
    machine.interrupts.end_of_interrupt(0x42);
    assert!(!machine.has(0x42));
}

#[test]
fn a_doorbell_is_registered_once_and_can_be_moved() {
    let machine = machine(IrqchipMode::Split);
    let doorbells = KvmDoorbells::new(machine.vm.clone());
    let fd = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    for queue in [None, Some(3)] {
        let addr = if queue.is_some() {
            0xd000_1000
        } else {
            0xd000_0000
        };
        doorbells.register(addr, queue, &fd).unwrap();
        assert!(doorbells.register(addr, queue, &fd).is_err());
        doorbells.register(addr + 0x100, queue, &fd).unwrap();
        doorbells.unregister(addr, queue, &fd).unwrap();
        assert!(doorbells.unregister(addr, queue, &fd).is_err());
        doorbells.register(addr, queue, &fd).unwrap();
    }
}

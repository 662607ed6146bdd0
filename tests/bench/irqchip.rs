//! What KVM's own interrupt controllers cost a machine's start.
//!
//! Variants of the smallest machine are made and closed in turn: everything in
//! KVM (KVM_CREATE_IRQCHIP and KVM_CREATE_PIT2), or split (the local APICs
//! alone), each with its memory slot before or after the controllers. Every
//! step is timed. `cargo bench --bench irqchip`, or with a number of rounds:
//! `cargo bench --bench irqchip -- 1000`. docs/decisions.md has the results.

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_pit_config,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::MmapRegion;

/// Rounds of all variants, unless the command line gives another number.
const ROUNDS: usize = 100;
/// Pause before each machine, in which the host finishes what closing the last
/// one left behind: else the next machine waits for it.
const SETTLE: Duration = Duration::from_millis(50);
/// Guest memory in bytes; nothing touches it.
const MEMORY: usize = 128 << 20;
/// Inputs of the IOAPIC that the split machine's owner would bring.
const IOAPIC_PINS: u64 = 24;

#[derive(Clone, Copy, PartialEq)]
enum Irqchip {
    Kernel,
    Split,
}

/// When the memory slot is added.
#[derive(Clone, Copy, PartialEq)]
enum Slot {
    First,
    Last,
}

const VARIANTS: [(Irqchip, Slot); 4] = [
    (Irqchip::Kernel, Slot::Last),
    (Irqchip::Split, Slot::Last),
    (Irqchip::Kernel, Slot::First),
    (Irqchip::Split, Slot::First),
];

/// One machine's times: what each step took, and all of them together.
#[derive(Clone, Copy, Default)]
struct Times {
    vm: Duration,
    irqchip: Duration,
    vcpu: Duration,
    memory: Duration,
    close: Duration,
    whole: Duration,
}

/// A stretch of a machine's life, as a column of the table.
type Column = (&'static str, fn(&Times) -> Duration);

const COLUMNS: [Column; 7] = [
    ("vm", |times| times.vm),
    ("irqchip", |times| times.irqchip),
    ("vcpu", |times| times.vcpu),
    ("memory", |times| times.memory),
    ("start", |times| times.whole - times.close),
    ("close", |times| times.close),
    ("whole", |times| times.whole),
];

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo passes `--bench`, which says nothing new.
    let rounds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(ROUNDS)
        .max(1);
    let memory = MmapRegion::<()>::new(MEMORY)?;
    let mut times = VARIANTS.map(|_| Vec::with_capacity(rounds + 1));
    // One round that is not counted warms the caches.
    for _ in 0..=rounds {
        for ((irqchip, slot), times) in VARIANTS.into_iter().zip(&mut times) {
            thread::sleep(SETTLE);
            times.push(machine(irqchip, slot, &memory)?);
        }
    }
    println!("{rounds} rounds, min / median of each step in µs");
    print!("{:26}", "");
    COLUMNS.iter().for_each(|(name, _)| print!("{name:>16}"));
    println!();
    let medians: Vec<[Duration; 7]> = VARIANTS
        .into_iter()
        .zip(&times)
        .map(|((irqchip, slot), times)| row(irqchip, slot, &times[1..]))
        .collect();
    for (kernel, split, slot) in [(0, 1, "last"), (2, 3, "first")] {
        let ratio = |column: usize| {
            medians[kernel][column].as_secs_f64() / medians[split][column].as_secs_f64()
        };
        println!(
            "kernel / split, memory {slot}: start {:.2}, whole {:.2}",
            ratio(4),
            ratio(6)
        );
    }
    Ok(())
}

/// Prints a variant's line and returns its medians.
fn row(irqchip: Irqchip, slot: Slot, times: &[Times]) -> [Duration; 7] {
    let irqchip = match irqchip {
        Irqchip::Kernel => "kernel",
        Irqchip::Split => "split",
    };
    let slot = match slot {
        Slot::First => "memory first",
        Slot::Last => "memory last",
    };
    print!("{irqchip:7} {slot:18}");
    let medians = COLUMNS.map(|(_, of)| {
        let mut column: Vec<Duration> = times.iter().map(of).collect();
        column.sort_unstable();
        let (min, median) = (column[0], column[column.len() / 2]);
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        print!("{:8.0} /{:6.0}", micros(min), micros(median));
        median
    });
    println!();
    medians
}

/// Makes a machine with one vCPU and one memory slot, and closes it.
fn machine(
    irqchip: Irqchip,
    slot: Slot,
    memory: &MmapRegion<()>,
) -> Result<Times, kvm_ioctls::Error> {
    let mut times = Times::default();
    let begin = Instant::now();
    let (kvm, vm) = timed(&mut times.vm, || {
        let kvm = Kvm::new()?;
        let vm = kvm.create_vm()?;
        Ok((kvm, vm))
    })?;
    if slot == Slot::First {
        timed(&mut times.memory, || add_memory(&vm, memory))?;
    }
    timed(&mut times.irqchip, || create_irqchip(&vm, irqchip))?;
    let vcpu = timed(&mut times.vcpu, || vm.create_vcpu(0))?;
    if slot == Slot::Last {
        timed(&mut times.memory, || add_memory(&vm, memory))?;
    }
    timed(&mut times.close, || {
        drop((vcpu, vm, kvm));
        Ok(())
    })?;
    times.whole = begin.elapsed();
    Ok(times)
}

/// Runs a step and notes how long it took.
fn timed<T>(
    time: &mut Duration,
    step: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, kvm_ioctls::Error> {
    let begin = Instant::now();
    let result = step();
    *time = begin.elapsed();
    result
}

fn create_irqchip(vm: &VmFd, irqchip: Irqchip) -> Result<(), kvm_ioctls::Error> {
    match irqchip {
        Irqchip::Kernel => {
            vm.create_irq_chip()?;
            vm.create_pit2(kvm_pit_config {
                flags: KVM_PIT_SPEAKER_DUMMY,
                ..Default::default()
            })
        }
        Irqchip::Split => vm.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [IOAPIC_PINS, 0, 0, 0],
            ..Default::default()
        }),
    }
}

fn add_memory(vm: &VmFd, memory: &MmapRegion<()>) -> Result<(), kvm_ioctls::Error> {
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.as_ptr() as u64,
    };
    // SAFETY: `memory` is a mapping of MEMORY bytes that outlives the VM, whose
    // vCPU never runs.
    unsafe { vm.set_user_memory_region(region) }
}

//! What one exit to userspace costs, in Mayfly and in the least loop there is.
//!
//! The bare guest `exit_loop` writes to a port many times, under the `mayfly`
//! program and under a loop of a few lines, in turn; the guest marks start and
//! end. Two ports: one without a device, and the boot timer (a value that it
//! ignores). `cargo bench --bench exits`, or with a number of exits:
//! `cargo bench --bench exits -- 100000`. docs/decisions.md has the results.

#[path = "../integration/common/guests.rs"]
#[allow(dead_code, reason = "shared with the integration tests")]
mod guests;

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use mayfly::boot::{self, BootOptions, Kernel, PayloadCache};
use mayfly::memory::GuestRam;
use mayfly::memory::layout::{BOOT_TIMER_MAGIC, IOAPIC_PINS, PORT_BOOT_TIMER, PORT_SERIAL};
use mayfly::vcpu::setup;

/// Exits of one run, unless the command line gives another number.
const EXITS: u64 = 16_000;
/// Runs of each loop.
const ROUNDS: usize = 15;
/// A port without a device, in both loops.
const ABSENT_PORT: u16 = 0x1f0;
/// Guest memory in bytes.
const MEMORY: u64 = 64 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo passes `--bench`, which says nothing new. The guest counts in sixteens.
    let exits = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(EXITS)
        .max(1)
        .next_multiple_of(16);
    let guest = guests::bare("exit_loop");
    println!("{ROUNDS} runs of {exits} exits each, ns per exit: min / median");
    for (name, port) in [
        ("absent port", ABSENT_PORT),
        ("boot timer", PORT_BOOT_TIMER),
    ] {
        let (mut in_mayfly, mut in_least_loop) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            in_mayfly.push(mayfly(&guest, exits, port)? / exits as f64);
            in_least_loop.push(least_loop(&guest, exits, port)? / exits as f64);
        }
        let mayfly = min_and_median(in_mayfly);
        let least = min_and_median(in_least_loop);
        println!(
            "{name:12} mayfly {:.0} / {:.0}   least loop {:.0} / {:.0}   ratio {:.3} / {:.3}",
            mayfly.0,
            mayfly.1,
            least.0,
            least.1,
            mayfly.0 / least.0,
            mayfly.1 / least.1,
        );
    }
    Ok(())
}

fn min_and_median(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_unstable_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

fn guest_arguments(exits: u64, port: u16) -> String {
    format!("bare.exits={exits} bare.port={port}")
}

/// Nanoseconds between the guest's marks, under Mayfly.
fn mayfly(guest: &Path, exits: u64, port: u16) -> Result<f64, Box<dyn Error>> {
    let output = Command::new(env!("CARGO_BIN_EXE_mayfly"))
        .args(["run", "--json", "--serial", "null", "--memory", "64M"])
        .arg("--kernel")
        .arg(guest)
        .args(["--cmdline-only", &guest_arguments(exits, port)])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().unwrap_or_default();
    let report: serde_json::Value = serde_json::from_str(line)?;
    let moment = |name: &str| {
        report["ms"][name]
            .as_f64()
            .ok_or_else(|| format!("no '{name}' in {line}"))
    };
    Ok((moment("userspace")? - moment("first_serial_byte")?) * 1e6)
}

/// Nanoseconds between the guest's marks, under the least loop.
fn least_loop(guest: &Path, exits: u64, port: u16) -> Result<f64, Box<dyn Error>> {
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [u64::from(IOAPIC_PINS), 0, 0, 0],
        ..Default::default()
    })?;
    let ram = GuestRam::new(MEMORY)?;
    for (slot, (range, host_address)) in (0..).zip(ram.regions()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: range.start,
            memory_size: range.len,
            userspace_addr: host_address,
        };
        // SAFETY: the region is the mapping of `ram`, which lives longer than
        // the vCPU that uses it.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let kernel = Kernel::open(guest, &PayloadCache::none())?;
    let cmdline = guest_arguments(exits, port);
    let entry = boot::load(&kernel, None, &cmdline, &ram, BootOptions::default())?.entry;
    setup::write_boot_tables(&ram, &entry)?;
    vcpu.set_sregs(&setup::boot_sregs(&vcpu.get_sregs()?, &entry))?;
    vcpu.set_regs(&setup::boot_regs(&entry))?;
    run_to_end(&mut vcpu)
}

/// The least that can be done with an exit.
fn run_to_end(vcpu: &mut VcpuFd) -> Result<f64, Box<dyn Error>> {
    let mut mark = Instant::now();
    loop {
        match vcpu.run()? {
            VcpuExit::IoOut(PORT_SERIAL, _) => mark = Instant::now(),
            VcpuExit::IoOut(PORT_BOOT_TIMER, [BOOT_TIMER_MAGIC]) => {
                return Ok(mark.elapsed().as_secs_f64() * 1e9);
            }
            VcpuExit::IoOut(..) => {}
            exit => return Err(format!("unexpected exit {exit:?}").into()),
        }
    }
}

//! From a configuration to a machine, in the order of start-up.
//!
//! First everything is opened that can fail for a reason the user can mend
//! ([`Inputs::open`]), then the machine is made ([`build`], top to bottom),
//! and only then do threads start ([`super::running`]).

use std::fs;
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, SyncReg, VcpuFd, VmFd};

use super::advice;
use super::choices;
use super::clock::Clock;
use super::devices::Panel;
use super::disks::{self, OpenDisk};
use super::error::BuildError;
use super::hardware::Hardware;
use super::lifecycle::Lifecycle;
use super::nets::{self, OpenNet};
use super::shares::Shares;
use super::virtio::{Transports, Virtio};
use crate::boot::virtio_mmio::{self, Declaration};
use crate::boot::{
    self, BootOptions, Initrd, Kernel, Loaded, PayloadCache, Symbols, UserCmdline, acpi,
    build_cmdline, check_cmdline, mptable,
};
use crate::config::net::NetBackend;
use crate::config::{
    self, CmdlineMode, CpusConfig, SerialConfig, Transport, UnpackInitrd, VmConfig,
};
use crate::devices::virtio::transport::Doorbells;
use crate::devices::vmgenid::{VmGenid, VmGenidState};
use crate::host::{self, Backend};
use crate::interrupts::{Interrupts, IrqchipMode, KvmDoorbells};
use crate::memory::GuestRam;
use crate::memory::layout::{KVM_IDENTITY_MAP_ADDR, KVM_TSS_ADDR};
use crate::profile::SamplerPlan;
use crate::vcpu::cpuid::{self, Topology, model};
use crate::vcpu::emulate::{Emulator, SharedHooks};
use crate::vcpu::thread::{Machine, Vcpu};
use crate::vcpu::tick_pacing::IA32_TSC_DEADLINE;
use crate::vcpu::{msr, setup};

/// What the user named, opened and checked; nothing has been created yet.
pub struct Inputs {
    kernel: Kernel,
    initrd: Option<Initrd>,
    cmdline: String,
    kvm: Kvm,
    /// What KVM offers to guests.
    supported: CpuId,
    backend: Backend,
    /// Names for addresses in the kernel, where they may be wanted.
    symbols: Option<Symbols>,
    disks: Vec<OpenDisk>,
    nets: Vec<OpenNet>,
    /// How the kernel is told of virtio-mmio devices, if there are any.
    mmio_declaration: Option<Declaration>,
    /// One for all boots of this VM.
    generation: VmGenid,
    /// Its part of the host's processors; given back last.
    shares: Arc<Shares>,
}

impl Inputs {
    /// The taps among the network interfaces that were made for this VM.
    pub fn new_taps<'a>(&'a self, config: &'a VmConfig) -> impl Iterator<Item = &'a str> {
        let nets = self.nets.iter().zip(&config.nets);
        let new = nets.filter(|(_, net)| net.backend == NetBackend::NewTap);
        new.filter_map(|(net, _)| net.tap())
    }

    /// Opens files, `/dev/kvm` and ways to the network.
    ///
    /// # Errors
    /// [`BuildError`], one line that names the file or the capability.
    pub fn open(config: &VmConfig) -> Result<Self, BuildError> {
        // Before anything that takes time, or starts a process.
        let shares = Arc::new(Shares::prepare(config)?);
        let cache = PayloadCache::from_env();
        let kernel = Kernel::open(&config.kernel, &cache)?;
        let kvm = host::open_kvm()?;
        let backend = Backend::detect();
        // Every KVM has one.
        if config.cpus.count() > 1 {
            let max_vcpus = u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX);
            config::check_cpus(config.cpus.count(), max_vcpus)?;
        }
        // Asked once: it takes 0.3 ms on kvm-pvm hosts.
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(BuildError::SupportedCpuid)?;
        let supported = match choices::level(config.cpu_model) {
            Some(level) => model::restrict(&supported, level, backend.interprets_kernel_code())?,
            None => supported,
        };
        config::check_memory(
            config.memory.size(),
            host::physical_address_bits(&supported),
        )?;
        let unpack = match config.unpack_initrd {
            UnpackInitrd::Always => true,
            UnpackInitrd::Never => false,
            UnpackInitrd::Auto => backend.interprets_kernel_code(),
        };
        let initrd = match &config.initrd {
            Some(path) => Some(Initrd::open(path, unpack.then_some(&cache))?),
            None => None,
        };
        let disks = disks::open(config)?;
        let nets = nets::open(config)?;
        let advice = advice::kernel_options(backend, config.cpus.count());
        let user = match config.cmdline.mode {
            CmdlineMode::Extend => UserCmdline::Extend(&config.cmdline.text),
            CmdlineMode::Replace => UserCmdline::Replace(&config.cmdline.text),
        };
        let useless = match config.cmdline.mode {
            CmdlineMode::Extend => advice::useless_words(backend, &kernel)?,
            CmdlineMode::Replace => Vec::new(),
        };
        let mut cmdline = build_cmdline(user, &advice, &useless);
        // In front: what follows `--` is for init.
        if let Some(word) = nets::address_word(&config.nets) {
            cmdline = format!("{word} {cmdline}");
        }
        let devices = disks.len().saturating_add(nets.len());
        let devices = devices.saturating_add(usize::from(config.rng));
        let mmio_declaration = match config.transport {
            Transport::Mmio if devices > 0 => Some(virtio_mmio::declaration(&cmdline, &kernel)?),
            _ => None,
        };
        if mmio_declaration == Some(Declaration::CommandLine) {
            cmdline = virtio_mmio::with_words(&cmdline, devices);
        }
        check_cmdline(&cmdline, kernel.cmdline_max())?;
        log::info!("kernel command line: {cmdline}");
        spare_inputs(config)?;
        let symbols = (backend.interprets_kernel_code() || config.profile.is_some())
            .then(|| kernel.symbols(kernel.open_map()))
            .flatten();
        let generation = VmGenidState::random().map_err(BuildError::GenerationId)?;
        Ok(Self {
            kernel,
            initrd,
            cmdline,
            kvm,
            supported,
            backend,
            symbols,
            disks,
            nets,
            mmio_declaration,
            shares,
            generation: VmGenid::from_state(generation),
        })
    }

    /// Its part of the host's processors, in effect as long as somebody has it.
    pub(super) fn shares(&self) -> Arc<Shares> {
        self.shares.clone()
    }

    /// The disks, which are made into devices once.
    pub(super) fn take_disks(&mut self) -> Vec<OpenDisk> {
        mem::take(&mut self.disks)
    }

    /// The networks, likewise.
    pub(super) fn take_nets(&mut self) -> Vec<OpenNet> {
        mem::take(&mut self.nets)
    }
}

/// What is to be written must not be what is to be booted.
fn spare_inputs(config: &VmConfig) -> Result<(), BuildError> {
    if let SerialConfig::File(serial) = &config.serial
        && is_input(serial, config)
    {
        return Err(BuildError::SerialIsInput(serial.clone()));
    }
    if let Some(profile) = &config.profile
        && is_input(&profile.path, config)
    {
        return Err(BuildError::ProfileIsInput(profile.path.clone()));
    }
    Ok(())
}

/// Whether the file is one that the VM is made of.
fn is_input(output: &Path, config: &VmConfig) -> bool {
    let disks = config.disks.iter().map(|disk| &disk.path);
    let inputs = [Some(&config.kernel), config.initrd.as_ref()];
    inputs.into_iter().flatten().chain(disks).any(|input| {
        let both = (fs::metadata(output), fs::metadata(input));
        matches!(both, (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
    })
}

/// A machine with everything in place, whose vCPUs have not started.
pub struct BuiltVm {
    /// What the vCPUs share.
    pub machine: Arc<Machine>,
    /// The vCPUs, the boot processor first.
    pub vcpus: Vec<Vcpu>,
    /// What a user reaches of it.
    pub panel: Panel,
    /// The virtio devices, to pause and resume them.
    pub virtio: Virtio,
    /// The breakpoints planted in the guest, where the host needs them.
    pub hooks: Option<Arc<SharedHooks>>,
    /// KVM's side of the VM; closed after the vCPUs.
    pub vm: Arc<VmFd>,
    /// Guest memory; unmapped last.
    pub ram: GuestRam,
    /// Its part of the host's processors, for the threads to enter.
    pub shares: Arc<Shares>,
}

/// Makes a machine round `hardware`, which must be as in the beginning: new, or reset
/// ([`Hardware::reset`]). So each start of a guest finds the same machine.
///
/// # Errors
/// [`BuildError`], one line that says what could not be made.
pub fn build(
    config: &VmConfig,
    inputs: &Inputs,
    hardware: &Hardware,
) -> Result<BuiltVm, BuildError> {
    let Inputs {
        kernel,
        initrd,
        cmdline,
        kvm,
        supported,
        backend,
        symbols,
        mmio_declaration,
        shares,
        generation,
        ..
    } = inputs;
    let backend = *backend;
    let ram = hardware.ram.clone();

    let vm = Arc::new(kvm.create_vm().map_err(BuildError::CreateVm)?);
    place_vmx_pages(&vm, backend)?;
    register_memory(&vm, &ram)?;

    let irqchip = choices::irqchip_mode(config.irqchip, cmdline);
    let interrupts = Arc::new(Interrupts::new(vm.clone(), irqchip, config.cpus.count())?);
    let vcpu_fds = create_vcpus(&vm, kvm, supported, config.cpus)?;

    let lifecycle = Arc::new(Lifecycle::new(hardware.history.clone(), vcpu_fds.len()));
    let doorbells: Arc<dyn Doorbells> = Arc::new(KvmDoorbells::new(vm.clone()));
    let devices = &hardware.devices;
    let device_count = devices.len();
    let transports = Transports::new(config.transport, devices, &ram, &interrupts, &doorbells)?;
    let writer = hardware.console.writer();
    let rtc = hardware.rtc.clone();
    let buses = super::devices::build(&interrupts, &lifecycle, writer, rtc, transports)?;

    let acpi_config = acpi::AcpiConfig {
        cpus: config.cpus.count(),
        legacy_pic: irqchip == IrqchipMode::Kernel,
        pci_devices: match config.transport {
            Transport::Pci => device_count,
            Transport::Mmio => 0,
        },
        virtio_mmio_devices: match mmio_declaration {
            Some(Declaration::Acpi) => device_count,
            _ => 0,
        },
    };
    let rsdp = acpi::build(&acpi_config, &ram)?;
    generation.place(&ram)?;
    let mmio_devices = match config.transport {
        Transport::Pci => 0,
        Transport::Mmio => device_count,
    };
    mptable::write(&ram, acpi_config.cpus, acpi_config.legacy_pic, mmio_devices)?;
    let options = BootOptions {
        protocol: choices::boot_protocol(config.boot_protocol),
        rsdp: Some(rsdp),
        kaslr: choices::kaslr(config.kaslr),
        ..Default::default()
    };
    let Loaded { entry, shift } = boot::load(kernel, initrd.as_ref(), cmdline, &ram, options)?;
    setup::write_boot_tables(&ram, &entry)?;
    if let Some(boot_vcpu) = vcpu_fds.first() {
        let reset = boot_vcpu.get_sregs().map_err(BuildError::Registers)?;
        boot_vcpu
            .set_sregs(&setup::boot_sregs(&reset, &entry))
            .map_err(BuildError::Registers)?;
        boot_vcpu
            .set_regs(&setup::boot_regs(&entry))
            .map_err(BuildError::Registers)?;
    }

    let hooks = backend
        .interprets_kernel_code()
        .then(|| Arc::new(SharedHooks::new(ram.clone())));
    if hooks.is_some() {
        let watched = [Emulator::filtered_msrs(), &[IA32_TSC_DEADLINE]].concat();
        msr::watch_writes(&vm, &watched)?;
    }
    let machine = Arc::new(Machine {
        pio: Arc::new(buses.pio),
        mmio: Arc::new(buses.mmio),
        interrupts,
        lifecycle,
        symbols: symbols
            .clone()
            .map(|symbols| Arc::new(symbols.shifted_by(shift.virtual_))),
        clock: Clock::new(vm.clone()),
    });
    let vcpus = (0u32..)
        .zip(vcpu_fds)
        .map(|(id, mut fd)| {
            let emulator = hooks.as_ref().map(|hooks| {
                // The emulator finds the registers in the kvm_run page (KVM_CAP_SYNC_REGS).
                fd.set_sync_valid_reg(SyncReg::Register);
                fd.set_sync_valid_reg(SyncReg::SystemRegister);
                Emulator::new(ram.clone(), machine.mmio.clone(), Some(hooks.clone()))
            });
            let profile = config.profile.as_ref();
            Vcpu::new(id, fd, machine.clone(), emulator)
                .sampled(profile.map(|profile| SamplerPlan::new(ram.clone(), profile.hz)))
        })
        .collect();
    Ok(BuiltVm {
        machine,
        vcpus,
        panel: buses.panel,
        virtio: buses.virtio,
        hooks,
        vm,
        ram,
        shares: shares.clone(),
    })
}

/// VT-x without "unrestricted guest" runs real mode with four pages of ours.
fn place_vmx_pages(vm: &VmFd, backend: Backend) -> Result<(), BuildError> {
    if !matches!(backend, Backend::Vmx | Backend::Unknown) {
        return Ok(());
    }
    vm.set_identity_map_address(KVM_IDENTITY_MAP_ADDR)
        .map_err(BuildError::VmxPages)?;
    // KVM takes the address of the TSS as a long, which holds every address below 4 GiB.
    vm.set_tss_address(KVM_TSS_ADDR as usize)
        .map_err(BuildError::VmxPages)
}

/// Tells KVM which host memory each range of guest RAM is.
fn register_memory(vm: &VmFd, ram: &GuestRam) -> Result<(), BuildError> {
    for (slot, (range, host_address)) in (0u32..).zip(ram.regions()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: range.start,
            memory_size: range.len,
            userspace_addr: host_address,
        };
        // SAFETY: the region is the mapping of `ram`, which `BuiltVm` and the
        // running VM keep until after the vCPUs and the VM descriptor are closed.
        unsafe { vm.set_user_memory_region(region) }.map_err(BuildError::MemorySlot)?;
    }
    Ok(())
}

/// Creates the vCPUs with their CPUID and firmware MSRs; KVM takes a vCPU's id for its APIC id.
fn create_vcpus(
    vm: &VmFd,
    kvm: &Kvm,
    supported: &CpuId,
    cpus: CpusConfig,
) -> Result<Vec<VcpuFd>, BuildError> {
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let mut fds = Vec::new();
    for id in 0..cpus.count() {
        let fd = vm
            .create_vcpu(u64::from(id))
            .map_err(|source| BuildError::CreateVcpu { id, source })?;
        let topology = Topology {
            sockets: cpus.sockets(),
            cores: cpus.cores(),
            threads: cpus.threads(),
            tsc_deadline,
            // Where KVM cannot tell, the guest reads kvmclock.
            tsc_khz: fd.get_tsc_khz().unwrap_or(0),
        };
        let table = cpuid::for_vcpu(supported, topology, id)?;
        fd.set_cpuid2(&table)
            .map_err(|source| BuildError::Cpuid { id, source })?;
        msr::set_firmware_msrs(&fd, table.as_slice())?;
        fds.push(fd);
    }
    Ok(fds)
}

//! What a VM is made of: one validated structure, whoever asked for it.
//!
//! The command line fills in a [`VmConfig`]; a file will do the same later.
//! [`VmConfig::validated`] checks it once; from there on its values are good.
//! What only KVM can tell (how many vCPUs, how wide an address) is checked by
//! [`check_cpus`] and [`check_memory`] when the machine is built.

#[macro_use]
mod choice;
pub mod cpus;
pub mod disk;
pub mod duration;
mod error;
mod limits;
pub mod memory;
pub mod net;
pub mod profile;
pub mod serial;
pub mod shares;
pub mod size;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::boot;

pub use cpus::CpusConfig;
pub use disk::{Aio, Backing, Cache, DiskConfig, DiskFormat};
pub use error::ConfigError;
pub use limits::{check_cpus, check_memory};
pub use memory::MemoryConfig;
pub use net::NetConfig;
pub use profile::ProfileConfig;
pub use serial::SerialConfig;
pub use shares::SharesConfig;

/// Guest RAM unless asked otherwise: 256 MiB. Small is enough for a disposable
/// test VM, and the host pays only for the pages that the guest touches.
pub const MEMORY_DEFAULT: MemoryConfig = MemoryConfig::new(256 << 20);

/// vCPUs unless asked otherwise.
pub const CPUS_DEFAULT: CpusConfig = CpusConfig::new(1);

/// Characters of a VM's name at most: those of a host's name.
const NAME_LEN: usize = 63;

/// A virtual machine as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Its name, from which its interfaces have their hardware addresses.
    #[serde(default)]
    pub name: Option<String>,
    /// The kernel: vmlinux, bzImage, or another ELF with an entry Mayfly knows.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Whether a compressed initrd is unpacked on the host.
    #[serde(default)]
    pub unpack_initrd: UnpackInitrd,
    /// The kernel command line.
    #[serde(default)]
    pub cmdline: CmdlineConfig,
    /// How the kernel is entered.
    #[serde(default)]
    pub boot_protocol: BootProtocol,
    /// The vCPUs; a number, or a text such as `4,threads=2`.
    #[serde(default = "default_cpus")]
    pub cpus: CpusConfig,
    /// Guest RAM; a number of bytes, or a text such as `512M` or `2G,shared`.
    #[serde(default = "default_memory")]
    pub memory: MemoryConfig,
    /// Whose interrupt controllers the machine has.
    #[serde(default)]
    pub irqchip: Irqchip,
    /// Where the serial port leads.
    #[serde(default)]
    pub serial: SerialConfig,
    /// The disks, /dev/vda first.
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// The network interfaces, eth0 first.
    #[serde(default)]
    pub nets: Vec<NetConfig>,
    /// How the guest finds its virtio devices.
    #[serde(default)]
    pub transport: Transport,
    /// Where ephemeral disks keep what the guest writes; in memory without it.
    #[serde(default)]
    pub scratch_dir: Option<PathBuf>,
    /// Whether the guest has a virtio entropy device.
    #[serde(default)]
    pub rng: bool,
    /// Which processor the guest sees.
    #[serde(default)]
    pub cpu_model: CpuModel,
    /// Whether the kernel is put at a random address.
    #[serde(default)]
    pub kaslr: Kaslr,
    /// Whether a guest that resets itself starts again.
    #[serde(default)]
    pub reboot: bool,
    /// Where a profile of the vCPUs is written.
    #[serde(default)]
    pub profile: Option<ProfileConfig>,
    /// How it shares the host's processors.
    #[serde(default)]
    pub shares: SharesConfig,
    /// After how long the VM is stopped.
    #[serde(default, with = "duration::optional")]
    pub timeout: Option<Duration>,
}

fn default_cpus() -> CpusConfig {
    CPUS_DEFAULT
}

fn default_memory() -> MemoryConfig {
    MEMORY_DEFAULT
}

impl VmConfig {
    /// The default machine for `kernel`.
    pub fn new(kernel: PathBuf) -> Self {
        Self {
            name: None,
            kernel,
            initrd: None,
            unpack_initrd: UnpackInitrd::default(),
            cmdline: CmdlineConfig::default(),
            boot_protocol: BootProtocol::default(),
            cpus: CPUS_DEFAULT,
            memory: MEMORY_DEFAULT,
            irqchip: Irqchip::default(),
            serial: SerialConfig::default(),
            disks: Vec::new(),
            nets: Vec::new(),
            transport: Transport::default(),
            scratch_dir: None,
            rng: false,
            cpu_model: CpuModel::default(),
            kaslr: Kaslr::default(),
            reboot: false,
            profile: None,
            shares: SharesConfig::default(),
            timeout: None,
        }
    }

    /// Checks everything that can be checked without the host.
    ///
    /// # Errors
    /// The first [`ConfigError`] found.
    pub fn validated(self) -> Result<Self, ConfigError> {
        limits::cpus_present(self.cpus.count())?;
        limits::memory_usable(self.memory.size())?;
        if self.kernel.as_os_str().is_empty() {
            return Err(ConfigError::EmptyPath { what: "kernel" });
        }
        if self
            .initrd
            .as_ref()
            .is_some_and(|p| p.as_os_str().is_empty())
        {
            return Err(ConfigError::EmptyPath { what: "initrd" });
        }
        for disk in &self.disks {
            disk.check(self.cpus.count())?;
        }
        for net in &self.nets {
            net.check(self.cpus.count())?;
        }
        self.shares.check(self.cpus.count())?;
        net::check_together(&self.nets, self.cmdline.has_key("ip"))?;
        self.name.as_deref().map_or(Ok(()), check_name)?;
        if self
            .scratch_dir
            .as_ref()
            .is_some_and(|p| p.as_os_str().is_empty())
        {
            return Err(ConfigError::EmptyPath {
                what: "scratch directory",
            });
        }
        if self.cmdline.text.contains('\0') {
            return Err(ConfigError::CmdlineNul);
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ConfigError::ZeroTimeout);
        }
        Ok(self)
    }
}

/// The number that is given to `option`.
fn number<N: FromStr>(option: &'static str, given: &str) -> Result<N, ConfigError> {
    given.parse().map_err(|_| ConfigError::Choice {
        option,
        given: given.to_owned(),
        expected: "a number",
    })
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_LEN || !name.bytes().all(usual) {
        return Err(ConfigError::Name {
            given: name.to_owned(),
        });
    }
    Ok(())
}

/// The user's part of the kernel command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmdlineConfig {
    /// What happens to the default line.
    #[serde(default)]
    pub mode: CmdlineMode,
    /// The words, as given.
    #[serde(default)]
    pub text: String,
}

impl CmdlineConfig {
    /// Whether `word` is one of the space-separated words of the text, the kernel's or init's.
    pub fn has_word(&self, word: &str) -> bool {
        boot::has_word(&self.text, word)
    }

    /// Whether the text gives the kernel's `key` a value (`key=…`).
    pub fn has_key(&self, key: &str) -> bool {
        boot::has_value(&self.text, key)
    }
}

/// What the user's text does to the default command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CmdlineMode {
    /// Comes after the default (`--cmdline`).
    #[default]
    Extend,
    /// Stands alone (`--cmdline-only`).
    Replace,
}

choice!(
    /// Whether a compressed initrd is unpacked before the guest sees it.
    UnpackInitrd, "--unpack-initrd", "auto, always or never", {
        /// On hosts that interpret guest kernel code, where unpacking in the guest is slow.
        #[default]
        Auto = "auto",
        /// On every host.
        Always = "always",
        /// The guest gets the file as it is.
        Never = "never",
    }
);

choice!(
    /// How the kernel is entered.
    BootProtocol, "--boot-protocol", "auto, linux64 or pvh", {
        /// The best one that the image offers.
        #[default]
        Auto = "auto",
        /// The 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst).
        Linux64 = "linux64",
        /// The PVH entry (Xen's `xen-elfnote.h`, note 18).
        Pvh = "pvh",
    }
);

choice!(
    /// Whose interrupt controllers the machine has.
    Irqchip, "--irqchip", "auto, split or kernel", {
        /// What suits the host and the image.
        #[default]
        Auto = "auto",
        /// Local APICs by KVM, an IOAPIC by Mayfly, no PIC and no PIT.
        Split = "split",
        /// All by KVM: local APICs, IOAPIC, PIC and PIT.
        Kernel = "kernel",
    }
);

choice!(
    /// How the guest finds its virtio devices.
    Transport, "--transport", "pci or mmio", {
        /// virtio-pci (virtio 1.2 §4.1), which distributions' kernels have built in.
        #[default]
        Pci = "pci",
        /// virtio-mmio (virtio 1.2 §4.2), the smaller one.
        Mmio = "mmio",
    }
);

choice!(
    /// Which processor the guest sees: the features of a level of the x86-64 psABI at most.
    CpuModel, "--cpu", "host, x86-64-v2, x86-64-v3 or x86-64-v4", {
        /// Every feature that KVM offers.
        #[default]
        Host = "host",
        /// Up to SSE4.2 and POPCNT.
        V2 = "x86-64-v2",
        /// Up to AVX2, BMI, FMA and MOVBE.
        V3 = "x86-64-v3",
        /// Up to AVX-512 F, BW, CD, DQ and VL.
        V4 = "x86-64-v4",
    }
);

choice!(
    /// Whether the kernel is put at a random physical and virtual address.
    Kaslr, "--kaslr", "auto, on or off", {
        /// Where the kernel file has relocation data and the command line has no `nokaslr`.
        #[default]
        Auto = "auto",
        /// Or the start fails.
        On = "on",
        /// At the address it was linked for.
        Off = "off",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> VmConfig {
        VmConfig::new(PathBuf::from("vmlinux"))
    }

    #[test]
    fn the_default_machine_is_valid() {
        assert!(config().validated().is_ok());
    }

    #[test]
    fn each_bad_value_has_its_line() {
        let cases: [(VmConfig, &str); 7] = [
            (
                VmConfig {
                    cpus: CpusConfig::new(0),
                    ..config()
                },
                "at least 1 CPU",
            ),
            (
                VmConfig {
                    memory: MemoryConfig::new(0),
                    ..config()
                },
                "memory",
            ),
            (
                VmConfig {
                    memory: MemoryConfig::new(4096),
                    ..config()
                },
                "at least 1M",
            ),
            (
                VmConfig {
                    memory: MemoryConfig::new((1 << 20) + 1),
                    ..config()
                },
                "4096",
            ),
            (
                VmConfig {
                    timeout: Some(Duration::ZERO),
                    ..config()
                },
                "longer than 0",
            ),
            (
                VmConfig {
                    kernel: PathBuf::new(),
                    ..config()
                },
                "kernel",
            ),
            (
                VmConfig {
                    cmdline: CmdlineConfig {
                        mode: CmdlineMode::Extend,
                        text: "a\0b".to_owned(),
                    },
                    ..config()
                },
                "NUL",
            ),
        ];
        for (bad, expected) in cases {
            let line = bad.validated().unwrap_err().to_string();
            assert!(line.contains(expected), "{line:?} lacks {expected:?}");
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn choices_are_read_and_refused() {
        assert_eq!("pvh".parse::<BootProtocol>().unwrap(), BootProtocol::Pvh);
        assert_eq!("split".parse::<Irqchip>().unwrap(), Irqchip::Split);
        let line = "PVH".parse::<BootProtocol>().unwrap_err().to_string();
        assert_eq!(
            line,
            "--boot-protocol takes auto, linux64 or pvh, not 'PVH'"
        );
    }

    #[test]
    fn words_of_the_command_line_are_whole() {
        let cmdline = CmdlineConfig {
            mode: CmdlineMode::Extend,
            text: "quiet  mayfly.shell=1 mayfly.shell".to_owned(),
        };
        assert!(cmdline.has_word("mayfly.shell"));
        assert!(!cmdline.has_word("mayfly"));
        assert!(cmdline.has_key("mayfly.shell"));
        assert!(!cmdline.has_key("quiet") && !cmdline.has_key("shell"));
    }

    #[test]
    fn json_round_trips_and_takes_texts() {
        let text = r#"{"kernel":"k","memory":"1GiB","timeout":"1m30s","serial":"file=log"}"#;
        let read: VmConfig = serde_json::from_str(text).unwrap();
        assert_eq!(read.memory, MemoryConfig::new(1 << 30));
        assert_eq!(read.timeout, Some(Duration::from_secs(90)));
        assert_eq!(read.serial, SerialConfig::File(PathBuf::from("log")));
        let back = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<VmConfig>(&back).unwrap(), read);
        assert!(serde_json::from_str::<VmConfig>(r#"{"kernel":"k","cpu":2}"#).is_err());
    }
}

//! Which kind of KVM runs the guests.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Serialize;

/// What KVM is made of on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Intel VT-x (`kvm_intel`).
    Vmx,
    /// AMD SVM (`kvm_amd`).
    Svm,
    /// A pagetable virtual machine (`kvm_pvm`): guest user code runs natively,
    /// guest kernel code is interpreted.
    #[serde(rename = "kvm-pvm")]
    Pvm,
    /// No sign of any: the processor has no virtualization extension that this
    /// system shows, yet there is KVM.
    Unknown,
}

/// What the processor says it can do (CPUID).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extensions {
    vmx: bool,
    svm: bool,
}

impl Backend {
    /// Finds out.
    pub fn detect() -> Self {
        Self::decide(Path::new("/sys/module"), Extensions::of_this_cpu())
    }

    /// Whether guest kernel code runs on the processor itself.
    pub fn is_hardware(self) -> bool {
        matches!(self, Self::Vmx | Self::Svm)
    }

    /// Whether KVM interprets guest kernel code, slowly, and hands back what it
    /// does not know. A KVM of unknown kind cannot be a hardware one.
    pub fn interprets_kernel_code(self) -> bool {
        !self.is_hardware()
    }

    /// Its name, and what it means for guests.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Vmx => "hardware (VT-x): guests run at full speed",
            Self::Svm => "hardware (SVM): guests run at full speed",
            Self::Pvm => {
                "kvm-pvm: guest programs run at full speed, guest kernels are interpreted (hundreds of times slower)"
            }
            Self::Unknown => "unknown, and no hardware virtualization: treated like kvm-pvm",
        }
    }

    /// Modules that are built in show up in sysfs as well, even where they found
    /// no hardware to drive, so the processor has its say; only a loaded module
    /// is among KVM's holders, and KVM lets one vendor module hold it at a time.
    fn decide(modules: &Path, cpu: Extensions) -> Self {
        let loaded = |name: &str| modules.join("kvm/holders").join(name).exists();
        let present = |name: &str| modules.join(name).exists();
        let hardware = match cpu {
            Extensions { vmx: true, .. } => Some(Self::Vmx),
            Extensions { svm: true, .. } => Some(Self::Svm),
            _ => None,
        };
        let hardware_module = || present("kvm_intel") || present("kvm_amd");
        match hardware {
            None if present("kvm_pvm") => Self::Pvm,
            None => Self::Unknown,
            Some(_) if loaded("kvm_pvm") => Self::Pvm,
            Some(_) if present("kvm_pvm") && !hardware_module() => Self::Pvm,
            Some(kind) => kind,
        }
    }
}

impl Extensions {
    /// Intel SDM vol. 2A, CPUID leaf 1, ECX bit 5; AMD APM vol. 3, CPUID
    /// 0x8000_0001, ECX bit 2. `/proc/cpuinfo` says the same where the kernel has
    /// cleared a bit because the firmware forbids its use, so both must agree.
    fn of_this_cpu() -> Self {
        let basic = std::arch::x86_64::__cpuid(1);
        let highest = std::arch::x86_64::__cpuid(0x8000_0000).eax;
        let extended = match highest {
            0x8000_0001.. => std::arch::x86_64::__cpuid(0x8000_0001).ecx,
            _ => 0,
        };
        let claimed = Self {
            vmx: basic.ecx & 1 << 5 != 0,
            svm: extended & 1 << 2 != 0,
        };
        if claimed == Self::default() {
            return claimed;
        }
        match File::open("/proc/cpuinfo") {
            Ok(file) => claimed.shown_in(BufReader::new(file)),
            Err(_) => claimed,
        }
    }

    /// Those that the first `flags` line of `/proc/cpuinfo` has too. A text
    /// without such a line tells nothing, and so denies nothing. Nothing behind
    /// the line is read: the file is long where there are many processors.
    fn shown_in(self, cpuinfo: impl BufRead) -> Self {
        let mut lines = cpuinfo.lines().map_while(Result::ok);
        let Some(flags) = lines.find(|line| line.starts_with("flags")) else {
            return self;
        };
        let shown = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
        Self {
            vmx: self.vmx && shown("vmx"),
            svm: self.svm && shown("svm"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Extensions = Extensions {
        vmx: false,
        svm: false,
    };
    const INTEL: Extensions = Extensions {
        vmx: true,
        svm: false,
    };
    const AMD: Extensions = Extensions {
        vmx: false,
        svm: true,
    };

    fn decide(modules: &[&str], cpu: Extensions) -> Backend {
        let folder = tempfile::tempdir().unwrap();
        for module in modules {
            std::fs::create_dir_all(folder.path().join(module)).unwrap();
        }
        Backend::decide(folder.path(), cpu)
    }

    #[test]
    fn the_usual_hosts() {
        assert_eq!(decide(&["kvm", "kvm_intel"], INTEL), Backend::Vmx);
        assert_eq!(decide(&["kvm", "kvm_amd"], AMD), Backend::Svm);
        assert_eq!(decide(&["kvm", "kvm_pvm"], NONE), Backend::Pvm);
        assert_eq!(decide(&["kvm", "kvm_pvm"], INTEL), Backend::Pvm);
    }

    #[test]
    fn built_in_modules_without_hardware_do_not_count() {
        let modules = ["kvm", "kvm_intel", "kvm_amd", "kvm_pvm"];
        assert_eq!(decide(&modules, NONE), Backend::Pvm);
        assert_eq!(decide(&["kvm", "kvm_intel"], AMD), Backend::Svm);
    }

    #[test]
    fn of_several_the_one_that_holds_kvm_counts() {
        let both = ["kvm_intel", "kvm_pvm"];
        assert_eq!(
            decide(&[both[0], both[1], "kvm/holders/kvm_pvm"], INTEL),
            Backend::Pvm
        );
        assert_eq!(
            decide(&[both[0], both[1], "kvm/holders/kvm_intel"], INTEL),
            Backend::Vmx
        );
    }

    #[test]
    fn without_sysfs_the_processor_decides() {
        let nowhere = Path::new("/no/such/folder");
        assert_eq!(Backend::decide(nowhere, AMD), Backend::Svm);
        assert_eq!(Backend::decide(nowhere, NONE), Backend::Unknown);
        assert!(Backend::Unknown.interprets_kernel_code());
    }

    #[test]
    fn flags_are_whole_words() {
        let shown = |text: &str| INTEL.shown_in(text.as_bytes());
        assert_eq!(shown("x\nflags : fpu vmx\n"), INTEL);
        assert_eq!(shown("flags : fpu vmx2\n"), NONE);
        assert_eq!(shown("flags : fpu\nflags : vmx\n"), NONE);
        assert_eq!(shown("processor : 0\n"), INTEL);
        assert_eq!(AMD.shown_in("flags : vmx\n".as_bytes()), NONE);
    }
}

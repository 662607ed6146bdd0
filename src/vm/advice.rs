//! Kernel options that suit a host, added visibly to the command line.
//!
//! On hardware KVM there are none. Where guest kernel code is interpreted
//! (docs/kvm-pvm.md), work that a processor does in no time costs seconds, and
//! a kernel can be told to leave it out.

use crate::boot::{BootError, Kernel};
use crate::host::Backend;

/// Initcalls that are left out. The first such option costs 0.3 s of its own, for the kernel
/// then looks up the name of each initcall.
const NO_JITTER: &str = "initcall_blacklist=jent_mod_init";
const NO_WEAK_FUNCTIONS: &str = "initcall_blacklist=ftrace_check_for_weak_functions";

/// Options for every guest on a kvm-pvm host, each with what it spares.
const PVM: [&str; 9] = [
    // Patching in retpolines and clearing buffers, in code that no processor speculates on.
    "mitigations=off",
    // Comparing the TSC with other clocks: it is the host's own.
    "tsc=reliable",
    // `rep movsb` and `rep stosb` do not batch here: 0.7 s for those that move words.
    "clearcpuid=erms,fsrm",
    // Splitting the kernel's large pages to write-protect its text, 0.7 s.
    "rodata=off",
    // Self-tests of the ciphers.
    "cryptomgr.notests",
    // Measuring how irregular the processor's timing is, for random numbers that the
    // kernel has from RDRAND: minutes, in kernels that have it built in. And looking
    // up the names of all functions that could be traced, one to two minutes.
    NO_JITTER,
    NO_WEAK_FUNCTIONS,
    // Periodic work that a short-lived guest has no use for.
    "audit=0",
    "nowatchdog",
];

/// With one vCPU: do not patch LOCK prefixes away, one by one, 1.9 s.
const PVM_ONE_CPU: &str = "noreplace-smp";

/// What to add to the command line of a guest with `cpus` vCPUs.
pub fn kernel_options(backend: Backend, cpus: u32) -> Vec<&'static str> {
    if !backend.interprets_kernel_code() {
        return Vec::new();
    }
    let mut options = PVM.to_vec();
    if cpus == 1 {
        options.push(PVM_ONE_CPU);
    }
    options
}

/// A text that is in kernels which know what to do with the words, ours or the host's advice.
const KNOWN_BY: [(&str, &[&str]); 5] = [
    ("i8042", &["i8042.noaux", "i8042.nomux", "i8042.dumbkbd"]),
    ("cryptomgr.notests", &["cryptomgr.notests"]),
    ("audit=", &["audit=0"]),
    ("jitterentropy_rng", &[NO_JITTER]),
    ("available_filter_functions", &[NO_WEAK_FUNCTIONS]),
];
/// What is smaller is no Linux, and not looked into.
const SMALLEST_LINUX: u64 = 1 << 20;

/// Words that `kernel` does not know, where each costs 20 to 30 ms: the kernel compares it
/// with all of its options some ten times. Looking for them costs 10 ms.
///
/// # Errors
/// [`BootError::Read`].
pub fn useless_words(backend: Backend, kernel: &Kernel) -> Result<Vec<&'static str>, BootError> {
    if !backend.interprets_kernel_code() || kernel.file_len() < SMALLEST_LINUX {
        return Ok(Vec::new());
    }
    let missing = kernel.missing(&KNOWN_BY.map(|(text, _)| text))?;
    let useless = KNOWN_BY.iter().filter(|(text, _)| missing.contains(text));
    Ok(useless
        .flat_map(|(_, words)| words.iter().copied())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::{DEFAULT_CMDLINE, PayloadCache, testing};

    /// A kernel, large enough for one, in which only `texts` are not zero.
    fn kernel(texts: &str) -> Kernel {
        let mut code = vec![0; 2 << 20];
        code[1 << 20..][..texts.len()].copy_from_slice(texts.as_bytes());
        let (_dir, path) = testing::file(&testing::elf(&code));
        Kernel::open(&path, &PayloadCache::none()).unwrap()
    }

    #[test]
    fn words_are_left_out_that_a_kernel_does_not_know() {
        let useless = |backend, texts| useless_words(backend, &kernel(texts)).unwrap();
        let all: Vec<_> = KNOWN_BY
            .iter()
            .flat_map(|(_, words)| *words)
            .copied()
            .collect();
        assert_eq!(useless(Backend::Pvm, ""), all);
        assert_eq!(useless(Backend::Svm, ""), [""; 0]);
        let found = "i8042 audit= jitterentropy_rng available_filter_functions";
        assert_eq!(useless(Backend::Pvm, found), ["cryptomgr.notests"]);
        // Each is one of ours.
        let ours = [DEFAULT_CMDLINE, &PVM].concat();
        assert!(all.iter().all(|word| ours.contains(word)));
    }

    #[test]
    fn hardware_hosts_get_no_advice() {
        for backend in [Backend::Vmx, Backend::Svm] {
            assert_eq!(kernel_options(backend, 1), Vec::<&str>::new());
        }
    }

    #[test]
    fn only_a_single_vcpu_keeps_its_lock_prefixes() {
        assert!(kernel_options(Backend::Pvm, 1).contains(&PVM_ONE_CPU));
        assert!(!kernel_options(Backend::Pvm, 2).contains(&PVM_ONE_CPU));
    }
}

//! Kernel options that suit a host, added visibly to the command line.
//!
//! On hardware KVM there are none. Where guest kernel code is interpreted
//! (docs/kvm-pvm.md), work that a processor does in no time costs seconds, and
//! a kernel can be told to leave it out.

use crate::host::Backend;

/// Options for every guest on a kvm-pvm host, each with what it spares.
const PVM: [&str; 8] = [
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
    "initcall_blacklist=jent_mod_init,ftrace_check_for_weak_functions",
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

#[cfg(test)]
mod tests {
    use super::*;

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

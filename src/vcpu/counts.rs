//! Exit counters: one array a vCPU, touched by its own thread alone.

use std::collections::BTreeMap;

/// The kinds of exit that are counted; the names are those of `--json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ExitKind {
    /// KVM_EXIT_IO, reads.
    IoIn,
    /// KVM_EXIT_IO, writes.
    IoOut,
    /// KVM_EXIT_MMIO, reads.
    MmioRead,
    /// KVM_EXIT_MMIO, writes.
    MmioWrite,
    /// KVM_EXIT_IOAPIC_EOI.
    IoapicEoi,
    /// KVM_EXIT_X86_RDMSR.
    Rdmsr,
    /// KVM_EXIT_X86_WRMSR.
    Wrmsr,
    /// KVM_EXIT_INTERNAL_ERROR with suberror emulation.
    EmulationFailure,
    /// EINTR: a kick or another signal.
    Interrupted,
    /// EAGAIN: an application processor met INIT.
    Again,
    /// Every other reason.
    Other,
}

const KINDS: [(ExitKind, &str); 11] = [
    (ExitKind::IoIn, "io_in"),
    (ExitKind::IoOut, "io_out"),
    (ExitKind::MmioRead, "mmio_read"),
    (ExitKind::MmioWrite, "mmio_write"),
    (ExitKind::IoapicEoi, "ioapic_eoi"),
    (ExitKind::Rdmsr, "rdmsr"),
    (ExitKind::Wrmsr, "wrmsr"),
    (ExitKind::EmulationFailure, "emulation_failure"),
    (ExitKind::Interrupted, "interrupted"),
    (ExitKind::Again, "again"),
    (ExitKind::Other, "other"),
];

/// How often a vCPU left guest mode, by kind.
#[derive(Clone, Debug, Default)]
pub struct ExitCounts([u64; KINDS.len()]);

impl ExitCounts {
    /// Counts one exit.
    pub fn count(&mut self, kind: ExitKind) {
        if let Some(counter) = self.0.get_mut(kind as usize) {
            *counter = counter.wrapping_add(1);
        }
    }

    /// Adds the counters that are not zero to `total`.
    pub fn add_to(&self, total: &mut BTreeMap<String, u64>) {
        for ((_, name), count) in KINDS.iter().zip(self.0) {
            if count > 0 {
                *total.entry((*name).to_owned()).or_default() += count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_name_in_its_own_place() {
        for (index, (kind, _)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }

    #[test]
    fn counts_add_up_over_vcpus() {
        let mut counts = ExitCounts::default();
        counts.count(ExitKind::IoOut);
        counts.count(ExitKind::IoOut);
        let mut total = BTreeMap::new();
        counts.add_to(&mut total);
        counts.add_to(&mut total);
        assert_eq!(total, BTreeMap::from([("io_out".to_owned(), 4)]));
    }
}

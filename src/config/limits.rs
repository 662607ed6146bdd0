//! What a number of CPUs and a size of memory must keep to.

use super::ConfigError;
use crate::memory::layout::{HIGH_RAM_START, ram_ranges};

/// Size of a page in bytes: guest RAM is made of whole ones.
const PAGE_SIZE: u64 = 4096;

/// The least memory a VM can have in bytes: the first megabyte holds what
/// Mayfly itself places (page tables, ACPI tables).
const MEMORY_MIN: u64 = HIGH_RAM_START;

/// Checks a number of vCPUs against KVM's maximum (`KVM_CAP_MAX_VCPUS`).
///
/// # Errors
/// [`ConfigError::NoCpu`], [`ConfigError::TooManyCpus`].
pub fn check_cpus(cpus: u32, max: u32) -> Result<(), ConfigError> {
    cpus_present(cpus)?;
    if cpus > max {
        return Err(ConfigError::TooManyCpus { cpus, max });
    }
    Ok(())
}

/// Checks that all RAM of a machine with `size` bytes, laid out round the PCI
/// hole, has physical addresses of at most `phys_bits` bits
/// (CPUID 0x8000_0008, EAX bits 7:0).
///
/// # Errors
/// [`ConfigError::TooLittleMemory`], [`ConfigError::PartialPage`],
/// [`ConfigError::BeyondAddressWidth`].
pub fn check_memory(size: u64, phys_bits: u8) -> Result<(), ConfigError> {
    memory_usable(size)?;
    let too_large = ConfigError::BeyondAddressWidth {
        size,
        bits: phys_bits,
    };
    let end = ram_ranges(size)
        .last()
        .and_then(|range| range.start.checked_add(range.len));
    let limit = 1_u64.checked_shl(u32::from(phys_bits)).unwrap_or(u64::MAX);
    match end {
        Some(end) if end <= limit => Ok(()),
        _ => Err(too_large),
    }
}

/// At least one vCPU.
pub(super) fn cpus_present(cpus: u32) -> Result<(), ConfigError> {
    if cpus == 0 {
        return Err(ConfigError::NoCpu);
    }
    Ok(())
}

/// At least the first megabyte, in whole pages.
pub(super) fn memory_usable(size: u64) -> Result<(), ConfigError> {
    if size < MEMORY_MIN {
        return Err(ConfigError::TooLittleMemory { size });
    }
    if !size.is_multiple_of(PAGE_SIZE) {
        return Err(ConfigError::PartialPage { size });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpus_up_to_the_maximum() {
        assert!(check_cpus(1, 1).is_ok());
        assert!(check_cpus(8, 8).is_ok());
        assert_eq!(check_cpus(0, 8), Err(ConfigError::NoCpu));
        assert_eq!(
            check_cpus(9, 8),
            Err(ConfigError::TooManyCpus { cpus: 9, max: 8 })
        );
    }

    #[test]
    fn memory_up_to_the_address_width_hole_included() {
        // 36 bits are 64 GiB of addresses, 1 GiB of which is the hole.
        assert!(check_memory(63 << 30, 36).is_ok());
        assert!(check_memory((63 << 30) + PAGE_SIZE, 36).is_err());
        assert!(check_memory(6 << 30, 36).is_ok());
        assert!(check_memory(3 << 30, 32).is_ok());
        assert!(check_memory(4 << 30, 32).is_err());
    }

    proptest! {
        #[test]
        fn no_size_and_no_width_panics(size: u64, bits: u8) {
            let _ = check_memory(size, bits);
        }
    }
}

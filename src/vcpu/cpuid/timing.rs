//! How fast the TSC is, told so that no guest measures it against a timer.
//!
//! Who has kvmclock reads it there. Others ask the hypervisor's timing leaf (FreeBSD,
//! newer Linux), or leaf 0x15, in which an Intel processor tells it (Linux without kvmclock).

use kvm_bindings::kvm_cpuid_entry2;

/// The leaf that tells TSC and APIC bus frequency in kHz (the convention VMware introduced).
pub(super) const LEAF_TIMING: u32 = 0x4000_0010;
/// First hypervisor leaf: EAX is the highest one.
pub(super) const LEAF_HYPERVISOR: u32 = 0x4000_0000;
/// Intel SDM vol. 2A, CPUID, leaf 0x15: the TSC's frequency is ECX Hz times EBX / EAX.
pub(super) const LEAF_TSC: u32 = 0x15;
/// KVM's local APIC timer ticks every nanosecond.
pub(super) const APIC_BUS_KHZ: u32 = 1_000_000;
/// Linux multiplies the numerator by the crystal's kHz, in 32 bits.
const MAX_NUMERATOR: u32 = u32::MAX / APIC_BUS_KHZ;

/// Adds the hypervisor's leaf.
pub(super) fn add_timing_leaf(entries: &mut Vec<kvm_cpuid_entry2>, tsc_khz: u32) {
    let Some(first) = entries.iter_mut().find(|e| e.function == LEAF_HYPERVISOR) else {
        return;
    };
    if tsc_khz == 0 {
        return;
    }
    first.eax = first.eax.max(LEAF_TIMING);
    entries.push(kvm_cpuid_entry2 {
        function: LEAF_TIMING,
        eax: tsc_khz,
        ebx: APIC_BUS_KHZ,
        ..Default::default()
    });
}

/// Fills in leaf 0x15, which KVM leaves empty. The crystal is the APIC timer's clock, for
/// which Linux takes it.
pub(super) fn tell_tsc_ratio(entries: &mut Vec<kvm_cpuid_entry2>, tsc_khz: u32) {
    let told = |e: &kvm_cpuid_entry2| e.function == LEAF_TSC && e.ebx != 0;
    let Some((numerator, denominator)) = ratio(tsc_khz) else {
        return;
    };
    if entries.iter().any(told) {
        return;
    }
    entries.retain(|e| e.function != LEAF_TSC);
    entries.push(kvm_cpuid_entry2 {
        function: LEAF_TSC,
        eax: denominator,
        ebx: numerator,
        ecx: APIC_BUS_KHZ.saturating_mul(1000),
        ..Default::default()
    });
}

/// The fraction nearest to `tsc_khz` / [`APIC_BUS_KHZ`] whose numerator is small enough:
/// within 120 millionths of it above 1 GHz.
fn ratio(tsc_khz: u32) -> Option<(u32, u32)> {
    let (tsc, bus) = (u64::from(tsc_khz), u64::from(APIC_BUS_KHZ));
    let mut best: Option<(u64, u64, u64)> = None;
    for denominator in 1..=u64::from(MAX_NUMERATOR) {
        let exact = tsc.saturating_mul(denominator);
        let numerator = (exact + bus / 2) / bus;
        if numerator > u64::from(MAX_NUMERATOR) {
            break;
        }
        if numerator == 0 {
            continue;
        }
        // The distance of the fractions is this over `bus` and the denominator.
        let off = numerator.saturating_mul(bus).abs_diff(exact);
        let nearer = |&(_, by, other): &(u64, u64, u64)| off * by < other * denominator;
        if best.as_ref().is_none_or(nearer) {
            best = Some((numerator, denominator, off));
        }
        if off == 0 {
            break;
        }
    }
    let (numerator, denominator, _) = best?;
    Some((
        u32::try_from(numerator).ok()?,
        u32::try_from(denominator).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(function: u32, registers: [u32; 3]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx] = registers;
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            ..Default::default()
        }
    }

    #[test]
    fn an_empty_leaf_is_filled_and_a_full_one_left() {
        let mut table = vec![leaf(LEAF_TSC, [0, 0, 0])];
        tell_tsc_ratio(&mut table, 2_500_000);
        assert_eq!(table, [leaf(LEAF_TSC, [2, 5, 1_000_000_000])]);
        let told = leaf(LEAF_TSC, [2, 168, 25_000_000]);
        let mut table = vec![told];
        tell_tsc_ratio(&mut table, 2_100_000);
        assert_eq!(table, [told]);
        let mut table = Vec::new();
        tell_tsc_ratio(&mut table, 0);
        assert!(table.is_empty());
    }

    proptest! {
        /// As Linux computes it, with unsigned 32-bit integers.
        #[test]
        fn linux_finds_the_frequency(khz in 1_000_000u32..=4_200_000) {
            let (numerator, denominator) = ratio(khz).unwrap();
            let crystal_khz = 1_000_000_000u32 / 1000;
            let found = crystal_khz.checked_mul(numerator).unwrap() / denominator;
            let off = u64::from(found.abs_diff(khz)) * 1_000_000 / u64::from(khz);
            prop_assert!(off <= 120, "{khz}: {found}");
        }

        #[test]
        fn no_frequency_is_too_odd(khz: u32) {
            let mut table = Vec::new();
            tell_tsc_ratio(&mut table, khz);
            prop_assert!(table.len() <= 1);
        }
    }
}

//! Where each component of the XSAVE state lies, in the standard and in the
//! compacted form (SDM vol. 1 §13.4).

use std::arch::x86_64::{__cpuid, __cpuid_count};

/// Where the XSAVE header begins.
pub(super) const HEADER: usize = 512;
/// Where the extended region begins.
pub(super) const EXTENDED: usize = 576;
/// Bit 63 of XCOMP_BV: the area is in the compacted form.
pub(super) const COMPACTED: u64 = 1 << 63;
/// x87 and SSE state: the legacy region.
pub(super) const X87: u64 = 1;
/// XMM registers.
pub(super) const SSE: u64 = 1 << 1;
/// Upper halves of the YMM registers.
pub(super) const AVX: u64 = 1 << 2;

/// Components beyond the legacy region are numbered 2 to 62.
const NUMBERS: std::ops::RangeInclusive<u32> = 2..=62;

/// One component of the extended region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Component {
    /// Bit in XCR0, XSTATE_BV and XCOMP_BV.
    pub number: u32,
    /// Offset in the standard form.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// Begins at a multiple of 64 in the compacted form.
    pub aligned: bool,
}

impl Component {
    /// This component's bit.
    pub fn bit(&self) -> u64 {
        1u64.checked_shl(self.number).unwrap_or(0)
    }
}

/// The components a processor has, by number.
#[derive(Clone, Debug)]
pub(super) struct XsaveLayout(Vec<Component>);

impl XsaveLayout {
    /// The host's, from CPUID leaf 0xd: KVM exchanges images in this layout.
    pub fn of_host() -> Self {
        const XSTATE: u32 = 0xd;
        if __cpuid(0).eax < XSTATE {
            return Self(Vec::new());
        }
        let (user, supervisor) = (__cpuid_count(XSTATE, 0), __cpuid_count(XSTATE, 1));
        let low = user.eax | supervisor.ecx;
        let high = user.edx | supervisor.edx;
        let present = u64::from(low) | u64::from(high) << 32;
        let component = |number| {
            let leaf = __cpuid_count(XSTATE, number);
            Component {
                number,
                offset: leaf.ebx as usize,
                size: leaf.eax as usize,
                aligned: leaf.ecx & 2 != 0,
            }
        };
        Self::from_components(
            NUMBERS
                .filter(|number| present >> number & 1 != 0)
                .map(component),
        )
    }

    fn from_components(components: impl Iterator<Item = Component>) -> Self {
        // Supervisor components have no offset in the standard form; KVM's image leaves them out.
        Self(components.filter(|component| component.size > 0).collect())
    }

    /// The component of that number, if it has a place in the standard form.
    pub fn component(&self, number: u32) -> Option<&Component> {
        self.0
            .iter()
            .find(|component| component.number == number && component.offset >= EXTENDED)
    }

    /// The bits of all components that the standard form has a place for.
    pub fn in_standard_form(&self) -> u64 {
        self.standard(u64::MAX)
            .fold(X87 | SSE, |all, (component, _)| all | component.bit())
    }

    /// Components of `mask` with their offset in the standard form.
    pub fn standard(&self, mask: u64) -> impl Iterator<Item = (Component, usize)> + '_ {
        self.0
            .iter()
            .filter(move |component| component.bit() & mask != 0 && component.offset >= EXTENDED)
            .map(|component| (*component, component.offset))
    }

    /// Components of `xcomp_bv` with their offset in an area compacted by it.
    pub fn compacted(&self, xcomp_bv: u64) -> impl Iterator<Item = (Component, usize)> + '_ {
        let mut next = EXTENDED;
        self.0
            .iter()
            .filter(move |component| component.bit() & xcomp_bv != 0)
            .map(move |component| {
                let at = if component.aligned {
                    next.next_multiple_of(64)
                } else {
                    next
                };
                next = at.saturating_add(component.size);
                (*component, at)
            })
    }

    /// Length of an area that holds the components of `mask`.
    pub fn area_len(&self, mask: u64, compacted: bool) -> usize {
        let end = |(component, at): (Component, usize)| at.saturating_add(component.size);
        let last = if compacted {
            self.compacted(mask).map(end).max()
        } else {
            self.standard(mask).map(end).max()
        };
        last.unwrap_or(EXTENDED)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The sizes and offsets of a processor with AVX, AVX-512, PKRU and CET (CPUID 0xd).
    pub fn sample() -> XsaveLayout {
        let rows = [
            (2, 576, 256, false),
            (5, 832, 64, false),
            (6, 896, 512, false),
            (7, 1408, 1024, false),
            (9, 2432, 8, false),
            (11, 0, 16, false),
            (17, 2752, 64, true),
        ];
        XsaveLayout::from_components(rows.into_iter().map(|(number, offset, size, aligned)| {
            Component {
                number,
                offset,
                size,
                aligned,
            }
        }))
    }

    #[test]
    fn compacted_components_follow_each_other() {
        let layout = sample();
        let places: Vec<_> = layout
            .compacted(COMPACTED | 0b10_0000_0100)
            .map(|(component, at)| (component.number, at))
            .collect();
        assert_eq!(places, [(2, 576), (9, 832)]);
    }

    #[test]
    fn aligned_components_begin_at_64() {
        let layout = sample();
        let places: Vec<_> = layout
            .compacted(COMPACTED | 1 << 9 | 1 << 17)
            .map(|(component, at)| (component.number, at))
            .collect();
        assert_eq!(places, [(9, 576), (17, 640)]);
    }

    #[test]
    fn supervisor_components_count_only_when_compacted() {
        let layout = sample();
        assert_eq!(layout.standard(1 << 11).count(), 0);
        assert_eq!(layout.area_len(1 << 11, true), 592);
        assert_eq!(layout.area_len(1 << 11, false), 576);
        assert_eq!(layout.area_len(0b111, false), 832);
    }

    #[test]
    fn the_hosts_layout_agrees_with_its_own_total() {
        let layout = XsaveLayout::of_host();
        let leaf = __cpuid_count(0xd, 0);
        let xcr0 = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
        assert_eq!(layout.area_len(xcr0, false), leaf.ecx as usize);
    }
}

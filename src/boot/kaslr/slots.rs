//! The places a kernel may be put at, of which one is drawn.

use std::ops::Range;

/// Places at equal distances, the first being where the kernel was linked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    align: u64,
    /// Numbers of the places, in two ranges: before and behind what is avoided.
    before: Range<u64>,
    behind: Range<u64>,
}

impl Slots {
    /// The places from `linked` on, `align` bytes from each other, at which the kernel
    /// ends at `end` at the latest and does not overlap `avoid`, which is clear of
    /// `linked`. There is one at least, `linked` itself.
    pub(super) fn new(
        linked: &Range<u64>,
        align: u64,
        end: u64,
        avoid: Option<&Range<u64>>,
    ) -> Self {
        let align = align.max(1);
        // Places that start at their number times `align` and end at `limit` at the latest.
        let until = |limit: u64| (limit.saturating_sub(linked.end) / align).saturating_add(1);
        let all = until(end);
        let (before, behind) = match avoid {
            Some(avoid) if avoid.start >= linked.end => {
                let first = avoid.end.saturating_sub(linked.start).div_ceil(align);
                (until(avoid.start).min(all), first.min(all))
            }
            _ => (all, all),
        };
        Self {
            align,
            before: 0..before,
            behind: behind.max(before)..all,
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        let len = |range: &Range<u64>| range.end.saturating_sub(range.start);
        len(&self.before).saturating_add(len(&self.behind))
    }

    /// What drawing one is worth.
    pub(super) fn bits(&self) -> f64 {
        (self.count() as f64).log2()
    }

    /// The distance from `linked` of the place that a random number picks, in bytes.
    /// 64 bits for some thousand places: none is noticeably likelier than another.
    pub(super) fn shift(&self, random: u64) -> u64 {
        let picked = (u128::from(random) * u128::from(self.count())) >> 64;
        let picked = u64::try_from(picked).unwrap_or(0);
        let number = match picked.checked_sub(self.before.end) {
            None => picked,
            Some(further) => self.behind.start.saturating_add(further),
        };
        number.saturating_mul(self.align)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Every place, by its distance, from random numbers all over the range.
    fn all(slots: &Slots) -> Vec<u64> {
        let mut shifts: Vec<u64> = (0..4096).map(|i| slots.shift(i << 52)).collect();
        shifts.dedup();
        shifts
    }

    #[test]
    fn they_reach_from_the_linked_address_to_the_end() {
        // 41 MiB at 16 MiB in 64 MiB: 0, 2, 4 and 6 MiB further.
        let linked = 16 * MIB..57 * MIB;
        let slots = Slots::new(&linked, 2 * MIB, 64 * MIB, None);
        assert_eq!(all(&slots), [0, 2 * MIB, 4 * MIB, 6 * MIB]);
        assert_eq!((slots.count(), slots.bits()), (4, 2.0));
        // Exactly full, and one byte too little.
        assert_eq!(Slots::new(&linked, 2 * MIB, 59 * MIB, None).count(), 2);
        assert_eq!(Slots::new(&linked, 2 * MIB, 59 * MIB - 1, None).count(), 1);
    }

    #[test]
    fn they_are_clear_of_the_initrd_on_both_sides() {
        let linked = 16 * MIB..20 * MIB;
        let initrd = 25 * MIB..27 * MIB;
        let slots = Slots::new(&linked, 2 * MIB, 34 * MIB, Some(&initrd));
        // Starts at 16, 18, 20 (ends at 24); then at 28 (first after 27) and 30.
        assert_eq!(all(&slots), [0, 2, 4, 12, 14].map(|mib| mib * MIB));
        assert_eq!(slots.count(), 5);
    }

    #[test]
    fn an_initrd_beside_the_range_takes_nothing() {
        let linked = 16 * MIB..20 * MIB;
        for initrd in [MIB..16 * MIB, 24 * MIB..25 * MIB, 4096 * MIB..5000 * MIB] {
            let slots = Slots::new(&linked, 2 * MIB, 24 * MIB, Some(&initrd));
            assert_eq!(all(&slots), [0, 2 * MIB, 4 * MIB], "{initrd:?}");
        }
    }

    #[test]
    fn where_there_is_no_room_the_linked_address_is_left() {
        let linked = 16 * MIB..20 * MIB;
        for end in [0, 20 * MIB, 20 * MIB + 1] {
            let slots = Slots::new(&linked, 2 * MIB, end, None);
            assert_eq!((slots.count(), slots.bits()), (1, 0.0));
            assert_eq!(slots.shift(u64::MAX), 0);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_drawn_lies_in_the_range_and_clear_of_the_initrd(
            start in 1u64..0x1_0000_0000,
            len in 1u64..0x4000_0000,
            align in proptest::sample::select(vec![1u64, 4096, 2 << 20, 16 << 20]),
            room in 0u64..0x1_0000_0000,
            gap in 0u64..0x1_0000_0000,
            initrd in 1u64..0x1_0000_0000,
            random: u64,
        ) {
            let linked = start..start + len;
            let end = linked.end + room;
            let avoid = linked.end + gap..linked.end + gap + initrd;
            let slots = Slots::new(&linked, align, end, Some(&avoid));
            let shift = slots.shift(random);
            let (from, to) = (linked.start + shift, linked.end + shift);
            proptest::prop_assert!(shift.is_multiple_of(align) && to <= end);
            proptest::prop_assert!(to <= avoid.start || from >= avoid.end);
        }
    }
}

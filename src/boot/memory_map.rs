//! The memory map the guest is told: which guest-physical addresses are RAM.
//!
//! Both protocols carry the same map, as e820 entries or as PVH's table; the
//! type numbers agree (ACPI specification, table "Address Range Types").

use crate::memory::GuestRam;
use crate::memory::layout;

/// What a range of addresses is, with the number both protocols use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// RAM the guest may use.
    Ram = 1,
    /// Not to be touched or reused.
    Reserved = 2,
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Guest-physical address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: MapKind,
}

/// The map of a machine with this RAM, sorted by address, without overlap.
///
/// As few entries as the machine allows: Linux goes through all of them for
/// each hole in its page tables, which takes most of a second where its code
/// is interpreted. What is not listed is not RAM, so the PCI hole is absent;
/// the ACPI tables lie in the reserved part of the first MiB, as on a PC.
pub fn memory_map(ram: &GuestRam) -> Vec<MapEntry> {
    let mut map = Vec::new();
    let mut add = |start: u64, end: u64, kind| {
        if end > start {
            map.push(MapEntry {
                start,
                len: end.saturating_sub(start),
                kind,
            });
        }
    };
    let low_end = low_ram_end(ram);
    add(0, low_end.min(layout::EBDA_START), MapKind::Ram);
    add(
        layout::EBDA_START,
        layout::HIGH_RAM_START,
        MapKind::Reserved,
    );
    add(layout::HIGH_RAM_START, low_end, MapKind::Ram);
    for (range, _) in ram.regions() {
        if range.start >= layout::PCI_HOLE_END {
            add(
                range.start,
                range.start.saturating_add(range.len),
                MapKind::Ram,
            );
        }
    }
    map
}

/// End of the RAM below the PCI hole (exclusive).
pub(super) fn low_ram_end(ram: &GuestRam) -> u64 {
    ram.size().min(layout::PCI_HOLE_START)
}

/// End of the RAM above 4 GiB (exclusive), if there is any.
pub(super) fn high_ram_end(ram: &GuestRam) -> Option<u64> {
    ram.regions()
        .map(|(range, _)| range)
        .find(|range| range.start >= layout::PCI_HOLE_END)
        .map(|range| range.start.saturating_add(range.len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable(map: &[MapEntry]) -> Vec<(u64, u64)> {
        map.iter()
            .filter(|entry| entry.kind == MapKind::Ram)
            .map(|entry| (entry.start, entry.start + entry.len))
            .collect()
    }

    #[test]
    fn six_gib_lie_on_both_sides_of_the_pci_hole() {
        let map = memory_map(&GuestRam::new(6 << 30).unwrap());
        assert_eq!(
            usable(&map),
            [
                (0, 0x9_fc00),
                (0x10_0000, 0xc000_0000),
                (0x1_0000_0000, 0x1_c000_0000)
            ]
        );
    }

    #[test]
    fn entries_are_sorted_and_disjoint_whatever_the_size() {
        for size in [
            1 << 20,
            2 << 20,
            512 << 20,
            3 << 30,
            (3 << 30) + 4096,
            8 << 30,
        ] {
            let map = memory_map(&GuestRam::new(size).unwrap());
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].len <= pair[1].start, "{size:#x}");
            }
            let low = layout::HIGH_RAM_START - layout::EBDA_START;
            let total: u64 = usable(&map).iter().map(|(start, end)| end - start).sum();
            assert_eq!(total, size - low, "{size:#x}");
        }
    }

    #[test]
    fn acpi_tables_are_not_usable_and_the_pci_hole_is_nothing() {
        let map = memory_map(&GuestRam::new(256 << 20).unwrap());
        let kind_at = |addr: u64| {
            map.iter()
                .find(|entry| (entry.start..entry.start + entry.len).contains(&addr))
                .map(|entry| entry.kind)
        };
        assert_eq!(kind_at(layout::ACPI_START), Some(MapKind::Reserved));
        assert_eq!(kind_at(layout::ACPI_END - 1), Some(MapKind::Reserved));
        assert_eq!(kind_at(layout::EBDA_START), Some(MapKind::Reserved));
        assert_eq!(kind_at(layout::MMIO32_START), None);
        assert_eq!(kind_at(layout::KVM_TSS_ADDR), None);
    }
}

//! What a driver finds in configuration space and in the common structure.

use super::*;

#[test]
fn a_driver_finds_its_structures() {
    let mut bench = bench();
    assert_eq!(bench.config32(0), 0x1044_1af4, "an entropy device");
    assert_eq!(bench.config32(8) & 0xff, 1, "not transitional");
    assert!(bench.config32(0x2c) >> 16 >= 0x40);
    assert_eq!(bench.config32(0x3c) >> 8 & 0xff, 1, "INTA");
    for (kind, offset, length) in [
        (1, 0, 0x38),
        (2, 0x3000, 2 * 4),
        (3, 0x1000, 1),
        (4, 0x2000, 0x1000),
    ] {
        let at = bench.virtio_capability(kind);
        assert_eq!(bench.config8(at + 4), 0, "BAR 0");
        assert_eq!(bench.config32(at + 8), offset);
        assert_eq!(bench.config32(at + 12), length);
        let expected = if kind == 2 { 20 } else { 16 };
        assert_eq!(bench.config8(at + 2), expected);
    }
    let notify = bench.virtio_capability(2);
    assert_eq!(bench.config32(notify + 16), 4, "multiplier");
    let msix = bench.capabilities(0x11);
    assert_eq!(msix.len(), 1);
    assert_eq!(bench.config32(msix[0]) >> 16, 2, "three vectors, off");
    assert_eq!(bench.config32(msix[0] + 4), 0x8000);
    assert_eq!(bench.config32(msix[0] + 8), 0x7000);
}

#[test]
fn a_driver_starts_the_device() {
    let mut bench = bench();
    bench.set32(0, 1);
    assert_eq!(bench.get32(4), 1, "VERSION_1");
    bench.set32(0, 0);
    assert_eq!(bench.get32(4), 1 << 29 | 1 << 28 | 1 << 9 | 1);
    bench.set32(0, 2);
    assert_eq!(bench.get32(4), 0);
    assert_eq!(bench.get16(0x12), 2, "queues");
    for (queue, size, offset) in [(0, 256, 0), (1, 16, 1), (2, 0, 0), (0xffff, 0, 0)] {
        bench.set16(0x16, queue);
        assert_eq!((bench.get16(0x18), bench.get16(0x1e)), (size, offset));
    }
    let mut bench = bench.started();
    assert_eq!(bench.get32(0x0c), 1, "features 32 to 63");
    bench.set16(0x16, 1);
    assert_eq!((bench.get16(0x18), bench.get16(0x1c)), (16, 1));
    assert_eq!((bench.get32(0x20), bench.get32(0x24)), (0x8000, 0));
    assert_eq!((bench.get32(0x28), bench.get32(0x30)), (0x9000, 0xa000));
    let activations = bench.probe.log().activations.clone();
    assert_eq!(activations, [(1 << 32 | 1 << 29, vec![(0, 16), (1, 16)])]);
}

#[test]
fn addresses_come_in_halves_and_other_widths_do_nothing() {
    let mut bench = bench();
    bench.set32(0x20, 0x1111_1000);
    bench.set32(0x24, 0x22);
    bench.set32(0x34, 0x33);
    bench.set32(0x30, 0x4000);
    let mut data = [0; 8];
    bench.pci.read_memory(0x20, &mut data);
    assert_eq!(u64::from_le_bytes(data), 0x22_1111_1000);
    bench.pci.read_memory(0x30, &mut data);
    assert_eq!(u64::from_le_bytes(data), 0x33_0000_4000);
    let before = bench.pci.state();
    for offset in 0..0x1000 {
        if offset != 0x14 {
            bench.set8(offset, 0xff);
        }
        if !matches!(offset, 0x10 | 0x16 | 0x18 | 0x1a | 0x1c) {
            bench.set16(offset, 1);
        }
        if !matches!(
            offset,
            0 | 8 | 0xc | 0x20 | 0x24 | 0x28 | 0x2c | 0x30 | 0x34
        ) {
            bench.set32(offset, 0xffff_ffff);
        }
        if !matches!(offset, 0x20 | 0x28 | 0x30) {
            bench.set64(offset, u64::MAX);
        }
    }
    bench.set16(0x1c, 2);
    bench.set16(0x1c, 0);
    assert_eq!(bench.pci.state(), before);
    assert_eq!(bench.get32(0x38), 0, "beyond the end");
}

#[test]
fn the_device_has_its_configuration_space() {
    let mut bench = bench();
    bench.probe.log().config = [1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(bench.get32(0x2004), 0x0807_0605);
    assert_eq!(bench.get32(0x2006), 0x0807);
    let mut bench = bench.started();
    bench.set16(0x2002, 0xbbaa);
    assert_eq!(bench.probe.log().config, [1, 2, 0xaa, 0xbb, 5, 6, 7, 8]);
}

#[test]
fn registers_are_reached_through_configuration_space_too() {
    let mut bench = bench();
    let cap = bench.virtio_capability(5);
    let aim = |bench: &mut Bench, bar: u8, offset: u32, length: u32| {
        bench.pci.write_config(cap + 4, &[bar]);
        bench.pci.write_config(cap + 8, &offset.to_le_bytes());
        bench.pci.write_config(cap + 12, &length.to_le_bytes());
    };
    aim(&mut bench, 0, 0x12, 2);
    assert_eq!(bench.config32(cap + 16), 2, "num_queues");
    assert_eq!(bench.config8(cap + 16), 2);
    aim(&mut bench, 0, 0x16, 2);
    bench.pci.write_config(cap + 16, &[1, 0, 0, 0]);
    assert_eq!(bench.get16(0x16), 1);
    aim(&mut bench, 0, 0x20, 4);
    bench.pci.write_config(cap + 16, &0x5000u32.to_le_bytes());
    assert_eq!(bench.get32(0x20), 0x5000);
    for (bar, offset, length) in [
        (1, 0x20, 4),
        (0, 0x21, 4),
        (0, 0x20, 3),
        (0, 0x20, 0),
        (0, 0x20, 8),
        (0, 0x1_0000, 4),
        (0, 0xffff_fffc, 4),
    ] {
        aim(&mut bench, bar, offset, length);
        bench.pci.write_config(cap + 16, &[0xff; 4]);
        assert_eq!(bench.config32(cap + 16), 0);
        assert_eq!(bench.get32(0x20), 0x5000);
    }
}

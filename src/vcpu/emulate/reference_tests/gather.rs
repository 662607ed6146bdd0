//! Gathers and scatters (SDM vol. 2, VPGATHERDD, VPSCATTERDD): elements from addresses in a vector.

use super::super::exception::Exception;
use super::super::testing::{END_OF_MAP, KERNEL_DATA, Machine};
use super::forms::*;
use super::harness::{differences, same};
use super::model::{Vector, get, set};
use super::processor::Processor;
use super::registers as guest;

/// Sizes of elements and of indexes in bytes, and how many there are.
struct Shape {
    element: usize,
    index: usize,
    count: usize,
}

const TABLE: u64 = KERNEL_DATA + 0x1000;
const SCALE: i64 = 4;

/// Displacements of the elements, in units of the scale: some negative, two the same.
const PLACES: [i64; 16] = [
    3, -7, 100, 0, 55, -60, 3, 21, 88, -1, 17, 9, -33, 64, 40, 77,
];

fn address(base: u64, place: i64) -> u64 {
    base.wrapping_add_signed(place * SCALE)
}

fn indexes(shape: &Shape) -> Vector {
    let mut vector = [0xee; 64];
    for (lane, place) in PLACES.iter().take(64 / shape.index).enumerate() {
        match shape.index {
            4 => set(&mut vector, lane, *place as i32),
            _ => set(&mut vector, lane, *place),
        }
    }
    vector
}

fn pattern(seed: u8) -> Vector {
    std::array::from_fn(|at| (at as u8).wrapping_mul(37).wrapping_add(seed))
}

/// Registers: indexes in 4 (or 20), data in 1 (or 17), the VEX forms' mask in 2.
fn machine(shape: &Shape) -> Machine {
    let mut machine = guest::machine();
    let table: Vec<u8> = (0..0x2000u32)
        .map(|at| (at * 7 / 3 + at / 256) as u8)
        .collect();
    machine.ram.write(KERNEL_DATA, &table).unwrap();
    machine.regs.rdi = TABLE;
    for number in 0..32 {
        guest::set_vector(&mut machine, number, &pattern(number as u8));
    }
    for number in [4, 20] {
        guest::set_vector(&mut machine, number, &indexes(shape));
    }
    machine
}

fn memory_element(machine: &Machine, shape: &Shape, lane: usize) -> Vec<u8> {
    let mut bytes = vec![0; shape.element];
    let at = address(machine.regs.rdi, PLACES[lane]);
    machine.ram.read(at, &mut bytes).unwrap();
    bytes
}

/// The destination after lanes of `mask` were gathered; zero past the last.
fn gathered(machine: &Machine, shape: &Shape, old: &Vector, mask: u64) -> Vector {
    let mut value = [0; 64];
    for lane in 0..shape.count {
        let place = lane * shape.element..(lane + 1) * shape.element;
        if mask >> lane & 1 == 1 {
            value[place].copy_from_slice(&memory_element(machine, shape, lane));
        } else {
            value[place.clone()].copy_from_slice(&old[place]);
        }
    }
    value
}

fn shape(element: usize, index: usize, count: usize) -> Shape {
    Shape {
        element,
        index,
        count,
    }
}

fn unknown(form: &Form, feature: &str) -> bool {
    let unknown = !Processor::Host.has(feature);
    if unknown {
        let fault = guest::machine().fault(form.code);
        assert_eq!(fault, Exception::invalid_opcode(), "{}", form.text);
    }
    unknown
}

const MASKS: [u64; 5] = [u64::MAX, 0, 0b1010_0110_1100_0101, 1, 0xf0f0];

#[test]
fn gathers_by_opmask() {
    let rows = [
        (
            forms!["vpgatherdd zmm17 {k1}, [rdi + zmm4*4]"],
            shape(4, 4, 16),
        ),
        (
            forms!["vpgatherdd ymm17 {k1}, [rdi + ymm20*4]"],
            shape(4, 4, 8),
        ),
        (
            forms!["vpgatherdd xmm1 {k1}, [rdi + xmm20*4]"],
            shape(4, 4, 4),
        ),
        (
            forms!["vpgatherdq zmm17 {k1}, [rdi + ymm4*4]"],
            shape(8, 4, 8),
        ),
        (
            forms!["vpgatherdq xmm17 {k1}, [rdi + xmm4*4]"],
            shape(8, 4, 2),
        ),
        (
            forms!["vpgatherqd ymm17 {k1}, [rdi + zmm4*4]"],
            shape(4, 8, 8),
        ),
        (
            forms!["vpgatherqd xmm17 {k1}, [rdi + xmm4*4]"],
            shape(4, 8, 2),
        ),
        (
            forms!["vpgatherqq zmm1 {k1}, [rdi + zmm20*4]"],
            shape(8, 8, 8),
        ),
        (
            forms!["vgatherdps zmm1 {k1}, [rdi + zmm4*4]"],
            shape(4, 4, 16),
        ),
        (
            forms!["vgatherqpd ymm1 {k1}, [rdi + ymm4*4]"],
            shape(8, 8, 4),
        ),
    ];
    for (forms, shape) in &rows {
        let form = &forms[0];
        if unknown(form, "avx512vl") {
            continue;
        }
        let to = if form.text.contains("mm17") { 17 } else { 1 };
        for mask in MASKS {
            let (mut is, mut should) = (machine(shape), machine(shape));
            guest::set_mask(&mut is, 1, mask);
            let value = gathered(&should, shape, &guest::vector(&should, to), mask);
            guest::set_vector(&mut should, to, &value);
            should.regs.rip += form.code.len() as u64;
            is.run(form.code).unwrap();
            differences(&mut is, &should).unwrap_or_else(|text| panic!("{}: {text}", form.text));
        }
    }
}

/// The VEX forms take a vector of signs for a mask, and clear it.
#[test]
fn gathers_by_signs() {
    let rows = [
        (
            forms!["vpgatherdd xmm1, [rdi + xmm4*4], xmm2"],
            shape(4, 4, 4),
        ),
        (
            forms!["vpgatherdd ymm1, [rdi + ymm4*4], ymm2"],
            shape(4, 4, 8),
        ),
        (
            forms!["vpgatherdq ymm1, [rdi + xmm4*4], ymm2"],
            shape(8, 4, 4),
        ),
        (
            forms!["vpgatherqd xmm1, [rdi + ymm4*4], xmm2"],
            shape(4, 8, 4),
        ),
        (
            forms!["vpgatherqd xmm1, [rdi + xmm4*4], xmm2"],
            shape(4, 8, 2),
        ),
        (
            forms!["vpgatherqq xmm1, [rdi + xmm4*4], xmm2"],
            shape(8, 8, 2),
        ),
        (
            forms!["vgatherdps ymm1, [rdi + ymm4*4], ymm2"],
            shape(4, 4, 8),
        ),
    ];
    for (forms, shape) in &rows {
        let form = &forms[0];
        if unknown(form, "avx2") {
            continue;
        }
        for mask in MASKS {
            let (mut is, mut should) = (machine(shape), machine(shape));
            guest::set_vector(&mut is, 2, &signs(shape, mask));
            let value = gathered(&should, shape, &guest::vector(&should, 1), mask);
            guest::set_vector(&mut should, 1, &value);
            guest::set_vector(&mut should, 2, &[0; 64]);
            should.regs.rip += form.code.len() as u64;
            is.run(form.code).unwrap();
            differences(&mut is, &should).unwrap_or_else(|text| panic!("{}: {text}", form.text));
        }
    }
}

fn signs(shape: &Shape, mask: u64) -> Vector {
    let mut vector = [0x7f; 64];
    for lane in (0..64 / shape.element).filter(|lane| mask >> lane & 1 == 1) {
        vector[(lane + 1) * shape.element - 1] = 0x80;
    }
    vector
}

#[test]
fn scatters() {
    let rows = [
        (
            forms!["vpscatterdd [rdi + zmm4*4] {k1}, zmm17"],
            shape(4, 4, 16),
        ),
        (
            forms!["vpscatterdq [rdi + xmm20*4] {k1}, ymm17"],
            shape(8, 4, 4),
        ),
        (
            forms!["vpscatterqd [rdi + zmm4*4] {k1}, ymm17"],
            shape(4, 8, 8),
        ),
        (
            forms!["vpscatterqq [rdi + ymm4*4] {k1}, ymm17"],
            shape(8, 8, 4),
        ),
        (
            forms!["vscatterdps [rdi + xmm4*4] {k1}, xmm17"],
            shape(4, 4, 4),
        ),
        (
            forms!["vscatterqpd [rdi + zmm4*4] {k1}, zmm17"],
            shape(8, 8, 8),
        ),
    ];
    for (forms, shape) in &rows {
        let form = &forms[0];
        if unknown(form, "avx512vl") {
            continue;
        }
        for mask in MASKS {
            let (mut is, mut should) = (machine(shape), machine(shape));
            guest::set_mask(&mut is, 1, mask);
            // In order: the last of those with the same address stays.
            let data = guest::vector(&should, 17);
            for lane in (0..shape.count).filter(|lane| mask >> lane & 1 == 1) {
                let bytes = &data[lane * shape.element..][..shape.element];
                let at = address(TABLE, PLACES[lane]);
                should.ram.write(at, bytes).unwrap();
            }
            should.regs.rip += form.code.len() as u64;
            is.run(form.code).unwrap();
            differences(&mut is, &should).unwrap_or_else(|text| panic!("{}: {text}", form.text));
            for at in (KERNEL_DATA..KERNEL_DATA + 0x2000).step_by(8) {
                assert_eq!(
                    is.ram.read_u64(at).unwrap(),
                    should.ram.read_u64(at).unwrap()
                );
            }
        }
    }
}

/// What was gathered before a fault stays, and leaves the mask, so that the
/// instruction can be run again and goes on where it stopped.
#[test]
fn a_fault_keeps_the_elements_done() {
    let forms = forms![
        "vpgatherdd zmm17 {k1}, [rdi + zmm4*4]",
        "vpgatherdd ymm1, [rdi + ymm4*4], ymm2",
    ];
    let shape = shape(4, 4, 8);
    for (form, feature) in forms.iter().zip(["avx512f", "avx2"]) {
        if unknown(form, feature) {
            continue;
        }
        let mut machine = machine(&shape);
        // Lane 5 lies past the end of memory.
        let mut places = indexes(&shape);
        set(&mut places, 5, ((END_OF_MAP - TABLE) as i64 / SCALE) as i32);
        guest::set_vector(&mut machine, 4, &places);
        guest::set_mask(&mut machine, 1, 0b1110_1101);
        guest::set_vector(&mut machine, 2, &signs(&shape, 0b1110_1101));
        let mut before = guest::machine();
        same(&machine, &mut before);
        let fault = machine.fault(form.code);
        assert_eq!(fault, Exception::page_fault(END_OF_MAP, 0));
        assert_eq!(machine.regs, before.regs);
        let (to, left) = if feature == "avx2" {
            let mask = guest::vector(&machine, 2);
            let sign = |lane: usize| u64::from(get::<u32>(&mask, lane) >> 31);
            (1, (0..8).fold(0, |bits, lane| bits | sign(lane) << lane))
        } else {
            (17, guest::mask(&machine, 1))
        };
        // Lanes 0, 2 and 3 are done, 5 is not; what came after it may be either.
        assert_eq!(left & 0b11_1111, 0b10_0000, "{}", form.text);
        let (new, old) = (guest::vector(&machine, to), guest::vector(&before, to));
        for lane in [0, 2, 3] {
            let bytes = memory_element(&machine, &shape, lane);
            assert_eq!(new[lane * 4..][..4], bytes, "{}", form.text);
        }
        for lane in [1, 4, 5] {
            assert_eq!(new[lane * 4..][..4], old[lane * 4..][..4], "{}", form.text);
        }
        // Mended, it completes.
        guest::set_vector(&mut machine, 4, &indexes(&shape));
        machine.run(form.code).unwrap();
        let new = guest::vector(&machine, to);
        for lane in [0, 2, 3, 5, 6, 7] {
            let bytes = memory_element(&machine, &shape, lane);
            assert_eq!(new[lane * 4..][..4], bytes, "{}", form.text);
        }
    }
}

/// A scatter writes what precedes the fault, and no more than that of its mask is left.
#[test]
fn a_scatter_that_faults_has_written_what_precedes() {
    let form = &forms!["vpscatterdd [rdi + ymm4*4] {k1}, ymm17"][0];
    if unknown(form, "avx512vl") {
        return;
    }
    let shape = shape(4, 4, 8);
    let mut machine = machine(&shape);
    let mut places = indexes(&shape);
    set(&mut places, 3, ((END_OF_MAP - TABLE) as i64 / SCALE) as i32);
    guest::set_vector(&mut machine, 4, &places);
    guest::set_mask(&mut machine, 1, 0xff);
    let fault = machine.fault(form.code);
    assert_eq!(fault, Exception::page_fault(END_OF_MAP, 2));
    let data = guest::vector(&machine, 17);
    for lane in 0..3 {
        assert_eq!(
            memory_element(&machine, &shape, lane),
            data[lane * 4..][..4]
        );
    }
    // Scatters are ordered: nothing after the fault is written.
    assert_eq!(guest::mask(&machine, 1), 0xf8);
}

/// Elements that the mask leaves out may have any address.
#[test]
fn elements_left_out_do_not_fault() {
    let form = &forms!["vpgatherqq zmm17 {k1}, [rdi + zmm4*4]"][0];
    if unknown(form, "avx512f") {
        return;
    }
    let shape = shape(8, 8, 8);
    let mut machine = machine(&shape);
    let mut places = indexes(&shape);
    set(&mut places, 2, i64::MAX / 5);
    set(&mut places, 6, (END_OF_MAP - TABLE) as i64);
    guest::set_vector(&mut machine, 4, &places);
    guest::set_mask(&mut machine, 1, !0b0100_0100);
    machine.run(form.code).unwrap();
    assert_eq!(guest::mask(&machine, 1), 0);
}

/// The same register twice, or no opmask, is `#UD`.
#[test]
fn registers_must_differ() {
    // VPGATHERDD zmm1 {k1}, [rdi + zmm1*4]; the same with k0; ymm1, [rdi + ymm1*4], ymm2;
    // ymm1, [rdi + ymm4*4], ymm1.
    let codes: [&[u8]; 4] = [
        &[0x62, 0xf2, 0x7d, 0x49, 0x90, 0x0c, 0x8f],
        &[0x62, 0xf2, 0x7d, 0x48, 0x90, 0x0c, 0xa7],
        &[0xc4, 0xe2, 0x6d, 0x90, 0x0c, 0x8f],
        &[0xc4, 0xe2, 0x75, 0x90, 0x0c, 0xa7],
    ];
    for code in codes {
        let mut machine = machine(&shape(4, 4, 8));
        guest::set_mask(&mut machine, 1, 0);
        let fault = machine.fault(code);
        assert_eq!(fault, Exception::invalid_opcode(), "{code:02x?}");
    }
}

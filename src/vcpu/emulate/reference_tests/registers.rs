//! Vector and opmask registers of a guest, put into and taken from its XSAVE image.
//!
//! Where they lie is SDM vol. 1 §13.4 and §13.5, with CPUID's offsets.

use super::super::testing::Machine;
use super::super::xsave_layout;

/// x87, SSE, AVX, opmask and both AVX-512 components.
pub const ALL: u64 = 0xe7;

const MXCSR: usize = 24;

/// A machine with everything up to AVX-512 enabled, whatever this host has.
pub fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.state.xcr0 = ALL;
    if machine.host.xsave.component(7).is_none() {
        machine.host.xsave = xsave_layout::tests::sample();
    }
    machine.state.image.set_in_use(ALL);
    machine
}

fn component(machine: &Machine, number: u32) -> usize {
    machine.host.xsave.component(number).unwrap().offset
}

fn pieces(machine: &Machine, number: usize) -> Vec<(usize, std::ops::Range<usize>)> {
    if number < 16 {
        vec![
            (160 + 16 * number, 0..16),
            (component(machine, 2) + 16 * number, 16..32),
            (component(machine, 6) + 32 * number, 32..64),
        ]
    } else {
        vec![(component(machine, 7) + 64 * (number - 16), 0..64)]
    }
}

pub fn vector(machine: &Machine, number: usize) -> [u8; 64] {
    let mut value = [0; 64];
    for (at, part) in pieces(machine, number) {
        value[part.clone()].copy_from_slice(machine.state.image.get(at, part.len()));
    }
    value
}

pub fn set_vector(machine: &mut Machine, number: usize, value: &[u8; 64]) {
    for (at, part) in pieces(machine, number) {
        machine.state.image.put(at, &value[part]);
    }
}

pub fn mask(machine: &Machine, number: usize) -> u64 {
    let at = component(machine, 5) + 8 * number;
    machine.state.image.number(at, 8)
}

pub fn set_mask(machine: &mut Machine, number: usize, value: u64) {
    let at = component(machine, 5) + 8 * number;
    machine.state.image.put(at, &value.to_le_bytes());
}

pub fn mxcsr(machine: &Machine) -> u32 {
    machine.state.image.number(MXCSR, 4) as u32
}

pub fn set_mxcsr(machine: &mut Machine, value: u32) {
    machine.state.image.put(MXCSR, &value.to_le_bytes());
}

/// RAX, RCX, RDX or RBX by number.
pub fn general(machine: &mut Machine, number: usize) -> &mut u64 {
    let regs = &mut machine.regs;
    [&mut regs.rax, &mut regs.rcx, &mut regs.rdx, &mut regs.rbx]
        .into_iter()
        .nth(number)
        .unwrap()
}

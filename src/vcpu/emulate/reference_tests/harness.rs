//! Runs forms of an instruction on many inputs and compares all a guest can see with the model.

use super::super::error::Stop;
use super::super::exception::Exception;
use super::super::testing::{KERNEL_DATA, Machine, RIP};
use super::forms::{Form, Kind, Operand};
use super::model::{Inputs, Masking, Model, Vector};
use super::processor::Processor;
use super::random::Random;
use super::registers as guest;

/// CPUID features that a form needs, by its encoding.
#[derive(Clone, Copy)]
pub struct Isa {
    pub sse: &'static str,
    pub vex_128: &'static str,
    pub vex_256: &'static str,
    pub evex: &'static str,
}

/// Integer instructions of SSE2, AVX2 and AVX-512F.
pub const INTEGER: Isa = Isa {
    sse: "sse2",
    vex_128: "avx",
    vex_256: "avx2",
    evex: "avx512f",
};
/// The same where AVX-512BW has them.
pub const BYTES: Isa = Isa {
    evex: "avx512bw",
    ..INTEGER
};
/// Floating-point instructions of SSE2, AVX and AVX-512F.
pub const FLOAT: Isa = Isa {
    vex_256: "avx",
    ..INTEGER
};

const INPUTS_PER_FORM: u64 = 8;
const FLAGS: u64 = 0x8d5;
/// The memory that operands are in, around the end of a page.
const WINDOW: u64 = KERNEL_DATA + 0xe00;
const WINDOW_LEN: usize = 0x400;

/// Whether `processor` can execute the form.
fn executes(processor: Processor, form: &Form, isa: Isa) -> bool {
    let has = |feature| processor.has(feature);
    let size = form.operands().iter().map(vector_size).max().unwrap_or(0);
    if form.is_legacy() {
        has(isa.sse)
    } else if form.is_evex() {
        has("avx512f") && has(isa.evex) && (size == 64 || has("avx512vl") || is_scalar(form))
    } else if size == 32 {
        has("avx") && has(isa.vex_256)
    } else {
        has("avx") && has(isa.vex_128)
    }
}

fn is_scalar(form: &Form) -> bool {
    let mnemonic = form.mnemonic();
    ["ss", "sd", "si", "ss2usi", "sd2usi", "2usi"]
        .iter()
        .any(|end| mnemonic.ends_with(end))
}

fn vector_size(operand: &Operand) -> usize {
    match operand.kind {
        Kind::Vector { size, .. } => size,
        _ => 0,
    }
}

/// Runs each form on many inputs; all wrong ones of the list are told together.
pub fn check(forms: &[Form], isa: Isa, model: &Model) {
    check_with(forms, isa, model, |_| {});
}

/// The same on registers that `prepare` has made of random ones.
pub fn check_with(forms: &[Form], isa: Isa, model: &Model, prepare: fn(&mut Vector)) {
    let mut failures = Vec::new();
    let mut machines = [guest::machine(), guest::machine()];
    for (number, form) in forms.iter().enumerate() {
        for (processor, inputs) in [
            (Processor::Host, INPUTS_PER_FORM),
            (Processor::Avx2, 2),
            (Processor::Sse2, 1),
        ] {
            machines[0].host.features = processor.features();
            let executes = executes(processor, form, isa);
            let result = (0..inputs).try_for_each(|input| {
                let random = Random::new(input << 8 | number as u64);
                check_once(&mut machines, form, executes, model, prepare, random)
            });
            if let Err(failure) = result {
                failures.push(format!("{} on {processor:?}: {failure}", form.text));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check_once(
    machines: &mut [Machine; 2],
    form: &Form,
    executes: bool,
    model: &Model,
    prepare: fn(&mut Vector),
    mut random: Random,
) -> Result<(), String> {
    let [machine, expected] = machines;
    randomize(machine, form, &mut random);
    for number in 0..32 {
        let mut value = guest::vector(machine, number);
        prepare(&mut value);
        guest::set_vector(machine, number, &value);
    }
    guest::set_mxcsr(machine, model.mxcsr);
    same(machine, expected);
    let result = machine.run(form.code);
    if executes {
        apply(expected, form, model);
        expected.regs.rip = RIP + form.code.len() as u64;
        result.map_err(|stop| format!("{stop:?}, code {:02x?}", form.code))?;
    } else if !matches!(result, Err(Stop::Fault(fault)) if fault == Exception::invalid_opcode()) {
        return Err(format!("{result:?}, though it has no such instruction"));
    }
    differences(machine, expected)
}

/// New contents for all registers and the memory around the operand.
pub fn randomize(machine: &mut Machine, form: &Form, random: &mut Random) {
    for number in 0..32 {
        let value = random.vector();
        guest::set_vector(machine, number, &value);
    }
    for number in 0..8 {
        let value = random.mask();
        guest::set_mask(machine, number, value);
    }
    for number in 0..4 {
        *guest::general(machine, number) = random.next();
    }
    machine.state.image.set_in_use(guest::ALL);
    let mut bytes = [0; WINDOW_LEN];
    random.fill(&mut bytes);
    machine.ram.write(WINDOW, &bytes).unwrap();
    // Within a page, across pages, and at an odd address; SSE asks for alignment.
    let places: &[u64] = if form.is_legacy() {
        &[0xe80, 0xff0, 0x1000]
    } else {
        &[0xe80, 0xfe0, 0xff1, 0xfbd]
    };
    let place = places[(random.next() % places.len() as u64) as usize];
    machine.regs.rdi = KERNEL_DATA + place;
    machine.regs.rip = RIP;
    machine.regs.rflags = 2 | random.next() & FLAGS;
}

/// Makes `to` what `from` is, as far as [`differences`] looks.
pub fn same(from: &Machine, to: &mut Machine) {
    to.regs = from.regs;
    to.state.image = from.state.image.clone();
    to.ram.write(WINDOW, &memory(from)).unwrap();
}

fn memory(machine: &Machine) -> [u8; WINDOW_LEN] {
    let mut bytes = [0; WINDOW_LEN];
    machine.ram.read(WINDOW, &mut bytes).unwrap();
    bytes
}

/// The value of an operand, zero beyond its length.
fn value(machine: &mut Machine, operand: &Operand) -> Vector {
    let mut value = [0; 64];
    match operand.kind {
        Kind::Vector { number, size } => {
            value[..size].copy_from_slice(&guest::vector(machine, number)[..size]);
        }
        Kind::Mask(number) => {
            value[..8].copy_from_slice(&guest::mask(machine, number).to_le_bytes());
        }
        Kind::General { number, size } => {
            let bytes = guest::general(machine, number).to_le_bytes();
            value[..size].copy_from_slice(&bytes[..size]);
        }
        Kind::Memory {
            displacement,
            size,
            broadcast,
        } => {
            let at = machine.regs.rdi + displacement;
            for copy in value.chunks_mut(size).take(broadcast.unwrap_or(1)) {
                machine.ram.read(at, copy).unwrap();
            }
        }
        Kind::Immediate(_) => {}
    }
    value
}

/// Does to `machine` what the model says.
fn apply(machine: &mut Machine, form: &Form, model: &Model) {
    let operands = form.operands();
    let (destination, rest) = operands.split_first().unwrap();
    let immediate = rest.iter().find_map(|operand| match operand.kind {
        Kind::Immediate(value) => Some(value),
        _ => None,
    });
    let is_immediate = |operand: &&Operand| matches!(operand.kind, Kind::Immediate(_));
    let sources: Vec<_> = rest
        .iter()
        .filter(|operand| !is_immediate(operand))
        .collect();
    let old = value(machine, destination);
    let mut values: Vec<_> = sources
        .iter()
        .map(|operand| value(machine, operand))
        .collect();
    while values.len() < model.sources {
        values.insert(0, old);
    }
    let source_len = sources.first().map_or(0, |source| vector_size(source));
    let len = match destination.kind {
        Kind::Vector { size, .. } | Kind::Memory { size, .. } => size,
        _ => source_len,
    };
    let mask = destination
        .mask
        .map_or(u64::MAX, |number| guest::mask(machine, number));
    let inputs = Inputs {
        sources: values,
        old,
        immediate: immediate.unwrap_or(0),
        len,
        source_len,
        mask,
        zeroing: destination.zeroing,
    };
    let output = (model.function)(&inputs);
    let mut result = output.value;
    let written = output.len.unwrap_or(len);
    match (model.masking, destination.kind) {
        (Masking::Lanes(_), Kind::Mask(_)) => {
            let bits = u64::from_le_bytes(result[..8].try_into().unwrap()) & mask;
            result[..8].copy_from_slice(&bits.to_le_bytes());
        }
        (Masking::Lanes(bits), _) => apply_mask(&mut result, &inputs, bits / 8, written),
        (Masking::Scalar(bits), _) => apply_mask(&mut result, &inputs, bits / 8, bits / 8),
        (Masking::Own, _) => {}
    }
    if let Some(flags) = output.flags {
        machine.regs.rflags = machine.regs.rflags & !FLAGS | flags;
    }
    if output.len != Some(0) {
        store(machine, form, destination, &result, written);
    }
}

fn apply_mask(result: &mut Vector, inputs: &Inputs, size: usize, len: usize) {
    for index in (0..len / size).filter(|index| inputs.mask >> index & 1 == 0) {
        let lane = index * size..(index + 1) * size;
        if inputs.zeroing {
            result[lane].fill(0);
        } else {
            result[lane.clone()].copy_from_slice(&inputs.old[lane]);
        }
    }
}

fn store(machine: &mut Machine, form: &Form, to: &Operand, result: &Vector, written: usize) {
    match to.kind {
        Kind::Vector { number, size } => {
            let mut whole = if form.is_legacy() {
                guest::vector(machine, number)
            } else {
                [0; 64]
            };
            whole[..size].copy_from_slice(&result[..size]);
            guest::set_vector(machine, number, &whole);
        }
        Kind::Mask(number) => {
            let bits = u64::from_le_bytes(result[..8].try_into().unwrap());
            guest::set_mask(machine, number, bits);
        }
        Kind::General { number, size } => {
            let bits = u64::from_le_bytes(result[..8].try_into().unwrap());
            let bits = if size == 8 { bits } else { bits & 0xffff_ffff };
            *guest::general(machine, number) = bits;
        }
        Kind::Memory { displacement, .. } => {
            let at = machine.regs.rdi + displacement;
            machine.ram.write(at, &result[..written]).unwrap();
        }
        Kind::Immediate(_) => panic!("{} writes an immediate", form.text),
    }
}

/// Anything by which two guests differ.
pub fn differences(found: &mut Machine, expected: &Machine) -> Result<(), String> {
    for number in 0..32 {
        let (is, should) = (
            guest::vector(found, number),
            guest::vector(expected, number),
        );
        if is != should {
            return Err(format!(
                "register {number} is\n{is:02x?}, not\n{should:02x?}"
            ));
        }
    }
    for number in 0..8 {
        let (is, should) = (guest::mask(found, number), guest::mask(expected, number));
        if is != should {
            return Err(format!("k{number} is {is:#x}, not {should:#x}"));
        }
    }
    if found.regs != expected.regs {
        return Err(format!("{:x?}, not\n{:x?}", found.regs, expected.regs));
    }
    if memory(found) != memory(expected) {
        return Err("memory differs".into());
    }
    found.state.image.set_in_use(expected.state.image.in_use());
    if found.state.image != expected.state.image {
        return Err("the XSAVE image differs outside the vector and mask registers".into());
    }
    Ok(())
}

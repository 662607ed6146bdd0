//! Every covered encoding against this very processor.
//!
//! All opcodes of all maps are tried with all prefixes, and what the decoder takes for an instruction covered
//! here is emulated and run, on random registers and memory. The state before and
//! after is that of AVX-512, so processors without it are spared.

use std::arch::asm;
use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, Register};

use super::super::error::Stop;
use super::super::fpu;
use super::super::regs::rflags;
use super::super::testing::{KERNEL_DATA, Machine};

const MEMORY: u64 = KERNEL_DATA + 0x400;
const MEMORY_LEN: usize = 1024;
/// Where RDI points in the memory.
const MIDDLE: usize = 512;

#[repr(C, align(64))]
#[derive(Clone, PartialEq, Debug)]
struct State {
    memory: [u8; MEMORY_LEN],
    vectors: [[u8; 64]; 32],
    opmasks: [u64; 8],
    /// RAX, RCX, RDX.
    general: [u64; 3],
    flags: u64,
    mxcsr: u32,
    host_mxcsr: u32,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 33) % end
    }

    /// Bits, small integers and floating-point numbers of both sizes, special ones too.
    fn word(&mut self) -> u64 {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let single = |random: &mut Self| match random.below(8) {
            0 => 0,
            1 => f32::INFINITY.to_bits(),
            2 => f32::NAN.to_bits(),
            3 => 0x7f80_0001,
            4 => random.next() as u32 & 0x007f_ffff,
            _ => (random.next() as i32 as f32 / 65_536.0).to_bits(),
        };
        match self.below(5) {
            0 => self.next() & 0x0f0f_0f0f_0f0f_0f0f,
            1 => pair(single(self), single(self)),
            2 => (self.next() as i64 as f64 / 4_294_967_296.0).to_bits(),
            3 => f64::from(self.below(7) as u32).to_bits(),
            _ => self.next(),
        }
    }

    fn state(&mut self) -> State {
        let mut state = State {
            vectors: [[0; 64]; 32],
            opmasks: [0; 8],
            general: [self.word(), self.word(), self.word()],
            flags: 2 | self.next() & rflags::STATUS,
            // Any rounding, FTZ and DAZ; all exceptions masked.
            mxcsr: 0x1f80 | self.next() as u32 & 0xe040,
            host_mxcsr: 0,
            memory: [0; MEMORY_LEN],
        };
        for chunk in state.vectors.as_flattened_mut().chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes());
        }
        for chunk in state.memory.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes());
        }
        for mask in &mut state.opmasks {
            *mask = if self.below(6) == 0 { 0 } else { self.next() };
        }
        state
    }
}

/// A page of code, writable and executable: in this test alone.
struct Page(*mut u8);

impl Page {
    fn new() -> Self {
        // SAFETY: a fresh anonymous mapping.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        Self(page.cast())
    }

    fn run(&self, code: &[u8], state: &mut State) {
        // SAFETY: the page is ours and has room; the code is one unprivileged
        // instruction on the registers loaded here and the memory around RDI.
        unsafe {
            self.0.copy_from_nonoverlapping(code.as_ptr(), code.len());
            *self.0.add(code.len()) = 0xc3;
            asm!(
                "push rbx", "push rbp",
                "mov rbp, rsi",
                "mov r12, rdi",
                "stmxcsr [rbp + 3172]", "ldmxcsr [rbp + 3168]",
                ".rept 8", "kmovq k\\+, [rbp + 3072 + 8 * \\+]", ".endr",
                ".rept 32", "vmovdqu64 zmm\\+, [rbp + 1024 + 64 * \\+]", ".endr",
                "push qword ptr [rbp + 3160]", "popfq",
                "lea rdi, [rbp + {middle}]",
                "mov rax, [rbp + 3136]", "mov rcx, [rbp + 3144]", "mov rdx, [rbp + 3152]",
                "call r12",
                "mov [rbp + 3136], rax", "mov [rbp + 3144], rcx", "mov [rbp + 3152], rdx",
                "pushfq", "pop qword ptr [rbp + 3160]",
                ".rept 32", "vmovdqu64 [rbp + 1024 + 64 * \\+], zmm\\+", ".endr",
                ".rept 8", "kmovq [rbp + 3072 + 8 * \\+], k\\+", ".endr",
                "stmxcsr [rbp + 3168]", "ldmxcsr [rbp + 3172]",
                "vzeroupper",
                "pop rbp", "pop rbx",
                middle = const MIDDLE,
                inout("rdi") self.0 => _,
                inout("rsi") &raw mut *state => _,
                out("r12") _,
                clobber_abi("C"),
            );
        }
    }
}

const _: () = {
    assert!(std::mem::offset_of!(State, opmasks) == 3072);
    assert!(std::mem::offset_of!(State, general) == 3136);
    assert!(std::mem::offset_of!(State, flags) == 3160);
    assert!(std::mem::offset_of!(State, mxcsr) == 3168);
    assert!(std::mem::offset_of!(State, vectors) == 1024);
};

fn load(machine: &mut Machine, state: &State) {
    let layout = machine.host.xsave.clone();
    let at = |component| layout.component(component).unwrap().offset;
    let image = &mut machine.state.image;
    for (number, vector) in state.vectors.iter().enumerate() {
        if number < 16 {
            image.put(160 + 16 * number, &vector[..16]);
            image.put(at(2) + 16 * number, &vector[16..32]);
            image.put(at(6) + 32 * number, &vector[32..]);
        } else {
            image.put(at(7) + 64 * (number - 16), vector);
        }
    }
    for (number, mask) in state.opmasks.iter().enumerate() {
        image.put(at(5) + 8 * number, &mask.to_le_bytes());
    }
    image.put(fpu::MXCSR, &state.mxcsr.to_le_bytes());
    machine.ram.write(MEMORY, &state.memory).unwrap();
    let regs = &mut machine.regs;
    [regs.rax, regs.rcx, regs.rdx] = state.general;
    (regs.rflags, regs.rdi) = (state.flags, MEMORY + MIDDLE as u64);
}

fn store(machine: &Machine) -> State {
    let layout = &machine.host.xsave;
    let at = |component| layout.component(component).unwrap().offset;
    let image = &machine.state.image;
    let mut state = Random(1).state();
    for (number, vector) in state.vectors.iter_mut().enumerate() {
        if number < 16 {
            vector[..16].copy_from_slice(image.get(160 + 16 * number, 16));
            vector[16..32].copy_from_slice(image.get(at(2) + 16 * number, 16));
            vector[32..].copy_from_slice(image.get(at(6) + 32 * number, 32));
        } else {
            vector.copy_from_slice(image.get(at(7) + 64 * (number - 16), 64));
        }
    }
    for (number, mask) in state.opmasks.iter_mut().enumerate() {
        *mask = image.number(at(5) + 8 * number, 8);
    }
    state.mxcsr = image.number(fpu::MXCSR, 4) as u32;
    state.host_mxcsr = 0;
    machine.ram.read(MEMORY, &mut state.memory).unwrap();
    let regs = &machine.regs;
    state.general = [regs.rax, regs.rcx, regs.rdx];
    state.flags = regs.rflags;
    state
}

/// Whether the test's frame can hold all that the instruction touches.
fn is_suitable(insn: &Instruction) -> bool {
    use Register::{None, RDI};
    let register = |register: Register| {
        let few = register.number() <= 2;
        (register.is_gpr() && few && !matches!(register.full_register(), RDI))
            || register.is_vector_register()
            || register.is_k()
    };
    (0..insn.op_count()).all(|index| match insn.op_kind(index) {
        OpKind::Register => register(insn.op_register(index)),
        OpKind::Memory => {
            insn.memory_base() == RDI
                && (insn.memory_index() == None || insn.is_vsib())
                && (insn.memory_displacement64() as i64).abs() <= 64
                && insn.memory_segment() == Register::DS
        }
        OpKind::Immediate8 => true,
        _ => false,
    })
}

#[derive(Default)]
struct Tally {
    run: BTreeMap<String, u32>,
    missing: BTreeMap<String, u32>,
    /// The first disagreement of each.
    wrong: BTreeMap<String, String>,
}

fn try_one(
    machine: &mut Machine,
    page: &Page,
    random: &mut Random,
    bytes: &[u8],
    tally: &mut Tally,
) {
    let mut decoder = Decoder::with_ip(64, bytes, machine.regs.rip, DecoderOptions::NONE);
    let insn = decoder.decode();
    if insn.is_invalid() || !is_suitable(&insn) {
        return;
    }
    let vector = (0..insn.op_count()).any(|index| {
        insn.op_kind(index) == OpKind::Register && {
            let register = insn.op_register(index);
            register.is_vector_register() || register.is_k()
        }
    });
    if !vector {
        return;
    }
    let code = &bytes[..insn.len()];
    let mut before = random.state();
    if insn.is_vsib() {
        let indices = &mut before.vectors[insn.memory_index().number()];
        let size = if insn.is_vsib64() { 8 } else { 4 };
        for element in indices.chunks_mut(size) {
            element.fill(0);
            element[0] = random.next() as u8 & 31;
        }
    }
    load(machine, &before);
    let name = format!("{:?}", insn.mnemonic());
    match machine.run(code) {
        Ok(()) => {}
        Err(Stop::NotCovered) => {
            *tally.missing.entry(name).or_default() += 1;
            return;
        }
        // Misaligned, or not on this processor.
        Err(Stop::Fault(_)) => return,
        Err(stop) => panic!("{code:02x?} {name}: {stop:?}"),
    }
    let emulated = store(machine);
    let mut expected = before.clone();
    page.run(code, &mut expected);
    expected.host_mxcsr = 0;
    expected.flags &= rflags::STATUS | 2;
    *tally.run.entry(name.clone()).or_default() += 1;
    if emulated != expected {
        let text = report(&insn, code, &before, &emulated, &expected);
        tally.wrong.entry(name).or_insert(text);
    }
}

fn report(
    insn: &Instruction,
    code: &[u8],
    before: &State,
    emulated: &State,
    expected: &State,
) -> String {
    let mut text = format!("{:?} {code:02x?}", insn.code());
    for number in 0..32 {
        let (e, x) = (&emulated.vectors[number], &expected.vectors[number]);
        if e != x {
            text += &format!("\nvector {number}\n got {e:02x?}\nwant {x:02x?}");
        }
    }
    for index in 0..insn.op_count() {
        if insn.op_kind(index) == OpKind::Register && insn.op_register(index).is_vector_register() {
            let number = insn.op_register(index).number();
            text += &format!("\noperand {index}: {:02x?}", before.vectors[number]);
        }
    }
    text += &format!("\nmasks {:x?} {:x?}", emulated.opmasks, expected.opmasks);
    text += &format!("\ngeneral {:x?} {:x?}", emulated.general, expected.general);
    text += &format!("\nflags {:x} {:x}", emulated.flags, expected.flags);
    text += &format!("\nmxcsr {:x} {:x}", emulated.mxcsr, expected.mxcsr);
    text += &format!("\nmemory equal {}", emulated.memory == expected.memory);
    text
}

fn legacy(opcodes: impl Fn(u8) -> bool, mut each: impl FnMut(&[u8])) {
    for map in [&[0x0f][..], &[0x0f, 0x38], &[0x0f, 0x3a]] {
        for prefix in [&[][..], &[0x66], &[0xf3], &[0xf2]] {
            for rex in [0x40, 0x48, 0x44] {
                for opcode in (0..=255).filter(|opcode| opcodes(*opcode)) {
                    for modrm in [0xc1, 0xca, 0x07, 0x4f, 0xd0, 0xf8, 0xd8] {
                        let mut bytes = prefix.to_vec();
                        bytes.push(rex);
                        bytes.extend(map);
                        bytes.extend([opcode, modrm, 0x10, 0x9d, 0, 0, 0, 0]);
                        each(&bytes);
                    }
                }
            }
        }
    }
}

fn vex(random: &mut Random, mut each: impl FnMut(&[u8])) {
    for map in 1..=3u8 {
        for pp in 0..4u8 {
            for w in [0, 0x80u8] {
                for length in [0, 4u8] {
                    for opcode in 0..=255u8 {
                        for modrm in [0xc1u8, 0xca, 0x07, 0x4f, 0xd0, 0x0c] {
                            // Second source 2, 9, or none.
                            let source = [0x68u8, 0x30, 0x78][random.below(3) as usize];
                            let mut bytes = vec![0xc4, 0xe0 | map, w | source | length | pp];
                            bytes.extend([opcode, modrm]);
                            if modrm == 0x0c {
                                // Base RDI, index register 5, by 4.
                                bytes.push(0xaf);
                            }
                            bytes.extend([random.next() as u8 & 0x3f, random.next() as u8, 0, 0]);
                            each(&bytes);
                        }
                    }
                }
            }
        }
    }
}

fn evex(random: &mut Random, mut each: impl FnMut(&[u8])) {
    for map in 1..=3u8 {
        for pp in 0..4u8 {
            for w in [0, 0x80u8] {
                for length in 0..4u8 {
                    for opcode in 0..=255u8 {
                        for modrm in [0xc1u8, 0xca, 0x07, 0x4f, 0x0c] {
                            let source = [0x68u8, 0x30, 0x78][random.below(3) as usize];
                            let mask = random.below(8) as u8;
                            let zeroing = (random.next() as u8 & 0x80) * u8::from(mask != 0);
                            let broadcast = random.next() as u8 & 0x10;
                            let mut bytes = vec![
                                0x62,
                                // Destination 0 to 31 by R', X and B of the source.
                                0xf0 ^ (random.next() as u8 & 0x10) | map,
                                w | source | 4 | pp,
                                zeroing | length << 5 | broadcast | 8 | mask,
                                opcode,
                                modrm,
                            ];
                            if modrm == 0x0c {
                                bytes.push(0xaf);
                            }
                            bytes.extend([1, random.next() as u8, 0, 0]);
                            each(&bytes);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_covered_encoding_agrees_with_the_processor() {
    if !std::arch::is_x86_feature_detected!("avx512bw") {
        return;
    }
    let mut machine = Machine::new();
    machine.state.xcr0 = 0xe7;
    let page = Page::new();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut states = Random(77);
    let mut tally = Tally::default();
    let mut each = |bytes: &[u8]| {
        machine.regs.rip = super::super::testing::RIP;
        try_one(&mut machine, &page, &mut states, bytes, &mut tally);
    };
    legacy(|_| true, &mut each);
    for _ in 0..3 {
        vex(&mut random, &mut each);
        evex(&mut random, &mut each);
    }
    let wrong: Vec<&String> = tally.wrong.values().collect();
    assert!(
        wrong.is_empty(),
        "{:?}\n{}",
        tally.wrong.keys(),
        wrong
            .iter()
            .take(6)
            .map(|text| text.as_str())
            .collect::<Vec<_>>()
            .join("\n\n")
    );
    assert!(
        tally.run.len() > 600,
        "{:?}, not covered: {:?}",
        tally.run,
        tally.missing
    );
}

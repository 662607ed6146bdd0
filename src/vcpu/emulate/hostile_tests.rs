//! Whatever a guest has at RIP and in its registers, the emulator answers.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::failure::InstructionBytes;
use super::testing::{KERNEL_DATA, Machine};
use super::{fetch, step};

/// Bytes that are often an instruction the emulator has.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![
        Just(vec![]),
        prop::sample::select(vec![0x66u8, 0xf2, 0xf3, 0xf0, 0x67, 0x64])
            .prop_map(|byte| vec![byte]),
    ];
    let rex = prop_oneof![Just(vec![]), (0x40..0x50u8).prop_map(|byte| vec![byte])];
    let opcode = prop_oneof![
        prop::sample::select(vec![
            0xaeu8, 0xc7, 0xb8, 0xbc, 0xbd, 0x01, 0x0d, 0x1e, 0x1f, 0x6f, 0x7f, 0x10, 0x11, 0x77
        ])
        .prop_map(|byte| vec![0x0f, byte]),
        prop::sample::select(vec![0xf0u8, 0xf1, 0xf2, 0xf3, 0xf5, 0xf6, 0xf7])
            .prop_map(|byte| vec![0x0f, 0x38, byte]),
        (
            any::<u8>(),
            prop::sample::select(vec![0xf2u8, 0xf3, 0xf5, 0xf6, 0xf7, 0x6f, 0x7f, 0xae])
        )
            .prop_map(|(vex, byte)| vec![0xc4, 0xe2, vex, byte]),
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<u8>().prop_map(|byte| vec![0x0f, byte]),
        any::<u8>().prop_map(|byte| vec![0x0f, 0x01, byte]),
    ];
    (
        prefix,
        rex,
        opcode,
        prop::collection::vec(any::<u8>(), 0..8),
    )
        .prop_map(|(prefix, rex, opcode, rest)| [prefix, rex, opcode, rest].concat())
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..0x40_0000u64,
        (0..0x1000u64).prop_map(|offset| offset << 6),
        Just(u64::MAX),
        Just(KERNEL_DATA),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_and_registers_are_answered(
        bytes in instruction(),
        registers in prop::collection::vec(register(), 8),
        mode in any::<[u64; 3]>(),
        memory in any::<[u64; 8]>(),
    ) {
        let mut machine = Machine::new();
        for (at, word) in (KERNEL_DATA + 512..).step_by(8).zip(memory) {
            machine.ram.write_u64(at, word).unwrap();
        }
        let regs = &mut machine.regs;
        [regs.rax, regs.rcx, regs.rdx, regs.rbx] = std::array::from_fn(|i| registers[i]);
        [regs.rsp, regs.rsi, regs.rdi, regs.rip] = std::array::from_fn(|i| registers[4 + i]);
        let [cr4, flags, choice] = mode;
        machine.regs.rflags = flags;
        machine.sregs.cr4 |= cr4;
        machine.sregs.cs.l = u8::from(choice & 3 != 0);
        machine.sregs.cs.db = u8::from(choice & 4 != 0);
        machine.sregs.cs.base = u64::from(choice & 8 != 0) * flags;
        machine.state.xcr0 = choice >> 8;
        let mut counts = vec![0; Mnemonic::values().len()];
        let mut cpu = machine.cpu();
        let given = InstructionBytes::new(&bytes);
        let mut seen = given;
        let _ = step(&mut cpu, Some(given), &mut seen, None, &mut counts);
        let _ = fetch(&mut cpu);
        prop_assert!(counts.iter().sum::<u64>() <= 1);
    }
}

/// The strategy above is of use only if much of what it makes can be decoded.
#[test]
fn the_bytes_made_are_often_instructions() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let valid = (0..500)
        .filter(|_| {
            let bytes = instruction().new_tree(&mut runner).unwrap().current();
            let padded = [&bytes[..], &[0; 15]].concat();
            !Decoder::new(64, &padded, DecoderOptions::NONE)
                .decode()
                .is_invalid()
        })
        .count();
    assert!(valid > 150, "{valid} of 500");
}

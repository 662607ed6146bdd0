//! [`super::bits`] against this very processor.

use proptest::prelude::*;

use super::processor_testing::{State, cases, number, state};
use super::regs::rflags::{CF, OF, SF, STATUS, ZF};
use super::testing::{Machine, assemble};

fn all(_: &State) -> u64 {
    STATUS
}

fn carry_and_zero(_: &State) -> u64 {
    CF | ZF
}

fn but_parity(_: &State) -> u64 {
    CF | ZF | SF | OF
}

fn but_sign(_: &State) -> u64 {
    CF | ZF | OF
}

fn but_zero(_: &State) -> u64 {
    CF | SF | OF
}

cases! { bits:
    popcnt_64, "popcnt", all, "popcnt rax, rcx";
    popcnt_32, "popcnt", all, "popcnt eax, ecx";
    popcnt_16, "popcnt", all, "popcnt ax, cx";
    lzcnt_64, "lzcnt", carry_and_zero, "lzcnt rax, rcx";
    lzcnt_32, "lzcnt", carry_and_zero, "lzcnt eax, ecx";
    lzcnt_16, "lzcnt", carry_and_zero, "lzcnt ax, cx";
    tzcnt_64, "bmi1", carry_and_zero, "tzcnt rax, rcx";
    tzcnt_32, "bmi1", carry_and_zero, "tzcnt eax, ecx";
    tzcnt_16, "bmi1", carry_and_zero, "tzcnt ax, cx";
    andn_64, "bmi1", but_parity, "andn rax, rcx, rdx";
    andn_32, "bmi1", but_parity, "andn eax, ecx, edx";
    bextr_64, "bmi1", but_sign, "bextr rax, rcx, rdx";
    bextr_32, "bmi1", but_sign, "bextr eax, ecx, edx";
    blsi_64, "bmi1", but_parity, "blsi rax, rcx";
    blsi_32, "bmi1", but_parity, "blsi eax, ecx";
    blsr_64, "bmi1", but_parity, "blsr rax, rcx";
    blsr_32, "bmi1", but_parity, "blsr eax, ecx";
    blsmsk_64, "bmi1", but_zero, "blsmsk rax, rcx";
    blsmsk_32, "bmi1", but_zero, "blsmsk eax, ecx";
    bzhi_64, "bmi2", but_parity, "bzhi rax, rcx, rdx";
    bzhi_32, "bmi2", but_parity, "bzhi eax, ecx, edx";
    pdep_64, "bmi2", all, "pdep rax, rcx, rdx";
    pdep_32, "bmi2", all, "pdep eax, ecx, edx";
    pext_64, "bmi2", all, "pext rax, rcx, rdx";
    pext_32, "bmi2", all, "pext eax, ecx, edx";
    rorx_64, "bmi2", all, "rorx rax, rcx, 13";
    rorx_32, "bmi2", all, "rorx eax, ecx, 45";
    sarx_64, "bmi2", all, "sarx rax, rcx, rdx";
    sarx_32, "bmi2", all, "sarx eax, ecx, edx";
    shlx_64, "bmi2", all, "shlx rax, rcx, rdx";
    shlx_32, "bmi2", all, "shlx eax, ecx, edx";
    shrx_64, "bmi2", all, "shrx rax, rcx, rdx";
    shrx_32, "bmi2", all, "shrx eax, ecx, edx";
    mulx_64, "bmi2", all, "mulx rax, rcx, rcx";
    mulx_same, "bmi2", all, "mulx rax, rax, rcx";
    mulx_32, "bmi2", all, "mulx eax, ecx, eax";
    adcx_64, "adx", all, "adcx rax, rcx";
    adcx_32, "adx", all, "adcx eax, ecx";
    adox_64, "adx", all, "adox rax, rcx";
    adox_32, "adx", all, "adox eax, ecx";
    popcnt_m, "popcnt", all, "popcnt rax, [rdi]";
    tzcnt_m, "bmi1", carry_and_zero, "tzcnt ax, [rdi]";
    movbe_m_64, "movbe", all, "movbe rax, [rdi]";
    movbe_to_m_16, "movbe", all, "movbe [rdi], cx";
    pext_m, "bmi2", all, "pext rax, rcx, [rdi]";
    adcx_m, "adx", all, "adcx rax, [rdi]";
    crc32_8, "sse4.2", all, "crc32 eax, cl";
    crc32_high, "sse4.2", all, "crc32 eax, ch";
    crc32_16, "sse4.2", all, "crc32 eax, cx";
    crc32_32, "sse4.2", all, "crc32 eax, dword ptr [rdi]";
    crc32_64, "sse4.2", all, "crc32 rax, rcx";
    crc32_64_of_8, "sse4.2", all, "crc32 rax, byte ptr [rdi]";
}

proptest! {
    #[test]
    fn bits_are_handled_as_the_processor_does(before in state(number())) {
        let machine = &mut Machine::new();
        for case in bits() {
            case.check(machine, before)?;
        }
    }
}

assemble! { swapped_load: "movbe rax, [rbx]" }
assemble! { swapped_store: "movbe [rbx], cx" }

#[test]
fn movbe_swaps_bytes() {
    let mut machine = Machine::new();
    machine.regs.rbx = super::testing::KERNEL_DATA;
    machine
        .ram
        .write(machine.regs.rbx, &[1, 2, 3, 4, 5, 6, 7, 8])
        .unwrap();
    machine.run(swapped_load()).unwrap();
    assert_eq!(machine.regs.rax, 0x0102_0304_0506_0708);
    machine.regs.rcx = 0xaabb;
    machine.run(swapped_store()).unwrap();
    assert_eq!(
        machine.ram.read_u64(machine.regs.rbx).unwrap() & 0xffff,
        0xbbaa
    );
}

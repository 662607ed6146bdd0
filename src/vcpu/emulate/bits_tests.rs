//! [`super::bits`] against this very processor.

use proptest::prelude::*;

use super::regs::rflags::{CF, OF, SF, STATUS, ZF};
use super::testing::{Machine, assemble};

/// RAX, RCX, RDX and RFLAGS.
type Registers = [u64; 4];

fn emulate(code: &[u8], before: Registers) -> Registers {
    let mut machine = Machine::new();
    let regs = &mut machine.regs;
    [regs.rax, regs.rcx, regs.rdx, regs.rflags] = before;
    machine.run(code).unwrap();
    let regs = &machine.regs;
    [regs.rax, regs.rcx, regs.rdx, regs.rflags]
}

/// Numbers with few and with many bits, and small ones.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b & a.rotate_left(7)),
        0..256u64,
        (0..64u32).prop_map(|bit| 1 << bit),
        Just(u64::MAX),
    ]
}

/// One test an instruction: the same code run here and emulated, compared in
/// the three registers and in the flags that the manual defines.
macro_rules! as_the_processor_does {
    ($($name:ident, $feature:tt, $defined:expr, $code:literal;)+) => {
        $(mod $name {
            use super::*;

            assemble! { $name: $code }

            fn native([mut rax, mut rcx, mut rdx, mut flags]: Registers) -> Registers {
                // SAFETY: an unprivileged instruction on four registers; the
                // status flags it sets are read back by PUSHFQ.
                unsafe {
                    std::arch::asm!(
                        "push {flags}", "popfq",
                        $code,
                        "pushfq", "pop {flags}",
                        flags = inout(reg) flags,
                        inout("rax") rax,
                        inout("rcx") rcx,
                        inout("rdx") rdx,
                    );
                }
                [rax, rcx, rdx, flags]
            }

            proptest! {
                #[test]
                fn agrees(rax in number(), rcx in number(), rdx in number(), status in any::<u64>()) {
                    let flags = 2 | status & STATUS;
                    let before = [rax, rcx, rdx, flags];
                    let mut emulated = emulate($name(), before);
                    if std::arch::is_x86_feature_detected!($feature) {
                        let mut expected = native(before);
                        let defined = $defined;
                        expected[3] &= defined;
                        emulated[3] &= defined;
                        prop_assert_eq!(emulated, expected);
                    }
                }
            }
        })+
    };
}

as_the_processor_does! {
    popcnt_64, "popcnt", STATUS, "popcnt rax, rcx";
    popcnt_32, "popcnt", STATUS, "popcnt eax, ecx";
    popcnt_16, "popcnt", STATUS, "popcnt ax, cx";
    lzcnt_64, "lzcnt", CF | ZF, "lzcnt rax, rcx";
    lzcnt_32, "lzcnt", CF | ZF, "lzcnt eax, ecx";
    lzcnt_16, "lzcnt", CF | ZF, "lzcnt ax, cx";
    tzcnt_64, "bmi1", CF | ZF, "tzcnt rax, rcx";
    tzcnt_32, "bmi1", CF | ZF, "tzcnt eax, ecx";
    tzcnt_16, "bmi1", CF | ZF, "tzcnt ax, cx";
    andn_64, "bmi1", CF | ZF | SF | OF, "andn rax, rcx, rdx";
    andn_32, "bmi1", CF | ZF | SF | OF, "andn eax, ecx, edx";
    bextr_64, "bmi1", CF | ZF | OF, "bextr rax, rcx, rdx";
    bextr_32, "bmi1", CF | ZF | OF, "bextr eax, ecx, edx";
    blsi_64, "bmi1", CF | ZF | SF | OF, "blsi rax, rcx";
    blsi_32, "bmi1", CF | ZF | SF | OF, "blsi eax, ecx";
    blsr_64, "bmi1", CF | ZF | SF | OF, "blsr rax, rcx";
    blsr_32, "bmi1", CF | ZF | SF | OF, "blsr eax, ecx";
    blsmsk_64, "bmi1", CF | SF | OF, "blsmsk rax, rcx";
    blsmsk_32, "bmi1", CF | SF | OF, "blsmsk eax, ecx";
    bzhi_64, "bmi2", CF | ZF | SF | OF, "bzhi rax, rcx, rdx";
    bzhi_32, "bmi2", CF | ZF | SF | OF, "bzhi eax, ecx, edx";
    pdep_64, "bmi2", STATUS, "pdep rax, rcx, rdx";
    pdep_32, "bmi2", STATUS, "pdep eax, ecx, edx";
    pext_64, "bmi2", STATUS, "pext rax, rcx, rdx";
    pext_32, "bmi2", STATUS, "pext eax, ecx, edx";
    rorx_64, "bmi2", STATUS, "rorx rax, rcx, 13";
    rorx_32, "bmi2", STATUS, "rorx eax, ecx, 45";
    sarx_64, "bmi2", STATUS, "sarx rax, rcx, rdx";
    sarx_32, "bmi2", STATUS, "sarx eax, ecx, edx";
    shlx_64, "bmi2", STATUS, "shlx rax, rcx, rdx";
    shlx_32, "bmi2", STATUS, "shlx eax, ecx, edx";
    shrx_64, "bmi2", STATUS, "shrx rax, rcx, rdx";
    shrx_32, "bmi2", STATUS, "shrx eax, ecx, edx";
    mulx_64, "bmi2", STATUS, "mulx rax, rcx, rcx";
    mulx_same, "bmi2", STATUS, "mulx rax, rax, rcx";
    mulx_32, "bmi2", STATUS, "mulx eax, ecx, eax";
    adcx_64, "adx", STATUS, "adcx rax, rcx";
    adcx_32, "adx", STATUS, "adcx eax, ecx";
    adox_64, "adx", STATUS, "adox rax, rcx";
    adox_32, "adx", STATUS, "adox eax, ecx";
    // Also what a displaced first instruction may do.
    add_64, "sse2", STATUS, "add rax, rcx";
    add_8, "sse2", STATUS, "add al, ch";
    sub_64, "sse2", STATUS, "sub rax, rcx";
    sub_32, "sse2", STATUS, "sub eax, 0x77";
    cmp_16, "sse2", STATUS, "cmp ax, cx";
    and_64, "sse2", CF | ZF | SF | OF, "and rax, rcx";
    or_32, "sse2", CF | ZF | SF | OF, "or eax, ecx";
    xor_8, "sse2", CF | ZF | SF | OF, "xor ah, cl";
    test_64, "sse2", CF | ZF | SF | OF, "test rax, rcx";
    lea_64, "sse2", STATUS, "lea rax, [rcx + rdx * 8 - 5]";
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

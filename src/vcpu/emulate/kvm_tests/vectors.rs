//! Vector instructions at CPL 0, and how few exits they cost.

use super::guest::{DATA, End, Guest, guest, is_kvm_pvm};

guest! { vector_loop:
    "mov ecx, 2000",
    "movdqu xmm1, [0x8000]",
    "2: paddq xmm1, xmm1",
    "pshufd xmm1, xmm1, 0x4e",
    "dec ecx",
    "jnz 2b",
    "movdqu [0x8010], xmm1",
    "mov rax, [0x8018]",
    "out 0xf4, al",
}

#[test]
fn a_loop_of_vector_instructions_costs_few_exits() {
    let mut guest = Guest::new(vector_loop());
    guest.ram.write_u64(DATA, 1 << 63 | 1).unwrap();
    guest.ram.write_u64(DATA + 8, 5).unwrap();
    assert_eq!(guest.run(), End::Done(0), "all bits have been shifted out");
    if is_kvm_pvm() {
        let executed = guest.counts().by_mnemonic.get("pshufd").copied();
        assert_eq!(executed, Some(2000));
        assert!(guest.failures < 20, "{} exits", guest.failures);
    }
}

// Eight rounds of: add to the elements that the opmask has, rotate all.
guest! { avx512_loop:
    "xor ecx, ecx", "xor edx, edx", "mov eax, 0xe7", "xsetbv",
    "mov eax, 0x0f35", "kmovw k1, eax",
    "vmovdqu64 zmm17, [0x8000]",
    "mov ecx, 8",
    "2: vpaddd zmm17{{k1}}, zmm17, dword ptr [0x8040]{{1to16}}",
    "vprord zmm17, zmm17, 7",
    "dec ecx",
    "jnz 2b",
    "vmovdqu64 [0x8080], zmm17",
    "vpcmpud k2, zmm17, zmm17, 0", "kmovw eax, k2",
    "vzeroupper",
    "out 0xf4, al",
}

#[test]
fn avx512_state_goes_to_the_emulator_and_back() {
    let needed = std::arch::is_x86_feature_detected!("avx512f");
    if !needed {
        return;
    }
    let mut guest = Guest::new(avx512_loop());
    let mut expected: Vec<u32> = (1..17)
        .map(|number: u32| number.wrapping_mul(0x1234_5679))
        .collect();
    for (at, word) in (DATA..).step_by(4).zip(&expected) {
        guest.ram.write(at, &word.to_le_bytes()).unwrap();
    }
    guest
        .ram
        .write(DATA + 0x40, &0x9abc_def1u32.to_le_bytes())
        .unwrap();
    assert_eq!(guest.run(), End::Done(0xffff));
    for _ in 0..8 {
        for (index, word) in expected.iter_mut().enumerate() {
            if 0x0f35 >> index & 1 != 0 {
                *word = word.wrapping_add(0x9abc_def1);
            }
            *word = word.rotate_right(7);
        }
    }
    let found: Vec<u32> = (0..16u64)
        .map(|index| guest.word(DATA + 0x80 + 4 * index / 8 * 8) >> (32 * (index % 2)))
        .map(|word| word as u32)
        .collect();
    assert_eq!(found, expected);
}

guest! { unmasked_division:
    "mov dword ptr [0x8000], 0x1d80", "ldmxcsr [0x8000]",
    "xorps xmm1, xmm1", "mov eax, 0x3f800000",
    "movd xmm2, eax", "divss xmm2, xmm1",
    "hlt",
}

#[test]
fn a_floating_point_exception_reaches_its_gate() {
    assert_eq!(Guest::new(unmasked_division()).run(), End::Fault(19, 0));
}

guest! { fault_in_a_run:
    "movdqu xmm1, [0x8000]",
    "paddd xmm1, xmm1",
    "mov rdi, 0x40000000",
    "movdqu xmm2, [rdi]",
    "hlt",
}

#[test]
fn a_fault_of_a_later_instruction_is_delivered() {
    assert_eq!(
        Guest::new(fault_in_a_run()).run(),
        End::Fault(14, 0x4000_0000)
    );
}

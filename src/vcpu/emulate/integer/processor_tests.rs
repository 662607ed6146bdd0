//! Everyday instructions against this very processor, in all sizes and forms.

use proptest::prelude::*;

use super::super::processor_testing::{State, cases, number, state};
use super::super::regs::rflags::{AF, CF, OF, PF, SF, STATUS, ZF};
use super::super::testing::Machine;

fn all(_: &State) -> u64 {
    STATUS
}

/// AF is undefined.
fn logic(_: &State) -> u64 {
    STATUS & !AF
}

fn carry_and_overflow(_: &State) -> u64 {
    CF | OF
}

fn carry(_: &State) -> u64 {
    CF
}

fn zero(_: &State) -> u64 {
    ZF
}

cases! { arithmetic:
    add_rr_64, "sse2", all, "add rax, rcx";
    add_rr_8, "sse2", all, "add al, ch";
    add_rm_16, "sse2", all, "add ax, [rdi]";
    add_mr_32, "sse2", all, "lock add [rdi], ecx";
    add_across, "sse2", all, "add [rdi + 5], rcx";
    adc_rr_64, "sse2", all, "adc rax, rcx";
    adc_rr_32, "sse2", all, "adc eax, ecx";
    adc_mr_16, "sse2", all, "adc [rdi], cx";
    adc_ri_8, "sse2", all, "adc al, 0x7f";
    sub_rr_64, "sse2", all, "sub rax, rcx";
    sub_ri_32, "sse2", all, "sub eax, 0x77";
    sub_mi_64, "sse2", all, "sub qword ptr [rdi], -3";
    sbb_rr_64, "sse2", all, "sbb rax, rcx";
    sbb_same, "sse2", all, "sbb rax, rax";
    sbb_mr_8, "sse2", all, "sbb [rdi], cl";
    cmp_rr_16, "sse2", all, "cmp ax, cx";
    cmp_mi_32, "sse2", all, "cmp dword ptr [rdi], 5";
    and_rr_64, "sse2", logic, "and rax, rcx";
    and_mr_8, "sse2", logic, "lock and [rdi], al";
    or_rr_32, "sse2", logic, "or eax, ecx";
    or_mi_16, "sse2", logic, "or word ptr [rdi], 0x1234";
    xor_rr_8, "sse2", logic, "xor ah, cl";
    xor_mr_64, "sse2", logic, "xor [rdi], rax";
    test_rr_64, "sse2", logic, "test rax, rcx";
    test_mi_8, "sse2", logic, "test byte ptr [rdi], 0x80";
    inc_64, "sse2", all, "inc rax";
    inc_m_8, "sse2", all, "inc byte ptr [rdi]";
    dec_32, "sse2", all, "dec eax";
    dec_m_16, "sse2", all, "lock dec word ptr [rdi]";
    neg_64, "sse2", all, "neg rax";
    neg_m_32, "sse2", all, "neg dword ptr [rdi]";
    neg_8, "sse2", all, "neg ah";
    not_64, "sse2", all, "not rax";
    not_m_16, "sse2", all, "not word ptr [rdi]";
}

cases! { exchanges:
    xchg_rr_64, "sse2", all, "xchg rax, rcx";
    xchg_rr_32, "sse2", all, "xchg ecx, edx";
    xchg_mr_32, "sse2", all, "xchg [rdi], eax";
    xchg_mr_8, "sse2", all, "xchg [rdi + 3], ah";
    xchg_halves, "sse2", all, "xchg al, ah";
    xadd_rr_64, "sse2", all, "xadd rax, rcx";
    xadd_same, "sse2", all, "xadd rax, rax";
    xadd_mr_64, "sse2", all, "lock xadd [rdi], rax";
    xadd_mr_16, "sse2", all, "xadd [rdi], cx";
    cmpxchg_mr_64, "sse2", all, "lock cmpxchg [rdi], rcx";
    cmpxchg_mr_32, "sse2", all, "cmpxchg [rdi], ecx";
    cmpxchg_mr_16, "sse2", all, "cmpxchg [rdi], cx";
    cmpxchg_mr_8, "sse2", all, "lock cmpxchg [rdi], dl";
    cmpxchg_rr_64, "sse2", all, "cmpxchg rdx, rcx";
    cmpxchg_rr_32, "sse2", all, "cmpxchg edx, ecx";
    cmpxchg_same, "sse2", all, "cmpxchg eax, ecx";
}

cases! { multiplications:
    mul_64, "sse2", carry_and_overflow, "mul rcx";
    mul_32, "sse2", carry_and_overflow, "mul ecx";
    mul_16, "sse2", carry_and_overflow, "mul word ptr [rdi]";
    mul_8, "sse2", carry_and_overflow, "mul cl";
    imul_64, "sse2", carry_and_overflow, "imul rcx";
    imul_32, "sse2", carry_and_overflow, "imul dword ptr [rdi]";
    imul_16, "sse2", carry_and_overflow, "imul cx";
    imul_8, "sse2", carry_and_overflow, "imul ch";
    imul_rr_64, "sse2", carry_and_overflow, "imul rax, rcx";
    imul_rr_32, "sse2", carry_and_overflow, "imul eax, [rdi]";
    imul_rr_16, "sse2", carry_and_overflow, "imul ax, cx";
    imul_rri_64, "sse2", carry_and_overflow, "imul rax, rcx, -7";
    imul_rri_32, "sse2", carry_and_overflow, "imul eax, ecx, 0x12345";
}

cases! { moves:
    mov_rm_64, "sse2", all, "mov rax, [rdi]";
    mov_rm_16, "sse2", all, "mov ax, [rdi + 1]";
    mov_mi_32, "sse2", all, "mov dword ptr [rdi], -5";
    movzx_8_64, "sse2", all, "movzx rax, cl";
    movzx_8_16, "sse2", all, "movzx ax, byte ptr [rdi]";
    movzx_16_32, "sse2", all, "movzx eax, cx";
    movsx_8_32, "sse2", all, "movsx eax, ch";
    movsx_16_64, "sse2", all, "movsx rax, word ptr [rdi]";
    movsxd_64, "sse2", all, "movsxd rax, ecx";
    lea_64, "sse2", all, "lea rax, [rcx + rdx * 8 - 5]";
    lea_32_of_64, "sse2", all, "lea eax, [rcx + rdx * 4]";
    lea_16_of_32, "sse2", all, "lea ax, [ecx + edx]";
    bswap_64, "sse2", all, "bswap rax";
    bswap_32, "sse2", all, "bswap eax";
    cbw_it, "sse2", all, "cbw";
    cwde_it, "sse2", all, "cwde";
    cdqe_it, "sse2", all, "cdqe";
    cwd_it, "sse2", all, "cwd";
    cdq_it, "sse2", all, "cdq";
    cqo_it, "sse2", all, "cqo";
    lahf_it, "sse2", all, "lahf";
    sahf_it, "sse2", all, "sahf";
    cmovo_64, "sse2", all, "cmovo rax, rcx";
    cmovno_32, "sse2", all, "cmovno eax, ecx";
    cmovb_16, "sse2", all, "cmovb ax, cx";
    cmovae_64, "sse2", all, "cmovae rax, [rdi]";
    cmove_32, "sse2", all, "cmove eax, [rdi]";
    cmovne_64, "sse2", all, "cmovne rax, rcx";
    cmovbe_64, "sse2", all, "cmovbe rax, rcx";
    cmova_64, "sse2", all, "cmova rax, rcx";
    cmovs_64, "sse2", all, "cmovs rax, rcx";
    cmovns_64, "sse2", all, "cmovns rax, rcx";
    cmovp_64, "sse2", all, "cmovp rax, rcx";
    cmovnp_64, "sse2", all, "cmovnp rax, rcx";
    cmovl_64, "sse2", all, "cmovl rax, rcx";
    cmovge_64, "sse2", all, "cmovge rax, rcx";
    cmovle_64, "sse2", all, "cmovle rax, rcx";
    cmovg_64, "sse2", all, "cmovg rax, rcx";
    seto_8, "sse2", all, "seto al";
    setae_8, "sse2", all, "setae ah";
    setbe_m, "sse2", all, "setbe byte ptr [rdi]";
    setg_8, "sse2", all, "setg cl";
}

cases! { bit_tests:
    bt_rr_64, "sse2", carry, "bt rax, rcx";
    bt_rr_16, "sse2", carry, "bt ax, cx";
    bts_rr_32, "sse2", carry, "bts eax, ecx";
    btr_rr_64, "sse2", carry, "btr rax, rcx";
    btc_rr_16, "sse2", carry, "btc ax, cx";
    bts_ri_64, "sse2", carry, "bts rax, 63";
    btr_mi_32, "sse2", carry, "lock btr dword ptr [rdi], 40";
    bt_mi_16, "sse2", carry, "bt word ptr [rdi], 15";
    bsf_64, "sse2", zero, "bsf rax, rcx";
    bsf_16, "sse2", zero, "bsf ax, [rdi]";
    bsr_64, "sse2", zero, "bsr rax, rcx";
    bsr_16, "sse2", zero, "bsr ax, cx";
}

cases! { bit_tests_beyond:
    bt_mr_64, "sse2", carry, "bt [rdi], rcx";
    bts_mr_64, "sse2", carry, "lock bts [rdi], rcx";
    btr_mr_32, "sse2", carry, "btr [rdi], ecx";
    btc_mr_16, "sse2", carry, "lock btc [rdi], cx";
}

/// What a shift by CL of an operand of so many bits defines.
fn shift_flags<const BITS: u64>(before: &State) -> u64 {
    let count = before.rcx & if BITS == 64 { 0x3f } else { 0x1f };
    match count {
        0 => STATUS,
        1 => STATUS & !AF,
        count if count < BITS => STATUS & !(AF | OF),
        _ => PF | ZF | SF,
    }
}

/// The same for a rotation, which leaves four flags as they are.
fn rotation_flags<const BITS: u64>(before: &State) -> u64 {
    match before.rcx & if BITS == 64 { 0x3f } else { 0x1f } {
        0 | 1 => STATUS,
        _ => STATUS & !OF,
    }
}

fn by_one(_: &State) -> u64 {
    STATUS & !AF
}

fn by_some(_: &State) -> u64 {
    STATUS & !(AF | OF)
}

cases! { shifts:
    shl_1_64, "sse2", by_one, "shl rax";
    shl_1_8, "sse2", by_one, "shl ah";
    shr_1_32, "sse2", by_one, "shr eax";
    sar_1_16, "sse2", by_one, "sar word ptr [rdi]";
    shl_i_32, "sse2", by_some, "shl eax, 5";
    shr_i_64, "sse2", by_some, "shr qword ptr [rdi], 63";
    sar_i_8, "sse2", by_some, "sar al, 7";
    shl_cl_64, "sse2", shift_flags::<64>, "shl rax, cl";
    shl_cl_8, "sse2", shift_flags::<8>, "shl al, cl";
    shr_cl_32, "sse2", shift_flags::<32>, "shr dword ptr [rdi], cl";
    shr_cl_16, "sse2", shift_flags::<16>, "shr ax, cl";
    sar_cl_64, "sse2", shift_flags::<64>, "sar rax, cl";
    sar_cl_8, "sse2", shift_flags::<8>, "sar al, cl";
    rol_1_64, "sse2", rotation_flags::<1>, "rol rax, 1";
    rol_cl_64, "sse2", rotation_flags::<64>, "rol rax, cl";
    rol_cl_8, "sse2", rotation_flags::<8>, "rol al, cl";
    ror_cl_32, "sse2", rotation_flags::<32>, "ror eax, cl";
    ror_cl_16, "sse2", rotation_flags::<16>, "ror word ptr [rdi], cl";
    rcl_cl_64, "sse2", rotation_flags::<64>, "rcl rax, cl";
    rcl_cl_8, "sse2", rotation_flags::<8>, "rcl al, cl";
    rcl_cl_16, "sse2", rotation_flags::<16>, "rcl ax, cl";
    rcr_cl_64, "sse2", rotation_flags::<64>, "rcr rax, cl";
    rcr_cl_32, "sse2", rotation_flags::<32>, "rcr eax, cl";
    rcr_cl_8, "sse2", rotation_flags::<8>, "rcr byte ptr [rdi], cl";
    shld_1_64, "sse2", by_one, "shld rax, rdx, 1";
    shld_cl_64, "sse2", shift_flags::<64>, "shld rax, rdx, cl";
    shld_cl_32, "sse2", shift_flags::<32>, "shld [rdi], edx, cl";
    shld_i_16, "sse2", by_some, "shld ax, dx, 9";
    shrd_1_32, "sse2", by_one, "shrd eax, edx, 1";
    shrd_cl_64, "sse2", shift_flags::<64>, "shrd rax, rdx, cl";
    shrd_i_16, "sse2", by_some, "shrd ax, dx, 11";
}

proptest! {
    #[test]
    fn everyday_instructions_do_as_the_processor_does(before in state(number())) {
        let machine = &mut Machine::new();
        for case in arithmetic().iter()
            .chain(&exchanges())
            .chain(&multiplications())
            .chain(&moves())
            .chain(&bit_tests())
            .chain(&shifts())
        {
            case.check(machine, before)?;
        }
    }

    #[test]
    fn shifts_by_small_counts_do_as_the_processor_does(before in state(0..70u64)) {
        let machine = &mut Machine::new();
        for case in shifts() {
            case.check(machine, before)?;
        }
    }

    #[test]
    fn bit_offsets_reach_beyond_the_operand(before in state((0..512u64).prop_map(|bit| bit.wrapping_sub(256)))) {
        let machine = &mut Machine::new();
        for case in bit_tests_beyond() {
            case.check(machine, before)?;
        }
    }
}

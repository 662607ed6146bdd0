//! Vector instructions, SSE to AVX-512.
//!
//! What computes is executed by the processor ([`super::native`]). What only
//! moves data, between elements, to and from memory, or through opmasks, is written out
//! here: it is short, and the same for all lengths and encodings.

mod convert;
pub(super) mod elements;
mod gather;
mod moves;
pub(super) mod operation;
mod opmask;
mod parts;
#[cfg(test)]
mod processor_tests;
mod shuffle;
mod sums;
#[cfg(test)]
mod tests;

use iced_x86::{Instruction, Mnemonic};

use self::operation::Operation;
use super::cpu::Cpu;
use super::error::Stop;
use super::native;

type Semantics = fn(&mut Cpu<'_>, &Operation<'_>) -> Result<(), Stop>;

/// Whether `insn` is one of these. (MOVSD and CMPSD are string instructions too.)
pub(super) fn is_covered(insn: &Instruction) -> bool {
    !insn.is_string_instruction()
        && (native::find(insn.mnemonic()).is_some() || semantics(insn.mnemonic()).is_some())
}

/// Executes any of them.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    if let Some(found) = native::find(insn.mnemonic()) {
        return native::execute(cpu, insn, &found);
    }
    let semantics = semantics(insn.mnemonic()).ok_or(Stop::NotCovered)?;
    let op = Operation::new(cpu, insn)?;
    semantics(cpu, &op)
}

#[rustfmt::skip]
fn semantics(mnemonic: Mnemonic) -> Option<Semantics> {
    use Mnemonic::*;
    Some(match mnemonic {
        Movups | Movupd | Movdqu | Lddqu | Movaps | Movapd | Movdqa | Movntps | Movntpd
        | Movntdq | Movntdqa | Vmovups | Vmovupd | Vmovdqu | Vlddqu | Vmovaps | Vmovapd
        | Vmovdqa | Vmovntps | Vmovntpd | Vmovntdq | Vmovntdqa | Vmovdqu8 | Vmovdqu16
        | Vmovdqu32 | Vmovdqu64 | Vmovdqa32 | Vmovdqa64 => moves::whole,
        Movd | Movq | Vmovd | Vmovq => moves::low,
        Movss | Vmovss | Movsd | Vmovsd => moves::element,
        Movlps | Movlpd | Vmovlps | Vmovlpd | Movhps | Movhpd | Vmovhps | Vmovhpd
        | Movhlps | Vmovhlps | Movlhps | Vmovlhps => moves::half,
        Movsldup | Vmovsldup | Movshdup | Vmovshdup | Movddup | Vmovddup => moves::duplicate,
        Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq => moves::by_sign,
        Maskmovdqu | Vmaskmovdqu => moves::bytes_by_sign,
        Vzeroupper | Vzeroall => moves::clear,
        Vpbroadcastb | Vpbroadcastw | Vpbroadcastd | Vpbroadcastq | Vbroadcastss | Vbroadcastsd
        | Vbroadcastf128 | Vbroadcasti128 | Vbroadcastf32x2 | Vbroadcasti32x2 | Vbroadcastf32x4
        | Vbroadcasti32x4 | Vbroadcastf64x2 | Vbroadcasti64x2 | Vbroadcastf32x8
        | Vbroadcasti32x8 | Vbroadcastf64x4 | Vbroadcasti64x4 => moves::broadcast,
        Pinsrb | Vpinsrb | Pinsrw | Vpinsrw | Pinsrd | Vpinsrd | Pinsrq | Vpinsrq => parts::insert_general,
        Pextrb | Vpextrb | Pextrw | Vpextrw | Pextrd | Vpextrd | Pextrq | Vpextrq | Extractps
        | Vextractps => parts::extract_general,
        Insertps | Vinsertps => parts::insert_single,
        Vinsertf128 | Vinserti128 | Vinsertf32x4 | Vinserti32x4 | Vinsertf64x2 | Vinserti64x2
        | Vinsertf32x8 | Vinserti32x8 | Vinsertf64x4 | Vinserti64x4 => parts::insert,
        Vextractf128 | Vextracti128 | Vextractf32x4 | Vextracti32x4 | Vextractf64x2
        | Vextracti64x2 | Vextractf32x8 | Vextracti32x8 | Vextractf64x4 | Vextracti64x4 => parts::extract,
        Pmovmskb | Vpmovmskb | Movmskps | Vmovmskps | Movmskpd | Vmovmskpd => parts::signs,
        Ptest | Vptest | Vtestps | Vtestpd => parts::test,
        Vpgatherdd | Vpgatherdq | Vpgatherqd | Vpgatherqq | Vgatherdps | Vgatherdpd | Vgatherqps
        | Vgatherqpd | Vpscatterdd | Vpscatterdq | Vpscatterqd | Vpscatterqq | Vscatterdps
        | Vscatterdpd | Vscatterqps | Vscatterqpd => gather::gather,
        Pshufd | Vpshufd | Pshufhw | Vpshufhw | Pshuflw | Vpshuflw | Shufps | Vshufps | Shufpd
        | Vshufpd | Vpermilps | Vpermilpd => shuffle::within,
        Palignr | Vpalignr | Pslldq | Vpslldq | Psrldq | Vpsrldq => shuffle::bytes,
        Valignd | Valignq => shuffle::align,
        Pblendw | Vpblendw | Vpblendd | Blendps | Vblendps | Blendpd | Vblendpd | Pblendvb
        | Vpblendvb | Blendvps | Vblendvps | Blendvpd | Vblendvpd => shuffle::blend,
        Vpblendmb | Vpblendmw | Vpblendmd | Vpblendmq | Vblendmps | Vblendmpd => shuffle::blend_by_opmask,
        Vperm2f128 | Vperm2i128 | Vshuff32x4 | Vshufi32x4 | Vshuff64x2 | Vshufi64x2 => shuffle::parts,
        Vpermb | Vpermw | Vpermd | Vpermq | Vpermps | Vpermpd => shuffle::permute,
        Vpermi2b | Vpermi2w | Vpermi2d | Vpermi2q | Vpermi2ps | Vpermi2pd | Vpermt2b | Vpermt2w
        | Vpermt2d | Vpermt2q | Vpermt2ps | Vpermt2pd => shuffle::permute_two,
        Pmovzxbw | Vpmovzxbw | Pmovzxbd | Vpmovzxbd | Pmovzxbq | Vpmovzxbq | Pmovzxwd
        | Vpmovzxwd | Pmovzxwq | Vpmovzxwq | Pmovzxdq | Vpmovzxdq | Pmovsxbw | Vpmovsxbw
        | Pmovsxbd | Vpmovsxbd | Pmovsxbq | Vpmovsxbq | Pmovsxwd | Vpmovsxwd | Pmovsxwq
        | Vpmovsxwq | Pmovsxdq | Vpmovsxdq => convert::extend,
        Vpmovqd | Vpmovsqd | Vpmovusqd | Vpmovqw | Vpmovsqw | Vpmovusqw | Vpmovqb | Vpmovsqb
        | Vpmovusqb | Vpmovdw | Vpmovsdw | Vpmovusdw | Vpmovdb | Vpmovsdb | Vpmovusdb | Vpmovwb
        | Vpmovswb | Vpmovuswb => convert::shorten,
        Vpcompressb | Vpcompressw | Vpcompressd | Vpcompressq | Vcompressps | Vcompresspd => convert::compress,
        Vpexpandb | Vpexpandw | Vpexpandd | Vpexpandq | Vexpandps | Vexpandpd => convert::expand,
        Mpsadbw | Vmpsadbw => sums::of_shifted_differences,
        Vdbpsadbw => sums::of_chosen_differences,
        Vpconflictd | Vpconflictq => convert::conflict,
        Vpternlogd | Vpternlogq => convert::ternary,
        Kmovb | Kmovw | Kmovd | Kmovq => opmask::copy,
        Kandb | Kandw | Kandd | Kandq | Kandnb | Kandnw | Kandnd | Kandnq | Korb | Korw | Kord
        | Korq | Kxnorb | Kxnorw | Kxnord | Kxnorq | Kxorb | Kxorw | Kxord | Kxorq | Knotb | Knotw
        | Knotd | Knotq | Kaddb | Kaddw | Kaddd | Kaddq | Kshiftlb | Kshiftlw | Kshiftld | Kshiftlq
        | Kshiftrb | Kshiftrw | Kshiftrd | Kshiftrq | Kunpckbw | Kunpckwd | Kunpckdq => opmask::combine,
        Kortestb | Kortestw | Kortestd | Kortestq | Ktestb | Ktestw | Ktestd | Ktestq => opmask::test,
        Vpcmpb | Vpcmpub | Vpcmpw | Vpcmpuw | Vpcmpd | Vpcmpud | Vpcmpq | Vpcmpuq => opmask::compare,
        Vptestmb | Vptestmw | Vptestmd | Vptestmq | Vptestnmb | Vptestnmw | Vptestnmd
        | Vptestnmq => opmask::test_elements,
        Vpshufbitqmb => opmask::pick_bits,
        Vfpclassps | Vfpclasspd | Vfpclassss | Vfpclasssd => opmask::classify,
        Vpmovm2b | Vpmovm2w | Vpmovm2d | Vpmovm2q | Vpmovb2m | Vpmovw2m | Vpmovd2m | Vpmovq2m
        | Vpbroadcastmw2d | Vpbroadcastmb2q => opmask::exchange,
        _ => return None,
    })
}

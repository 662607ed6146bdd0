//! Which instruction-set extensions this processor has, by iced-x86's names.

use iced_x86::CpuidFeature;
use std::arch::is_x86_feature_detected as has;

/// The vector extensions of the host's processor, which it may use (XCR0 included).
#[derive(Clone, Debug)]
pub(super) struct Features([u64; 4]);

impl Features {
    /// Asks this processor. Only extensions that vector instructions belong to are asked for.
    pub fn detect() -> Self {
        use CpuidFeature::*;
        let mut features = Self([0; 4]);
        for (feature, present) in [
            (SSE, has!("sse")),
            (SSE2, has!("sse2")),
            (SSE3, has!("sse3")),
            (SSSE3, has!("ssse3")),
            (SSE4_1, has!("sse4.1")),
            (SSE4_2, has!("sse4.2")),
            (AES, has!("aes")),
            (PCLMULQDQ, has!("pclmulqdq")),
            (SHA, has!("sha")),
            (GFNI, has!("gfni")),
            (AVX, has!("avx")),
            (AVX2, has!("avx2")),
            (FMA, has!("fma")),
            (F16C, has!("f16c")),
            (VAES, has!("vaes")),
            (VPCLMULQDQ, has!("vpclmulqdq")),
            (AVX_VNNI, has!("avxvnni")),
            (AVX_IFMA, has!("avxifma")),
            (AVX512F, has!("avx512f")),
            (AVX512CD, has!("avx512cd")),
            (AVX512BW, has!("avx512bw")),
            (AVX512DQ, has!("avx512dq")),
            (AVX512VL, has!("avx512vl")),
            (AVX512_IFMA, has!("avx512ifma")),
            (AVX512_VBMI, has!("avx512vbmi")),
            (AVX512_VBMI2, has!("avx512vbmi2")),
            (AVX512_VNNI, has!("avx512vnni")),
            (AVX512_BITALG, has!("avx512bitalg")),
            (AVX512_VPOPCNTDQ, has!("avx512vpopcntdq")),
        ] {
            if present {
                features.add(feature);
            }
        }
        features
    }

    /// A processor that has these and no others.
    #[cfg(test)]
    pub fn of(present: &[CpuidFeature]) -> Self {
        let mut features = Self([0; 4]);
        present.iter().for_each(|feature| features.add(*feature));
        features
    }

    /// Adds one.
    pub fn add(&mut self, feature: CpuidFeature) {
        if let Some(word) = self.0.get_mut(feature as usize / 64) {
            *word |= 1 << (feature as usize % 64);
        }
    }

    /// Whether all of `needed` are there.
    pub fn have(&self, needed: &[CpuidFeature]) -> bool {
        needed.iter().all(|feature| {
            let word = self.0.get(*feature as usize / 64).copied().unwrap_or(0);
            word >> (*feature as usize % 64) & 1 != 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_64_bit_processor_has_sse2_and_none_has_what_is_not_asked_for() {
        let features = Features::detect();
        assert!(features.have(&[CpuidFeature::SSE, CpuidFeature::SSE2]));
        assert!(!features.have(&[CpuidFeature::SSE2, CpuidFeature::KNC]));
    }

    #[test]
    fn what_is_added_is_there() {
        let mut features = Features([0; 4]);
        features.add(CpuidFeature::AVX512VL);
        assert!(features.have(&[CpuidFeature::AVX512VL]));
        assert!(!features.have(&[CpuidFeature::AVX512VL, CpuidFeature::AVX512F]));
    }
}

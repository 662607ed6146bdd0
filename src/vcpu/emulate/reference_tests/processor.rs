//! The processors that the guest may find itself on: this one, and what older ones leave of it.

use iced_x86::CpuidFeature;

use super::super::features::Features;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// This host.
    Host,
    /// What of it came without AVX-512.
    Avx2,
    /// The least a 64-bit processor has.
    Sse2,
}

impl Processor {
    pub fn has(self, feature: &str) -> bool {
        match self {
            Self::Host => host_has(feature),
            Self::Avx2 => host_has(feature) && !feature.starts_with("avx512"),
            Self::Sse2 => feature == "sse2",
        }
    }

    /// The same for the emulator.
    pub fn features(self) -> Features {
        use CpuidFeature::*;
        let host = Features::detect();
        match self {
            Self::Host => host,
            Self::Avx2 => {
                let all = [
                    SSE, SSE2, SSE3, SSSE3, SSE4_1, SSE4_2, AES, PCLMULQDQ, SHA, GFNI, AVX, AVX2,
                    FMA, F16C, VAES, VPCLMULQDQ, AVX_VNNI, AVX_IFMA,
                ];
                let present: Vec<_> = all.into_iter().filter(|one| host.have(&[*one])).collect();
                Features::of(&present)
            }
            Self::Sse2 => Features::of(&[SSE, SSE2]),
        }
    }
}

fn host_has(feature: &str) -> bool {
    macro_rules! ask {
        ($($name:tt),* $(,)?) => {
            match feature {
                $($name => std::arch::is_x86_feature_detected!($name),)*
                other => panic!("{other} is not asked for"),
            }
        };
    }
    ask!(
        "sse2",
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "aes",
        "pclmulqdq",
        "sha",
        "gfni",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "vaes",
        "vpclmulqdq",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512cd",
        "avx512vbmi",
        "avx512vbmi2",
        "avx512ifma",
        "avx512vnni",
        "avx512bitalg",
        "avx512vpopcntdq",
        "bmi2",
    )
}

//! Operations made for cryptography.

use super::table::stubs;

stubs! {
    /// AES, SHA, carry-less and Galois-field multiplication.
    CRYPTO, mayfly_native_crypto, float: false;
    Sse Packed 8 1 "aesenc xmm0, xmm1": Aesenc Vaesenc;
    Sse Packed 8 1 "aesenclast xmm0, xmm1": Aesenclast Vaesenclast;
    Sse Packed 8 1 "aesdec xmm0, xmm1": Aesdec Vaesdec;
    Sse Packed 8 1 "aesdeclast xmm0, xmm1": Aesdeclast Vaesdeclast;
    Sse Packed 8 1 "aesimc xmm0, xmm1": Aesimc Vaesimc;
    Sse RoundConstant 4 1 "aeskeygenassist xmm0, xmm1, 0": Aeskeygenassist Vaeskeygenassist;
    Sse Carryless 8 1 "pclmulqdq xmm0, xmm1, 0": Pclmulqdq Vpclmulqdq;
    Sse Packed 4 1 "sha1msg1 xmm0, xmm1": Sha1msg1;
    Sse Packed 4 1 "sha1msg2 xmm0, xmm1": Sha1msg2;
    Sse Packed 4 1 "sha1nexte xmm0, xmm1": Sha1nexte;
    Sse Packed 4 1 "sha256msg1 xmm0, xmm1": Sha256msg1;
    Sse Packed 4 1 "sha256msg2 xmm0, xmm1": Sha256msg2;
    Sse Packed 4 4 "sha1rnds4 xmm0, xmm1, imm": Sha1rnds4;
    Sse ThroughXmm0 4 1 "movaps xmm3, xmm0; movaps xmm0, xmm2; sha256rnds2 xmm3, xmm1; movaps xmm0, xmm3": Sha256rnds2;
    Sse Packed 1 1 "gf2p8mulb xmm0, xmm1": Gf2p8mulb Vgf2p8mulb;
    Sse XorImmediate 1 1 "gf2p8affineqb xmm0, xmm1, 0": Gf2p8affineqb Vgf2p8affineqb;
    Sse XorImmediate 1 1 "gf2p8affineinvqb xmm0, xmm1, 0": Gf2p8affineinvqb Vgf2p8affineinvqb;
}

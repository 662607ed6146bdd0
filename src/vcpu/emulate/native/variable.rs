//! Integer operations on vectors that exist since AVX2 or AVX-512.

use super::table::stubs;

stubs! {
    /// Operations that came with AVX2 and AVX-512.
    VARIABLE, mayfly_native_variable, float: false;
    Vex Packed 4 1 "vpsllvd xmm0, xmm0, xmm1": Vpsllvd;
    Vex Packed 8 1 "vpsllvq xmm0, xmm0, xmm1": Vpsllvq;
    Vex Packed 4 1 "vpsrlvd xmm0, xmm0, xmm1": Vpsrlvd;
    Vex Packed 8 1 "vpsrlvq xmm0, xmm0, xmm1": Vpsrlvq;
    Vex Packed 4 1 "vpsravd xmm0, xmm0, xmm1": Vpsravd;
    Evex Packed 2 1 "vpsllvw xmm0, xmm0, xmm1": Vpsllvw;
    Evex Packed 2 1 "vpsrlvw xmm0, xmm0, xmm1": Vpsrlvw;
    Evex Packed 2 1 "vpsravw xmm0, xmm0, xmm1": Vpsravw;
    Evex Packed 8 1 "vpsravq xmm0, xmm0, xmm1": Vpsravq;
    Evex Packed 4 1 "vprolvd xmm0, xmm0, xmm1": Vprolvd;
    Evex Packed 8 1 "vprolvq xmm0, xmm0, xmm1": Vprolvq;
    Evex Packed 4 1 "vprorvd xmm0, xmm0, xmm1": Vprorvd;
    Evex Packed 8 1 "vprorvq xmm0, xmm0, xmm1": Vprorvq;
    Evex Packed 8 1 "vpmaxsq xmm0, xmm0, xmm1": Vpmaxsq;
    Evex Packed 8 1 "vpmaxuq xmm0, xmm0, xmm1": Vpmaxuq;
    Evex Packed 8 1 "vpminsq xmm0, xmm0, xmm1": Vpminsq;
    Evex Packed 8 1 "vpminuq xmm0, xmm0, xmm1": Vpminuq;
    Evex Packed 8 1 "vpmullq xmm0, xmm0, xmm1": Vpmullq;
    Evex Packed 8 1 "vpabsq xmm0, xmm1": Vpabsq;
    Evex Packed 4 1 "vplzcntd xmm0, xmm1": Vplzcntd;
    Evex Packed 8 1 "vplzcntq xmm0, xmm1": Vplzcntq;
    Evex Packed 1 1 "vpopcntb xmm0, xmm1": Vpopcntb;
    Evex Packed 2 1 "vpopcntw xmm0, xmm1": Vpopcntw;
    Evex Packed 4 1 "vpopcntd xmm0, xmm1": Vpopcntd;
    Evex Packed 8 1 "vpopcntq xmm0, xmm1": Vpopcntq;
    Evex Mixed 1 1 "vpmultishiftqb xmm0, xmm0, xmm1": Vpmultishiftqb;
    Evex Count 8 1 "vpsraq xmm0, xmm0, xmm1": Vpsraq;
    Evex EachCount 4 1 "vprolvd xmm0, xmm0, xmm1": Vprold;
    Evex EachCount 8 1 "vprolvq xmm0, xmm0, xmm1": Vprolq;
    Evex EachCount 4 1 "vprorvd xmm0, xmm0, xmm1": Vprord;
    Evex EachCount 8 1 "vprorvq xmm0, xmm0, xmm1": Vprorq;
    Evex PairCount 2 1 "vpshldvw xmm0, xmm1, xmm2": Vpshldw;
    Evex Accumulate 2 1 "vpshldvw xmm0, xmm1, xmm2": Vpshldvw;
    Evex PairCount 4 1 "vpshldvd xmm0, xmm1, xmm2": Vpshldd;
    Evex Accumulate 4 1 "vpshldvd xmm0, xmm1, xmm2": Vpshldvd;
    Evex PairCount 8 1 "vpshldvq xmm0, xmm1, xmm2": Vpshldq;
    Evex Accumulate 8 1 "vpshldvq xmm0, xmm1, xmm2": Vpshldvq;
    Evex PairCount 2 1 "vpshrdvw xmm0, xmm1, xmm2": Vpshrdw;
    Evex Accumulate 2 1 "vpshrdvw xmm0, xmm1, xmm2": Vpshrdvw;
    Evex PairCount 4 1 "vpshrdvd xmm0, xmm1, xmm2": Vpshrdd;
    Evex Accumulate 4 1 "vpshrdvd xmm0, xmm1, xmm2": Vpshrdvd;
    Evex PairCount 8 1 "vpshrdvq xmm0, xmm1, xmm2": Vpshrdq;
    Evex Accumulate 8 1 "vpshrdvq xmm0, xmm1, xmm2": Vpshrdvq;
    Evex Accumulate 8 1 "vpmadd52luq xmm0, xmm1, xmm2": Vpmadd52luq;
    Evex Accumulate 8 1 "vpmadd52huq xmm0, xmm1, xmm2": Vpmadd52huq;
    Evex Accumulate 4 1 "vpdpbusd xmm0, xmm1, xmm2": Vpdpbusd;
    Evex Accumulate 4 1 "vpdpbusds xmm0, xmm1, xmm2": Vpdpbusds;
    Evex Accumulate 4 1 "vpdpwssd xmm0, xmm1, xmm2": Vpdpwssd;
    Evex Accumulate 4 1 "vpdpwssds xmm0, xmm1, xmm2": Vpdpwssds;
}

//! Conversions between number formats, and comparisons into the flags.

use super::table::stubs;

stubs! {
    /// Conversions, and comparisons into the flags.
    CONVERT, mayfly_native_convert, float: true;
    Sse Packed 4 1 "cvtdq2ps xmm0, xmm1": Cvtdq2ps Vcvtdq2ps;
    Sse Packed 4 1 "cvtps2dq xmm0, xmm1": Cvtps2dq Vcvtps2dq;
    Sse Packed 4 1 "cvttps2dq xmm0, xmm1": Cvttps2dq Vcvttps2dq;
    Sse Widen 8 1 "cvtdq2pd xmm0, xmm1": Cvtdq2pd Vcvtdq2pd;
    Sse Widen 8 1 "cvtps2pd xmm0, xmm1": Cvtps2pd Vcvtps2pd;
    Sse Narrow 4 1 "cvtpd2ps xmm0, xmm1": Cvtpd2ps Vcvtpd2ps;
    Sse Narrow 4 1 "cvtpd2dq xmm0, xmm1": Cvtpd2dq Vcvtpd2dq;
    Sse Narrow 4 1 "cvttpd2dq xmm0, xmm1": Cvttpd2dq Vcvttpd2dq;
    Sse Scalar 8 1 "cvtss2sd xmm0, xmm1": Cvtss2sd Vcvtss2sd;
    Sse Scalar 4 1 "cvtsd2ss xmm0, xmm1": Cvtsd2ss Vcvtsd2ss;
    Vex Widen 4 1 "vcvtph2ps xmm0, xmm1": Vcvtph2ps;
    Vex RoundNarrow 2 1 "vcvtps2ph xmm0, xmm1, 4": Vcvtps2ph;
    Evex Packed 4 1 "vcvtudq2ps xmm0, xmm1": Vcvtudq2ps;
    Evex Packed 4 1 "vcvtps2udq xmm0, xmm1": Vcvtps2udq;
    Evex Packed 4 1 "vcvttps2udq xmm0, xmm1": Vcvttps2udq;
    Evex Packed 8 1 "vcvtqq2pd xmm0, xmm1": Vcvtqq2pd;
    Evex Packed 8 1 "vcvtuqq2pd xmm0, xmm1": Vcvtuqq2pd;
    Evex Packed 8 1 "vcvtpd2qq xmm0, xmm1": Vcvtpd2qq;
    Evex Packed 8 1 "vcvttpd2qq xmm0, xmm1": Vcvttpd2qq;
    Evex Packed 8 1 "vcvtpd2uqq xmm0, xmm1": Vcvtpd2uqq;
    Evex Packed 8 1 "vcvttpd2uqq xmm0, xmm1": Vcvttpd2uqq;
    Evex Widen 8 1 "vcvtudq2pd xmm0, xmm1": Vcvtudq2pd;
    Evex Widen 8 1 "vcvtps2qq xmm0, xmm1": Vcvtps2qq;
    Evex Widen 8 1 "vcvttps2qq xmm0, xmm1": Vcvttps2qq;
    Evex Widen 8 1 "vcvtps2uqq xmm0, xmm1": Vcvtps2uqq;
    Evex Widen 8 1 "vcvttps2uqq xmm0, xmm1": Vcvttps2uqq;
    Evex Narrow 4 1 "vcvtqq2ps xmm0, xmm1": Vcvtqq2ps;
    Evex Narrow 4 1 "vcvtuqq2ps xmm0, xmm1": Vcvtuqq2ps;
    Evex Narrow 4 1 "vcvtpd2udq xmm0, xmm1": Vcvtpd2udq;
    Evex Narrow 4 1 "vcvttpd2udq xmm0, xmm1": Vcvttpd2udq;
    Sse FromGeneral 4 2 ".if imm; cvtsi2ss xmm0, rax; .else; cvtsi2ss xmm0, eax; .endif": Cvtsi2ss Vcvtsi2ss;
    Evex FromGeneral 4 2 ".if imm; vcvtusi2ss xmm0, xmm0, rax; .else; vcvtusi2ss xmm0, xmm0, eax; .endif": Vcvtusi2ss;
    Sse ToGeneral 4 2 ".if imm; cvtss2si rax, xmm1; .else; cvtss2si eax, xmm1; .endif": Cvtss2si Vcvtss2si;
    Evex ToGeneral 4 2 ".if imm; vcvtss2usi rax, xmm1; .else; vcvtss2usi eax, xmm1; .endif": Vcvtss2usi;
    Sse ToGeneral 4 2 ".if imm; cvttss2si rax, xmm1; .else; cvttss2si eax, xmm1; .endif": Cvttss2si Vcvttss2si;
    Evex ToGeneral 4 2 ".if imm; vcvttss2usi rax, xmm1; .else; vcvttss2usi eax, xmm1; .endif": Vcvttss2usi;
    Sse Flags 4 1 "comiss xmm0, xmm1; pushfq; pop rax": Comiss Vcomiss;
    Sse Flags 4 1 "ucomiss xmm0, xmm1; pushfq; pop rax": Ucomiss Vucomiss;
    Sse FromGeneral 8 2 ".if imm; cvtsi2sd xmm0, rax; .else; cvtsi2sd xmm0, eax; .endif": Cvtsi2sd Vcvtsi2sd;
    Evex FromGeneral 8 2 ".if imm; vcvtusi2sd xmm0, xmm0, rax; .else; vcvtusi2sd xmm0, xmm0, eax; .endif": Vcvtusi2sd;
    Sse ToGeneral 8 2 ".if imm; cvtsd2si rax, xmm1; .else; cvtsd2si eax, xmm1; .endif": Cvtsd2si Vcvtsd2si;
    Evex ToGeneral 8 2 ".if imm; vcvtsd2usi rax, xmm1; .else; vcvtsd2usi eax, xmm1; .endif": Vcvtsd2usi;
    Sse ToGeneral 8 2 ".if imm; cvttsd2si rax, xmm1; .else; cvttsd2si eax, xmm1; .endif": Cvttsd2si Vcvttsd2si;
    Evex ToGeneral 8 2 ".if imm; vcvttsd2usi rax, xmm1; .else; vcvttsd2usi eax, xmm1; .endif": Vcvttsd2usi;
    Sse Flags 8 1 "comisd xmm0, xmm1; pushfq; pop rax": Comisd Vcomisd;
    Sse Flags 8 1 "ucomisd xmm0, xmm1; pushfq; pop rax": Ucomisd Vucomisd;
}

//! Forms of instructions, as assembly text beside the code the assembler makes of it.
//!
//! The operands that a test expects to be used are read from the text, so that
//! nothing here depends on the decoder that the emulator uses.

/// One form: text in Intel syntax, and its code.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub text: &'static str,
    pub code: &'static [u8],
}

impl Form {
    /// Splits code in which each instruction is preceded by its length.
    pub fn split(texts: &[&'static str], mut code: &'static [u8]) -> Vec<Self> {
        let mut forms = Vec::new();
        for text in texts {
            let (len, rest) = code.split_first().expect("a length");
            let (code_of_this, rest) = rest.split_at(usize::from(*len));
            forms.push(Self {
                text,
                code: code_of_this,
            });
            code = rest;
        }
        assert!(code.is_empty());
        forms
    }

    /// The text's first word.
    pub fn mnemonic(&self) -> &'static str {
        self.text.split(' ').next().expect("a mnemonic")
    }

    pub fn operands(&self) -> Vec<Operand> {
        let (_, rest) = self.text.split_once(' ').expect("operands");
        rest.split(',').map(Operand::parse).collect()
    }

    /// Whether this is the EVEX encoding: 62 begins nothing else in 64-bit code.
    pub fn is_evex(&self) -> bool {
        self.code[0] == 0x62
    }

    /// Whether the instruction has neither a VEX nor an EVEX prefix.
    pub fn is_legacy(&self) -> bool {
        !matches!(self.code[0], 0x62 | 0xc4 | 0xc5)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// XMM, YMM or ZMM register, by its size in bytes.
    Vector {
        number: usize,
        size: usize,
    },
    Mask(usize),
    /// RAX, RCX, RDX or RBX by number, and the bytes used of it.
    General {
        number: usize,
        size: usize,
    },
    /// At RDI + `displacement`; `broadcast` elements of `size` bytes.
    Memory {
        displacement: u64,
        size: usize,
        broadcast: Option<usize>,
    },
    Immediate(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    pub kind: Kind,
    /// Opmask register that decorates it.
    pub mask: Option<usize>,
    pub zeroing: bool,
}

impl Operand {
    fn parse(text: &str) -> Self {
        let mut parts = text
            .split('{')
            .map(|part| part.trim().trim_end_matches('}'));
        let main = parts.next().expect("an operand");
        let (mut mask, mut zeroing, mut broadcast) = (None, false, None);
        for decoration in parts {
            if decoration == "z" {
                zeroing = true;
            } else if let Some(count) = decoration.strip_prefix("1to") {
                broadcast = Some(count.parse().expect("a count"));
            } else {
                mask = Some(decoration[1..].parse().expect("a mask register"));
            }
        }
        let kind = match Kind::parse(main) {
            Kind::Memory {
                displacement, size, ..
            } => Kind::Memory {
                displacement,
                size,
                broadcast,
            },
            other => other,
        };
        Self {
            kind,
            mask,
            zeroing,
        }
    }
}

impl Kind {
    fn parse(text: &str) -> Self {
        let number = |from: usize| text[from..].parse().expect("a register number");
        if let Some((size, place)) = text.split_once(" ptr [rdi") {
            let size = match size {
                "byte" => 1,
                "word" => 2,
                "dword" => 4,
                "qword" => 8,
                "xmmword" => 16,
                "ymmword" => 32,
                "zmmword" => 64,
                other => panic!("{other} is no size"),
            };
            let displacement = place.trim_matches([' ', '+', ']']);
            return Self::Memory {
                displacement: displacement.parse().unwrap_or(0),
                size,
                broadcast: None,
            };
        }
        let vector = |size| Self::Vector {
            number: number(3),
            size,
        };
        let general = |number, size| Self::General { number, size };
        match text {
            "eax" => general(0, 4),
            "rax" => general(0, 8),
            "ecx" => general(1, 4),
            "rcx" => general(1, 8),
            "edx" => general(2, 4),
            "rdx" => general(2, 8),
            "bl" => general(3, 1),
            "bx" => general(3, 2),
            "ebx" => general(3, 4),
            "rbx" => general(3, 8),
            _ if text.starts_with("xmm") => vector(16),
            _ if text.starts_with("ymm") => vector(32),
            _ if text.starts_with("zmm") => vector(64),
            _ if text.starts_with('k') => Self::Mask(number(1)),
            _ => Self::Immediate(text.parse().expect("an immediate")),
        }
    }
}

/// Assembles instructions: gives `Vec<Form>`, one a line.
macro_rules! forms {
    ($($line:expr),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: takes two addresses, touches nothing.
        unsafe {
            std::arch::asm!(
                ".pushsection .rodata",
                "771:",
                $(".byte 773f - 772f", "772:", $line, "773:",)+
                "774:",
                ".popsection",
                "lea rax, [rip + 771b]",
                "lea rcx, [rip + 774b]",
                out("rax") start,
                out("rcx") end,
                options(raw, nomem, nostack, preserves_flags),
            );
        }
        // SAFETY: both lie in the read-only section above, `end` after `start`.
        let code = unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) };
        $crate::vcpu::emulate::reference_tests::forms::Form::split(&[$($line),+], code)
    }};
}

/// Legacy SSE: destination (which may be a source) and a source, with what follows (an immediate).
macro_rules! sse {
    ($m:expr) => {
        sse!($m, "")
    };
    ($m:expr, $imm:literal) => {
        forms![
            concat!($m, " xmm1, xmm4", $imm),
            concat!($m, " xmm9, xmm12", $imm),
            concat!($m, " xmm2, xmm2", $imm),
            concat!($m, " xmm15, xmmword ptr [rdi + 16]", $imm),
        ]
    };
}

/// VEX, two sources. Not with a second source past 7 beside a first one below 8: where
/// they commute, the assembler exchanges those for a shorter encoding.
macro_rules! vex {
    ($m:expr) => {
        vex!($m, "")
    };
    ($m:expr, $imm:literal) => {
        forms![
            concat!($m, " xmm1, xmm3, xmm4", $imm),
            concat!($m, " xmm9, xmm12, xmmword ptr [rdi]", $imm),
            concat!($m, " ymm5, ymm13, ymm14", $imm),
            concat!($m, " ymm8, ymm8, ymmword ptr [rdi + 32]", $imm),
            concat!($m, " ymm7, ymm7, ymm7", $imm),
        ]
    };
}

/// VEX, one source.
macro_rules! vex_unary {
    ($m:expr) => {
        vex_unary!($m, "")
    };
    ($m:expr, $imm:literal) => {
        forms![
            concat!($m, " xmm1, xmm3", $imm),
            concat!($m, " xmm9, xmmword ptr [rdi]", $imm),
            concat!($m, " ymm5, ymm14", $imm),
            concat!($m, " ymm8, ymmword ptr [rdi + 32]", $imm),
        ]
    };
}

/// EVEX, two sources.
macro_rules! evex {
    ($m:expr) => { evex!($m, "") };
    ($m:expr, $imm:literal) => {
        forms![
            concat!($m, " zmm1, zmm3, zmm24", $imm),
            concat!($m, " zmm17 {k2}, zmm30, zmm4", $imm),
            concat!($m, " zmm1 {k3} {z}, zmm1, zmmword ptr [rdi + 64]", $imm),
            concat!($m, " zmm31, zmm31, zmmword ptr [rdi + 1]", $imm),
            concat!($m, " ymm18 {k4}, ymm3, ymmword ptr [rdi]", $imm),
            concat!($m, " ymm1 {k5} {z}, ymm2, ymm31", $imm),
            concat!($m, " xmm16 {k6} {z}, xmm17, xmm18", $imm),
            concat!($m, " xmm3 {k7}, xmm20, xmmword ptr [rdi + 16]", $imm),
            concat!($m, " xmm10 {k1}, xmm10, xmm10", $imm),
        ]
    };
}

/// EVEX, one source.
macro_rules! evex_unary {
    ($m:expr) => { evex_unary!($m, "") };
    ($m:expr, $imm:literal) => {
        forms![
            concat!($m, " zmm1, zmm24", $imm),
            concat!($m, " zmm17 {k2}, zmm4", $imm),
            concat!($m, " zmm1 {k3} {z}, zmmword ptr [rdi + 64]", $imm),
            concat!($m, " ymm18 {k4}, ymmword ptr [rdi]", $imm),
            concat!($m, " ymm1 {k5} {z}, ymm31", $imm),
            concat!($m, " xmm16 {k6} {z}, xmm18", $imm),
            concat!($m, " xmm3 {k7}, xmmword ptr [rdi + 16]", $imm),
        ]
    };
}

/// EVEX, two sources, the second an element of memory that is broadcast.
macro_rules! broadcast {
    ($m:expr, dword) => { broadcast!($m, dword, "") };
    ($m:expr, qword) => { broadcast!($m, qword, "") };
    ($m:expr, dword, $imm:literal) => { broadcast!($m, "dword", "16", "8", "4", $imm) };
    ($m:expr, qword, $imm:literal) => { broadcast!($m, "qword", "8", "4", "2", $imm) };
    ($m:expr, $size:literal, $z:literal, $y:literal, $x:literal, $imm:literal) => {
        forms![
            concat!($m, " zmm1, zmm3, ", $size, " ptr [rdi]{1to", $z, "}", $imm),
            concat!($m, " zmm19 {k1}, zmm3, ", $size, " ptr [rdi + 8]{1to", $z, "}", $imm),
            concat!($m, " ymm2 {k2} {z}, ymm3, ", $size, " ptr [rdi + 4]{1to", $y, "}", $imm),
            concat!($m, " xmm30 {k3}, xmm30, ", $size, " ptr [rdi]{1to", $x, "}", $imm),
        ]
    };
}

/// EVEX, one source, an element of memory that is broadcast.
macro_rules! broadcast_unary {
    ($m:expr, dword) => { broadcast_unary!($m, dword, "") };
    ($m:expr, qword) => { broadcast_unary!($m, qword, "") };
    ($m:expr, dword, $imm:literal) => { broadcast_unary!($m, "dword", "16", "8", "4", $imm) };
    ($m:expr, qword, $imm:literal) => { broadcast_unary!($m, "qword", "8", "4", "2", $imm) };
    ($m:expr, $size:literal, $z:literal, $y:literal, $x:literal, $imm:literal) => {
        forms![
            concat!($m, " zmm1, ", $size, " ptr [rdi]{1to", $z, "}", $imm),
            concat!($m, " zmm19 {k1}, ", $size, " ptr [rdi + 8]{1to", $z, "}", $imm),
            concat!($m, " ymm2 {k2} {z}, ", $size, " ptr [rdi + 4]{1to", $y, "}", $imm),
            concat!($m, " xmm30 {k3}, ", $size, " ptr [rdi]{1to", $x, "}", $imm),
        ]
    };
}

pub(super) use {broadcast, broadcast_unary, evex, evex_unary, forms, sse, vex, vex_unary};

//! Tables of stubs: from one row come the code and what is known about it.

use iced_x86::Mnemonic;

use super::call::Stub;

/// What a stub's own instruction needs of the host beyond what the guest's needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// A legacy SSE encoding.
    Sse,
    /// A VEX encoding of 128 bits.
    Vex,
    /// An EVEX encoding of 128 bits: AVX512VL.
    Evex,
}

/// How operands go into a stub and its result out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Element by element: `a` is the first source and `b` the last, or the only one.
    Packed,
    /// The same, but an element of the result may need any element of a memory operand.
    Mixed,
    /// The destination is `a`, the sources are `b` and `c`.
    Accumulate,
    /// Shifts by one count: the low half of a vector, or the immediate.
    Count,
    /// The immediate is the count of each element of `a`.
    EachCount,
    /// The immediate is the count of each pair of elements of `a` and `b`.
    PairCount,
    /// Element 0 alone; the rest is `a`'s.
    Scalar,
    /// The same with the destination as `a`.
    ScalarAccumulate,
    /// Elements become twice as long.
    Widen,
    /// Elements become half as long.
    Narrow,
    /// Rounding as the immediate says: bits 1:0 the mode unless bit 2, bit 3 no `#P`.
    Round,
    /// The same of element 0.
    RoundScalar,
    /// Halving with the rounding mode of the immediate.
    RoundNarrow,
    /// Immediate bits 0 and 4 choose the 64-bit halves that are multiplied.
    Carryless,
    /// The immediate is combined with each byte by exclusive or.
    XorImmediate,
    /// The immediate is AESKEYGENASSIST's round constant.
    RoundConstant,
    /// XMM0 is `c`.
    ThroughXmm0,
    /// From a general register or memory to element 0: one stub for 4 bytes, one for 8.
    FromGeneral,
    /// From element 0 to a general register: one stub for 4 bytes, one for 8.
    ToGeneral,
    /// A comparison whose result is the flags, which the stub leaves in RAX.
    Flags,
}

impl Kind {
    /// Whether it computes element 0 alone.
    pub fn is_scalar(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Scalar | ScalarAccumulate | RoundScalar | FromGeneral | ToGeneral | Flags
        )
    }
}

/// One operation.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub mnemonics: &'static [Mnemonic],
    pub needs: Needs,
    pub kind: Kind,
    /// Size of the result's elements in bytes: what the opmask counts.
    pub size: usize,
    /// How many stubs it has, one for each value of the immediate (a power of two).
    pub stubs: usize,
    /// Whether it obeys and changes MXCSR.
    pub float: bool,
}

/// A table of rows and where its stubs begin.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub rows: &'static [Row],
    pub base: fn() -> *const u8,
}

/// A row with its stubs.
#[derive(Clone, Copy)]
pub(in crate::vcpu::emulate) struct Found {
    pub(super) row: &'static Row,
    base: fn() -> *const u8,
    first: usize,
}

impl Found {
    /// Stub `index` of the row, taken modulo their number.
    pub(super) fn stub(&self, index: usize) -> Stub {
        let index = self.first + (index & (self.row.stubs - 1));
        // SAFETY: `first` counts the stubs of the rows before this one in the
        // same table, whose code the `stubs!` macro made from the same rows.
        unsafe { Stub::at((self.base)(), index) }
    }
}

/// iced-x86 knows fewer mnemonics than this.
const MNEMONICS: usize = 2048;

/// Table, row and first stub by mnemonic; table 0 stands for none.
pub(super) struct Index([(u8, u8, u16); MNEMONICS]);

impl Index {
    /// Made by the compiler.
    pub const fn new(tables: &[&Table]) -> Self {
        let mut index = [(0, 0, 0); MNEMONICS];
        let mut table = 0;
        while table < tables.len() {
            let rows = tables[table].rows;
            assert!(rows.len() <= 256);
            let (mut row, mut first) = (0, 0);
            while row < rows.len() {
                let mnemonics = rows[row].mnemonics;
                let mut at = 0;
                while at < mnemonics.len() {
                    let entry = &mut index[mnemonics[at] as usize];
                    assert!(entry.0 == 0, "a mnemonic has two rows");
                    *entry = (table as u8 + 1, row as u8, first);
                    at += 1;
                }
                assert!(rows[row].stubs.is_power_of_two());
                first += rows[row].stubs as u16;
                row += 1;
            }
            table += 1;
        }
        Self(index)
    }

    /// The row of `mnemonic` in one of the `tables` this was made from.
    pub fn find(&self, tables: &[&'static Table], mnemonic: Mnemonic) -> Option<Found> {
        let (table, row, first) = *self.0.get(mnemonic as usize)?;
        let table = tables.get(usize::from(table).checked_sub(1)?)?;
        Some(Found {
            row: table.rows.get(usize::from(row))?,
            base: table.base,
            first: first.into(),
        })
    }
}

/// Makes a [`Table`] and its code from rows
/// `needs kind size stubs "instruction": mnemonics;`.
///
/// The instruction may name its immediate `imm`: stub n has the value n.
macro_rules! stubs {
    (
        $(#[$doc:meta])*
        $name:ident, $symbol:ident, float: $float:literal;
        $($needs:ident $kind:ident $size:literal $stubs:literal $text:literal: $($mnemonic:ident)*;)+
    ) => {
        std::arch::global_asm!(
            concat!(".pushsection .text.", stringify!($symbol), ", \"ax\", @progbits"),
            concat!(".globl ", stringify!($symbol)),
            concat!(".hidden ", stringify!($symbol)),
            ".p2align 4",
            concat!(stringify!($symbol), ":"),
            $(
                ".set imm, 0",
                concat!(".rept ", $stubs),
                // ORG refuses a stub that does not fit into its place.
                concat!("771: ", $text),
                "ret",
                ".org 771b + 16, 0xcc",
                ".set imm, imm + 1",
                ".endr",
            )+
            ".popsection",
        );

        unsafe extern "C" {
            /// The first stub: code, never read as data.
            static $symbol: u8;
        }

        $(#[$doc])*
        pub(super) static $name: $crate::vcpu::emulate::native::table::Table =
            $crate::vcpu::emulate::native::table::Table {
                rows: &[$($crate::vcpu::emulate::native::table::Row {
                    mnemonics: &[$(iced_x86::Mnemonic::$mnemonic),*],
                    needs: $crate::vcpu::emulate::native::table::Needs::$needs,
                    kind: $crate::vcpu::emulate::native::table::Kind::$kind,
                    size: $size,
                    stubs: $stubs,
                    float: $float,
                }),+],
                base: || &raw const $symbol,
            };
    };
}
pub(super) use stubs;

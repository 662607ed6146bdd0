//! Fused multiply-add, whose digits give the operands' order (SDM vol. 2, VFMADD132PS).

use super::forms::*;
use super::harness::{FLOAT, Isa, check};
use super::model::*;

const FMA: Isa = Isa {
    vex_128: "fma",
    vex_256: "fma",
    ..FLOAT
};

/// Which operands are multiplied, and which is added; the destination is 0.
fn order(digits: &str) -> [usize; 3] {
    match digits {
        "132" => [0, 2, 1],
        "213" => [1, 0, 2],
        _ => [1, 2, 0],
    }
}

/// Signs of the product, of the addend in even lanes, and in odd ones.
type Signs = [i8; 3];

/// Rounded once. Of NaNs the first of the operands counts: the first factor as the
/// manual's pseudo-code writes them, the second, the addend.
macro_rules! lane {
    ($name:ident, $t:ty, $indefinite:literal, $quiet:literal) => {
        fn $name(inputs: &Inputs, digits: &str, signs: Signs, lane: usize) -> $t {
            let [a, b, c] = order(digits).map(|from| get::<$t>(&inputs.sources[from], lane));
            if let Some(nan) = [a, b, c].into_iter().find(|operand| operand.is_nan()) {
                return <$t>::from_bits(nan.to_bits() | $quiet);
            }
            let addend = <$t>::from(signs[1 + lane % 2]) * c;
            let result = (<$t>::from(signs[0]) * a).mul_add(b, addend);
            if result.is_nan() {
                <$t>::from_bits($indefinite)
            } else {
                result
            }
        }
    };
}
lane!(single, f32, 0xffc0_0000, 0x40_0000);
lane!(double, f64, 0xfff8_0000_0000_0000, 0x8_0000_0000_0000);

fn packed<T: Lane>(
    lane: fn(&Inputs, &str, Signs, usize) -> T,
    digits: &'static str,
    signs: Signs,
) -> Model {
    whole(3, T::SIZE * 8, move |inputs| {
        build(inputs.len, |index| lane(inputs, digits, signs, index))
    })
    .float()
}

/// Element 0 alone; the rest of the destination stays.
fn scalar<T: Lane>(
    lane: fn(&Inputs, &str, Signs, usize) -> T,
    digits: &'static str,
    signs: Signs,
) -> Model {
    whole(3, 8, move |inputs| {
        let mut value = inputs.sources[0];
        set(&mut value, 0, lane(inputs, digits, signs, 0));
        value
    })
    .scalar(T::SIZE * 8)
    .float()
}

macro_rules! row {
    ($name:literal, $digits:literal, $signs:expr) => {
        let forms = [
            vex!(concat!("v", $name, $digits, "ps")),
            evex!(concat!("v", $name, $digits, "ps")),
            broadcast!(concat!("v", $name, $digits, "ps"), dword),
        ];
        check(&forms.concat(), FMA, &packed(single, $digits, $signs));
        let forms = [
            vex!(concat!("v", $name, $digits, "pd")),
            evex!(concat!("v", $name, $digits, "pd")),
            broadcast!(concat!("v", $name, $digits, "pd"), qword),
        ];
        check(&forms.concat(), FMA, &packed(double, $digits, $signs));
    };
}

macro_rules! scalar_row {
    ($name:literal, $digits:literal, $signs:expr) => {
        let forms = forms![
            concat!("v", $name, $digits, "ss xmm1, xmm3, xmm4"),
            concat!("v", $name, $digits, "ss xmm1, xmm3, dword ptr [rdi + 1]"),
            concat!("v", $name, $digits, "ss xmm17 {k1}, xmm3, xmm4"),
            concat!("v", $name, $digits, "ss xmm17 {k1} {z}, xmm3, xmm4"),
        ];
        check(&forms, FMA, &scalar(single, $digits, $signs));
        let forms = forms![
            concat!("v", $name, $digits, "sd xmm1, xmm3, xmm4"),
            concat!("v", $name, $digits, "sd xmm17 {k1}, xmm3, qword ptr [rdi]"),
        ];
        check(&forms, FMA, &scalar(double, $digits, $signs));
    };
}

macro_rules! test {
    ($test:ident, $name:literal, $signs:expr) => {
        #[test]
        fn $test() {
            row!($name, "132", $signs);
            row!($name, "213", $signs);
            row!($name, "231", $signs);
        }
    };
}

macro_rules! test_with_scalars {
    ($test:ident, $name:literal, $signs:expr) => {
        #[test]
        fn $test() {
            row!($name, "132", $signs);
            row!($name, "213", $signs);
            row!($name, "231", $signs);
            scalar_row!($name, "132", $signs);
            scalar_row!($name, "213", $signs);
            scalar_row!($name, "231", $signs);
        }
    };
}

test_with_scalars!(multiply_add, "fmadd", [1, 1, 1]);
test_with_scalars!(multiply_subtract, "fmsub", [1, -1, -1]);
test_with_scalars!(negative_multiply_add, "fnmadd", [-1, 1, 1]);
test_with_scalars!(negative_multiply_subtract, "fnmsub", [-1, -1, -1]);
test!(multiply_alternating, "fmaddsub", [1, -1, 1]);
test!(multiply_alternating_the_other_way, "fmsubadd", [1, 1, -1]);

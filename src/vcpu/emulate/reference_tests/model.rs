//! What an instruction computes, written lane by lane from the manual's pseudo-code.

pub type Vector = [u8; 64];

/// What an instruction is given.
pub struct Inputs {
    /// The sources, zero beyond their length: the model's number of them, so
    /// that the destination comes first where it is a source too.
    pub sources: Vec<Vector>,
    /// The destination's previous value.
    pub old: Vector,
    pub immediate: u8,
    /// Length of the destination in bytes; of the first source for a destination that is an opmask or general register.
    pub len: usize,
    /// Length of the first source operand's register in bytes, 0 if that is memory.
    pub source_len: usize,
    /// Opmask: all ones for none.
    pub mask: u64,
    pub zeroing: bool,
}

/// What an instruction gives.
pub struct Output {
    pub value: Vector,
    /// Bytes of `value` that count, if it is not the whole destination; the rest of it
    /// becomes zero. With 0 nothing is written.
    pub len: Option<usize>,
    /// Arithmetic flags, where the instruction sets them.
    pub flags: Option<u64>,
}

impl From<Vector> for Output {
    fn from(value: Vector) -> Self {
        Self {
            value,
            len: None,
            flags: None,
        }
    }
}

impl From<u64> for Output {
    fn from(number: u64) -> Self {
        let mut value = [0; 64];
        value[..8].copy_from_slice(&number.to_le_bytes());
        value.into()
    }
}

/// How the opmask is applied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Masking {
    /// One bit for each of so many bits of the destination.
    Lanes(usize),
    /// The first bit is for the first so many bits; the others are written anyway.
    Scalar(usize),
    /// By the function.
    Own,
}

type Function = Box<dyn Fn(&Inputs) -> Output>;

pub struct Model {
    pub sources: usize,
    pub masking: Masking,
    pub function: Function,
    /// MXCSR before and after: all exceptions masked and, for instructions that
    /// raise them, reported already.
    pub mxcsr: u32,
}

impl Model {
    /// Of an instruction that may raise floating-point exceptions.
    pub fn float(self) -> Self {
        Self {
            mxcsr: 0x1fbf,
            ..self
        }
    }

    /// Of an instruction that works on element 0 alone, and copies what is above.
    pub fn scalar(self, bits: usize) -> Self {
        Self {
            masking: Masking::Scalar(bits),
            ..self
        }
    }

    /// Of an instruction whose opmask is the function's business.
    pub fn own_masking(self) -> Self {
        Self {
            masking: Masking::Own,
            ..self
        }
    }
}

pub trait Lane: Copy + Default + 'static {
    const SIZE: usize;
    fn from_bytes(bytes: &[u8]) -> Self;
    fn put(self, bytes: &mut [u8]);
}

macro_rules! lane {
    ($($t:ty),*) => {$(
        impl Lane for $t {
            const SIZE: usize = size_of::<$t>();
            fn from_bytes(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap())
            }
            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
lane!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64);

pub fn get<T: Lane>(vector: &[u8], index: usize) -> T {
    T::from_bytes(&vector[index * T::SIZE..][..T::SIZE])
}

pub fn set<T: Lane>(vector: &mut [u8], index: usize, value: T) {
    value.put(&mut vector[index * T::SIZE..][..T::SIZE]);
}

/// Lanes of `T` made by their index.
pub fn build<T: Lane>(len: usize, lane: impl Fn(usize) -> T) -> Vector {
    let mut value = [0; 64];
    for index in 0..len / T::SIZE {
        set(&mut value, index, lane(index));
    }
    value
}

/// Any function; lanes of `bits` are masked.
pub fn whole<O: Into<Output>>(
    sources: usize,
    bits: usize,
    function: impl Fn(&Inputs) -> O + 'static,
) -> Model {
    Model {
        sources,
        masking: Masking::Lanes(bits),
        function: Box::new(move |inputs| function(inputs).into()),
        mxcsr: 0x1f80,
    }
}

/// Each lane of one source.
pub fn lanes1<T: Lane>(lane: impl Fn(T) -> T + 'static) -> Model {
    whole(1, T::SIZE * 8, move |inputs| {
        build(inputs.len, |index| lane(get(&inputs.sources[0], index)))
    })
}

/// Each lane of one source, with the immediate.
pub fn lanes1i<T: Lane>(lane: impl Fn(T, u8) -> T + 'static) -> Model {
    whole(1, T::SIZE * 8, move |inputs| {
        build(inputs.len, |index| {
            lane(get(&inputs.sources[0], index), inputs.immediate)
        })
    })
}

/// Each lane of two sources.
pub fn lanes2<T: Lane>(lane: impl Fn(T, T) -> T + 'static) -> Model {
    lanes2i(move |a, b, _| lane(a, b))
}

/// Each lane of two sources, with the immediate.
pub fn lanes2i<T: Lane>(lane: impl Fn(T, T, u8) -> T + 'static) -> Model {
    whole(2, T::SIZE * 8, move |inputs| {
        let [a, b] = [&inputs.sources[0], &inputs.sources[1]];
        build(inputs.len, |index| {
            lane(get(a, index), get(b, index), inputs.immediate)
        })
    })
}

/// Each lane of three sources, the first of which is the destination, with the immediate.
pub fn lanes3<T: Lane>(lane: impl Fn(T, T, T, u8) -> T + 'static) -> Model {
    whole(3, T::SIZE * 8, move |inputs| {
        let [a, b, c] = [0, 1, 2].map(|index| &inputs.sources[index]);
        build(inputs.len, |index| {
            lane(
                get(a, index),
                get(b, index),
                get(c, index),
                inputs.immediate,
            )
        })
    })
}

pub type Block = [u8; 16];

/// Each 16 bytes of one source, with the immediate.
pub fn blocks1(bits: usize, block: impl Fn(Block, u8) -> Block + 'static) -> Model {
    whole(1, bits, move |inputs| {
        build(inputs.len, |index| {
            let a: u128 = get(&inputs.sources[0], index);
            u128::from_le_bytes(block(a.to_le_bytes(), inputs.immediate))
        })
    })
}

/// Each 16 bytes of two sources, with the immediate.
pub fn blocks2(bits: usize, block: impl Fn(Block, Block, u8) -> Block + 'static) -> Model {
    whole(2, bits, move |inputs| {
        build(inputs.len, |index| {
            let [a, b] = [0, 1].map(|source| get::<u128>(&inputs.sources[source], index));
            u128::from_le_bytes(block(a.to_le_bytes(), b.to_le_bytes(), inputs.immediate))
        })
    })
}

/// 16 bytes made of lanes by their index.
pub fn block<T: Lane>(lane: impl Fn(usize) -> T) -> Block {
    let value = build(16, lane);
    value[..16].try_into().unwrap()
}

//! Inputs: a fixed sequence of random numbers with many edge values among them.

/// xorshift64* (Marsaglia, Vigna): the same sequence in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A word: random, or made of edge values, or of numbers about as large as shift counts.
    fn word(&mut self) -> u64 {
        const EDGES: [u64; 6] = [0, u64::MAX, 1 << 63, u64::MAX >> 1, 1, u64::MAX - 1];
        let choice = self.next();
        let mut edge = || EDGES[(self.next() % 6) as usize];
        match choice % 10 {
            0 => edge(),
            1 => (edge() >> 32) << 32 | edge() >> 32,
            2 => (0..4).fold(0, |word, _| word << 16 | edge() >> 48),
            3 => (0..8).fold(0, |word, _| word << 8 | edge() >> 56),
            4 => self.next() % 80,
            5 => self.next() & 0x0041_003f_0021_001f,
            // Floating-point numbers that are not far from each other.
            6 => self.next() & 0x87ff_ffff_87ff_ffff | 0x3800_0000_3800_0000,
            7 => self.next() & 0x803f_ffff_ffff_ffff | 0x3fc0_0000_0000_0000,
            _ => self.next(),
        }
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
    }

    pub fn vector(&mut self) -> [u8; 64] {
        let mut bytes = [0; 64];
        self.fill(&mut bytes);
        // Shift counts and the like are 64 bits of which all but a few are zero.
        if self.next().is_multiple_of(3) {
            bytes[..8].copy_from_slice(&(self.next() % 72).to_le_bytes());
        }
        bytes
    }

    /// An opmask: all, nothing, or random bits.
    pub fn mask(&mut self) -> u64 {
        match self.next() % 8 {
            0 => 0,
            1 => u64::MAX,
            _ => self.next(),
        }
    }
}

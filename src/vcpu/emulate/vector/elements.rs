//! Vectors as rows of little-endian elements of 1, 2, 4 or 8 bytes.

use super::super::vectors::Vector;

/// Element `index`, zero-extended; zero past the end.
pub(crate) fn get(vector: &[u8], size: usize, index: usize) -> u64 {
    let start = index.saturating_mul(size);
    let bytes = vector.get(start..start.saturating_add(size)).unwrap_or(&[]);
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

/// Element `index`, sign-extended.
pub(crate) fn get_signed(vector: &[u8], size: usize, index: usize) -> i64 {
    sign_extend(get(vector, size, index), size)
}

/// The low `size` bytes of `value`, sign-extended.
pub(crate) fn sign_extend(value: u64, size: usize) -> i64 {
    let unused = 64 - bits(size).clamp(1, 64);
    (value << unused) as i64 >> unused
}

/// Writes the low bytes of `value` to element `index`; nothing past the end.
pub(crate) fn put(vector: &mut [u8], size: usize, index: usize, value: u64) {
    let start = index.saturating_mul(size);
    let end = start.saturating_add(size);
    for (to, from) in vector
        .get_mut(start..end)
        .unwrap_or(&mut [])
        .iter_mut()
        .zip(value.to_le_bytes())
    {
        *to = from;
    }
}

/// Bits of an element of `size` bytes.
pub(crate) fn bits(size: usize) -> u32 {
    (size as u32).saturating_mul(8)
}

/// A vector whose elements are `element(0)`, `element(1)` …, as many as fill `len` bytes.
pub(crate) fn from_fn(len: usize, size: usize, mut element: impl FnMut(usize) -> u64) -> Vector {
    let mut vector = [0; 64];
    for index in 0..count(len, size) {
        put(&mut vector, size, index, element(index));
    }
    vector
}

/// How many elements of `size` bytes fill `len` bytes.
pub(crate) fn count(len: usize, size: usize) -> usize {
    len.min(64) / size.max(1)
}

/// A vector that holds the first `unit` bytes of `source` again and again.
pub(crate) fn splat(source: &[u8], unit: usize) -> Vector {
    let mut vector = [0; 64];
    for chunk in vector.chunks_mut(unit.max(1)) {
        for (to, from) in chunk.iter_mut().zip(source) {
            *to = *from;
        }
    }
    vector
}

/// The first `len` bytes, zeros after them.
pub(crate) fn first(vector: &Vector, len: usize) -> Vector {
    let mut value = [0; 64];
    for (to, from) in value.iter_mut().zip(vector).take(len) {
        *to = *from;
    }
    value
}

/// One bit for each element that fills `len` bytes: whether it is negative.
pub(crate) fn signs(vector: &Vector, len: usize, size: usize) -> u64 {
    bits_where(count(len, size), |index| {
        get_signed(vector, size, index) < 0
    })
}

/// One bit for each of `count` elements: whether `holds` for it.
pub(crate) fn bits_where(count: usize, mut holds: impl FnMut(usize) -> bool) -> u64 {
    (0..count.min(64)).fold(0, |bits, index| bits | u64::from(holds(index)) << index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_little_endian_and_bounded() {
        let mut vector = [0; 64];
        put(&mut vector, 4, 1, 0xffff_fffe);
        assert_eq!(get(&vector, 2, 2), 0xfffe);
        assert_eq!(get_signed(&vector, 4, 1), -2);
        assert_eq!(get(&vector, 8, 0), 0xffff_fffe_0000_0000);
        put(&mut vector, 8, 8, 1);
        assert_eq!(get(&vector, 8, 8), 0);
        assert_eq!(sign_extend(0x80, 1), -128);
        assert_eq!(sign_extend(1 << 63, 8), i64::MIN);
    }

    #[test]
    fn a_splat_repeats_its_unit() {
        let vector = splat(&[1, 2, 3, 4], 2);
        assert_eq!((get(&vector, 2, 0), get(&vector, 2, 31)), (0x201, 0x201));
    }
}

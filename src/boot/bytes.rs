//! Little-endian fields in byte slices, where a missing byte is `None`, never a panic.

/// `N` bytes at `offset`.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    let end = offset.checked_add(N)?;
    bytes.get(offset..end)?.try_into().ok()
}

/// The byte at `offset`.
pub(super) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

/// The 16-bit word at `offset`.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

/// The 32-bit word at `offset`.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

/// The 64-bit word at `offset`.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

/// Puts `value` at `offset` as far as the slice reaches.
pub(super) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(room) = bytes.get_mut(offset..) {
        for (to, from) in room.iter_mut().zip(value) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_end_are_none() {
        let bytes = [1, 2, 3, 4];
        assert_eq!(u8_at(&bytes, 3), Some(4));
        assert_eq!(u16_at(&bytes, 1), Some(0x0302));
        assert_eq!(u32_at(&bytes, 0), Some(0x0403_0201));
        assert_eq!(u32_at(&bytes, 1), None);
        assert_eq!(u64_at(&bytes, 0), None);
        assert_eq!(u64_at(&bytes, usize::MAX), None);
    }

    #[test]
    fn put_stops_at_the_end() {
        let mut bytes = [0; 4];
        put(&mut bytes, 2, &[7, 8, 9]);
        put(&mut bytes, 9, &[1]);
        assert_eq!(bytes, [0, 0, 7, 8]);
    }
}

//! Sizes as people write them: `512M`, `2G`, `1GiB`, or plain bytes.

use super::ConfigError;

/// Reads a size in bytes. The units K, M, G and T are powers of 1024, in
/// either case, with or without `iB`; a number alone counts bytes.
///
/// # Errors
/// [`ConfigError::Size`] for what is not a size, [`ConfigError::SizeOverflow`]
/// for one beyond 64 bits.
pub fn parse(text: &str) -> Result<u64, ConfigError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let not_a_size = || ConfigError::Size {
        given: text.to_owned(),
    };
    let too_large = || ConfigError::SizeOverflow {
        given: text.to_owned(),
    };
    if number.is_empty() {
        return Err(not_a_size());
    }
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(not_a_size()),
    };
    // Only digits are left, so the one thing that can go wrong is their number.
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number.checked_mul(factor).ok_or_else(too_large)
}

/// The shortest text that [`parse`] reads as `bytes`: `1G`, `1025M`, `4097`.
pub fn format(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let whole = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
    match units.into_iter().find(|(shift, _)| whole(*shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_people_write() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4096b", 4096),
            ("64k", 64 << 10),
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("1GiB", 1 << 30),
            ("1g", 1 << 30),
            ("3TiB", 3 << 40),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_with_the_largest_unit() {
        for (bytes, text) in [
            (0, "0"),
            (4097, "4097"),
            (4096, "4K"),
            (258 << 20, "258M"),
            (1 << 30, "1G"),
            (3 << 41, "6T"),
        ] {
            assert_eq!(format(bytes), text);
        }
    }

    #[test]
    fn what_is_not_a_size() {
        for text in [
            "", "M", "-1", "+1", "1.5G", "12X", "1 G", "1MB", "0x10", "１G",
        ] {
            assert!(
                matches!(parse(text), Err(ConfigError::Size { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_beyond_64_bits() {
        for text in ["18446744073709551616", "16777216T", "99999999999999999999G"] {
            assert!(
                matches!(parse(text), Err(ConfigError::SizeOverflow { .. })),
                "{text}"
            );
        }
        assert_eq!(parse("18446744073709551615"), Ok(u64::MAX));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read(bytes: u64, shift in 0..64_u32) {
            let bytes = bytes << shift;
            prop_assert_eq!(parse(&format(bytes)), Ok(bytes));
        }

        #[test]
        fn mebibytes_are_counted(n in 0_u64..1 << 44) {
            prop_assert_eq!(parse(&std::format!("{n}M")), Ok(n << 20));
        }
    }
}

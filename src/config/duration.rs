//! Durations as people write them: `90s`, `5m`, `1h`, `250ms`, `1m30s`.

use std::time::Duration;

use super::ConfigError;

/// The longest duration: far beyond any test, and no sum with a clock overflows.
const LONGEST: Duration = Duration::from_secs(10_000 * 3600);

/// Reads a duration: one or more numbers, each with its unit (`h`, `m`, `s`,
/// `ms`), in any order. A number without a unit could mean anything and is refused.
///
/// # Errors
/// [`ConfigError::Duration`] for what is not a duration,
/// [`ConfigError::DurationOverflow`] for one beyond 10000 hours.
pub fn parse(text: &str) -> Result<Duration, ConfigError> {
    let not_a_duration = || ConfigError::Duration {
        given: text.to_owned(),
    };
    let too_long = || ConfigError::DurationOverflow {
        given: text.to_owned(),
    };
    let mut total = Duration::ZERO;
    let mut rest = text;
    loop {
        let (number, after) = split_while(rest, |byte| byte.is_ascii_digit());
        let (unit, after) = split_while(after, |byte| byte.is_ascii_alphabetic());
        let unit = unit_of(unit).ok_or_else(not_a_duration)?;
        if number.is_empty() {
            return Err(not_a_duration());
        }
        let number: u64 = number.parse().map_err(|_| too_long())?;
        total = unit
            .checked_mul(number)
            .and_then(|millis| total.checked_add(Duration::from_millis(millis)))
            .filter(|sum| *sum <= LONGEST)
            .ok_or_else(too_long)?;
        if after.is_empty() {
            return Ok(total);
        }
        rest = after;
    }
}

/// Writes a duration in the form that [`parse`] reads, to the millisecond.
pub fn format(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

/// A unit in milliseconds.
fn unit_of(name: &str) -> Option<u64> {
    match name {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    }
}

/// The longest prefix of ASCII bytes that `wanted` accepts, and what follows.
fn split_while(text: &str, wanted: impl Fn(&u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().take_while(wanted).count())
}

/// An optional duration as the text that [`parse`] reads.
pub mod optional {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes the text form, or nothing.
    ///
    /// # Errors
    /// What the serializer says.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => to.serialize_some(&super::format(*duration)),
            None => to.serialize_none(),
        }
    }

    /// Reads the text form, or nothing.
    ///
    /// # Errors
    /// What the deserializer or the parser says.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(from)?
            .map(|text| super::parse(&text).map_err(de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_people_write() {
        for (text, millis) in [
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1h1m1s1ms", 3_661_001),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration() {
        for text in [
            "", "5", "s", "1m30", "1.5s", "-5s", "5 s", "5S", "5d", "é", "1sé",
        ] {
            assert!(
                matches!(parse(text), Err(ConfigError::Duration { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn durations_beyond_counting() {
        for text in ["99999999999s", "10001h", "10000h1ms", "4294967295h"] {
            assert!(
                matches!(parse(text), Err(ConfigError::DurationOverflow { .. })),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn no_sum_panics(text in "([0-9]{1,12}(ms|s|m|h)){1,4}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read(millis in 0_u64..=36_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}

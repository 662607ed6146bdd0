//! Where a profile goes and how often the vCPUs are looked at, as an option value.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;

/// Samples a second: a prime, so that they do not keep step with timer ticks.
const HZ_DEFAULT: u32 = 99;
/// More often a vCPU would do little else than be sampled.
const HZ_MAX: u32 = 5000;

/// `--profile`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileConfig {
    /// The file for the folded stacks, created or replaced.
    pub path: PathBuf,
    /// Samples of each vCPU a second, 1 to 5000.
    pub hz: u32,
}

impl ProfileConfig {
    /// Reads `FILE` or `FILE,hz=N`; the path may be any bytes.
    ///
    /// # Errors
    /// [`ConfigError::EmptyPath`], or [`ConfigError::Choice`] for a number that is
    /// none, or out of range.
    pub fn parse(text: &OsStr) -> Result<Self, ConfigError> {
        const OPTION: &[u8] = b",hz=";
        let bytes = text.as_bytes();
        let option = bytes
            .windows(OPTION.len())
            .rposition(|window| window == OPTION);
        let (path, hz) = match option {
            Some(at) => (
                bytes.get(..at).unwrap_or_default(),
                hz(bytes.get(at + OPTION.len()..).unwrap_or_default())?,
            ),
            None => (bytes, HZ_DEFAULT),
        };
        if path.is_empty() {
            return Err(ConfigError::EmptyPath { what: "profile" });
        }
        Ok(Self {
            path: OsStr::from_bytes(path).into(),
            hz,
        })
    }
}

fn hz(digits: &[u8]) -> Result<u32, ConfigError> {
    let given = String::from_utf8_lossy(digits);
    given
        .parse()
        .ok()
        .filter(|hz| (1..=HZ_MAX).contains(hz))
        .ok_or_else(|| ConfigError::Choice {
            option: "--profile FILE,hz=",
            given: given.into_owned(),
            expected: "1 to 5000 samples a second",
        })
}

impl Serialize for ProfileConfig {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{},hz={}", self.path.display(), self.hz))
    }
}

impl<'de> Deserialize<'de> for ProfileConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(OsStr::new(&text)).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ProfileConfig, ConfigError> {
        ProfileConfig::parse(OsStr::new(text))
    }

    #[test]
    fn a_file_and_how_often() {
        let of = |path: &str, hz| ProfileConfig {
            path: path.into(),
            hz,
        };
        assert_eq!(parse("out.folded").unwrap(), of("out.folded", 99));
        assert_eq!(parse("out,hz=1000").unwrap(), of("out", 1000));
        assert_eq!(parse("a,hz=1,hz=2").unwrap(), of("a,hz=1", 2));
        let json = serde_json::to_string(&of("a,hz=1", 99)).unwrap();
        assert_eq!(json, r#""a,hz=1,hz=99""#);
        let back: ProfileConfig = serde_json::from_str(&json).unwrap();
        assert_eq!(back, of("a,hz=1", 99));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for text in ["x,hz=0", "x,hz=5001", "x,hz=", "x,hz=-1", "x,hz=ten"] {
            let line = parse(text).unwrap_err().to_string();
            assert!(line.contains("1 to 5000 samples a second"), "{line}");
        }
        for text in ["", ",hz=9"] {
            assert!(matches!(parse(text), Err(ConfigError::EmptyPath { .. })));
        }
    }
}

//! Where the serial port leads, as an option value.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;

/// Where the first serial port leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SerialConfig {
    /// Standard input and output.
    #[default]
    Stdio,
    /// Nowhere: output is dropped, nothing is ever typed.
    Null,
    /// Output to a file, which is created or truncated; nothing is ever typed.
    File(PathBuf),
    /// A pseudo-terminal, whose name is printed.
    Pty,
}

impl SerialConfig {
    /// Reads `stdio`, `null`, `pty` or `file=PATH`; the path may be any bytes.
    ///
    /// # Errors
    /// [`ConfigError::Choice`] for another word, [`ConfigError::EmptyPath`].
    pub fn parse(text: &OsStr) -> Result<Self, ConfigError> {
        match text.as_bytes() {
            b"stdio" => Ok(Self::Stdio),
            b"null" => Ok(Self::Null),
            b"pty" => Ok(Self::Pty),
            bytes => match bytes.strip_prefix(b"file=") {
                Some(b"") => Err(ConfigError::EmptyPath {
                    what: "serial file",
                }),
                Some(path) => Ok(Self::File(OsStr::from_bytes(path).into())),
                None => Err(ConfigError::Choice {
                    option: "--serial",
                    given: text.to_string_lossy().into_owned(),
                    expected: "stdio, null, pty or file=PATH",
                }),
            },
        }
    }
}

impl Serialize for SerialConfig {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Stdio => to.serialize_str("stdio"),
            Self::Null => to.serialize_str("null"),
            Self::Pty => to.serialize_str("pty"),
            Self::File(path) => to.collect_str(&format_args!("file={}", path.display())),
        }
    }
}

impl<'de> Deserialize<'de> for SerialConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(OsStr::new(&text)).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let parse = |text: &str| SerialConfig::parse(OsStr::new(text));
        assert_eq!(parse("stdio"), Ok(SerialConfig::Stdio));
        assert_eq!(parse("null"), Ok(SerialConfig::Null));
        assert_eq!(parse("pty"), Ok(SerialConfig::Pty));
        assert_eq!(
            parse("file=a=b"),
            Ok(SerialConfig::File(PathBuf::from("a=b")))
        );
        assert!(parse("file=").is_err());
        assert!(parse("file").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn a_path_need_not_be_text() {
        let odd = OsStr::from_bytes(b"file=\xff");
        let path = PathBuf::from(OsStr::from_bytes(b"\xff"));
        assert_eq!(SerialConfig::parse(odd), Ok(SerialConfig::File(path)));
    }
}

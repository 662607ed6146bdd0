//! A disk as the user asks for it.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, number, size};

/// Bytes of a disk's serial number (virtio 1.2 §5.2.6, VIRTIO_BLK_ID_BYTES).
pub const SERIAL_LEN: usize = 20;

choice!(
    /// What is in a disk's file.
    DiskFormat, "--disk format=", "auto, raw, qcow2 or vmdk", {
        /// What the file's name and content say; see docs/user-guide.md.
        #[default]
        Auto = "auto",
        /// The disk's bytes, one after the other.
        Raw = "raw",
        /// QEMU's copy-on-write format.
        Qcow2 = "qcow2",
        /// VMware's format, for reading.
        Vmdk = "vmdk",
    }
);

choice!(
    /// What the host keeps of a disk in its page cache, and what a FLUSH does.
    Cache, "--disk cache=", "writeback, none or unsafe", {
        /// Through the page cache; FLUSH reaches stable storage.
        #[default]
        Writeback = "writeback",
        /// Past the page cache (O_DIRECT); FLUSH reaches stable storage.
        None = "none",
        /// Through the page cache; FLUSH does nothing. A crash of the host loses data.
        Unsafe = "unsafe",
    }
);

choice!(
    /// How requests reach the host's kernel.
    Aio, "--disk aio=", "io_uring or threads", {
        /// One ring a queue; threads where the host has no io_uring.
        #[default]
        IoUring = "io_uring",
        /// A few threads.
        Threads = "threads",
    }
);

choice!(
    /// Where an image's backing files may lie.
    Backing, "--disk backing=", "directory or any", {
        /// In the directory of the image that names them.
        #[default]
        Directory = "directory",
        /// Anywhere: the image is trusted.
        Any = "any",
    }
);

/// One disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The file or block device.
    pub path: PathBuf,
    /// Whether the guest may only read.
    #[serde(default)]
    pub readonly: bool,
    /// Whether the guest's writes are gone when the VM ends, and the file never changes.
    #[serde(default)]
    pub ephemeral: bool,
    /// What is in the file.
    #[serde(default)]
    pub format: DiskFormat,
    /// The host's caching.
    #[serde(default)]
    pub cache: Cache,
    /// The way to the host's kernel.
    #[serde(default)]
    pub aio: Aio,
    /// Where backing files may lie.
    #[serde(default)]
    pub backing: Backing,
    /// Number of queues.
    #[serde(default = "one_queue")]
    pub queues: u16,
    /// Serial number: at most [`SERIAL_LEN`] printable ASCII characters.
    #[serde(default)]
    pub serial: Option<String>,
    /// Requests a second at most.
    #[serde(default)]
    pub iops: Option<NonZeroU64>,
    /// Bytes a second at most.
    #[serde(default)]
    pub bandwidth: Option<NonZeroU64>,
}

fn one_queue() -> u16 {
    1
}

impl DiskConfig {
    /// The default disk in `path`.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            readonly: false,
            ephemeral: false,
            format: DiskFormat::default(),
            cache: Cache::default(),
            aio: Aio::default(),
            backing: Backing::default(),
            queues: one_queue(),
            serial: None,
            iops: None,
            bandwidth: None,
        }
    }

    /// Reads `path=FILE[,option…]`; a file alone, as the first part, will do too.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the part that is wrong.
    pub fn parse(text: &OsStr) -> Result<Self, ConfigError> {
        let mut disk = Self::new(PathBuf::new());
        let mut seen: Vec<&'static str> = Vec::new();
        for (number, part) in parts(text.as_bytes()).into_iter().enumerate() {
            let option = disk.set(&part, number == 0)?;
            if seen.contains(&option) {
                return Err(ConfigError::DiskOptionTwice { option });
            }
            seen.push(option);
        }
        if disk.path.as_os_str().is_empty() {
            return Err(ConfigError::DiskWithoutPath);
        }
        Ok(disk)
    }

    /// Takes one part of the text in; gives the name of the option it sets.
    fn set(&mut self, part: &OsStr, first: bool) -> Result<&'static str, ConfigError> {
        if let Some(path) = part.as_bytes().strip_prefix(b"path=") {
            self.path = OsStr::from_bytes(path).into();
            return Ok("path=");
        }
        let unknown = || ConfigError::DiskOption {
            given: part.to_string_lossy().into_owned(),
        };
        let (key, value) = match part.to_str().map(|text| text.split_once('=')) {
            Some(Some((key, value))) => (key, Some(value)),
            Some(None) => (part.to_str().unwrap_or_default(), None),
            None => ("", None),
        };
        let option = match (key, value) {
            ("readonly", None) => {
                self.readonly = true;
                "readonly"
            }
            ("ephemeral", None) => {
                self.ephemeral = true;
                "ephemeral"
            }
            ("format", Some(value)) => {
                self.format = value.parse()?;
                "format="
            }
            ("cache", Some(value)) => {
                self.cache = value.parse()?;
                "cache="
            }
            ("aio", Some(value)) => {
                self.aio = value.parse()?;
                "aio="
            }
            ("backing", Some(value)) => {
                self.backing = value.parse()?;
                "backing="
            }
            ("queues", Some(value)) => {
                self.queues = number("--disk queues=", value)?;
                "queues="
            }
            ("serial", Some(value)) => {
                self.serial = Some(value.to_owned());
                "serial="
            }
            ("iops", Some(value)) => {
                self.iops = Some(limit("iops", number("--disk iops=", value)?)?);
                "iops="
            }
            ("bandwidth", Some(value)) => {
                self.bandwidth = Some(limit("bandwidth", size::parse(value)?)?);
                "bandwidth="
            }
            (_, None) if first => {
                self.path = part.into();
                "path="
            }
            _ => return Err(unknown()),
        };
        Ok(option)
    }

    /// Checks what does not depend on the file, for a VM with `cpus` vCPUs.
    ///
    /// # Errors
    /// The first [`ConfigError`] found.
    pub fn check(&self, cpus: u32) -> Result<(), ConfigError> {
        if self.path.as_os_str().is_empty() {
            return Err(ConfigError::DiskWithoutPath);
        }
        if self.readonly && self.ephemeral {
            return Err(ConfigError::ReadOnlyEphemeral);
        }
        if self.queues == 0 || u32::from(self.queues) > cpus {
            return Err(ConfigError::DiskQueues {
                queues: self.queues,
                cpus,
            });
        }
        if let Some(serial) = &self.serial {
            let printable = serial.bytes().all(|byte| byte.is_ascii_graphic());
            if serial.is_empty() || serial.len() > SERIAL_LEN || !printable {
                return Err(ConfigError::DiskSerial {
                    given: serial.clone(),
                });
            }
        }
        Ok(())
    }
}

/// The parts between single commas; a double comma stands for one in the text.
fn parts(text: &[u8]) -> Vec<OsString> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b',' {
            part.push(byte);
        } else if bytes.next_if_eq(&b',').is_some() {
            part.push(b',');
        } else {
            parts.push(OsString::from_vec(std::mem::take(&mut part)));
        }
    }
    parts.push(OsString::from_vec(part));
    parts
}

fn limit(limit: &'static str, value: u64) -> Result<NonZeroU64, ConfigError> {
    NonZeroU64::new(value).ok_or(ConfigError::ZeroLimit { limit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<DiskConfig, ConfigError> {
        DiskConfig::parse(OsStr::new(text))
    }

    #[test]
    fn a_path_alone_is_a_disk_with_or_without_its_key() {
        let disk = DiskConfig::new("x.img".into());
        assert_eq!(parse("path=x.img"), Ok(disk.clone()));
        assert_eq!(parse("x.img"), Ok(disk));
        let odd = OsStr::from_bytes(b"path=\xff");
        let path = PathBuf::from(OsStr::from_bytes(b"\xff"));
        assert_eq!(DiskConfig::parse(odd).unwrap().path, path);
    }

    #[test]
    fn every_option_arrives() {
        let text = "path=a,,b=c,ephemeral,format=qcow2,cache=none,aio=threads,backing=any,\
                    queues=4,serial=S1,iops=500,bandwidth=10M";
        assert_eq!(
            parse(text),
            Ok(DiskConfig {
                path: "a,b=c".into(),
                readonly: false,
                ephemeral: true,
                format: DiskFormat::Qcow2,
                cache: Cache::None,
                aio: Aio::Threads,
                backing: Backing::Any,
                queues: 4,
                serial: Some("S1".to_owned()),
                iops: NonZeroU64::new(500),
                bandwidth: NonZeroU64::new(10 << 20),
            })
        );
        assert!(parse("readonly,path=x").unwrap().readonly);
    }

    #[test]
    fn each_wrong_part_has_its_line() {
        for (text, says) in [
            ("", "needs a file"),
            ("path=", "needs a file"),
            ("readonly", "needs a file"),
            ("path=x,readwrite", "'readwrite' is not an option"),
            ("path=x,readonly=1", "'readonly=1' is not an option"),
            ("path=x,path=y", "path= twice"),
            ("path=x,", "'' is not an option"),
            ("path=x,format=iso", "format= takes"),
            ("path=x,cache=writethrough", "cache= takes"),
            ("path=x,aio=native", "aio= takes"),
            ("path=x,queues=many", "queues= takes a number"),
            ("path=x,iops=0", "iops=0 would never"),
            ("path=x,bandwidth=fast", "'fast' is not a size"),
        ] {
            let line = parse(text).unwrap_err().to_string();
            assert!(line.contains(says), "{text}: {line}");
        }
    }

    #[test]
    fn what_the_machine_cannot_have_is_refused() {
        let check = |text: &str| parse(text).unwrap().check(2).map_err(|e| e.to_string());
        assert_eq!(check("path=x,queues=2"), Ok(()));
        assert_eq!(check("path=x,serial=ABCDEFGHIJ0123456789"), Ok(()));
        assert!(check("path=x,queues=3").unwrap_err().contains("1 to 2"));
        assert!(check("path=x,queues=0").is_err());
        assert!(check("path=x,readonly,ephemeral").is_err());
        for serial in ["ABCDEFGHIJ01234567890", "", "a b", "\u{e4}"] {
            assert!(check(&format!("path=x,serial={serial}")).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}

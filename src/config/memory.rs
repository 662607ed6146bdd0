//! How much memory, and what it is made of on the host.
//!
//! `SIZE[,hugepages=2M|1G|thp][,shared][,mergeable][,prealloc][,lock][,numa=N]`

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ConfigError, size};
use crate::memory::{HugePages, NumaNodes, RamOptions};

/// The memory of a VM. Only options that go together can be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    size: u64,
    options: RamOptions,
}

impl MemoryConfig {
    /// `size` bytes of the plain kind: private, taken from the host when touched.
    pub const fn new(size: u64) -> Self {
        Self {
            size,
            options: RamOptions {
                hugepages: HugePages::Host,
                shared: false,
                mergeable: false,
                prealloc: false,
                lock: false,
                numa: None,
            },
        }
    }

    /// Size of guest RAM in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What it is made of on the host.
    pub fn options(&self) -> &RamOptions {
        &self.options
    }

    /// Reads one option and returns its name.
    fn set(&mut self, part: &str) -> Result<&'static str, ConfigError> {
        let unknown = || ConfigError::MemoryOption {
            given: part.to_owned(),
        };
        let choice = |option, given: &str, expected| ConfigError::Choice {
            option,
            given: given.to_owned(),
            expected,
        };
        let options = &mut self.options;
        match part.split_once('=') {
            Some(("hugepages", value)) => {
                options.hugepages = pages_of(value)
                    .ok_or_else(|| choice("--memory hugepages=", value, "2M, 1G or thp"))?;
                Ok("hugepages=")
            }
            Some(("numa", value)) => {
                let nodes = NumaNodes::parse(value);
                let expected = "the number of a NUMA node, or two as 0-1";
                options.numa =
                    Some(nodes.ok_or_else(|| choice("--memory numa=", value, expected))?);
                Ok("numa=")
            }
            Some(_) => Err(unknown()),
            None => {
                let (flag, option) = match part {
                    "shared" => (&mut options.shared, "shared"),
                    "mergeable" => (&mut options.mergeable, "mergeable"),
                    "prealloc" => (&mut options.prealloc, "prealloc"),
                    "lock" => (&mut options.lock, "lock"),
                    _ => return Err(unknown()),
                };
                *flag = true;
                Ok(option)
            }
        }
    }

    /// Options that contradict each other, and sizes that are not made of whole pages.
    fn check(&self) -> Result<(), ConfigError> {
        let options = &self.options;
        let pool_page = options.hugepages.pool_page();
        if options.mergeable && options.shared {
            return Err(ConfigError::MergeableShared);
        }
        if options.mergeable && pool_page.is_some() {
            return Err(ConfigError::MergeableHugePages);
        }
        if options.mergeable && options.prealloc {
            return Err(ConfigError::MergeablePrealloc);
        }
        match pool_page {
            Some(page) if self.size == 0 || !self.size.is_multiple_of(page) => {
                Err(ConfigError::PartialHugePage {
                    size: size::format(self.size),
                    page: size::format(page),
                    above: self
                        .size
                        .max(1)
                        .checked_next_multiple_of(page)
                        .map_or_else(|| size::format(page), size::format),
                })
            }
            _ => Ok(()),
        }
    }
}

/// The words of `hugepages=`.
const PAGES: [(&str, HugePages); 3] = [
    ("2M", HugePages::Pool2M),
    ("1G", HugePages::Pool1G),
    ("thp", HugePages::Transparent),
];

fn pages_of(word: &str) -> Option<HugePages> {
    let found = PAGES.iter().find(|(name, _)| *name == word);
    found.map(|(_, pages)| *pages)
}

impl FromStr for MemoryConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (size, rest) = match text.split_once(',') {
            Some((size, rest)) => (size, Some(rest)),
            None => (text, None),
        };
        let mut memory = Self::new(size::parse(size)?);
        if let Some(rest) = rest {
            memory.read_options(rest)?;
        }
        Ok(memory)
    }
}

impl MemoryConfig {
    #[cold]
    fn read_options(&mut self, text: &str) -> Result<(), ConfigError> {
        let mut seen: Vec<&'static str> = Vec::new();
        for part in text.split(',') {
            let option = self.set(part)?;
            if seen.contains(&option) {
                return Err(ConfigError::MemoryOptionTwice { option });
            }
            seen.push(option);
        }
        self.check()
    }
}

/// As it is given to `--memory`.
impl fmt::Display for MemoryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        f.write_str(&size::format(self.size))?;
        for (word, pages) in PAGES {
            if options.hugepages == pages {
                write!(f, ",hugepages={word}")?;
            }
        }
        for (word, set) in [
            ("shared", options.shared),
            ("mergeable", options.mergeable),
            ("prealloc", options.prealloc),
            ("lock", options.lock),
        ] {
            if set {
                write!(f, ",{word}")?;
            }
        }
        options
            .numa
            .map_or(Ok(()), |nodes| write!(f, ",numa={nodes}"))
    }
}

impl Serialize for MemoryConfig {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if *self == Self::new(self.size) {
            to.serialize_u64(self.size)
        } else {
            to.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for MemoryConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Memory {
            Bytes(u64),
            Text(String),
        }
        match Memory::deserialize(from)? {
            Memory::Bytes(bytes) => Ok(Self::new(bytes)),
            Memory::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<MemoryConfig, ConfigError> {
        text.parse()
    }

    #[test]
    fn a_size_alone_is_plain_memory() {
        let memory = parse("512M").unwrap();
        assert_eq!(memory, MemoryConfig::new(512 << 20));
        assert_eq!(*memory.options(), RamOptions::default());
    }

    #[test]
    fn every_option_arrives() {
        let memory = parse("2G,hugepages=1G,shared,prealloc,lock,numa=0-1").unwrap();
        assert_eq!(memory.size(), 2 << 30);
        let expected = RamOptions {
            hugepages: HugePages::Pool1G,
            shared: true,
            mergeable: false,
            prealloc: true,
            lock: true,
            numa: NumaNodes::new(0, 1),
        };
        assert_eq!(*memory.options(), expected);
        let memory = parse("5M,numa=3,mergeable,hugepages=thp").unwrap();
        let expected = RamOptions {
            hugepages: HugePages::Transparent,
            mergeable: true,
            numa: NumaNodes::new(3, 3),
            ..RamOptions::default()
        };
        assert_eq!(*memory.options(), expected);
        let pages = parse("6M,hugepages=2M").unwrap().options().hugepages;
        assert_eq!(pages, HugePages::Pool2M);
    }

    #[test]
    fn what_does_not_fit_is_refused_in_a_line_that_says_why() {
        for (text, line) in [
            ("shared", "'shared' is not a size"),
            ("1G,", "'' is not an option of --memory"),
            ("1G,huge", "'huge' is not an option of --memory"),
            ("1G,shared=on", "'shared=on' is not an option"),
            ("1G,hugepages", "'hugepages' is not an option"),
            ("1G,hugepages=4M", "takes 2M, 1G or thp, not '4M'"),
            (
                "1G,numa=",
                "the number of a NUMA node, or two as 0-1, not ''",
            ),
            ("1G,lock,lock", "--memory has lock twice"),
            ("1G,hugepages=2M,hugepages=1G", "has hugepages= twice"),
            ("1G,shared,mergeable", "KSM merges only private"),
            (
                "1G,mergeable,hugepages=2M",
                "leave mergeable out or use hugepages=thp",
            ),
            ("1G,prealloc,mergeable", "takes every page at the start"),
            (
                "257M,hugepages=2M",
                "257M is not a multiple of the huge pages' 2M; use --memory 258M",
            ),
            ("256M,hugepages=1G", "use --memory 1G"),
            ("0,hugepages=1G", "use --memory 1G"),
            ("4000M,hugepages=1G", "use --memory 4G"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(line), "{text}: {error:?} lacks {line:?}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn json_has_a_number_or_a_text() {
        let read = |text: &str| serde_json::from_str::<MemoryConfig>(text);
        assert_eq!(read("1048576").unwrap(), MemoryConfig::new(1 << 20));
        assert_eq!(read("\"1M\"").unwrap(), MemoryConfig::new(1 << 20));
        let locked = parse("1G,lock").unwrap();
        assert_eq!(read("\"1024M,lock\"").unwrap(), locked);
        assert_eq!(serde_json::to_string(&locked).unwrap(), "\"1G,lock\"");
        let plain = serde_json::to_string(&MemoryConfig::new(4096)).unwrap();
        assert_eq!(plain, "4096");
        assert!(read("\"1G,shared,mergeable\"").is_err());
        assert!(read("-1").is_err());
    }

    proptest! {
        #[test]
        fn what_is_taken_is_written_back_the_same(
            size: u64,
            options in proptest::sample::subsequence(
                vec!["hugepages=2M", "shared", "mergeable", "prealloc", "lock", "numa=1-2"], 0..=6,
            ),
        ) {
            let text = [vec![size.to_string()], options.iter().map(|o| o.to_string()).collect()].concat();
            if let Ok(memory) = parse(&text.join(",")) {
                prop_assert_eq!(parse(&memory.to_string()), Ok(memory));
                prop_assert!(!(memory.options().shared && memory.options().mergeable));
            }
        }
    }
}

//! How many vCPUs, and how they are spread over sockets and cores.
//!
//! `N[,sockets=S][,cores=C][,threads=T]`: S sockets of C cores each, of T threads each.
//!
//! The APIC id of a vCPU is its number. That wants powers of two inside: an APIC id
//! holds thread, core and socket in bits of their own (Intel SDM vol. 3 §10.9; AMD APM
//! vol. 3 app. E.5), and only the outermost of them may have any count without leaving
//! numbers out.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;

/// What `--cpus` takes.
const COUNT: &str = "a number";
const COUNT_AND_PARTS: &str =
    "a number, and after commas sockets=, cores= and threads= with numbers from 1";

/// The vCPUs of a VM; the parts always multiply to their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpusConfig {
    count: u32,
    sockets: u32,
    cores: u32,
    threads: u32,
}

impl CpusConfig {
    /// One socket of `count` single-threaded cores.
    pub const fn new(count: u32) -> Self {
        Self {
            count,
            sockets: 1,
            cores: count,
            threads: 1,
        }
    }

    /// Number of vCPUs.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Number of sockets (packages).
    pub fn sockets(&self) -> u32 {
        self.sockets
    }

    /// Cores of a socket.
    pub fn cores(&self) -> u32 {
        self.cores
    }

    /// Threads of a core.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Works out the parts that are not given: threads are one, then come the cores,
    /// of one socket unless told otherwise.
    fn arranged(count: u32, parts: Parts) -> Result<Self, ConfigError> {
        let threads = parts.threads.map_or(1, NonZeroU32::get);
        let sockets = match (parts.sockets, parts.cores) {
            (Some(sockets), _) => sockets.get(),
            (None, Some(cores)) => share(count, "cores", cores.get(), "threads", threads)?,
            (None, None) => 1,
        };
        let cores = match parts.cores {
            Some(cores) => cores.get(),
            None => share(count, "sockets", sockets, "threads", threads)?,
        };
        let cpus = Self {
            count,
            sockets,
            cores,
            threads,
        };
        let product = u128::from(sockets) * u128::from(cores) * u128::from(threads);
        if product != u128::from(count) {
            return Err(ConfigError::CpusProduct { cpus, product });
        }
        cpus.check_powers()?;
        Ok(cpus)
    }

    /// Powers of two within the outermost level that has more than one of anything.
    fn check_powers(self) -> Result<(), ConfigError> {
        let cores_are_inner = self.sockets > 1;
        let threads_are_inner = cores_are_inner || self.cores > 1;
        for (inner, part, count) in [
            (cores_are_inner, "cores", self.cores),
            (threads_are_inner, "threads", self.threads),
        ] {
            if inner && !count.is_power_of_two() {
                let below = 1 << count.checked_ilog2().unwrap_or(0);
                return Err(ConfigError::CpusPowerOfTwo {
                    part,
                    count,
                    below,
                    above: u64::from(below) * 2,
                });
            }
        }
        Ok(())
    }
}

/// `count` divided by the product of two parts, which must leave no rest.
fn share(
    count: u32,
    first: &'static str,
    first_count: u32,
    second: &'static str,
    second_count: u32,
) -> Result<u32, ConfigError> {
    let unit = u64::from(first_count) * u64::from(second_count);
    let uneven = ConfigError::CpusUneven {
        count,
        parts: format!("{first}={first_count},{second}={second_count}"),
        unit,
    };
    match u64::from(count).checked_rem(unit) {
        Some(0) => (u64::from(count) / unit).try_into().map_err(|_| uneven),
        _ => Err(uneven),
    }
}

/// The parts as given.
#[derive(Default)]
struct Parts {
    sockets: Option<NonZeroU32>,
    cores: Option<NonZeroU32>,
    threads: Option<NonZeroU32>,
}

impl FromStr for CpusConfig {
    type Err = ConfigError;

    /// Reads `N[,sockets=S][,cores=C][,threads=T]`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |given: &str, expected| ConfigError::Choice {
            option: "--cpus",
            given: given.to_owned(),
            expected,
        };
        let wrong_part = || wrong(text, COUNT_AND_PARTS);
        let (count, rest) = match text.split_once(',') {
            Some((count, rest)) => (count, Some(rest)),
            None => (text, None),
        };
        let count = count.parse().map_err(|_| wrong(count, COUNT))?;
        let Some(rest) = rest else {
            return Ok(Self::new(count));
        };
        if count == 0 {
            return Err(ConfigError::NoCpu);
        }
        let mut parts = Parts::default();
        for part in rest.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(wrong_part)?;
            let (place, option) = match key {
                "sockets" => (&mut parts.sockets, "sockets="),
                "cores" => (&mut parts.cores, "cores="),
                "threads" => (&mut parts.threads, "threads="),
                _ => return Err(wrong_part()),
            };
            if place
                .replace(value.parse().map_err(|_| wrong_part())?)
                .is_some()
            {
                return Err(ConfigError::CpusOptionTwice { option });
            }
        }
        Self::arranged(count, parts)
    }
}

/// The shortest text that says the same: `N` alone for one socket of single-threaded cores.
impl fmt::Display for CpusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::new(self.count) {
            return write!(f, "{}", self.count);
        }
        let Self {
            count,
            sockets,
            cores,
            threads,
        } = self;
        write!(
            f,
            "{count},sockets={sockets},cores={cores},threads={threads}"
        )
    }
}

impl Serialize for CpusConfig {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if *self == Self::new(self.count) {
            to.serialize_u32(self.count)
        } else {
            to.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for CpusConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Cpus {
            Count(u32),
            Text(String),
        }
        match Cpus::deserialize(from)? {
            Cpus::Count(count) => Ok(Self::new(count)),
            Cpus::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<CpusConfig, ConfigError> {
        text.parse()
    }

    #[test]
    fn parts_that_are_missing_are_worked_out() {
        // (text, sockets, cores, threads)
        for (text, sockets, cores, threads) in [
            ("1", 1, 1, 1),
            ("3", 1, 3, 1),
            ("8,sockets=2", 2, 4, 1),
            ("8,threads=2", 1, 4, 2),
            ("8,sockets=2,threads=2", 2, 2, 2),
            ("8,cores=2", 4, 2, 1),
            ("8,threads=2,cores=2", 2, 2, 2),
            ("4,sockets=2,cores=1,threads=2", 2, 1, 2),
            // Any count will do outermost.
            ("6,cores=3,threads=2", 1, 3, 2),
            ("6,sockets=3", 3, 2, 1),
            ("3,threads=3", 1, 1, 3),
            ("3,sockets=3", 3, 1, 1),
        ] {
            let cpus = parse(text).unwrap();
            let parts = (cpus.sockets(), cpus.cores(), cpus.threads());
            assert_eq!(parts, (sockets, cores, threads), "{text}");
            assert_eq!(cpus.count(), sockets * cores * threads, "{text}");
        }
        assert_eq!(parse("5").unwrap(), CpusConfig::new(5));
    }

    #[test]
    fn what_does_not_fit_is_refused_in_a_line_that_says_what_does() {
        for (text, line) in [
            ("0,sockets=1", "at least 1 CPU"),
            ("4,sockets=2,cores=4", "make 8 CPUs, not 4"),
            ("4,sockets=2,cores=4", "use --cpus 8,"),
            ("4,sockets=2,cores=1", "make 2 CPUs, not 4"),
            ("4,sockets=3", "use a multiple of 3"),
            ("2,sockets=2,threads=2", "use a multiple of 4"),
            ("5,cores=2", "cores=2,threads=1"),
            ("6,sockets=2,cores=3", "cores=2 or cores=4"),
            ("6,threads=3", "threads=2 or threads=4"),
            ("4,sockets=2,sockets=2", "sockets= twice"),
            ("4,sockets=0", "numbers from 1, not '4,sockets=0'"),
            ("4,sockets=", "numbers from 1, not '4,sockets='"),
            ("4,dies=2", "numbers from 1, not '4,dies=2'"),
            ("4,", "numbers from 1, not '4,'"),
            ("sockets=2", "--cpus takes a number, not 'sockets=2'"),
            ("two,threads=2", "--cpus takes a number, not 'two'"),
            ("-1", "--cpus takes a number, not '-1'"),
            ("", "--cpus takes a number, not ''"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(line), "{text}: {error:?} lacks {line:?}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn json_has_a_number_or_a_text() {
        let read = |text: &str| serde_json::from_str::<CpusConfig>(text);
        assert_eq!(read("4").unwrap(), CpusConfig::new(4));
        assert_eq!(read("\"4\"").unwrap(), CpusConfig::new(4));
        let shaped = parse("4,threads=2").unwrap();
        assert_eq!(read("\"4,threads=2\"").unwrap(), shaped);
        assert_eq!(serde_json::to_string(&CpusConfig::new(4)).unwrap(), "4");
        assert_eq!(
            serde_json::to_string(&shaped).unwrap(),
            "\"4,sockets=1,cores=2,threads=2\""
        );
        assert!(read("\"4,threads=3\"").is_err());
    }

    proptest! {
        #[test]
        fn no_numbers_panic_and_what_is_taken_is_whole(
            count: u32, sockets: Option<u32>, cores: Option<u32>, threads in 0..5u32,
        ) {
            let mut text = format!("{count},threads={threads}");
            for (key, value) in [("sockets", sockets), ("cores", cores)] {
                if let Some(value) = value {
                    text = format!("{text},{key}={value}");
                }
            }
            if let Ok(cpus) = parse(&text) {
                prop_assert_eq!(cpus.sockets() * cpus.cores() * cpus.threads(), count);
                prop_assert_eq!(parse(&cpus.to_string()), Ok(cpus));
            }
        }
    }
}

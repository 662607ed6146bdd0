//! How a VM shares the host's processors: which of them its vCPUs run on, how much
//! it gets beside others, and how much at most.
//!
//! Weight and limit are those of cgroup v2 (Linux Documentation/admin-guide/cgroup-v2.rst,
//! "CPU Interface Files"); they are the whole process's, which is the VM.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;

/// What `--cpu-pin`, `--cpu-weight` and `--cpu-limit` take.
const PINS: &str = "vCPUs with their host CPUs, as in 0:2,1:3 or 0:2-3+6";
const WEIGHT: &str = "a number from 1 to 10000 (100 is what others have)";
const LIMIT: &str = "percent of one host CPU, from 1% to 1000000%, as in 150%";

/// The largest number of a host CPU plus one: what a set for `sched_setaffinity` holds.
const HOST_CPUS: u32 = 1024;

/// The largest weight of cgroup v2.
const WEIGHT_MAX: u32 = 10_000;
/// Ten thousand processors.
const LIMIT_MAX: u32 = 1_000_000;

/// The part of the host's processors that a VM may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharesConfig {
    /// The host CPUs of vCPUs; of those not named, any.
    #[serde(default)]
    pub pin: CpuPins,
    /// Weight against others that want the same processors.
    #[serde(default)]
    pub weight: Option<CpuWeight>,
    /// Processor time at most.
    #[serde(default)]
    pub limit: Option<CpuLimit>,
}

impl SharesConfig {
    /// Checks what depends on the number of vCPUs.
    pub(super) fn check(&self, cpus: u32) -> Result<(), ConfigError> {
        let mut pins = self.pin.iter();
        match pins.find(|pin| pin.vcpu >= cpus) {
            Some(pin) => Err(ConfigError::PinNoVcpu {
                vcpu: pin.vcpu,
                cpus,
            }),
            None => Ok(()),
        }
    }
}

/// Which host CPUs some vCPUs run on, each vCPU once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuPins(Vec<CpuPin>);

/// One vCPU's host CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPin {
    /// The vCPU's number, from 0.
    pub vcpu: u32,
    /// Ranges of host CPUs, from the first to the last of each, all below 1024.
    ranges: Vec<(u32, u32)>,
}

impl CpuPins {
    /// Whether no vCPU is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The vCPUs named, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &CpuPin> {
        self.0.iter()
    }
}

impl CpuPin {
    /// The host CPUs that the vCPU may run on.
    pub fn host_cpus(&self) -> impl Iterator<Item = u32> {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }

    /// Reads `V:SET`, a set being ranges joined by `+`.
    fn parse(text: &str) -> Option<Self> {
        let (vcpu, set) = text.split_once(':')?;
        let ranges: Option<Vec<_>> = set.split('+').map(range).collect();
        Some(Self {
            vcpu: decimal(vcpu)?,
            ranges: ranges?,
        })
    }
}

/// `N` or `N-M`.
fn range(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (decimal(first)?, decimal(last)?);
    (first <= last && last < HOST_CPUS).then_some((first, last))
}

/// Digits only: `parse` would take a sign, too.
fn decimal(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl FromStr for CpuPins {
    type Err = ConfigError;

    /// Reads `V:SET[,V:SET…]`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut pins: Vec<CpuPin> = Vec::new();
        for part in text.split(',') {
            let pin = CpuPin::parse(part).ok_or_else(|| wrong("--cpu-pin", part, PINS))?;
            if pins.iter().any(|other| other.vcpu == pin.vcpu) {
                return Err(ConfigError::PinTwice { vcpu: pin.vcpu });
            }
            pins.push(pin);
        }
        Ok(Self(pins))
    }
}

impl fmt::Display for CpuPins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (pin, before) in self.0.iter().zip(separators(',')) {
            write!(f, "{before}{}:", pin.vcpu)?;
            for ((first, last), before) in pin.ranges.iter().zip(separators('+')) {
                match first == last {
                    true => write!(f, "{before}{first}")?,
                    false => write!(f, "{before}{first}-{last}")?,
                }
            }
        }
        Ok(())
    }
}

/// What stands before each part of a list: nothing before the first.
fn separators(between: char) -> impl Iterator<Item = String> {
    std::iter::once(String::new()).chain(std::iter::repeat(between.to_string()))
}

/// A weight, 1 to 10000; everything that has not been given one has 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct CpuWeight(u32);

impl CpuWeight {
    /// The weight.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for CpuWeight {
    type Error = ConfigError;

    fn try_from(weight: u32) -> Result<Self, ConfigError> {
        match weight {
            1..=WEIGHT_MAX => Ok(Self(weight)),
            _ => Err(wrong("--cpu-weight", &weight.to_string(), WEIGHT)),
        }
    }
}

impl From<CpuWeight> for u32 {
    fn from(weight: CpuWeight) -> Self {
        weight.0
    }
}

impl FromStr for CpuWeight {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        decimal(text)
            .and_then(|weight| weight.try_into().ok())
            .ok_or_else(|| wrong("--cpu-weight", text, WEIGHT))
    }
}

/// Processor time at most, in percent of one host CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuLimit(u32);

impl CpuLimit {
    /// Percent of one host CPU, 1 to 1,000,000.
    pub fn percent(self) -> u32 {
        self.0
    }
}

impl FromStr for CpuLimit {
    type Err = ConfigError;

    /// Reads `150%`; the sign must be there, as 2 could mean two processors.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let percent = text.strip_suffix('%').and_then(decimal);
        match percent {
            Some(percent @ 1..=LIMIT_MAX) => Ok(Self(percent)),
            _ => Err(wrong("--cpu-limit", text, LIMIT)),
        }
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

fn wrong(option: &'static str, given: &str, expected: &'static str) -> ConfigError {
    ConfigError::Choice {
        option,
        given: given.to_owned(),
        expected,
    }
}

impl Serialize for CpuLimit {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuLimit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A text, as on the command line; an empty one names no vCPU.
impl Serialize for CpuPins {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuPins {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.is_empty() {
            true => Ok(Self::default()),
            false => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pins(text: &str) -> Result<CpuPins, ConfigError> {
        text.parse()
    }

    fn sets(text: &str) -> Vec<(u32, Vec<u32>)> {
        let pins = pins(text).unwrap();
        let sets = pins.iter().map(|pin| (pin.vcpu, pin.host_cpus().collect()));
        sets.collect()
    }

    #[test]
    fn a_vcpu_has_one_host_cpu_or_several() {
        assert_eq!(sets("0:2,1:3"), [(0, vec![2]), (1, vec![3])]);
        assert_eq!(sets("3:4-6"), [(3, vec![4, 5, 6])]);
        assert_eq!(sets("0:1+4-5+9"), [(0, vec![1, 4, 5, 9])]);
        assert_eq!(sets("0:1023"), [(0, vec![1023])]);
    }

    #[test]
    fn what_is_no_list_of_pins_is_refused_by_the_part_that_is_wrong() {
        for (text, part) in [
            ("", ""),
            ("0", "0"),
            ("0:", "0:"),
            (":1", ":1"),
            ("0:1,", ""),
            ("0:1,x", "x"),
            ("0:3-2", "0:3-2"),
            ("0:1-", "0:1-"),
            ("0:-1", "0:-1"),
            ("0:+1", "0:+1"),
            ("0:1+", "0:1+"),
            ("+0:1", "+0:1"),
            ("0:1 ", "0:1 "),
            ("0:1024", "0:1024"),
            ("0:0-4294967295", "0:0-4294967295"),
            ("0:99999999999", "0:99999999999"),
        ] {
            let line = pins(text).unwrap_err().to_string();
            let expected = format!(
                "--cpu-pin takes vCPUs with their host CPUs, as in 0:2,1:3 or 0:2-3+6, not '{part}'"
            );
            assert_eq!(line, expected);
        }
    }

    #[test]
    fn a_vcpu_is_there_and_named_once() {
        let line = pins("1:0,0:1,1:2").unwrap_err().to_string();
        assert!(line.contains("vCPU 1 twice"), "{line}");
        let shares = SharesConfig {
            pin: pins("0:0,2:0").unwrap(),
            ..SharesConfig::default()
        };
        assert!(shares.check(3).is_ok());
        let line = shares.check(2).unwrap_err().to_string();
        assert!(line.contains("vCPU 2") && line.contains("2 CPUs"), "{line}");
    }

    #[test]
    fn weights_and_limits_have_bounds() {
        for good in ["1", "100", "10000"] {
            let weight: CpuWeight = good.parse().unwrap();
            assert_eq!(weight.get().to_string(), good);
        }
        for bad in ["0", "10001", "-1", "+1", "", "1%", "99999999999"] {
            let line = bad.parse::<CpuWeight>().unwrap_err().to_string();
            assert!(
                line.contains("1 to 10000") && line.ends_with(&format!("'{bad}'")),
                "{line}"
            );
        }
        for good in ["1%", "150%", "1000000%"] {
            assert_eq!(good.parse::<CpuLimit>().unwrap().to_string(), good);
        }
        for bad in ["0%", "150", "1000001%", "1.5%", "-1%", "%", "", "150%%"] {
            let line = bad.parse::<CpuLimit>().unwrap_err().to_string();
            assert!(
                line.contains("as in 150%, not") && line.ends_with(&format!("'{bad}'")),
                "{line}"
            );
        }
    }

    #[test]
    fn json_has_the_texts_of_the_command_line() {
        let text = r#"{"pin":"0:2,1:3-4+7","weight":200,"limit":"150%"}"#;
        let read: SharesConfig = serde_json::from_str(text).unwrap();
        assert_eq!(read.pin, pins("0:2,1:3-4+7").unwrap());
        assert_eq!(read.weight.unwrap().get(), 200);
        assert_eq!(read.limit.unwrap().percent(), 150);
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        let none = SharesConfig::default();
        let back = serde_json::to_string(&none).unwrap();
        assert_eq!(serde_json::from_str::<SharesConfig>(&back).unwrap(), none);
        assert_eq!(serde_json::from_str::<SharesConfig>("{}").unwrap(), none);
        for bad in [r#"{"weight":0}"#, r#"{"limit":150}"#, r#"{"pin":"0"}"#] {
            assert!(serde_json::from_str::<SharesConfig>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_is_told_the_same(text in "[0-9:,+-]{0,12}") {
            if let Ok(pins) = pins(&text) {
                prop_assert_eq!(pins.to_string().parse::<CpuPins>(), Ok(pins));
            }
        }
    }
}

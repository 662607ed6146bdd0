//! Hardware addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use super::NetConfigError;

/// First byte, bit 0: the address is that of a group (IEEE 802).
const GROUP: u8 = 1;
/// First byte, bit 1: the address was not given out by a manufacturer.
const LOCAL: u8 = 2;

/// The MAC address of an interface: neither zero nor that of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address that the interface `interface` of the VM `vm` always has: a locally
    /// administered one, from a hash of both names.
    pub fn derived(vm: &str, interface: &str) -> Self {
        let mut hash = Sha256::new();
        for name in [vm, interface] {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
        }
        let mut bytes = [0; 6];
        for (byte, hashed) in bytes.iter_mut().zip(hash.finalize()) {
            *byte = hashed;
        }
        let [first, ..] = &mut bytes;
        *first = *first & !GROUP | LOCAL;
        Self(bytes)
    }

    /// As it goes over the wire.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = NetConfigError;

    fn from_str(text: &str) -> Result<Self, NetConfigError> {
        parse(text).ok_or_else(|| NetConfigError::Mac {
            given: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<MacAddress> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next()?;
        let two_digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| two_digits)?;
    }
    let [first, ..] = bytes;
    let usable = parts.next().is_none() && first & GROUP == 0 && bytes != [0; 6];
    usable.then_some(MacAddress(bytes))
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let mac: MacAddress = "02:aB:00:00:10:ff".parse().unwrap();
        assert_eq!(mac.bytes(), [2, 0xab, 0, 0, 0x10, 0xff]);
        assert_eq!(mac.to_string(), "02:ab:00:00:10:ff");
        assert_eq!("02-ab-00-00-10-ff".parse(), Ok(mac));
    }

    #[test]
    fn what_no_interface_can_have() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "02:00:00:00:00:0g",
            "01:00:00:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "+2:00:00:00:00:01",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_gives_the_same_local_address_each_time() {
        let mac = MacAddress::derived("vm", "tap0");
        assert_eq!(mac, MacAddress::derived("vm", "tap0"));
        assert_ne!(mac, MacAddress::derived("vm", "tap1"));
        assert_ne!(mac, MacAddress::derived("vmt", "ap0"));
        for number in 0..64 {
            let [first, ..] = MacAddress::derived("vm", &number.to_string()).bytes();
            assert_eq!(first & (GROUP | LOCAL), LOCAL);
        }
    }
}

//! What the devices' tests share: lines and sinks that remember, and hostile guests.

use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BusDevice, EventSink, GuestEvent, IrqLine};

/// An interrupt line that counts its edges.
#[derive(Default)]
pub struct Pulses(AtomicUsize);

impl Pulses {
    /// The edges since the last call.
    pub fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl IrqLine for Pulses {
    fn pulse(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// An event sink that keeps what it was told.
#[derive(Default)]
pub struct Events(Mutex<Vec<GuestEvent>>);

impl Events {
    /// The events since the last call.
    pub fn take(&self) -> Vec<GuestEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl EventSink for Events {
    fn guest_event(&self, event: GuestEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// One access of a guest: a write if there is data, else a read of `width` bytes.
#[derive(Clone, Debug)]
pub struct Poke {
    offset: u64,
    width: usize,
    data: Option<[u8; 8]>,
}

/// Accesses of every width, mostly within the first `len` bytes of the range.
pub fn pokes(len: u64) -> impl Strategy<Value = Vec<Poke>> {
    let offset = prop_oneof![9 => 0..len, 1 => any::<u64>()];
    let width = prop::sample::select(vec![1usize, 2, 4, 8]);
    let data = prop::option::of(any::<[u8; 8]>());
    let poke = (offset, width, data).prop_map(|(offset, width, data)| Poke {
        offset,
        width,
        data,
    });
    prop::collection::vec(poke, 0..80)
}

/// Makes the accesses and returns what the reads gave.
pub fn poke(device: &mut dyn BusDevice, pokes: &[Poke]) -> Vec<[u8; 8]> {
    let mut answers = Vec::new();
    for poke in pokes {
        match poke.data {
            Some(data) => device.write(poke.offset, &data[..poke.width]),
            None => {
                let mut data = [0xff; 8];
                device.read(poke.offset, &mut data[..poke.width]);
                answers.push(data);
            }
        }
    }
    answers
}

/// Pokes a device, sends its state through JSON, rebuilds it and checks that
/// the copy answers further pokes as the original does.
pub fn check_rebuild<D, S>(
    build: impl Fn(S) -> D,
    state: impl Fn(&D) -> S,
    before: &[Poke],
    after: &[Poke],
) where
    D: BusDevice,
    S: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned,
{
    let mut original = build(S::default());
    assert_eq!(state(&original), S::default());
    poke(&mut original, before);
    let saved = serde_json::to_vec(&state(&original)).unwrap();
    let mut copy = build(serde_json::from_slice(&saved).unwrap());
    assert_eq!(state(&copy), state(&original));
    assert_eq!(poke(&mut copy, after), poke(&mut original, after));
    assert_eq!(state(&copy), state(&original));
}

//! Warnings, held to a number that somebody can read.
//!
//! What a guest does wrong is worth a line; how often it does it is up to the guest, and
//! a reset of its device, or of the whole machine, is as good to it as a first time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Of so many lines from one place each is told; from then on of one in a [`QUIET`].
const TOLD: u32 = 10;
const QUIET: Duration = Duration::from_secs(60);

/// A line of Mayfly's source that logs, by module and number.
pub(super) type Place = (Option<&'static str>, Option<u32>);

/// What was told of each place.
#[derive(Default)]
pub(super) struct Flood(Mutex<Vec<Kind>>);

struct Kind {
    place: Place,
    told: u32,
    last: Instant,
    left_out: u64,
}

impl Flood {
    /// Whether a line from `place` is told `now`; if so, how many were left out before it.
    pub(super) fn admit(&self, place: Place, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kind) = kinds.iter_mut().find(|kind| kind.place == place) else {
            kinds.push(Kind {
                place,
                told: 1,
                last: now,
                left_out: 0,
            });
            return Some(0);
        };
        if kind.told >= TOLD && now.saturating_duration_since(kind.last) < QUIET {
            kind.left_out = kind.left_out.saturating_add(1);
            return None;
        }
        kind.told = kind.told.saturating_add(1);
        kind.last = now;
        Some(std::mem::take(&mut kind.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = (Some("here"), Some(7));

    #[test]
    fn a_flood_is_ten_lines_and_then_one_a_minute() {
        let (flood, start) = (Flood::default(), Instant::now());
        let told = |ms: u64| flood.admit(HERE, start + Duration::from_millis(ms));
        let first = (0..1000).filter(|ms| told(*ms) == Some(0)).count();
        assert_eq!(first, 10);
        assert_eq!(told(60_008), None);
        assert_eq!(told(60_009), Some(991));
        assert_eq!(told(60_010), None);
        assert_eq!(told(120_100), Some(1));
    }

    #[test]
    fn each_place_is_told_of_by_itself() {
        let (flood, now) = (Flood::default(), Instant::now());
        let told = |place| {
            (0..20)
                .filter(|_| flood.admit(place, now).is_some())
                .count()
        };
        assert_eq!(told(HERE), 10);
        assert_eq!(told((Some("here"), Some(8))), 10);
        assert_eq!(told((None, None)), 10);
        assert_eq!(told(HERE), 0);
    }
}

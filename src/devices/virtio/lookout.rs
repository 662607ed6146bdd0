//! Looking out for the next request for a moment before sleeping.
//!
//! A sleep costs two system calls and the driver a kick, some microseconds each. Where
//! the last requests came sooner than that, the next one probably does too.

use std::hint::spin_loop;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// The longest lookout, and so the most that is wasted on a request that does not come.
const LONGEST: Duration = Duration::from_micros(32);
/// The first lookout after requests have come in quick succession.
const FIRST: Duration = Duration::from_micros(4);
/// Looks between two at the clock.
const LOOKS: u32 = 16;

/// How long it pays to look out.
#[derive(Debug)]
pub struct Lookout {
    /// Whether the driver has another processor to run on meanwhile.
    allowed: bool,
    time: Duration,
}

impl Lookout {
    /// It does not pay until it has turned out to.
    pub fn new() -> Self {
        Self {
            allowed: available_parallelism().is_ok_and(|processors| processors.get() > 1),
            time: Duration::ZERO,
        }
    }

    /// Looks out until `came` is true; false if it did not become so in time.
    pub fn keep(&self, mut came: impl FnMut() -> bool) -> bool {
        if self.time.is_zero() {
            return false;
        }
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if came() {
                    return true;
                }
                spin_loop();
            }
            if start.elapsed() >= self.time {
                return false;
            }
        }
    }

    /// The thread has slept for `time` until the next request came.
    pub fn slept(&mut self, time: Duration) {
        self.time = match time <= LONGEST && self.allowed {
            true => self.time.saturating_mul(2).clamp(FIRST, LONGEST),
            false => Duration::ZERO,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookout(allowed: bool) -> Lookout {
        Lookout {
            allowed,
            ..Lookout::new()
        }
    }

    #[test]
    fn quick_requests_lengthen_it_and_a_slow_one_ends_it() {
        let mut lookout = lookout(true);
        assert_eq!(lookout.time, Duration::ZERO);
        let mut times = Vec::new();
        for _ in 0..5 {
            lookout.slept(Duration::from_micros(10));
            times.push(lookout.time.as_micros());
        }
        assert_eq!(times, [4, 8, 16, 32, 32]);
        lookout.slept(Duration::from_micros(33));
        assert_eq!(lookout.time, Duration::ZERO);
    }

    #[test]
    fn it_ends_when_something_comes_or_in_time() {
        let mut lookout = lookout(true);
        let mut looks = 0;
        let mut third = || {
            looks += 1;
            looks == 3
        };
        assert!(!lookout.keep(&mut third));
        lookout.slept(Duration::ZERO);
        assert!(lookout.keep(&mut third));
        assert!(!lookout.keep(|| false));
        assert_eq!(looks, 3);
    }

    #[test]
    fn on_a_single_processor_it_never_pays() {
        let mut lookout = lookout(false);
        lookout.slept(Duration::ZERO);
        assert!(!lookout.keep(|| true));
    }
}

//! Limits for requests and bytes a second, with bursts.
//!
//! Each limit is a bucket of tokens, kept as the one point in time at which it will be
//! full again: what is taken moves that point on, and a bucket is empty while the point
//! is further off than filling it takes. Nothing has to be refilled, and no rounding
//! adds up.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests or bytes a second.
    pub per_second: NonZeroU64,
    /// How many may come at once after a pause.
    pub burst: NonZeroU64,
}

impl Rate {
    /// As many a second, with a burst of a tenth of a second's worth.
    pub fn per_second(per_second: NonZeroU64) -> Self {
        let burst = NonZeroU64::new(per_second.get() / 10).unwrap_or(NonZeroU64::MIN);
        Self { per_second, burst }
    }

    /// How long `tokens` take to come, in picoseconds.
    fn time_for(&self, tokens: u64) -> u128 {
        u128::from(tokens).saturating_mul(PICOSECONDS) / u128::from(self.per_second.get())
    }
}

/// In a second.
const PICOSECONDS: u128 = 1_000_000_000_000;
/// Picoseconds in a nanosecond.
const PER_NANOSECOND: u128 = 1000;

/// What a disk may be used; `None` is without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests of every kind.
    pub operations: Option<Rate>,
    /// Bytes read and written.
    pub bytes: Option<Rate>,
}

/// A bucket, full at first.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// When it is full again, in picoseconds of the limiter's clock.
    full_at: u128,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, full_at: 0 }
    }

    /// How long after `now` (picoseconds) the bucket holds `tokens`.
    fn wait_for(&self, tokens: u64, now: u128) -> u128 {
        let tokens = tokens.min(self.rate.burst.get());
        let room = self
            .rate
            .time_for(self.rate.burst.get().saturating_sub(tokens));
        self.full_at.saturating_sub(now).saturating_sub(room)
    }

    /// Takes `tokens`, more than there are if need be: those who come later wait.
    fn take(&mut self, tokens: u64, now: u128) {
        let from = self.full_at.max(now);
        self.full_at = from.saturating_add(self.rate.time_for(tokens));
    }
}

#[derive(Debug, Default)]
struct Buckets {
    operations: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Buckets {
    fn new(limits: RateLimits) -> Self {
        Self {
            operations: limits.operations.map(Bucket::new),
            bytes: limits.bytes.map(Bucket::new),
        }
    }

    /// Whether one more request may start, or how long that takes. How many bytes it
    /// moves is not known yet: it may owe them, if nobody owes any before it.
    fn admit(&self, now: Duration) -> Result<(), Duration> {
        let now = picoseconds(now);
        let wait_for = |bucket: &Option<Bucket>| {
            let wait = bucket.as_ref().map(|bucket| bucket.wait_for(1, now));
            wait.unwrap_or(0)
        };
        let wait = wait_for(&self.operations).max(wait_for(&self.bytes));
        if wait == 0 {
            return Ok(());
        }
        let nanoseconds = u64::try_from(wait.div_ceil(PER_NANOSECOND));
        Err(Duration::from_nanos(nanoseconds.unwrap_or(u64::MAX)))
    }

    fn charge(&mut self, bytes: u64, now: Duration) {
        let now = picoseconds(now);
        if let Some(bucket) = &mut self.operations {
            bucket.take(1, now);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes, now);
        }
    }
}

fn picoseconds(time: Duration) -> u128 {
    time.as_nanos().saturating_mul(PER_NANOSECOND)
}

/// The limits of a disk, which all its queues share. Without a limit, asking costs a
/// look at one flag.
#[derive(Debug)]
pub struct RateLimiter {
    limited: AtomicBool,
    buckets: Mutex<Buckets>,
    origin: Instant,
}

impl RateLimiter {
    /// Full buckets.
    pub fn new(limits: RateLimits) -> Self {
        let limiter = Self {
            limited: AtomicBool::new(false),
            buckets: Mutex::default(),
            origin: Instant::now(),
        };
        limiter.set_limits(limits);
        limiter
    }

    /// Sets other limits; their buckets are full, and what was owed is forgiven.
    pub fn set_limits(&self, limits: RateLimits) {
        let mut buckets = self.lock();
        *buckets = Buckets::new(limits);
        let limited = limits != RateLimits::default();
        self.limited.store(limited, Ordering::Release);
    }

    /// Whether one more request may start; if not, after how long to ask again.
    ///
    /// # Errors
    /// The time to wait.
    pub fn admit(&self) -> Result<(), Duration> {
        if !self.limited.load(Ordering::Acquire) {
            return Ok(());
        }
        self.lock().admit(self.origin.elapsed())
    }

    /// A request starts that moves so many bytes.
    pub fn charge(&self, bytes: u64) {
        if self.limited.load(Ordering::Acquire) {
            self.lock().charge(bytes, self.origin.elapsed());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u64, burst: u64) -> Option<Rate> {
        Some(Rate {
            per_second: NonZeroU64::new(per_second).unwrap(),
            burst: NonZeroU64::new(burst).unwrap(),
        })
    }

    /// Starts requests of `bytes` as soon as they may, for `time` of a made-up clock.
    fn drive(buckets: &mut Buckets, bytes: u64, time: Duration) -> u64 {
        let (mut now, mut started) = (Duration::ZERO, 0);
        while now < time {
            match buckets.admit(now) {
                Ok(()) => {
                    buckets.charge(bytes, now);
                    started += 1;
                }
                Err(wait) => {
                    assert!(wait > Duration::ZERO);
                    now += wait;
                }
            }
        }
        started
    }

    #[test]
    fn operations_come_at_their_rate_after_a_burst() {
        let mut buckets = Buckets::new(RateLimits {
            operations: rate(1000, 50),
            bytes: None,
        });
        for _ in 0..50 {
            assert_eq!(buckets.admit(Duration::ZERO), Ok(()));
            buckets.charge(512, Duration::ZERO);
        }
        let wait = buckets.admit(Duration::ZERO);
        assert_eq!(wait, Err(Duration::from_millis(1)));
        assert_eq!(drive(&mut buckets, 4096, Duration::from_secs(10)), 9999);
    }

    #[test]
    fn bytes_come_at_their_rate_however_large_the_requests() {
        // A burst, and as much as comes in the time; the last request may owe its bytes.
        for (size, most) in [(512, 2048), (4096, 256), (1 << 20, 1), (64 << 20, 1)] {
            let mut buckets = Buckets::new(RateLimits {
                operations: None,
                bytes: rate(100 << 10, 24 << 10),
            });
            let started = drive(&mut buckets, size, Duration::from_secs(10));
            assert!((most..=most + 1).contains(&started), "{size}: {started}");
        }
    }

    #[test]
    fn what_was_not_used_is_no_larger_than_the_burst() {
        let mut buckets = Buckets::new(RateLimits {
            operations: rate(10, 3),
            bytes: None,
        });
        let late = Duration::from_secs(3600);
        for _ in 0..3 {
            assert_eq!(buckets.admit(late), Ok(()));
            buckets.charge(512, late);
        }
        assert_eq!(buckets.admit(late), Err(Duration::from_millis(100)));
    }

    #[test]
    fn the_slower_limit_counts() {
        let mut buckets = Buckets::new(RateLimits {
            operations: rate(100, 1),
            bytes: rate(4096, 4096),
        });
        // 100 a second would be 1000; the bytes of one request come in a second.
        let started = drive(&mut buckets, 4096, Duration::from_secs(10));
        assert!((10..=12).contains(&started), "{started}");
    }

    #[test]
    fn nothing_overflows() {
        let mut buckets = Buckets::new(RateLimits {
            operations: rate(u64::MAX, u64::MAX),
            bytes: rate(1, u64::MAX),
        });
        for _ in 0..3 {
            buckets.charge(u64::MAX, Duration::MAX);
        }
        assert!(buckets.admit(Duration::ZERO).is_err());
    }

    #[test]
    fn limits_change_while_it_runs() {
        let limiter = RateLimiter::new(RateLimits::default());
        for _ in 0..1000 {
            assert_eq!(limiter.admit(), Ok(()));
            limiter.charge(1 << 40);
        }
        limiter.set_limits(RateLimits {
            operations: rate(1, 1),
            bytes: None,
        });
        assert_eq!(limiter.admit(), Ok(()));
        limiter.charge(0);
        assert!(limiter.admit().unwrap_err() > Duration::from_millis(500));
        limiter.set_limits(RateLimits::default());
        assert_eq!(limiter.admit(), Ok(()));
    }

    #[test]
    fn a_burst_is_a_tenth_of_a_second() {
        let thousand = NonZeroU64::new(1000).unwrap();
        assert_eq!(Rate::per_second(thousand), rate(1000, 100).unwrap());
        assert_eq!(Rate::per_second(NonZeroU64::MIN), rate(1, 1).unwrap());
    }
}

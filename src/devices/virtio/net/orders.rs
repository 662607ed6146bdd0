//! What the driver has asked for by the control queue that all threads have to do: which
//! queue pairs are in use, and what the host may leave to the driver.
//!
//! ```text
//!  control queue ─► thread 0 ─ issue ─► Orders ─ nudge ─► threads 1, 2, …
//!  answer ◄─ thread 0 ◄─ nudge ─ all have obeyed ◄──────────────┘
//! ```
//!
//! Nobody waits meanwhile, so that a thread may be paused with an order half obeyed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::link::Offloads;
use super::serve::Session;
use crate::devices::virtio::control::Control;

/// What is to be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Queue pairs in use, from the first on.
    pub pairs: usize,
    /// What the host may leave to the driver.
    pub offloads: Offloads,
}

/// A thread that obeys.
struct Follower {
    control: Arc<Control<Session>>,
    /// The last order obeyed.
    obeyed: AtomicU64,
}

/// The orders of one activation, and how far its threads have come with them. Those of
/// the pairs that the driver has set up follow.
pub struct Orders {
    order: Mutex<Order>,
    /// Of the last order, from 1 on; for a look without a lock.
    number: AtomicU64,
    followers: Box<[Follower]>,
    /// Whether a thread could not obey the last order.
    failed: AtomicBool,
}

impl Orders {
    /// The first order, which all threads have yet to obey; `controls` leads to them.
    pub fn new(order: Order, controls: impl Iterator<Item = Arc<Control<Session>>>) -> Self {
        let follower = |control| Follower {
            control,
            obeyed: AtomicU64::new(0),
        };
        Self {
            order: Mutex::new(order),
            number: AtomicU64::new(1),
            followers: controls.map(follower).collect(),
            failed: AtomicBool::new(false),
        }
    }

    /// Queue pairs that can be in use.
    pub fn pairs(&self) -> usize {
        self.followers.len()
    }

    /// What is to be so.
    pub fn order(&self) -> Order {
        *self.lock()
    }

    /// Has all threads obey `order`. Only thread 0 gives orders.
    pub fn issue(&self, order: Order) {
        let mut current = self.lock();
        *current = order;
        self.failed.store(false, Ordering::Relaxed);
        self.number.fetch_add(1, Ordering::Release);
        drop(current);
        for follower in self.followers.iter().skip(1) {
            follower.control.nudge();
        }
    }

    /// An order that thread `index` has not obeyed yet.
    pub fn news(&self, index: usize) -> Option<(u64, Order)> {
        let follower = self.followers.get(index)?;
        let number = self.number.load(Ordering::Acquire);
        // The same is true of the order read: it is no older than its number.
        (follower.obeyed.load(Ordering::Relaxed) != number).then(|| (number, self.order()))
    }

    /// Thread `index` has obeyed order `number`, or could not.
    pub fn obeyed(&self, index: usize, number: u64, done: bool) {
        let Some(follower) = self.followers.get(index) else {
            return;
        };
        if !done {
            self.failed.store(true, Ordering::Relaxed);
        }
        follower.obeyed.store(number, Ordering::Release);
        if index > 0
            && let Some(first) = self.followers.first()
        {
            first.control.nudge();
        }
    }

    /// Whether all threads could obey the last order; none while some have yet to.
    pub fn outcome(&self) -> Option<bool> {
        let number = self.number.load(Ordering::Acquire);
        let mut followers = self.followers.iter();
        followers
            .all(|follower| follower.obeyed.load(Ordering::Acquire) == number)
            .then(|| !self.failed.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(pairs: usize) -> Order {
        Order {
            pairs,
            offloads: Offloads::default(),
        }
    }

    #[test]
    fn an_order_is_carried_out_when_all_have_obeyed() {
        let controls: Vec<_> = (0..3).map(|_| Arc::new(Control::new().unwrap())).collect();
        let orders = Orders::new(order(1), controls.iter().cloned());
        let nudged = |index: usize| controls[index].event().read().is_ok();
        for index in [2, 0, 1] {
            assert_eq!(orders.outcome(), None);
            assert_eq!(orders.news(index), Some((1, order(1))));
            orders.obeyed(index, 1, true);
            assert_eq!(orders.news(index), None);
        }
        assert_eq!(orders.outcome(), Some(true));
        assert!(nudged(0) && !nudged(1) && !nudged(2));
        orders.issue(order(3));
        assert!(!nudged(0) && nudged(1) && nudged(2));
        assert_eq!(orders.outcome(), None);
        assert_eq!(orders.news(1), Some((2, order(3))));
        for index in 0..3 {
            orders.obeyed(index, 2, index != 1);
        }
        assert_eq!(orders.outcome(), Some(false));
        orders.issue(order(2));
        for index in 0..3 {
            orders.obeyed(index, 3, true);
        }
        assert_eq!(orders.outcome(), Some(true));
        assert_eq!(orders.news(3), None);
        assert_eq!(orders.pairs(), 3);
    }
}

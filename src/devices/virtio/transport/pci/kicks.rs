//! The queues' doorbells, which lie in the BAR and move with it.

use std::sync::Arc;

use super::{NOTIFY, NOTIFY_MULTIPLIER};
use crate::devices::virtio::front::Front;
use crate::devices::virtio::transport::Doorbells;

/// The doorbells of one function.
pub struct Kicks {
    doorbells: Arc<dyn Doorbells>,
    /// Where the BAR is decoded.
    bar: Option<u64>,
    /// The doorbells there are now: guest-physical addresses, by queue.
    registered: Vec<Option<u64>>,
    /// Whether it was said that kicks cost an exit; once is enough.
    told: bool,
}

impl Kicks {
    /// No doorbells yet, for `queues` queues.
    pub fn new(doorbells: Arc<dyn Doorbells>, queues: u16) -> Self {
        Self {
            doorbells,
            bar: None,
            registered: vec![None; usize::from(queues)],
            told: false,
        }
    }

    /// The BAR is decoded at `bar` from now on, or nowhere.
    pub fn follow(&mut self, bar: Option<u64>, front: &Front) {
        if self.bar == bar {
            return;
        }
        self.bar = bar;
        for (queue, registered) in (0u16..).zip(&mut self.registered) {
            let Some(kick) = front.kick(queue) else {
                continue;
            };
            if let Some(addr) = registered.take()
                && let Err(error) = self.doorbells.unregister(addr, None, kick)
            {
                log::debug!("cannot take the doorbell at {addr:#x} away: {error}");
            }
            let Some(addr) = bar.and_then(|bar| address(bar, queue)) else {
                continue;
            };
            match self.doorbells.register(addr, None, kick) {
                Ok(()) => *registered = Some(addr),
                Err(error) if !self.told => {
                    self.told = true;
                    log::warn!("kicks at {addr:#x} cost an exit each: {error}");
                }
                Err(_) => {}
            }
        }
    }
}

fn address(bar: u64, queue: u16) -> Option<u64> {
    let offset = u64::from(queue).checked_mul(NOTIFY_MULTIPLIER.into())?;
    bar.checked_add(NOTIFY)?.checked_add(offset)
}

//! A few threads that carry out requests by blocking calls: what io_uring cannot do
//! (formats, flushing, discarding), or everything where there is no io_uring.
//!
//! A queue hands a request over and finds it, carried out, on a list of its own whose
//! eventfd tells of it. Requests go over by pointer into lists with room for all that
//! can be under way, so that nothing is allocated.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::counters::BlockCounters;
use super::disk::Disk;
use super::slots::Request;
use crate::devices::virtio::queue_thread::STACK;

/// A request that was carried out, and how that went.
pub type Finished = (Box<Request>, io::Result<()>);

/// Where a queue finds its requests again.
pub struct Returns {
    finished: Mutex<Vec<Finished>>,
    event: EventFd,
}

impl Returns {
    /// An empty list with room for `most`.
    ///
    /// # Errors
    /// There is no descriptor left for its eventfd.
    pub fn new(most: usize) -> io::Result<Self> {
        Ok(Self {
            finished: Mutex::new(Vec::with_capacity(most)),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// Readable when the list is no longer empty.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Exchanges the list for `empty`.
    pub fn take(&self, empty: &mut Vec<Finished>) {
        std::mem::swap(&mut *lock(&self.finished), empty);
    }

    /// Gives the number of system calls made.
    fn put(&self, finished: Finished) -> u64 {
        let mut list = lock(&self.finished);
        list.push(finished);
        let first = list.len() == 1;
        drop(list);
        if first {
            // A counter that is full is readable.
            let _ = self.event.write(1);
        }
        u64::from(first)
    }
}

struct Job {
    request: Box<Request>,
    queue: u16,
    returns: Arc<Returns>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    ended: bool,
}

/// What the pool's threads and the queues share.
pub struct Shared {
    disk: Arc<dyn Disk>,
    write_through: Arc<AtomicBool>,
    counters: Arc<BlockCounters>,
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

impl Shared {
    /// Has `request` of queue number `queue` carried out; it comes back in `returns`.
    pub fn hand_over(&self, request: Box<Request>, queue: u16, returns: &Arc<Returns>) {
        let returns = Arc::clone(returns);
        lock(&self.jobs).waiting.push_back(Job {
            request,
            queue,
            returns,
        });
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Job> {
        let jobs = self.changed.wait_while(lock(&self.jobs), |jobs| {
            jobs.waiting.is_empty() && !jobs.ended
        });
        // What is waiting is carried out before the end.
        jobs.unwrap_or_else(PoisonError::into_inner)
            .waiting
            .pop_front()
    }

    fn work(&self) {
        while let Some(mut job) = self.next() {
            let write_through = self.write_through.load(Ordering::Acquire);
            // The request is answered even if the disk's code fails.
            let result = catch_unwind(AssertUnwindSafe(|| {
                job.request.carry_out(&*self.disk, write_through)
            }));
            let result = result.unwrap_or_else(|_| {
                Err(io::Error::other("the code that serves the disk has failed"))
            });
            let calls = job.returns.put((job.request, result));
            if let Some(counters) = self.counters.queue(job.queue) {
                counters.system_calls_elsewhere(calls.saturating_add(1));
            }
        }
    }
}

/// The threads; they end when it is dropped.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` of them, named after disk `name`, with room for `most` requests.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start(
        disk: Arc<dyn Disk>,
        write_through: Arc<AtomicBool>,
        counters: Arc<BlockCounters>,
        name: &str,
        threads: u16,
        most: usize,
    ) -> io::Result<Self> {
        let jobs = Jobs {
            waiting: VecDeque::with_capacity(most),
            ended: false,
        };
        let mut pool = Self {
            shared: Arc::new(Shared {
                disk,
                write_through,
                counters,
                jobs: Mutex::new(jobs),
                changed: Condvar::new(),
            }),
            threads: Vec::with_capacity(usize::from(threads)),
        };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new()
                .name(format!("blk-{name}-p{number}"))
                .stack_size(STACK);
            pool.threads.push(builder.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// The queues' side.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.jobs).ended = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // Its panics are caught and told of; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// What a panic left behind is whole: nothing panics while it changes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

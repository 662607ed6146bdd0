//! The virtio-block device (virtio 1.2 §5.2): its registers, and the threads that serve
//! its queues.
//!
//! ```text
//!  vCPU: DRIVER_OK, reset ─► Block ─Control─► blk-NAME-0 (queue 0) ─► io_uring
//!                                  ─Control─► blk-NAME-1 (queue 1) ─► io_uring
//!                                                  │ ▲
//!                                                  ▼ │ what io_uring cannot do
//!                                             blk-NAME-p0, -p1 (pool)
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

use super::config_space::ConfigSpace;
use super::counters::BlockCounters;
use super::disk::{Access, Disk};
use super::poll::Poll;
use super::pool::{Pool, Returns};
use super::report::Report;
use super::request::{Geometry, ID_LEN, SECTOR};
use super::ring::{Ring, Surroundings};
use super::serve::{Habit, Session};
use super::sleeper::Sleeper;
use super::slots::Slots;
use super::worker::Worker;
use crate::devices::virtio::control::{Command, Control, Ended};
use crate::devices::virtio::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use crate::devices::virtio::lookout::Lookout;
use crate::devices::virtio::queue::Chain;
use crate::devices::virtio::queue_thread::QueueThread;
use crate::devices::virtio::rate_limiter::{RateLimiter, RateLimits};
use crate::memory::GuestRam;

/// Descriptors of each queue, and so requests under way on it at most.
pub const QUEUE_SIZE: u16 = 256;
/// Threads of the pool beside io_uring, for the requests it cannot make.
const HELPERS: u16 = 2;
/// Threads of the pool that makes all requests.
const THREADS: u16 = 4;

/// How requests reach the host's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// By one io_uring a queue; as with threads where the host has none.
    IoUring,
    /// By a few threads.
    Threads,
}

/// What a block device is to be like.
#[derive(Clone, Copy, Debug)]
pub struct BlockOptions {
    /// Number of queues, at least 1.
    pub queues: u16,
    /// The way to the host's kernel.
    pub engine: Engine,
    /// What GET_ID answers, filled up with zeros.
    pub serial: [u8; ID_LEN],
    /// What it may be used.
    pub limits: RateLimits,
}

/// Why a disk's threads cannot be started.
#[derive(Debug, Error)]
pub enum BlockError {
    /// No eventfd.
    #[error("cannot make an eventfd for disk {disk}")]
    Event {
        /// The disk's name.
        disk: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread for disk {disk}")]
    Thread {
        /// The disk's name.
        disk: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// A disk for the guest.
pub struct Block {
    // Ends before the pool, which is made use of until then.
    threads: Vec<QueueThread<Session>>,
    _pool: Pool,
    name: String,
    disk: Arc<dyn Disk>,
    config: ConfigSpace,
    queue_sizes: Vec<u16>,
    limiter: Arc<RateLimiter>,
    counters: Arc<BlockCounters>,
    /// Whether writes are made stable before they are answered.
    write_through: Arc<AtomicBool>,
    /// The features agreed on, while the device is active.
    active: Option<u64>,
}

/// A way to change a disk's limits while it runs.
#[derive(Clone)]
pub struct LimitsHandle {
    limiter: Arc<RateLimiter>,
    controls: Vec<Arc<Control<Session>>>,
}

impl LimitsHandle {
    /// Sets other limits, from now on.
    pub fn set_limits(&self, limits: RateLimits) {
        self.limiter.set_limits(limits);
        for control in &self.controls {
            control.nudge();
        }
    }
}

impl Block {
    /// Starts the threads that serve `disk` under the name the guest's Linux will give
    /// it, such as `vda`.
    ///
    /// # Errors
    /// [`BlockError`]
    pub fn start(
        disk: Arc<dyn Disk>,
        ram: GuestRam,
        options: BlockOptions,
        name: &str,
    ) -> Result<Self, BlockError> {
        let start = Start {
            disk,
            ram,
            options,
            name,
            limiter: Arc::new(RateLimiter::new(options.limits)),
            write_through: Arc::new(AtomicBool::new(false)),
            counters: Arc::new(BlockCounters::new(options.queues)),
            report: Arc::new(Report::new(name)),
        };
        start.block()
    }

    /// What it was asked for and what that has cost.
    pub fn counters(&self) -> Arc<BlockCounters> {
        Arc::clone(&self.counters)
    }

    /// The way to change its limits.
    pub fn limits(&self) -> LimitsHandle {
        let controls = self.threads.iter().map(|thread| &thread.control);
        LimitsHandle {
            limiter: Arc::clone(&self.limiter),
            controls: controls.cloned().collect(),
        }
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.config.write(offset, data);
        let Some(features) = self.active else {
            return;
        };
        let write_through = self.config.write_through(features);
        let before = self.write_through.swap(write_through, Ordering::AcqRel);
        // What was answered up to now was not made stable, and a driver that has no
        // write cache any more sends no FLUSH.
        if write_through
            && !before
            && let Err(error) = self.disk.flush()
        {
            log::error!("cannot flush disk {}: {error}", self.name);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.is_empty() {
            return Err(ActivateError::Queues {
                given: 0,
                needed: 1,
            });
        }
        let features = activation.features;
        self.config.activated(features);
        let write_through = self.config.write_through(features);
        self.write_through.store(write_through, Ordering::Release);
        self.active = Some(features);
        let geometry = Geometry {
            capacity: self.disk.len(),
            read_only: self.disk.limits().read_only,
            features,
        };
        for queue in activation.queues {
            let Some(thread) = self.threads.get(usize::from(queue.index)) else {
                continue;
            };
            let session = Box::new(Session {
                queue,
                interrupt: Arc::clone(&activation.interrupt),
                geometry,
                broken: None,
            });
            let posted = thread.control.post(Command::Start(session));
            posted.map_err(|Ended| ActivateError::NoThread)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        if self.active.take().is_some() {
            QueueThread::ask_all(&self.threads, || Command::Stop);
        }
        self.config.reset();
    }

    fn pause(&mut self) {
        QueueThread::ask_all(&self.threads, || Command::Pause);
    }

    fn resume(&mut self) {
        QueueThread::ask_all(&self.threads, || Command::Resume);
    }
}

/// What is at hand while a device is started.
struct Start<'a> {
    disk: Arc<dyn Disk>,
    ram: GuestRam,
    options: BlockOptions,
    name: &'a str,
    limiter: Arc<RateLimiter>,
    write_through: Arc<AtomicBool>,
    counters: Arc<BlockCounters>,
    report: Arc<Report>,
}

impl Start<'_> {
    fn block(self) -> Result<Block, BlockError> {
        let disk = || self.name.to_owned();
        let no_thread = |source| BlockError::Thread {
            disk: disk(),
            source,
        };
        let no_event = |source| BlockError::Event {
            disk: disk(),
            source,
        };
        let queues = self.options.queues;
        let mut rings = self.options.engine == Engine::IoUring;
        let mut sleepers = Vec::with_capacity(usize::from(queues));
        for queue in 0..queues {
            let around = self.surroundings(queue).map_err(no_event)?;
            let sleeper = self.sleeper(&around, &mut rings);
            sleepers.push((sleeper, around));
        }
        // Of other formats more goes to the pool.
        let start = self.disk.locate(Access::Read, 0, SECTOR);
        let in_one_piece = start.is_some();
        let pool = Pool::start(
            Arc::clone(&self.disk),
            Arc::clone(&self.write_through),
            Arc::clone(&self.counters),
            self.name,
            if rings && in_one_piece {
                HELPERS
            } else {
                THREADS
            },
            usize::from(queues).saturating_mul(usize::from(QUEUE_SIZE)),
        );
        let pool = pool.map_err(no_thread)?;
        let mut threads = Vec::with_capacity(usize::from(queues));
        for (sleeper, around) in sleepers {
            let thread = self.queue_thread(sleeper, around, &pool);
            threads.push(thread.map_err(no_thread)?);
        }
        let limits = self.disk.limits();
        Ok(Block {
            threads,
            _pool: pool,
            name: self.name.to_owned(),
            config: ConfigSpace::new(self.disk.len(), &limits, queues, QUEUE_SIZE),
            queue_sizes: vec![QUEUE_SIZE; usize::from(queues)],
            disk: self.disk,
            limiter: self.limiter,
            counters: self.counters,
            write_through: self.write_through,
            active: None,
        })
    }

    fn surroundings(&self, queue: u16) -> io::Result<Surroundings> {
        Ok(Surroundings {
            disk: Arc::clone(&self.disk),
            control: Arc::new(Control::new()?),
            returns: Arc::new(Returns::new(usize::from(QUEUE_SIZE))?),
            counters: Arc::clone(&self.counters),
            queue,
        })
    }

    /// `rings` is whether to try io_uring, and becomes false where it does not work.
    fn sleeper(&self, around: &Surroundings, rings: &mut bool) -> Sleeper {
        if *rings {
            match Ring::new(QUEUE_SIZE, around.clone()) {
                Ok(ring) => return Sleeper::Ring(Box::new(ring)),
                Err(error) => log::warn!(
                    "disk {}: the host has no io_uring for it ({error}); \
                     a few threads serve it instead",
                    self.name
                ),
            }
            *rings = false;
        }
        Sleeper::Poll(Poll::new(around.clone()))
    }

    fn queue_thread(
        &self,
        sleeper: Sleeper,
        around: Surroundings,
        pool: &Pool,
    ) -> io::Result<QueueThread<Session>> {
        let queue = around.queue;
        let most = usize::from(QUEUE_SIZE);
        let control = Arc::clone(&around.control);
        let worker = Worker {
            name: format!("disk {}, queue {queue}", self.name),
            queue,
            serial: self.options.serial,
            disk: around.disk,
            ram: self.ram.clone(),
            limiter: Arc::clone(&self.limiter),
            write_through: Arc::clone(&self.write_through),
            report: Arc::clone(&self.report),
            counters: around.counters,
            control: around.control,
            pool: Arc::clone(pool.shared()),
            in_pool: 0,
            returns: around.returns,
            sleeper,
            habit: Habit::new(),
            lookout: Lookout::new(),
            slots: Slots::new(self.ram.clone(), QUEUE_SIZE, most),
            returned: false,
            chain: Chain::with_capacity(QUEUE_SIZE),
            taken: Vec::with_capacity(most),
            transferred: Vec::with_capacity(most),
            finished: Vec::with_capacity(most),
        };
        let name = format!("blk-{}-{queue}", self.name);
        QueueThread::start(name, control, move || worker.run())
    }
}

#[cfg(test)]
#[path = "life_cycle_tests.rs"]
mod life_cycle_tests;
#[cfg(test)]
#[path = "order_tests.rs"]
mod order_tests;
#[cfg(test)]
#[path = "request_life_tests.rs"]
mod request_life_tests;

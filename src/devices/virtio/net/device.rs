//! The virtio-net device (virtio 1.2 §5.1): its registers, and the threads that serve its
//! queue pairs.
//!
//! ```text
//!  vCPU: DRIVER_OK, reset ─► Net ─Control─► net-NAME-0 (receiveq1, transmitq1, controlq)
//!                                ─Control─► net-NAME-1 (receiveq2, transmitq2)
//!                                                │ ▲
//!                                                ▼ │
//!                                               Port  (tap, or passt's socket)
//! ```

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::config_space::{ConfigSpace, LinkStatus};
use super::control_queue::ControlQueue;
use super::counters::NetCounters;
use super::endpoint::Endpoint;
use super::features::{Agreed, offered};
use super::link::{Link, LinkWatch, Port};
use super::orders::{Order, Orders};
use super::receive::Receive;
use super::serve::Session;
use super::sleeper::Sleeper;
use super::transmit::Transmit;
use super::worker::{Limiters, Worker};
use crate::devices::virtio::control::{Command, Control, Ended};
use crate::devices::virtio::device::{
    ActivateError, Activation, ActiveQueue, DeviceType, VirtioDevice,
};
use crate::devices::virtio::lookout::Lookout;
use crate::devices::virtio::queue_thread::QueueThread;
use crate::devices::virtio::rate_limiter::{RateLimiter, RateLimits};
use crate::memory::GuestRam;

/// Descriptors of each queue for frames.
pub const QUEUE_SIZE: u16 = 256;
/// Descriptors of the control queue.
pub const CONTROL_QUEUE_SIZE: u16 = 64;
/// Queue pairs of a device at most (§5.1.4.1).
pub const MOST_PAIRS: usize = 0x8000;

/// What a network device is to be like.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Its address.
    pub mac: [u8; 6],
    /// What it may be used; each direction has as much.
    pub limits: RateLimits,
    /// What it is called, such as `eth0`.
    pub name: String,
}

/// Why a network device cannot be started.
#[derive(Debug, Error)]
pub enum NetError {
    /// A link with no end, or with more than a device can have.
    #[error("network device {name} cannot have {pairs} queue pairs")]
    Pairs {
        /// The device's name.
        name: String,
        /// The ends there are.
        pairs: usize,
    },
    /// No eventfd, or no epoll.
    #[error("cannot make a descriptor for network device {name}")]
    Descriptor {
        /// The device's name.
        name: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread for network device {name}")]
    Thread {
        /// The device's name.
        name: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// A network interface for the guest.
pub struct Net {
    threads: Vec<QueueThread<Session>>,
    features: u64,
    config: ConfigSpace,
    link: Arc<LinkStatus>,
    queue_sizes: Vec<u16>,
    limiters: Arc<Limiters>,
    counters: Arc<NetCounters>,
    /// Whether the driver has the device.
    active: bool,
}

/// A way to change a network device's limits while it runs.
#[derive(Clone)]
pub struct LimitsHandle {
    limiters: Arc<Limiters>,
    controls: Vec<Arc<Control<Session>>>,
}

impl LimitsHandle {
    /// Sets other limits for each direction, from now on.
    pub fn set_limits(&self, limits: RateLimits) {
        self.limiters.receive.set_limits(limits);
        self.limiters.transmit.set_limits(limits);
        for control in &self.controls {
            control.nudge();
        }
    }
}

impl Net {
    /// Starts the threads that serve the device behind `link`.
    ///
    /// # Errors
    /// [`NetError`]
    pub fn start(link: Link, ram: GuestRam, options: NetOptions) -> Result<Self, NetError> {
        let pairs = link.ports.len();
        let told = u16::try_from(pairs)
            .ok()
            .filter(|_| (1..=MOST_PAIRS).contains(&pairs));
        let Some(told) = told else {
            let name = options.name;
            return Err(NetError::Pairs { name, pairs });
        };
        let mut watch = link.watch;
        let up = watch.as_mut().is_none_or(|watch| watch.is_up());
        let mut queue_sizes = vec![QUEUE_SIZE; pairs.saturating_mul(2)];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        let mut net = Self {
            threads: Vec::with_capacity(pairs),
            features: offered(link.offloads, link.mtu, told),
            config: ConfigSpace {
                mac: options.mac,
                pairs: told,
                mtu: link.mtu,
            },
            link: Arc::new(LinkStatus::new(up)),
            queue_sizes,
            limiters: Arc::new(Limiters {
                receive: RateLimiter::new(options.limits),
                transmit: RateLimiter::new(options.limits),
            }),
            counters: Arc::new(NetCounters::new(pairs)),
            active: false,
        };
        for port in link.ports {
            let thread = net.pair_thread(port, watch.take(), &ram, &options.name)?;
            net.threads.push(thread);
        }
        Ok(net)
    }

    /// What it has moved and what that has cost.
    pub fn counters(&self) -> Arc<NetCounters> {
        Arc::clone(&self.counters)
    }

    /// The way to change its limits.
    pub fn limits(&self) -> LimitsHandle {
        let controls = self.threads.iter().map(|thread| &thread.control);
        LimitsHandle {
            limiters: Arc::clone(&self.limiters),
            controls: controls.cloned().collect(),
        }
    }

    /// Starts the thread of the next pair.
    fn pair_thread(
        &self,
        port: Box<dyn Port>,
        watch: Option<Box<dyn LinkWatch>>,
        ram: &GuestRam,
        name: &str,
    ) -> Result<QueueThread<Session>, NetError> {
        let index = self.threads.len();
        let no_descriptor = |source| NetError::Descriptor {
            name: name.to_owned(),
            source,
        };
        let control = Arc::new(Control::new().map_err(no_descriptor)?);
        let worker = Worker {
            name: name.to_owned(),
            index,
            mtu: self.config.mtu,
            limiters: Arc::clone(&self.limiters),
            counters: Arc::clone(&self.counters),
            link: Arc::clone(&self.link),
            control: Arc::clone(&control),
            told: false,
            port: Endpoint::new(port),
            watch,
            sleeper: Sleeper::new().map_err(no_descriptor)?,
            lookout: Lookout::new(),
            receive: Receive::new(ram.clone(), QUEUE_SIZE),
            transmit: Transmit::new(ram.clone(), QUEUE_SIZE),
        };
        let life = move || worker.run();
        QueueThread::start(format!("net-{name}-{index}"), control, life).map_err(|source| {
            NetError::Thread {
                name: name.to_owned(),
                source,
            }
        })
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(self.link.bits(), offset, data);
    }

    /// None of it can be written (§5.1.4).
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let agreed = Agreed::new(activation.features);
        let most = if agreed.multiqueue() {
            self.threads.len()
        } else {
            1
        };
        let queues = sort_out(activation.queues, agreed, most)?;
        let order = Order {
            pairs: 1,
            offloads: agreed.guest_offloads(),
        };
        let controls = self.threads.iter().map(|thread| thread.control.clone());
        let orders = Orders::new(order, controls.take(queues.pairs.len()));
        let orders = Arc::new(orders);
        self.active = true;
        let mut control = queues.control;
        for (thread, (receive, transmit)) in self.threads.iter().zip(queues.pairs) {
            let session = Box::new(Session {
                receive,
                transmit,
                control: control.take(),
                interrupt: Arc::clone(&activation.interrupt),
                agreed,
                orders: Arc::clone(&orders),
                broken: None,
            });
            let posted = thread.control.post(Command::Start(session));
            posted.map_err(|Ended| ActivateError::NoThread)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        if std::mem::take(&mut self.active) {
            QueueThread::ask_all(&self.threads, || Command::Stop);
        }
        self.link.announced();
    }

    fn pause(&mut self) {
        QueueThread::ask_all(&self.threads, || Command::Pause);
    }

    fn resume(&mut self) {
        QueueThread::ask_all(&self.threads, || Command::Resume);
    }
}

/// The driver's queues by what they are for.
struct Queues {
    /// `receiveq` and `transmitq` of each pair, up to the first that is not complete.
    pairs: Vec<(ActiveQueue, ActiveQueue)>,
    control: Option<ControlQueue>,
}

/// The control queue comes after as many pairs as the driver may use (§5.1.2): one, if
/// it knows of no more. Queues beyond it are left alone.
fn sort_out(
    queues: Vec<ActiveQueue>,
    agreed: Agreed,
    most: usize,
) -> Result<Queues, ActivateError> {
    let given = queues.len();
    let mut queues = queues.into_iter().peekable();
    let mut next = |index: usize| {
        let is_it = |queue: &ActiveQueue| usize::from(queue.index) == index;
        while queues
            .next_if(|queue| usize::from(queue.index) < index)
            .is_some()
        {}
        queues.next_if(is_it)
    };
    let mut pairs = Vec::with_capacity(most);
    for pair in 0..most {
        let first = pair.saturating_mul(2);
        let (receive, transmit) = (next(first), next(first.saturating_add(1)));
        match (receive, transmit) {
            (Some(receive), Some(transmit)) => pairs.push((receive, transmit)),
            _ => break,
        }
    }
    if pairs.is_empty() {
        return Err(ActivateError::Queues { given, needed: 2 });
    }
    let control = agreed
        .control_queue()
        .then(|| next(most.saturating_mul(2)))
        .flatten()
        .map(|queue| ControlQueue::new(queue, QUEUE_SIZE));
    Ok(Queues { pairs, control })
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod control_tests;
#[cfg(test)]
#[path = "frames_tests.rs"]
mod frames_tests;
#[cfg(test)]
#[path = "life_cycle_tests.rs"]
mod life_cycle_tests;

//! What stays when the guest resets itself: memory, disks, networks, what the RTC's
//! battery keeps, and the far side of the serial port.
//!
//! They are made once. Each start of the guest has a machine of its own, built round
//! them ([`builder::build`](super::builder::build)): KVM's VM, vCPUs, interrupt
//! controllers and the PC's other devices in their reset state.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::builder::Inputs;
use super::disks::DiskCounters;
use super::error::BuildError;
use super::exit::ExitReason;
use super::lifecycle::History;
use super::nets::RunningNet;
use super::report::{DiskReport, NetReport, millis};
use super::virtio::{self, Devices};
use crate::config::VmConfig;
use crate::console::{Console, ConsoleEnd, Finished, Input, Patience};
use crate::devices::cmos_rtc::{CmosRtc, CmosRtcState, host_clock};
use crate::devices::virtio::lent::Kept;
use crate::memory::GuestRam;

/// What stays when the guest resets itself.
pub struct Hardware {
    /// Guest memory.
    pub ram: GuestRam,
    /// The virtio devices, in the order in which the guest finds them.
    pub(super) devices: Vec<Kept>,
    /// The CMOS RAM and clock.
    pub(super) rtc: Arc<Mutex<CmosRtc>>,
    /// Where the serial port's output goes.
    pub(super) console: ConsoleEnd,
    pub(super) history: Arc<History>,
    disks: Vec<DiskCounters>,
    nets: Vec<RunningNet>,
    input: Option<Input>,
}

/// What is left of it when the VM has ended.
pub struct Remains {
    /// What became of the serial output.
    pub output: Finished,
    /// When the guest sent its first byte, in milliseconds since the process started.
    pub first_serial_byte: Option<f64>,
    /// What each disk has served.
    pub disks: Vec<DiskReport>,
    /// What each network interface has carried.
    pub nets: Vec<NetReport>,
}

impl Hardware {
    /// Reserves memory and starts the threads of disks and networks, which are taken
    /// out of `inputs`. `started` is when the process started.
    ///
    /// # Errors
    /// [`BuildError`], one line that says what the host refused.
    pub fn new(
        config: &VmConfig,
        inputs: &mut Inputs,
        console: Console,
        started: Instant,
    ) -> Result<Self, BuildError> {
        let ram = GuestRam::with_options(config.memory.size(), config.memory.options())?;
        let history = History::new(started, config.reboot).map_err(BuildError::EventDescriptor)?;
        let (input, console) = console.split();
        let Devices {
            devices,
            disk_counters,
            nets,
        } = virtio::make_devices(inputs.take_disks(), inputs.take_nets(), config.rng, &ram)?;
        let rtc = CmosRtc::from_state(CmosRtcState::for_memory(ram.size()), host_clock());
        Ok(Self {
            ram,
            devices,
            rtc: Arc::new(Mutex::new(rtc)),
            console,
            history: Arc::new(history),
            disks: disk_counters,
            nets,
            input,
        })
    }

    /// What is typed to the guest, if anything ever is; given once.
    pub fn take_input(&mut self) -> Option<Input> {
        self.input.take()
    }

    /// When things happened.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Starts the thread that writes the serial output, if it does not run yet.
    /// What a VM says that ends without one is written by [`Hardware::finish`].
    ///
    /// # Errors
    /// [`BuildError::Writer`] if the host gives no thread.
    pub fn start_writer(&self) -> Result<(), BuildError> {
        let started = self.console.output.start_writer();
        started.map_err(BuildError::Writer)
    }

    /// Why a VM has really ended that ended for `reason`.
    ///
    /// A kernel that panics and has no pvpanic driver only seems to reboot; its
    /// last words on the console tell the difference.
    pub fn true_reason(&self, reason: ExitReason) -> ExitReason {
        unmask_panic(reason, self.console.output.panic_seen())
    }

    /// Back to what a machine that was just switched on finds: devices that no driver
    /// has touched, memory full of zeros. The RTC's battery is not taken out. No vCPU of
    /// the machine before may run any more.
    ///
    /// # Errors
    /// [`BuildError::Memory`] where the host does not take the memory back.
    pub fn reset(&self) -> Result<(), BuildError> {
        self.devices.iter().for_each(Kept::reset);
        let mut rtc = self.rtc.lock().unwrap_or_else(PoisonError::into_inner);
        rtc.reset(self.ram.size());
        Ok(self.ram.clear()?)
    }

    /// Hands the rest of the serial output over, within a bounded time, and puts
    /// everything away. The VM must have ended.
    pub fn finish(self) -> Remains {
        let started = self.history.started();
        let first_byte = self.console.output.first_byte();
        Remains {
            disks: self.disks.iter().map(DiskCounters::report).collect(),
            nets: self.nets.iter().map(RunningNet::report).collect(),
            first_serial_byte: first_byte.map(|at| millis(at.saturating_duration_since(started))),
            output: self.console.finish(Patience::default()),
        }
    }
}

fn unmask_panic(reason: ExitReason, panic_seen: bool) -> ExitReason {
    match reason {
        ExitReason::Reset | ExitReason::TripleFault if panic_seen => ExitReason::KernelPanic,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_after_the_words_of_a_panic_is_a_panic() {
        assert_eq!(
            unmask_panic(ExitReason::Reset, true),
            ExitReason::KernelPanic
        );
        assert_eq!(unmask_panic(ExitReason::Reset, false), ExitReason::Reset);
        assert_eq!(unmask_panic(ExitReason::Timeout, true), ExitReason::Timeout);
    }
}

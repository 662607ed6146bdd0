//! The devices of a machine, and what a machine does at each step.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mayfly::devices::acpi_power::{AcpiPower, AcpiPowerState};
use mayfly::devices::boot_timer::{BootTimer, BootTimerState};
use mayfly::devices::cmos_rtc::{CmosRtc, CmosRtcState};
use mayfly::devices::debug_exit::{DebugExit, DebugExitState};
use mayfly::devices::i8042::{I8042, I8042State};
use mayfly::devices::ioapic::{Ioapic, IoapicState, Msi, MsiSink};
use mayfly::devices::pvpanic::{Pvpanic, PvpanicState};
use mayfly::devices::reset_control::{ResetControl, ResetControlState};
use mayfly::devices::serial::{Serial, SerialState};
use mayfly::devices::{BusDevice, EventSink, GuestEvent, IrqLine};
use mayfly::memory::layout::IOAPIC_PINS;
use serde::{Deserialize, Serialize};

/// The state of every device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub serial: SerialState,
    pub i8042: I8042State,
    pub cmos: CmosRtcState,
    pub ioapic: IoapicState,
    pub acpi: AcpiPowerState,
    pub timer: BootTimerState,
    pub reset: ResetControlState,
    pub pvpanic: PvpanicState,
    pub debug_exit: DebugExitState,
}

/// What the devices did to the world since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    pub serial_pulses: u32,
    pub sci_pulses: u32,
    pub output: Vec<u8>,
    pub events: Vec<GuestEvent>,
    pub messages: Vec<Msi>,
    /// What a call gave: data read, or bytes taken.
    pub answer: Vec<u8>,
}

/// The world as the devices see it.
#[derive(Default)]
struct World {
    deeds: Deeds,
    routes: [Option<Msi>; IOAPIC_PINS as usize],
    input_wanted: bool,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct SerialLine(Shared);

impl IrqLine for SerialLine {
    fn pulse(&self) {
        self.0.lock().deeds.serial_pulses += 1;
    }
}

struct Sci(Shared);

impl IrqLine for Sci {
    fn pulse(&self) {
        self.0.lock().deeds.sci_pulses += 1;
    }
}

impl EventSink for Shared {
    fn guest_event(&self, event: GuestEvent) {
        self.lock().deeds.events.push(event);
    }
}

impl MsiSink for Shared {
    fn deliver(&self, msi: Msi) {
        self.lock().deeds.messages.push(msi);
    }

    fn route_changed(&self, pin: u32, route: Option<Msi>) {
        self.lock().routes[pin as usize] = route;
    }
}

impl Write for Shared {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.lock().deeds.output.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A clock that is set by hand, in nanoseconds since 1970.
pub type Clock = Arc<AtomicU64>;

/// Every device, built from one [`State`].
pub struct Machine {
    pub serial: Serial,
    i8042: I8042,
    cmos: CmosRtc,
    pub ioapic: Ioapic,
    pub acpi: AcpiPower,
    timer: BootTimer,
    reset: ResetControl,
    pvpanic: Pvpanic,
    debug_exit: DebugExit,
    world: Shared,
}

impl Machine {
    /// Builds the devices.
    pub fn new(state: State, clock: &Clock) -> Self {
        let world = Shared::default();
        let events = || -> Arc<dyn EventSink> { Arc::new(world.clone()) };
        let line = Arc::new(SerialLine(world.clone()));
        let (output, wanting) = (Box::new(world.clone()), world.clone());
        let wanted = Box::new(move || wanting.lock().input_wanted = true);
        let clock = clock.clone();
        let clock = Box::new(move || Duration::from_nanos(clock.load(Ordering::Relaxed)));
        Self {
            serial: Serial::from_state(state.serial, line, output, wanted),
            i8042: I8042::from_state(state.i8042, events()),
            cmos: CmosRtc::from_state(state.cmos, clock),
            ioapic: Ioapic::from_state(state.ioapic, Arc::new(world.clone())),
            acpi: AcpiPower::from_state(state.acpi, Arc::new(Sci(world.clone())), events()),
            timer: BootTimer::from_state(state.timer, events()),
            reset: ResetControl::from_state(state.reset, events()),
            pvpanic: Pvpanic::from_state(state.pvpanic, events()),
            debug_exit: DebugExit::from_state(state.debug_exit, events()),
            world,
        }
    }

    /// What would be saved.
    pub fn state(&self) -> State {
        State {
            serial: self.serial.state(),
            i8042: self.i8042.state(),
            cmos: self.cmos.state(),
            ioapic: self.ioapic.state(),
            acpi: self.acpi.state(),
            timer: self.timer.state(),
            reset: self.reset.state(),
            pvpanic: self.pvpanic.state(),
            debug_exit: self.debug_exit.state(),
        }
    }

    /// The device as the bus sees it.
    pub fn device(&mut self, which: super::Which) -> &mut dyn BusDevice {
        use super::Which;
        match which {
            Which::Serial => &mut self.serial,
            Which::I8042 => &mut self.i8042,
            Which::Cmos => &mut self.cmos,
            Which::Ioapic => &mut self.ioapic,
            Which::Acpi => &mut self.acpi,
            Which::Timer => &mut self.timer,
            Which::Reset => &mut self.reset,
            Which::Pvpanic => &mut self.pvpanic,
            Which::DebugExit => &mut self.debug_exit,
        }
    }

    /// What the devices did since the last call.
    pub fn deeds(&self) -> Deeds {
        std::mem::take(&mut self.world.lock().deeds)
    }

    /// What an irqfd on each IOAPIC pin would send.
    pub fn routes(&self) -> [Option<Msi>; IOAPIC_PINS as usize] {
        self.world.lock().routes
    }

    /// Whether the serial port asked for input since the last call.
    pub fn input_wanted(&self) -> bool {
        std::mem::take(&mut self.world.lock().input_wanted)
    }
}

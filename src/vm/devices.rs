//! The devices of the machine, built from their reset state and put on the buses, beside
//! those that stay from machine to machine.

use std::sync::{Arc, Mutex};

use super::error::BuildError;
use super::lifecycle::Lifecycle;
use super::virtio::{Transports, Virtio};
use crate::console::OutputWriter;
use crate::devices::acpi_power::{self, AcpiPower, AcpiPowerState};
use crate::devices::boot_timer::{self, BootTimer, BootTimerState};
use crate::devices::bus::{Bus, BusError};
use crate::devices::cmos_rtc::{self, CmosRtc};
use crate::devices::debug_exit::{self, DebugExit, DebugExitState};
use crate::devices::i8042::{self, I8042, I8042State};
use crate::devices::pvpanic::{self, Pvpanic, PvpanicState};
use crate::devices::reset_control::ResetControl;
use crate::devices::serial::{self, Serial, SerialState};
use crate::devices::{BusDevice, EventSink};
use crate::interrupts::Interrupts;
use crate::memory::layout;

/// What a user reaches of a machine: the front of its case, so to speak.
#[derive(Clone)]
pub struct Panel {
    /// To end it.
    pub lifecycle: Arc<Lifecycle>,
    /// What is typed goes there.
    pub serial: Arc<Mutex<Serial>>,
    /// The power button.
    pub power: Arc<Mutex<AcpiPower>>,
}

/// The buses, and the devices that others than the guest talk to.
pub struct Buses {
    /// Port space.
    pub pio: Bus,
    /// Guest-physical addresses.
    pub mmio: Bus,
    /// What a user reaches of the machine.
    pub panel: Panel,
    /// The virtio devices.
    pub virtio: Virtio,
}

/// Makes every device and puts it where [`layout`] says.
///
/// # Errors
/// [`BuildError::Bus`] if two devices claim one place.
pub fn build(
    interrupts: &Interrupts,
    lifecycle: &Arc<Lifecycle>,
    output: OutputWriter,
    rtc: Arc<Mutex<CmosRtc>>,
    virtio: Transports,
) -> Result<Buses, BuildError> {
    let serial = Arc::new(Mutex::new(serial_port(interrupts, lifecycle, output)));
    let power = Arc::new(Mutex::new(AcpiPower::from_state(
        AcpiPowerState::default(),
        interrupts.line(layout::IRQ_SCI),
        lifecycle.clone(),
    )));
    let panel = Panel {
        lifecycle: lifecycle.clone(),
        serial,
        power,
    };
    let mut pio = port_bus(&panel, rtc)?;
    let mut mmio = Bus::new();
    if let Some(ioapic) = interrupts.ioapic() {
        mmio.insert(layout::IOAPIC_ADDR, layout::IOAPIC_SIZE, ioapic)?;
    }
    let events: Arc<dyn EventSink> = lifecycle.clone();
    let virtio = virtio.attach(&mut pio, &mut mmio, |state| {
        ResetControl::from_state(state, events)
    })?;
    Ok(Buses {
        pio,
        mmio,
        panel,
        virtio,
    })
}

fn serial_port(interrupts: &Interrupts, lifecycle: &Lifecycle, output: OutputWriter) -> Serial {
    let main_thread = lifecycle.history().wake_up().clone();
    Serial::from_state(
        SerialState::default(),
        interrupts.line(layout::IRQ_SERIAL),
        Box::new(output),
        // A counter that is full wakes it already.
        Box::new(move || drop(main_thread.write(1))),
    )
}

/// The ports of a PC that this machine has.
fn port_bus(panel: &Panel, rtc: Arc<Mutex<CmosRtc>>) -> Result<Bus, BusError> {
    let events = || -> Arc<dyn EventSink> { panel.lifecycle.clone() };
    let mut bus = Bus::new();
    let mut add = |port: u16, len: u64, device: Arc<Mutex<dyn BusDevice>>| {
        bus.insert(u64::from(port), len, device)
    };
    add(layout::PORT_SERIAL, serial::LEN, panel.serial.clone())?;
    add(
        layout::PORT_I8042,
        i8042::LEN,
        shared(I8042::from_state(I8042State::default(), events())),
    )?;
    add(layout::PORT_CMOS, cmos_rtc::LEN, rtc)?;
    add(
        layout::PORT_DEBUG_EXIT,
        debug_exit::LEN,
        shared(DebugExit::from_state(DebugExitState::default(), events())),
    )?;
    add(
        layout::PORT_PVPANIC,
        pvpanic::LEN,
        shared(Pvpanic::from_state(PvpanicState::default(), events())),
    )?;
    add(
        layout::PORT_BOOT_TIMER,
        boot_timer::LEN,
        shared(BootTimer::from_state(BootTimerState::default(), events())),
    )?;
    add(
        layout::PORT_ACPI_PM1A_EVT,
        acpi_power::LEN,
        panel.power.clone(),
    )?;
    Ok(bus)
}

fn shared<D: BusDevice + 'static>(device: D) -> Arc<Mutex<dyn BusDevice>> {
    Arc::new(Mutex::new(device))
}

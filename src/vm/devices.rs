//! The devices of the machine, built from their reset state and put on the buses.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::error::BuildError;
use super::lifecycle::Lifecycle;
use crate::console::OutputWriter;
use crate::devices::EventSink;
use crate::devices::bus::{Bus, BusError};
use crate::devices::serial::{Serial, SerialState};
use crate::interrupts::Interrupts;
use crate::memory::layout;

/// The buses, and the devices that others than the guest talk to.
pub struct Buses {
    /// Port space.
    pub pio: Bus,
    /// Guest-physical addresses.
    pub mmio: Bus,
    /// The serial port.
    pub serial: Arc<Mutex<Serial>>,
}

/// Makes every device and puts it where [`layout`] says.
///
/// # Errors
/// [`BuildError::Bus`] if two devices claim one place.
pub fn build(
    interrupts: &Interrupts,
    lifecycle: &Arc<Lifecycle>,
    output: OutputWriter,
    fifo_room: &Arc<EventFd>,
) -> Result<Buses, BuildError> {
    let serial = Arc::new(Mutex::new(serial_port(interrupts, output, fifo_room)));
    let pio = port_bus(interrupts, lifecycle, &serial)?;
    let mut mmio = Bus::new();
    if let Some(ioapic) = interrupts.ioapic() {
        mmio.insert(layout::IOAPIC_ADDR, layout::IOAPIC_SIZE, ioapic)?;
    }
    Ok(Buses { pio, mmio, serial })
}

fn serial_port(interrupts: &Interrupts, output: OutputWriter, fifo_room: &Arc<EventFd>) -> Serial {
    let fifo_room = fifo_room.clone();
    Serial::from_state(
        SerialState::default(),
        interrupts.line(layout::IRQ_SERIAL),
        Box::new(output),
        // A counter that is full already says that there is room.
        Box::new(move || drop(fifo_room.write(1))),
    )
}
fn port_bus(_i:&Interrupts,_l:&Arc<Lifecycle>,serial:&Arc<Mutex<Serial>>)->Result<Bus,BusError>{ let mut b=Bus::new(); b.insert(0x3f8,8,serial.clone())?; Ok(b) }

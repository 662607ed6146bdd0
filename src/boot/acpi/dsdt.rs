//! The DSDT: the devices that cannot be probed for, in AML.
//!
//! ```text
//! Name (\_S5, Package () { 5, 5, 0, 0 })
//! Scope (\_SB) {
//!     Device (COM1) { _HID PNP0501, _UID 1, _CRS IO 0x3f8..+8, interrupt 4 }
//!     Device (RTC)  { _HID PNP0B00, _CRS IO 0x70..+2 }
//!     Device (PEVT) { _HID "QEMU0001", _STA 0xf, _CRS IO 0x505 }
//!     Device (VGEN) { _HID "MAYF0001", _CID "VMGENCTR" and the older name, _DDN, ADDR }
//!     Device (VR00) { _HID "LNRO0005", _UID 0, _CRS memory, interrupt }   and so on
//! }
//! ```
//!
//! The RTC lists no interrupt, for it raises none: drivers then offer no alarm
//! instead of one that never rings. That holds without a PIC; where the MADT tells of one,
//! Linux's `rtc-cmos` takes IRQ 8 for a missing entry, and its alarm does not ring.
//! `LNRO0005` is what Linux knows a virtio-mmio
//! device by; there are as many as the machine has, mostly none. `ADDR` is no method, as
//! elsewhere, but the package that it would return; drivers cannot tell. [`pci`] adds the
//! PCI root.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID, pci};
use crate::devices::{cmos_rtc, pvpanic, serial};
use crate::memory::layout::{
    ACPI_S5_SLP_TYP, IRQ_SERIAL, PORT_CMOS, PORT_PVPANIC, PORT_SERIAL, VIRTIO_MMIO_SIZE,
    VM_GENERATION_ID, VirtioMmioSlot, virtio_mmio_slot,
};

const HEADER_LEN: u32 = 36;
/// Revision 2: integers have 64 bits.
const REVISION: u8 = 2;

/// `_STA`: present, enabled, shown, working.
const STA_PRESENT: u8 = 0xf;

/// What Linux, and what Windows, know a VM generation id by.
const GENERATION_CID: &str = "VMGENCTR";
const GENERATION_NAME: &str = "VM_Gen_Counter";

/// The DSDT.
pub fn dsdt(config: &AcpiConfig) -> Sdt {
    let mut aml = Vec::new();
    soft_off(&mut aml);
    system_bus(config, &mut aml);
    if config.pci_devices > 0 {
        pci::root(config.pci_devices, &mut aml);
    }
    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_LEN,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(&aml);
    table
}

/// `\_S5`: SLP_TYP for PM1a and PM1b, two reserved integers (ACPI 6.3 §7.4.2).
fn soft_off(aml: &mut dyn AmlSink) {
    let slp_typ = ACPI_S5_SLP_TYP;
    let package = Package::new(vec![&slp_typ, &slp_typ, &0u8, &0u8]);
    Name::new("\\_S5_".into(), &package).to_aml_bytes(aml);
}

fn system_bus(config: &AcpiConfig, aml: &mut dyn AmlSink) {
    let com1_hid = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    let com1_uid = Name::new("_UID".into(), &1u8);
    let com1_ports = ports(PORT_SERIAL, serial::LEN);
    let com1_irq = edge(IRQ_SERIAL);
    let com1_crs = ResourceTemplate::new(vec![&com1_ports, &com1_irq]);
    let com1_crs = Name::new("_CRS".into(), &com1_crs);
    let com1 = Device::new("COM1".into(), vec![&com1_hid, &com1_uid, &com1_crs]);

    let rtc_hid = Name::new("_HID".into(), &EISAName::new("PNP0B00"));
    let rtc_ports = ports(PORT_CMOS, cmos_rtc::LEN);
    let rtc_crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&rtc_ports]));
    let rtc = Device::new("RTC_".into(), vec![&rtc_hid, &rtc_crs]);

    let panic_hid = Name::new("_HID".into(), &"QEMU0001");
    let panic_sta = Name::new("_STA".into(), &STA_PRESENT);
    let panic_ports = ports(PORT_PVPANIC, pvpanic::LEN);
    let panic_crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&panic_ports]));
    let pvpanic = Device::new("PEVT".into(), vec![&panic_hid, &panic_sta, &panic_crs]);

    let generation_hid = Name::new("_HID".into(), &"MAYF0001");
    let generation_ids = Package::new(vec![&GENERATION_CID, &GENERATION_NAME]);
    let generation_cid = Name::new("_CID".into(), &generation_ids);
    let generation_ddn = Name::new("_DDN".into(), &GENERATION_NAME);
    let (low, high) = (VM_GENERATION_ID as u32, (VM_GENERATION_ID >> 32) as u32);
    let generation_place = Package::new(vec![&low, &high]);
    let generation_place = Name::new("ADDR".into(), &generation_place);
    let generation = Device::new(
        "VGEN".into(),
        vec![
            &generation_hid,
            &generation_cid,
            &generation_ddn,
            &generation_place,
        ],
    );

    let virtio: Vec<VirtioMmio> = (0..config.virtio_mmio_devices)
        .map_while(virtio_mmio_slot)
        .zip(0..)
        .map(|(slot, number)| VirtioMmio { slot, number })
        .collect();
    let mut devices: Vec<&dyn Aml> = vec![&com1, &rtc, &pvpanic, &generation];
    devices.extend(virtio.iter().map(|device| device as &dyn Aml));
    Scope::new("\\_SB_".into(), devices).to_aml_bytes(aml);
}

/// A virtio-mmio device.
struct VirtioMmio {
    slot: VirtioMmioSlot,
    number: u8,
}

impl Aml for VirtioMmio {
    fn to_aml_bytes(&self, aml: &mut dyn AmlSink) {
        let hid = Name::new("_HID".into(), &"LNRO0005");
        let uid = Name::new("_UID".into(), &self.number);
        let writable = true;
        // The window lies below 4 GiB.
        let (addr, len) = (self.slot.addr as u32, VIRTIO_MMIO_SIZE as u32);
        let registers = Memory32Fixed::new(writable, addr, len);
        let irq = edge(self.slot.gsi);
        let crs = ResourceTemplate::new(vec![&registers, &irq]);
        let crs = Name::new("_CRS".into(), &crs);
        let name = format!("VR{:02X}", self.number);
        Device::new(name.as_str().into(), vec![&hid, &uid, &crs]).to_aml_bytes(aml);
    }
}

/// An interrupt that is an edge, and the device's own.
fn edge(gsi: u32) -> Interrupt {
    let (consumer, edge, active_low, shared) = (true, true, false, false);
    Interrupt::new(consumer, edge, active_low, shared, gsi)
}

/// A fixed range of ports, decoded with 16 bits.
fn ports(base: u16, len: u64) -> IO {
    IO::new(base, base, 1, len as u8)
}

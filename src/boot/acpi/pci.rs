//! The PCI root in AML and in the MCFG; only where there are PCI devices.
//!
//! ```text
//! Scope (\_SB) {
//!     Device (PCI0) { _HID PNP0A08, _CID PNP0A03
//!                     _CRS bus 0, IO 0xcf8..+8, the window for BARs
//!                     _PRT INTA of each device → its GSI }
//!     Device (PCIE) { _HID PNP0C02, _CRS the ECAM window }
//! }
//! ```
//!
//! Linux uses the ECAM window only if a motherboard resource (PNP0C02) or the memory
//! map reserves it; the memory map is better short (see
//! [`memory_map`](crate::boot::memory_map)).

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Memory32Fixed, Name, Package,
    ResourceTemplate, Scope,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::{Aml, AmlSink};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::devices::pci::{PciPorts, PciRoot};
use crate::memory::layout::{ECAM_SIZE, ECAM_START, PCI_BAR_SIZE, PCI_BAR_START, PORT_PCI_CONFIG};

/// Segment group and bus number of the only bus.
const SEGMENT: u16 = 0;
const BUS: u8 = 0;
/// In `_PRT`: any function of the device.
const ANY_FUNCTION: u32 = 0xffff;
const INTA: u8 = 0;
/// In `_PRT`: the interrupt is a GSI, not a link device.
const NO_LINK: u8 = 0;

/// The MCFG: where the configuration space of bus 0 lies (PCI Firmware 3.3 §4.1.2).
pub fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM_START, SEGMENT, BUS, BUS);
    mcfg
}

/// The host bridge with `devices` devices from 00:01.0 on, and what it occupies.
pub fn root(devices: usize, aml: &mut dyn AmlSink) {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let bus = AddressSpace::new_bus_number(u16::from(BUS), u16::from(BUS));
    let config = IO::new(PORT_PCI_CONFIG, PORT_PCI_CONFIG, 1, PciPorts::LEN as u8);
    let writable = true;
    // Both windows lie below 4 GiB.
    let bars = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        writable,
        PCI_BAR_START as u32,
        (PCI_BAR_START + PCI_BAR_SIZE - 1) as u32,
        None,
    );
    let crs = ResourceTemplate::new(vec![&bus, &config, &bars]);
    let crs = Name::new("_CRS".into(), &crs);
    let routes: Vec<Route> = (1..).take(devices).map(Route).collect();
    let routes = Package::new(routes.iter().map(|route| route as &dyn Aml).collect());
    let prt = Name::new("_PRT".into(), &routes);
    let bridge = Device::new("PCI0".into(), vec![&hid, &cid, &crs, &prt]);

    let ecam_hid = Name::new("_HID".into(), &EISAName::new("PNP0C02"));
    let ecam = Memory32Fixed::new(writable, ECAM_START as u32, ECAM_SIZE as u32);
    let ecam_crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ecam]));
    let ecam = Device::new("PCIE".into(), vec![&ecam_hid, &ecam_crs]);

    Scope::new("\\_SB_".into(), vec![&bridge, &ecam]).to_aml_bytes(aml);
}

/// Where INTA of a device, by its number, leads (ACPI 6.3 §6.2.13).
struct Route(u16);

impl Aml for Route {
    fn to_aml_bytes(&self, aml: &mut dyn AmlSink) {
        let address = u32::from(self.0) << 16 | ANY_FUNCTION;
        let gsi = PciRoot::intx_gsi(self.0.into());
        Package::new(vec![&address, &INTA, &NO_LINK, &gsi]).to_aml_bytes(aml);
    }
}

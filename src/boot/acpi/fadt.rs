//! The FADT: the fixed registers of ACPI hardware (ACPI 6.3 §5.2.9).
//!
//! Not the hardware-reduced kind: the PM1a blocks are two registers to emulate
//! and give every kernel S5 and the power button without AML. There is no SMI
//! command port (the machine is always in ACPI mode), no PM timer and no GPE
//! block.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::devices::cmos_rtc::CENTURY;
use crate::memory::layout::{
    IRQ_SCI, PORT_ACPI_PM1A_CNT, PORT_ACPI_PM1A_EVT, PORT_RESET, RESET_VALUE,
};

const MINOR_VERSION: u8 = 3;
const PM1_EVT_LEN: u8 = 4;
const PM1_CNT_LEN: u8 = 2;

/// `IAPC_BOOT_ARCH` (ACPI 6.3 §5.2.9.3). Clear and so said: there is no 8042 to
/// probe for (port 0x64 resets all the same), MSI works, a CMOS RTC is there.
const BOOT_LEGACY_DEVICES: u16 = 1 << 0;
const BOOT_NO_VGA: u16 = 1 << 2;

/// More than 100 µs and 1000 µs: no C2, no C3 (ACPI 6.3 table 5-33).
const NO_C_STATE: u16 = 0xfff;

/// The FADT that points to the FACS and the DSDT.
pub fn fadt(facs: u64, dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.fadt_minor_version = MINOR_VERSION;
    // Below 1 MiB: 32 bits are enough, and the specification wants one of the
    // two FACS fields to be 0.
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = (IRQ_SCI as u16).into();

    fadt.pm1a_evt_blk = u32::from(PORT_ACPI_PM1A_EVT).into();
    fadt.pm1_evt_len = PM1_EVT_LEN;
    fadt.x_pm1a_evt_blk = io_register(PORT_ACPI_PM1A_EVT, PM1_EVT_LEN, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(PORT_ACPI_PM1A_CNT).into();
    fadt.pm1_cnt_len = PM1_CNT_LEN;
    fadt.x_pm1a_cnt_blk = io_register(PORT_ACPI_PM1A_CNT, PM1_CNT_LEN, AccessSize::WordAccess);

    fadt.reset_reg = io_register(PORT_RESET, 1, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.p_lvl2_lat = NO_C_STATE.into();
    fadt.p_lvl3_lat = NO_C_STATE.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (BOOT_LEGACY_DEVICES | BOOT_NO_VGA).into();
    fadt.finalize()
}

fn io_register(port: u16, bytes: u8, access: AccessSize) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        bytes * 8,
        0,
        access,
        u64::from(port),
    )
}

//! From files to a machine ready to start.

pub mod acpi;

//! What the fuzz targets do with an input, as plain functions: the fuzzer calls
//! them with what it makes up, the integration tests with the kept corpora.
//!
//! Each body states what holds whatever the input is, beyond that nothing
//! panics. The formats of the inputs are those of [`script`]: bytes from the
//! front, and zeros where the input has ended.

pub mod acpi;
pub mod config;
pub mod devices;
pub mod instruction;
pub mod kallsyms;
pub mod kernel_file;
pub mod payload;
pub mod qcow2_check;
pub mod script;
pub mod virtio_block;
pub mod virtio_mmio;
pub mod virtio_net;
pub mod virtio_pci;
pub mod virtio_queue;

/// A target: its name, which is its corpus' folder too, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("acpi", acpi::run),
    ("config", config::run),
    ("devices", devices::run),
    ("instruction", instruction::run),
    ("kallsyms", kallsyms::run),
    ("kernel_file", kernel_file::run),
    ("payload", payload::run),
    ("virtio_block", virtio_block::run),
    ("virtio_net", virtio_net::run),
    ("virtio_pci", virtio_pci::run),
    ("virtio_queue", virtio_queue::run),
    ("virtio_mmio", virtio_mmio::run),
    ("qcow2_check", qcow2_check::run),
];

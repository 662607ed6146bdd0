//! Disks: what a guest has written is there, whatever becomes of the VM.

mod crash;
mod ephemeral;
mod errors;
mod flush;
mod linux;

use std::path::Path;

use crate::common::Mayfly;
use crate::common::disk::text;

/// The bare guest `name` on a machine with virtio-mmio or virtio-pci, with its own
/// words for the kernel command line.
fn bare_on(transport: &str, name: &str, words: &str) -> Mayfly {
    let place = match transport {
        "mmio" => format!(" bare.mmio={}", mayfly::memory::layout::VIRTIO_MMIO_START),
        _ => String::new(),
    };
    Mayfly::bare(name).args([
        "--transport",
        transport,
        "--cmdline",
        &format!("{words}{place}"),
    ])
}

/// `--disk` with the options, which begin with a comma, or none.
fn disk(image: &Path, options: &str) -> [String; 2] {
    ["--disk".into(), format!("path={}{options}", text(image))]
}

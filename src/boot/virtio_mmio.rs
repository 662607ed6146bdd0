//! How Linux learns of the virtio-mmio devices: by ACPI or by words on its command
//! line, and never by both, for it would then find each device twice.
//!
//! | the machine's kernel                                    | told by                |
//! |---------------------------------------------------------|------------------------|
//! | has `virtio_mmio.device=` words of the user's           | those, and nothing else |
//! | was told `acpi=off`                                     | words                  |
//! | has a virtio-mmio driver built without ACPI             | words                  |
//! | any other: with ACPI, with the driver as a module, none | ACPI                   |
//!
//! Whether a kernel has ACPI its file does not say, but its virtio-mmio driver does:
//! one that takes words holds their name, and one that knows ACPI holds the device's
//! ACPI id. Only where the first is there without the second the words are needed. A
//! kernel whose driver is a module holds neither, and all of those that
//! distributions make have ACPI.

use super::cmdline::{acpi_is_off, values};
use super::error::BootError;
use super::kernel::Kernel;
use crate::memory::layout::{VIRTIO_MMIO_SIZE, virtio_mmio_slot};

/// The module parameter that declares a device (Linux `drivers/virtio/virtio_mmio.c`).
const WORD: &str = "virtio_mmio.device";
/// The ACPI id of a virtio-mmio device, as the driver has it.
const ACPI_ID: &str = "LNRO0005";

/// How a kernel is told of the virtio-mmio devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declaration {
    /// By `LNRO0005` devices in the DSDT
    /// ([`AcpiConfig::virtio_mmio_devices`](super::acpi::AcpiConfig)).
    Acpi,
    /// By words on the command line ([`with_words`]).
    CommandLine,
    /// By words of the user's own.
    User,
}

/// How `kernel` with `cmdline` is to be told. May read the whole kernel, so ask only
/// where there are such devices.
///
/// # Errors
/// [`BootError::Read`] if the kernel cannot be read.
pub fn declaration(cmdline: &str, kernel: &Kernel) -> Result<Declaration, BootError> {
    if !values(cmdline, WORD).is_empty() {
        return Ok(Declaration::User);
    }
    if acpi_is_off(cmdline) || needs_words(kernel)? {
        Ok(Declaration::CommandLine)
    } else {
        Ok(Declaration::Acpi)
    }
}

/// Adds the words for the first `devices` to `cmdline`, in front, since what follows
/// `--` is for init. The interrupts are numbers of IOAPIC pins, which are what
/// [`mptable`](super::mptable) makes them.
pub fn with_words(cmdline: &str, devices: usize) -> String {
    let slots = (0..devices).map_while(virtio_mmio_slot);
    let words = slots.map(|slot| {
        let kib = VIRTIO_MMIO_SIZE >> 10;
        format!("{WORD}={kib}K@{:#x}:{}", slot.addr, slot.gsi)
    });
    let rest = (!cmdline.is_empty()).then(|| cmdline.to_owned());
    words.chain(rest).collect::<Vec<_>>().join(" ")
}

fn needs_words(kernel: &Kernel) -> Result<bool, BootError> {
    Ok(kernel.mentions(WORD)? && !kernel.mentions(ACPI_ID)?)
}

#[cfg(test)]
mod tests {
    use super::super::PayloadCache;
    use super::super::testing;
    use super::*;

    /// A kernel with `texts` somewhere in it.
    fn kernel(texts: &[&str]) -> Kernel {
        let mut code = vec![0x90; 0x1000];
        for (text, at) in texts.iter().zip([0x123, 0x800]) {
            code[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        let (_dir, path) = testing::file(&testing::elf(&code));
        Kernel::open(&path, &PayloadCache::none()).unwrap()
    }

    fn told(cmdline: &str, texts: &[&str]) -> Declaration {
        declaration(cmdline, &kernel(texts)).unwrap()
    }

    #[test]
    fn the_driver_says_whether_the_kernel_has_acpi() {
        let both = ["LNRO0005", "virtio_mmio.device"];
        assert_eq!(told("", &both), Declaration::Acpi);
        assert_eq!(told("", &both[..1]), Declaration::Acpi);
        assert_eq!(told("", &both[1..]), Declaration::CommandLine);
        assert_eq!(told("quiet", &[]), Declaration::Acpi);
    }

    #[test]
    fn a_compressed_kernel_is_looked_into_as_well() {
        let mut code = vec![0x90; 0x1000];
        code[0x400..0x412].copy_from_slice(b"virtio_mmio.device");
        let packed = testing::gzip(&testing::elf(&code));
        let (_dir, path) = testing::file(&packed);
        let kernel = Kernel::open(&path, &PayloadCache::none()).unwrap();
        assert_eq!(declaration("", &kernel).unwrap(), Declaration::CommandLine);
    }

    #[test]
    fn a_kernel_told_to_do_without_acpi_gets_words() {
        let acpi = ["LNRO0005"];
        for (cmdline, words) in [
            ("acpi=off", true),
            ("quiet acpi=off panic=-1", true),
            ("acpi=force acpi=off", true),
            ("acpi=off acpi=strict", true),
            ("acpi=off acpi=force", false),
            ("acpi=noirq", false),
            ("pci=noacpi", false),
            ("acpi_enforce_resources=off", false),
            ("-- acpi=off", false),
        ] {
            let expected = if words {
                Declaration::CommandLine
            } else {
                Declaration::Acpi
            };
            assert_eq!(told(cmdline, &acpi), expected, "{cmdline}");
        }
    }

    #[test]
    fn what_the_user_declares_is_left_to_the_user() {
        for cmdline in [
            "virtio_mmio.device=4K@0xd0000000:5",
            "acpi=off virtio-mmio.device=512@0x1000:9:3 quiet",
        ] {
            assert_eq!(told(cmdline, &["LNRO0005"]), Declaration::User);
        }
    }

    #[test]
    fn words_come_first_and_in_order() {
        assert_eq!(
            with_words("quiet -- run", 2),
            "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 quiet -- run"
        );
        assert_eq!(with_words("", 1), "virtio_mmio.device=4K@0xd0000000:5");
        assert_eq!(with_words("quiet", 0), "quiet");
    }
}

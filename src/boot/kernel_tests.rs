//! Kernel files of all kinds, right and wrong.

use super::super::testing::{self, ELF_ADDR, PACKERS};
use super::*;

fn open(bytes: &[u8]) -> Result<Kernel, BootError> {
    let (_dir, path) = testing::file(bytes);
    Kernel::open(&path, &PayloadCache::none())
}

fn assert_is_elf_kernel(kernel: &Kernel, name: &str) {
    let ram = GuestRam::new(16 << 20).unwrap();
    let range = kernel.linked_range(&ram).unwrap();
    kernel.place(&ram, true, 0).unwrap();
    assert_eq!(range, ELF_ADDR..ELF_ADDR + 0x1000 + 0x2000, "{name}");
    assert_eq!(kernel.linux64_entry().unwrap(), ELF_ADDR);
    assert_eq!(kernel.pvh_entry().unwrap(), testing::ELF_PVH);
    let mut code = [0; 0x1000];
    ram.read(ELF_ADDR, &mut code).unwrap();
    assert!(code.iter().all(|byte| *byte == 0x90), "{name}");
}

#[test]
fn a_vmlinux_is_placed_by_its_segments() {
    let kernel = open(&testing::elf(&[0x90; 0x1000])).unwrap();
    assert_eq!(kernel.form(), KernelForm::Vmlinux);
    assert_eq!(kernel.cmdline_max(), 2047);
    assert_is_elf_kernel(&kernel, "vmlinux");
}

#[test]
fn every_payload_is_unpacked_and_its_elf_started() {
    let elf = testing::elf(&[0x90; 0x1000]);
    for (name, pack) in PACKERS {
        let kernel = open(&testing::bzimage(&pack(&elf), elf.len())).unwrap();
        assert!(
            matches!(kernel.form(), KernelForm::Unpacked { cached: false, .. }),
            "{name}"
        );
        assert_eq!(kernel.release(), Some("6.12.0-test"));
        assert_eq!(kernel.cmdline_max(), 1023);
        assert_is_elf_kernel(&kernel, name);
        assert_is_elf_kernel(&open(&pack(&elf)).unwrap(), name);
    }
}

#[test]
fn what_cannot_be_unpacked_starts_through_its_own_entry() {
    let lzo = b"\x89LZO\x00\x0d\x0a\x1a\x0a some data";
    let not_elf = testing::gzip(b"not an ELF");
    for payload in [lzo.as_slice(), not_elf.as_slice()] {
        let kernel = open(&testing::bzimage(payload, 10)).unwrap();
        assert_eq!(kernel.form(), KernelForm::BzImage);
        assert_eq!(kernel.linux64_entry().unwrap(), 0x100_0200);
        assert!(matches!(kernel.pvh_entry(), Err(BootError::NoEntry { .. })));
        let ram = GuestRam::new(32 << 20).unwrap();
        assert_eq!(kernel.linked_range(&ram).unwrap(), 0x100_0000..0x110_0000);
    }
}

#[test]
fn bss_is_zero_even_in_used_memory() {
    let kernel = open(&testing::elf(&[0x90; 0x1000])).unwrap();
    let ram = GuestRam::new(16 << 20).unwrap();
    ram.write(ELF_ADDR, &[0xff; 0x4000]).unwrap();
    kernel.place(&ram, false, 0).unwrap();
    let mut back = [0; 0x4000];
    ram.read(ELF_ADDR, &mut back).unwrap();
    assert!(back[0x1000..0x3000].iter().all(|byte| *byte == 0));
    assert!(back[0x3000..].iter().all(|byte| *byte == 0xff));
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    let kernel = open(&testing::elf(&[0x90; 0x1000])).unwrap();
    let ram = GuestRam::new(2 << 20).unwrap();
    let error = kernel.linked_range(&ram).unwrap_err();
    assert!(
        error.to_string().contains("needs at least 3 MiB"),
        "{error}"
    );
}

#[test]
fn what_is_no_kernel_is_said_to_be_none() {
    assert!(matches!(
        open(b"#!/bin/sh\necho hello\n"),
        Err(BootError::NotAKernel { .. })
    ));
    assert!(matches!(
        open(&testing::gzip(b"a text")),
        Err(BootError::NotAKernel { .. })
    ));
    let mut arm = vec![0; 4096];
    super::super::bytes::put(&mut arm, 56, b"ARM\x64");
    let error = open(&arm).unwrap_err();
    assert!(error.to_string().contains("is for arm64"), "{error}");
}

#[test]
fn a_truncated_bzimage_is_an_error() {
    let elf = testing::elf(&[0x90; 0x1000]);
    let image = testing::bzimage(&testing::xz(&elf), elf.len());
    for len in [0x210, 0x400, image.len() - 1] {
        let result = open(&image[..len]);
        assert!(
            matches!(result, Err(BootError::Truncated { .. })),
            "{len:#x}: {result:?}"
        );
    }
}

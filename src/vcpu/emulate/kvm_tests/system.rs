//! Instructions about segments, caches and checksums at CPL 0, as kernels use them.

use super::guest::{DATA, End, Guest, guest};

guest! { look_at_segments:
    "mov ecx, 0x10",
    "lsl rax, rcx", "setz bl", "mov [0x8000], rax",
    "lar eax, ecx", "and eax, 0xf0ff00", "mov [0x8008], rax",
    "verw cx", "setz bh",
    "mov ecx, 0x70", "lsl rax, rcx", "setz dl",
    "mov ecx, 0x08", "verw cx", "setz dh",
    "shl edx, 16", "mov dx, bx", "mov eax, edx",
    "out 0xf4, al",
}

#[test]
fn segments_are_looked_at() {
    let mut guest = Guest::new(look_at_segments());
    assert_eq!(guest.run(), End::Done(0x0101));
    assert_eq!(guest.word(DATA), 0xffff_ffff);
    assert_eq!(guest.word(DATA + 8), 0x00c0_9300);
}

guest! { flush_and_fence:
    "mov rdi, 0x8000", "mov rax, 0x1234",
    "movnti [rdi], rax", "sfence", "clflush [rdi]", "mfence", "prefetcht0 [rdi]", "lfence",
    "lock xadd [rdi], rax", "mov rax, [rdi]",
    "out 0xf4, al",
}

#[test]
fn stores_caches_and_fences_are_known() {
    let mut guest = Guest::new(flush_and_fence());
    assert_eq!(guest.run(), End::Done(0x2468));
}

// The Castagnoli checksum of "123456789" is 0xe3069283 (RFC 3720 has others of its kind).
guest! { checksum:
    "mov rax, 0xffffffff", "mov rcx, 0x3837363534333231",
    "crc32 rax, rcx", "mov cl, 0x39", "crc32 eax, cl", "not eax",
    "out 0xf4, al",
}

#[test]
fn checksums_are_made() {
    if std::arch::is_x86_feature_detected!("sse4.2") {
        assert_eq!(Guest::new(checksum()).run(), End::Done(0xe306_9283));
    }
}

guest! { clflush_unmapped: "mov rdi, 0x40000000", "clflush [rdi]", "hlt" }

#[test]
fn they_fault_as_the_processor_does() {
    let mut guest = Guest::new(clflush_unmapped());
    assert_eq!(guest.run(), End::Fault(14, 0x4000_0000));
}

guest! { segment_bases:
    "mov rax, cr4", "or eax, 0x10000", "mov cr4, rax",
    "mov rax, 0x123456789000", "wrfsbase rax",
    "mov ecx, 0xc0000100", "rdmsr", "shl rdx, 32", "or rax, rdx", "mov [0x8000], rax",
    "mov eax, 0x8100", "wrgsbase rax", "mov qword ptr gs:[0x10], 0x77",
    "mov ecx, 0xc0000102", "mov eax, 0x8200", "xor edx, edx", "wrmsr",
    "swapgs", "mov qword ptr gs:[0x10], 0x88",
    "rdgsbase rax", "swapgs", "rdgsbase rdx", "shl rdx, 32", "or rax, rdx",
    "out 0xf4, al",
}

#[test]
fn segment_bases_are_written_and_read() {
    const FSGSBASE: u32 = 1;
    if std::arch::x86_64::__cpuid_count(7, 0).ebx & FSGSBASE == 0 {
        return;
    }
    let mut guest = Guest::new(segment_bases());
    assert_eq!(guest.run(), End::Done(0x8100_0000_8200));
    assert_eq!(guest.word(DATA), 0x1234_5678_9000);
    assert_eq!(
        (guest.word(DATA + 0x110), guest.word(DATA + 0x210)),
        (0x77, 0x88)
    );
}

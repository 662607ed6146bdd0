//! Headers as drivers write them, and wrong ones. Numbers are those of virtio 1.2 §5.1.6.

use super::super::testing::ALL;
use super::*;

const NOTHING: Offloads = Offloads {
    checksum: false,
    tso4: false,
    tso6: false,
    ecn: false,
    uso: false,
};

/// A header's fields, in the order they lie.
#[derive(Clone, Copy, Default)]
struct Fields {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    num_buffers: u16,
}

impl Fields {
    fn bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = vec![self.flags, self.gso_type];
        for field in [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        ] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.try_into().unwrap()
    }
}

/// A TCP segment over IPv4 to be cut up.
const TSO: Fields = Fields {
    flags: 1,
    gso_type: 1,
    hdr_len: 54,
    gso_size: 1460,
    csum_start: 34,
    csum_offset: 16,
    num_buffers: 0,
};

/// A checksum to be filled in.
const CSUM: Fields = Fields {
    flags: 1,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 34,
    csum_offset: 6,
    num_buffers: 0,
};

#[test]
fn a_frame_without_wishes_goes_with_an_empty_header() {
    let plain = Fields::default();
    for agreed in [NOTHING, ALL] {
        assert_eq!(check(&plain.bytes(), 14, agreed), Ok([0; 12]));
    }
}

#[test]
fn what_means_nothing_does_not_get_through() {
    // DATA_VALID, RSC_INFO and flags that nobody knows; fields that no flag backs.
    let noise = Fields {
        flags: 0xfe,
        gso_type: 0,
        hdr_len: 0xffff,
        gso_size: 0xffff,
        csum_start: 0xffff,
        csum_offset: 0xffff,
        num_buffers: 0xffff,
    };
    assert_eq!(check(&noise.bytes(), 60, NOTHING), Ok([0; 12]));
    let csum = Fields {
        flags: 0xff,
        csum_start: 34,
        csum_offset: 6,
        ..noise
    };
    assert_eq!(check(&csum.bytes(), 60, ALL), Ok(CSUM.bytes()));
    let counted = Fields {
        num_buffers: 7,
        ..TSO
    };
    assert_eq!(check(&counted.bytes(), 4000, ALL), Ok(TSO.bytes()));
}

#[test]
fn a_checksum_lies_in_the_frame_behind_the_ethernet_header() {
    let at = |csum_start, csum_offset, len| {
        let fields = Fields {
            csum_start,
            csum_offset,
            ..CSUM
        };
        check(&fields.bytes(), len, ALL).is_ok()
    };
    assert!(at(34, 6, 42));
    assert!(!at(34, 6, 41));
    assert!(at(14, 0, 16));
    assert!(!at(13, 0, 60));
    assert!(!at(0, 20, 60));
    assert!(!at(60, 0, 60));
    assert!(!at(59, 0, 60));
    assert!(at(58, 0, 60));
    assert!(!at(0xffff, 0xffff, 65553));
    assert!(!at(0xfffe, 2, 0));
    assert!(!at(34, 0xffff, 65553));
    assert!(at(34, 65517, 65553));
    assert!(!at(34, 65518, 65553));
}

#[test]
fn the_refusal_names_the_place() {
    let fields = Fields {
        csum_start: 50,
        csum_offset: 16,
        ..CSUM
    };
    let refused = check(&fields.bytes(), 60, ALL);
    let (start, offset) = (50, 16);
    assert_eq!(refused, Err(HeaderError::ChecksumPlace { start, offset }));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("50+16"), "{text}");
}

#[test]
fn a_checksum_has_to_be_agreed_on() {
    let refused = Err(HeaderError::ChecksumNotAgreed);
    assert_eq!(check(&CSUM.bytes(), 60, NOTHING), refused);
    assert_eq!(check(&TSO.bytes(), 4000, NOTHING), refused);
    let agreed = Offloads {
        checksum: true,
        ..NOTHING
    };
    assert_eq!(check(&CSUM.bytes(), 60, agreed), Ok(CSUM.bytes()));
}

/// Which types each agreement allows; all others of the 256 are refused.
#[test]
fn only_segmentation_that_was_agreed_on_is_asked_of_the_host() {
    let csum = Offloads {
        checksum: true,
        ..NOTHING
    };
    let cases: [(Offloads, &[u8]); 7] = [
        (csum, &[0]),
        (Offloads { tso4: true, ..csum }, &[0, 1]),
        (Offloads { tso6: true, ..csum }, &[0, 4]),
        (Offloads { uso: true, ..csum }, &[0, 5]),
        (Offloads { ecn: true, ..csum }, &[0]),
        (
            Offloads {
                tso4: true,
                ecn: true,
                ..csum
            },
            &[0, 1, 0x81],
        ),
        (ALL, &[0, 1, 4, 5, 0x81, 0x84]),
    ];
    for (agreed, allowed) in cases {
        for gso_type in 0..=255 {
            let fields = Fields { gso_type, ..TSO };
            let checked = check(&fields.bytes(), 4000, agreed);
            if allowed.contains(&gso_type) {
                let expected = if gso_type == 0 {
                    Fields {
                        csum_offset: 16,
                        ..CSUM
                    }
                } else {
                    fields
                };
                assert_eq!(checked, Ok(expected.bytes()), "{gso_type:#x} {agreed:?}");
            } else {
                let refused = HeaderError::Segmentation(gso_type);
                assert_eq!(checked, Err(refused), "{gso_type:#x} {agreed:?}");
            }
        }
    }
}

#[test]
fn segments_have_bytes_and_a_checksum() {
    let without = Fields { flags: 0, ..TSO };
    assert_eq!(
        check(&without.bytes(), 4000, ALL),
        Err(HeaderError::Segments)
    );
    let unknown = Fields {
        flags: 0,
        gso_type: 3,
        ..TSO
    };
    let refused = HeaderError::Segmentation(3);
    assert_eq!(check(&unknown.bytes(), 4000, ALL), Err(refused));
    let empty = Fields { gso_size: 0, ..TSO };
    assert_eq!(check(&empty.bytes(), 4000, ALL), Err(HeaderError::Segments));
    for gso_size in [1, 0x100, 0xffff] {
        let fields = Fields { gso_size, ..TSO };
        assert_eq!(check(&fields.bytes(), 4000, ALL), Ok(fields.bytes()));
    }
}

/// §5.1.6.2.2: the device must not rely on hdr_len to be correct.
#[test]
fn a_header_length_is_a_hint() {
    for (hdr_len, passed_on) in [(0, 0), (1, 1), (4000, 4000), (4001, 0), (0xffff, 0)] {
        let fields = Fields { hdr_len, ..TSO };
        let expected = Fields {
            hdr_len: passed_on,
            ..TSO
        };
        assert_eq!(check(&fields.bytes(), 4000, ALL), Ok(expected.bytes()));
    }
}

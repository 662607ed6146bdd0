use super::*;

/// An attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0xee);
    bytes
}

/// A message with `struct ifinfomsg` and `attributes` in it.
fn link_message(kind: u16, family: u8, index: u32, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![family, 0, 1, 0];
    for number in [index, flags, 0] {
        body.extend_from_slice(&number.to_ne_bytes());
    }
    body.extend(attributes.concat());
    let len = u32::try_from(16 + body.len()).unwrap();
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&[0; 10]);
    bytes.extend(body);
    bytes
}

fn tap_message() -> Vec<u8> {
    let mut stats = [0; 25 * 8];
    stats[56..64].copy_from_slice(&77_u64.to_ne_bytes());
    let data = [
        attribute(3, &[2]),
        attribute(4, &[1]),
        attribute(7, &[1]),
        attribute(8, &3_u32.to_ne_bytes()),
        attribute(9, &1_u32.to_ne_bytes()),
    ];
    let info = [attribute(1, b"tun\0"), attribute(2, &data.concat())];
    let attributes = [
        attribute(3, b"tap0\0"),
        attribute(4, &1400_u32.to_ne_bytes()),
        attribute(1, &[2, 0, 0, 0, 0, 9]),
        attribute(23, &stats),
        // With the bit that says that there are attributes in it.
        attribute(18 | 0x8000, &info.concat()),
    ];
    link_message(16, 0, 5, 0x1_1043, &attributes)
}

#[test]
fn all_that_is_said_of_a_tap_is_understood() {
    let tap = Interface {
        index: 5,
        is_up: true,
        address: vec![2, 0, 0, 0, 0, 9],
        mtu: 1400,
        dropped: Some(77),
        tap: Some(Tap {
            packet_info: true,
            multi_queue: true,
            queues: 4,
        }),
        moves: false,
    };
    let all: Vec<Message> = messages(&tap_message()).collect();
    assert_eq!(all, [Message::Is(tap)]);
}

#[test]
fn an_interface_is_up_if_it_is_on_and_has_an_other_side() {
    for (flags, is_up) in [
        (0x1_0001, true),
        (0x1, false),
        (0x1_0000, false),
        (0, false),
    ] {
        let bytes = link_message(16, 0, 1, flags, &[]);
        let is = Interface {
            index: 1,
            is_up,
            ..Interface::default()
        };
        assert_eq!(messages(&bytes).next(), Some(Message::Is(is)));
    }
}

#[test]
fn removal_moving_and_a_bridges_farewell_are_told_apart() {
    let removed = link_message(17, 0, 5, 0, &[]);
    let moved = link_message(17, 0, 6, 0, &[attribute(45, &[0; 4])]);
    let bridge = link_message(17, 7, 7, 0, &[]);
    let all = [removed, moved, bridge].concat();
    let all: Vec<Message> = messages(&all).collect();
    let interface = |index, moves| Interface {
        index,
        moves,
        ..Interface::default()
    };
    assert_eq!(
        all,
        [
            Message::WasRemoved(interface(5, false)),
            Message::WasRemoved(interface(6, true)),
            Message::Other,
        ]
    );
}

#[test]
fn answers_are_errnos() {
    let answer = |code: i32| {
        let mut bytes = 36_u32.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&2_u16.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&[0; 16]);
        messages(&bytes).next()
    };
    assert_eq!(answer(0), Some(Message::Answer(0)));
    assert_eq!(answer(-libc::ENODEV), Some(Message::Answer(libc::ENODEV)));
    assert_eq!(answer(i32::MIN), Some(Message::Answer(libc::EPROTO)));
}

#[test]
fn what_is_cut_off_or_lies_about_its_length_is_left_out() {
    let whole = tap_message();
    for len in 0..whole.len() {
        assert_eq!(messages(&whole[..len]).count(), 0, "{len}");
    }
    for len in [0_u32, 15, 16, 31, u32::MAX] {
        let mut bytes = whole.clone();
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        let said = messages(&bytes).filter(|said| *said != Message::Other);
        assert_eq!(said.count(), 0, "{len}");
    }
    // Lengths of attributes: none, less than a header, more than there is.
    for len in [0_u16, 3, u16::MAX] {
        let mut odd = attribute(4, &[9; 4]);
        odd[..2].copy_from_slice(&len.to_ne_bytes());
        let bytes = link_message(16, 0, 5, 0, &[odd]);
        let bare = Interface {
            index: 5,
            ..Interface::default()
        };
        assert_eq!(messages(&bytes).next(), Some(Message::Is(bare)), "{len}");
    }
}

#[test]
fn other_kinds_of_interfaces_are_no_taps() {
    let info = |name: &[u8], kind: u8| {
        let data = attribute(2, &attribute(3, &[kind]));
        attribute(18, &[attribute(1, name), data].concat())
    };
    for (attribute, is_tap) in [
        (info(b"tun\0", 2), true),
        (info(b"tun\0", 1), false),
        (info(b"veth\0", 2), false),
    ] {
        let bytes = link_message(16, 0, 5, 0, &[attribute]);
        let Some(Message::Is(interface)) = messages(&bytes).next() else {
            panic!("an interface");
        };
        assert_eq!(interface.tap.is_some(), is_tap);
    }
}

#[test]
fn requests_have_their_length_in_front_and_whole_words() {
    let bytes = Request::get_by_name("tap10").into_bytes();
    assert_eq!(bytes.len(), 16 + 16 + 4 + 8);
    assert_eq!(u32_at(&bytes, 0), Some(44));
    assert_eq!(u16_at(&bytes, 4), Some(18));
    assert_eq!(
        &bytes[32..],
        [10, 0, 3, 0, b't', b'a', b'p', b'1', b'0', 0, 0, 0]
    );
    let bytes = Request::bring_up(5, Some(1280)).into_bytes();
    assert_eq!((bytes.len(), u32_at(&bytes, 20)), (40, Some(5)));
    assert_eq!((u32_at(&bytes, 24), u32_at(&bytes, 28)), (Some(1), Some(1)));
    assert_eq!(u32_at(&bytes, 36), Some(1280));
}

//! Requests as drivers lay them out, and as they should not.

use super::*;

const RAM: u64 = 1 << 20;
/// Where the tests put header, data and status.
const HEADER_AT: u64 = 0x1000;
const DATA_AT: u64 = 0x2000;
const STATUS_AT: u64 = 0x3000;
/// Sectors of the disk.
const SECTORS: u64 = 64;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

struct Bench {
    ram: GuestRam,
    chain: Chain,
    geometry: Geometry,
    data: IoBuffers,
}

impl Bench {
    fn new() -> Self {
        let ram = GuestRam::new(RAM).unwrap();
        Self {
            data: IoBuffers::new(ram.clone(), 8),
            ram,
            chain: Chain::default(),
            geometry: Geometry {
                capacity: SECTORS * 512,
                read_only: false,
                features: DISCARD | WRITE_ZEROES,
            },
        }
    }

    /// A header in memory, not yet in the chain.
    fn put_header(&self, kind: u32, sector: u64) {
        let mut header = [0xaa; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.ram.write(HEADER_AT, &header).unwrap();
    }

    /// A request in the usual framing: header, data, status.
    fn request(&mut self, kind: u32, sector: u64, readable: u32, writable: u32) {
        self.put_header(kind, sector);
        self.chain.readable = pieces(&[(HEADER_AT, 16), (DATA_AT, readable)]);
        self.chain.writable = pieces(&[(DATA_AT, writable), (STATUS_AT, 1)]);
    }

    fn parse(&mut self) -> Result<Parsed, RequestError> {
        let parsed = parse(&self.chain, &self.ram, &self.geometry, &mut self.data);
        assert!(parsed.is_ok() || self.data.is_empty());
        parsed
    }

    fn operation(&mut self) -> Operation {
        self.parse().unwrap().operation
    }

    fn refused(&mut self) -> Status {
        match self.parse() {
            Err(RequestError::Refused { status, .. }) => status,
            other => panic!("{other:?}"),
        }
    }

    /// A DISCARD (11) or WRITE_ZEROES (13) of (sector, sectors, flags).
    fn segments(&mut self, kind: u32, segments: &[(u64, u32, u32)]) {
        self.request(kind, 0, 16 * segments.len() as u32, 0);
        for (at, (sector, sectors, flags)) in (DATA_AT..).step_by(16).zip(segments) {
            self.ram.write(at, &sector.to_le_bytes()).unwrap();
            self.ram.write(at + 8, &sectors.to_le_bytes()).unwrap();
            self.ram.write(at + 12, &flags.to_le_bytes()).unwrap();
        }
    }
}

fn pieces(list: &[(u64, u32)]) -> Vec<Buffer> {
    list.iter()
        .map(|&(addr, len)| Buffer { addr, len })
        .collect()
}

#[test]
fn reads_and_writes_carry_their_data_and_offset() {
    let mut bench = Bench::new();
    bench.request(0, 5, 0, 1024);
    assert_eq!(bench.operation(), Operation::Read { offset: 2560 });
    assert_eq!(bench.data.len(), 1024);
    assert_eq!(bench.parse().unwrap().status.addr(), STATUS_AT);
    bench.request(1, 62, 1024, 0);
    assert_eq!(bench.operation(), Operation::Write { offset: 31744 });
    assert!(bench.data.copy_in(0, b"mayfly"));
    let mut back = [0; 6];
    bench.ram.read(DATA_AT, &mut back).unwrap();
    assert_eq!(&back, b"mayfly");
}

#[test]
fn flush_and_get_id_need_no_sector() {
    let mut bench = Bench::new();
    bench.request(4, u64::MAX, 0, 0);
    assert_eq!(bench.operation(), Operation::Flush);
    bench.request(8, u64::MAX, 0, 20);
    assert_eq!(bench.operation(), Operation::GetId);
    assert_eq!(bench.data.len(), 20);
}

/// §2.7.4.1: the framing has no meaning.
#[test]
fn header_data_and_status_may_share_and_split_descriptors() {
    let mut bench = Bench::new();
    bench.put_header(1, 3);
    // The data follow the header without a gap, in a descriptor begun with its end.
    let split = [
        (HEADER_AT, 0),
        (HEADER_AT, 3),
        (HEADER_AT + 3, 9),
        (HEADER_AT + 12, 4 + 500),
        (HEADER_AT + 516, 12),
    ];
    bench.chain.readable = pieces(&split);
    bench.chain.writable = pieces(&[(STATUS_AT, 1)]);
    assert_eq!(bench.operation(), Operation::Write { offset: 1536 });
    assert_eq!(bench.data.len(), 512);
    bench.ram.write(HEADER_AT + 16, b"first").unwrap();
    let mut back = [0; 5];
    assert!(bench.data.copy_out(0, &mut back));
    assert_eq!(&back, b"first");

    bench.put_header(0, 3);
    bench.chain.readable = pieces(&[(HEADER_AT, 100)]);
    bench.chain.writable = pieces(&[(DATA_AT, 500), (DATA_AT + 500, 13), (0, 0)]);
    let parsed = bench.parse().unwrap();
    assert_eq!(parsed.operation, Operation::Read { offset: 1536 });
    assert_eq!(parsed.status.addr(), DATA_AT + 512);
    assert_eq!(bench.data.len(), 512);

    bench.chain.writable = pieces(&[(DATA_AT, 512), (STATUS_AT, 1), (DATA_AT, 0)]);
    assert_eq!(bench.parse().unwrap().status.addr(), STATUS_AT);
}

#[test]
fn ranges_end_with_the_disk() {
    let mut bench = Bench::new();
    for kind in [0, 1] {
        bench.request(kind, SECTORS - 2, 1024, 1024);
        bench.operation();
        bench.request(kind, SECTORS, 0, 0);
        bench.operation();
        for sector in [SECTORS - 1, SECTORS, SECTORS + 1, 1 << 55, u64::MAX] {
            bench.request(kind, sector, 1024, 1024);
            assert_eq!(bench.refused(), Status::IoError, "{kind} {sector:#x}");
        }
    }
}

#[test]
fn sector_plus_length_does_not_overflow() {
    let mut bench = Bench::new();
    bench.geometry.capacity = u64::MAX - 511;
    bench.request(0, (1 << 55) - 1, 0, 512);
    assert_eq!(bench.refused(), Status::IoError);
    bench.request(0, (1 << 55) - 2, 0, 512);
    bench.operation();
}

#[test]
fn data_are_whole_sectors() {
    let mut bench = Bench::new();
    for len in [1, 511, 513, 1023] {
        bench.request(0, 0, 0, len);
        assert_eq!(bench.refused(), Status::IoError, "{len}");
        bench.request(1, 0, len, 0);
        assert_eq!(bench.refused(), Status::IoError, "{len}");
    }
}

/// §5.2.6.2.
#[test]
fn a_read_only_disk_is_read_only() {
    let mut bench = Bench::new();
    bench.geometry.read_only = true;
    bench.geometry.features = 0;
    bench.request(1, 0, 512, 0);
    assert_eq!(bench.refused(), Status::IoError);
    bench.request(0, 0, 0, 512);
    bench.operation();
    for kind in [11, 13] {
        bench.segments(kind, &[(0, 1, 0)]);
        assert_eq!(bench.refused(), Status::Unsupported);
    }
}

#[test]
fn unknown_types_are_unsupported() {
    let mut bench = Bench::new();
    for kind in [2, 3, 5, 7, 9, 10, 12, 14, 15, 26, 0x8000_0000, u32::MAX] {
        bench.request(kind, 0, 512, 512);
        assert_eq!(bench.refused(), Status::Unsupported, "{kind}");
    }
}

#[test]
fn a_short_or_unreadable_header_is_an_error() {
    let mut bench = Bench::new();
    bench.request(0, 0, 0, 512);
    bench.chain.readable = pieces(&[(HEADER_AT, 15)]);
    assert_eq!(bench.refused(), Status::IoError);
    bench.chain.readable.clear();
    assert_eq!(bench.refused(), Status::IoError);
    bench.chain.readable = pieces(&[(HEADER_AT, 8), (RAM - 4, 8)]);
    assert_eq!(bench.refused(), Status::IoError);
    bench.chain.readable = pieces(&[(u64::MAX - 3, 16)]);
    assert_eq!(bench.refused(), Status::IoError);
}

#[test]
fn data_outside_ram_are_refused_before_any_is_touched() {
    let mut bench = Bench::new();
    for (addr, len) in [(RAM - 1, 512), (u64::MAX - 511, 512), (0xd000_0000, 512)] {
        bench.request(0, 0, 0, 0);
        bench.chain.writable = pieces(&[(DATA_AT, 512), (addr, len), (STATUS_AT, 1)]);
        assert_eq!(bench.refused(), Status::IoError, "{addr:#x}");
        bench.request(1, 0, 0, 0);
        bench.chain.readable = pieces(&[(HEADER_AT, 16), (addr, len)]);
        assert_eq!(bench.refused(), Status::IoError, "{addr:#x}");
    }
}

#[test]
fn a_request_of_four_gib_is_only_too_long() {
    let mut bench = Bench::new();
    bench.geometry.capacity = 1 << 40;
    bench.request(0, 0, 0, u32::MAX - 511);
    assert_eq!(bench.refused(), Status::IoError);
    bench.request(1, 0, u32::MAX - 511, 0);
    assert_eq!(bench.refused(), Status::IoError);
    bench.chain.writable = pieces(&[(0, u32::MAX)]);
    assert_eq!(bench.parse().unwrap_err(), RequestError::NoStatus);
}

#[test]
fn without_a_status_byte_in_ram_there_is_no_answer() {
    let mut bench = Bench::new();
    let places: &[&[(u64, u32)]] = &[
        &[],
        &[(STATUS_AT, 0)],
        &[(STATUS_AT, 0), (0, 0)],
        &[(DATA_AT, 512), (RAM, 1)],
        &[(DATA_AT, 512), (RAM - 512, 513)],
        &[(u64::MAX, 1)],
        &[(u64::MAX, 2)],
    ];
    for place in places {
        bench.request(0, 0, 0, 0);
        bench.chain.writable = pieces(place);
        assert_eq!(bench.parse().unwrap_err(), RequestError::NoStatus);
    }
}

/// §2.7.8.2: what lies before the length returned has been written.
#[test]
fn the_length_counts_what_was_written_from_the_front_on() {
    let mut bench = Bench::new();
    let status_byte = |bench: &Bench| {
        let mut byte = [0xee];
        bench.ram.read(STATUS_AT, &mut byte).unwrap();
        byte[0]
    };
    bench.request(0, 0, 0, 1024);
    let place = bench.parse().unwrap().status;
    assert_eq!(place.answer(&bench.ram, Status::Ok, 1024), 1025);
    assert_eq!(status_byte(&bench), 0);
    assert_eq!(place.answer(&bench.ram, Status::IoError, 0), 0);
    assert_eq!(status_byte(&bench), 1);
    assert_eq!(place.answer(&bench.ram, Status::IoError, 512), 512);
    bench.request(4, 0, 0, 0);
    let place = bench.parse().unwrap().status;
    assert_eq!(place.answer(&bench.ram, Status::Unsupported, 0), 1);
    assert_eq!(status_byte(&bench), 2);
}

#[test]
fn discard_lists_its_ranges() {
    let mut bench = Bench::new();
    bench.segments(11, &[(1, 2, 0), (SECTORS, 0, 0), (0, SECTORS as u32, 0)]);
    let Operation::Discard(segments) = bench.operation() else {
        panic!("no discard");
    };
    let found: Vec<_> = segments
        .as_slice()
        .iter()
        .map(|segment| (segment.offset, segment.len(), segment.unmap))
        .collect();
    let expected = [(512, 1024, false), (32768, 0, false), (0, 32768, false)];
    assert_eq!(found, expected);
    assert!(bench.data.is_empty());
    assert!(segments.as_slice()[1].is_empty());
}

#[test]
fn write_zeroes_may_unmap() {
    let mut bench = Bench::new();
    bench.segments(13, &[(1, 1, 1), (2, 1, 0)]);
    let Operation::WriteZeroes(segments) = bench.operation() else {
        panic!("no write zeroes");
    };
    let unmap: Vec<_> = segments.as_slice().iter().map(|one| one.unmap).collect();
    assert_eq!(unmap, [true, false]);
}

/// §5.2.6.2: flags that are not known, and "unmap" of a DISCARD.
#[test]
fn unknown_flags_are_unsupported() {
    let mut bench = Bench::new();
    for (kind, flags) in [(11, 1), (11, 2), (11, 1 << 31), (13, 2), (13, 3)] {
        bench.segments(kind, &[(0, 1, 0), (0, 1, flags)]);
        assert_eq!(bench.refused(), Status::Unsupported, "{kind} {flags:#x}");
    }
}

#[test]
fn ranges_and_their_number_are_limited() {
    let mut bench = Bench::new();
    for kind in [11, 13] {
        for (sector, sectors) in [(SECTORS, 1), (0, 65), (u64::MAX, 1), (1 << 55, 0)] {
            bench.segments(kind, &[(sector, sectors, 0)]);
            assert_eq!(bench.refused(), Status::IoError, "{kind} {sector:#x}");
        }
        bench.segments(kind, &[(0, 1, 0); 16]);
        bench.operation();
        bench.segments(kind, &[(0, 1, 0); 17]);
        assert_eq!(bench.refused(), Status::IoError);
        bench.segments(kind, &[]);
        bench.operation();
        for len in [1, 8, 15, 17, 255] {
            bench.request(kind, 0, len, 0);
            assert_eq!(bench.refused(), Status::IoError, "{kind} {len}");
        }
    }
    bench.geometry.capacity = 1 << 40;
    for (kind, most) in [(11, 8 << 20), (13, 512 << 10)] {
        bench.segments(kind, &[(0, most, 0)]);
        bench.operation();
        bench.segments(kind, &[(0, most + 1, 0)]);
        assert_eq!(bench.refused(), Status::IoError);
    }
}

#[test]
fn what_was_not_agreed_on_is_unsupported() {
    let mut bench = Bench::new();
    for (kind, other) in [(11, WRITE_ZEROES), (13, DISCARD)] {
        bench.geometry.features = other;
        bench.segments(kind, &[(0, 1, 0)]);
        assert_eq!(bench.refused(), Status::Unsupported);
    }
}

#[test]
fn nothing_is_allocated_for_data_that_fit() {
    let mut bench = Bench::new();
    bench.request(0, 0, 0, 0);
    bench.chain.writable = pieces(&[(DATA_AT, 512), (DATA_AT, 512), (STATUS_AT, 1)]);
    bench.data = IoBuffers::new(bench.ram.clone(), 3);
    bench.operation();
    let place = bench.data.iovecs().as_ptr();
    bench.operation();
    assert_eq!(bench.data.iovecs().as_ptr(), place);
    assert_eq!(bench.data.iovecs().len(), 2);
}

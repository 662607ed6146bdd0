//! Unwinding by ORC tables (Linux Documentation/arch/x86/orc-unwinder.rst).
//!
//! `.orc_unwind_ip` has 32-bit distances from each entry to the first instruction that
//! the entry of the same number in `.orc_unwind` is for, in the order of addresses: 6
//! bytes that say how to find the caller's frame, the saved RBP and what kind of frame
//! it is. Kernels since 6.4 number the kinds anew and have an `.orc_header`.

use super::MAX_DEPTH;
use crate::boot::{KernelSection, Symbols};
use crate::profile::samples::{KeptStack, Sample};

const IP_LEN: usize = 4;
const ENTRY_LEN: usize = 6;

/// Registers that a frame may be relative to (`ORC_REG_*`).
const REG_PREV_SP: u16 = 1;
const REG_BP: u16 = 4;
const REG_SP: u16 = 5;
const REG_BP_INDIRECT: u16 = 8;
const REG_SP_INDIRECT: u16 = 9;

/// Places in `struct pt_regs`, and in what IRETQ takes, which is its end.
const REGS_RBP: u64 = 32;
const REGS_RIP: u64 = 128;
const REGS_RSP: u64 = 152;
const IRET_RSP: u64 = 24;

/// The tables.
pub(in crate::profile) struct Orc {
    /// First instruction of each entry, as linked, ascending.
    starts: Vec<u64>,
    entries: Vec<u8>,
    is_new: bool,
    shift: u64,
}

/// What an entry tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    sp_offset: i16,
    bp_offset: i16,
    sp_reg: u16,
    bp_reg: u16,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The outermost frame, or code that cannot be unwound.
    End,
    /// A return address is below the caller's frame.
    Call,
    /// An interrupt or exception saved all registers.
    Regs,
    /// Only what IRETQ takes is there.
    Iret,
}

/// A frame's registers as far as they are known.
#[derive(Clone, Copy)]
struct Frame {
    rip: u64,
    rsp: u64,
    rbp: Option<u64>,
}

impl Orc {
    /// The kernel's tables, if it has them and they are in order.
    pub(super) fn of(symbols: &Symbols) -> Option<Self> {
        let ips = symbols.section(".orc_unwind_ip")?;
        let entries = symbols.section(".orc_unwind")?;
        let is_new = symbols.section(".orc_header").is_some();
        Self::new(&ips, entries.bytes, is_new, symbols.shift())
    }

    fn new(ips: &KernelSection, entries: Vec<u8>, is_new: bool, shift: u64) -> Option<Self> {
        let places = (ips.address..).step_by(IP_LEN);
        let starts: Vec<u64> = ips
            .bytes
            .chunks_exact(IP_LEN)
            .zip(places)
            .map_while(|(bytes, place)| {
                let distance = i32::from_le_bytes(bytes.try_into().ok()?);
                Some(place.wrapping_add_signed(distance.into()))
            })
            .collect();
        // The kernel's build sorts them; where it does not, the kernel does at boot.
        let fits = starts.is_sorted() && entries.len() / ENTRY_LEN >= starts.len();
        (fits && !starts.is_empty()).then_some(Self {
            starts,
            entries,
            is_new,
            shift,
        })
    }

    /// What is known of the instruction at `rip`.
    fn entry(&self, rip: u64) -> Option<Entry> {
        let linked = rip.wrapping_sub(self.shift);
        let after = self.starts.partition_point(|start| *start <= linked);
        let at = after.checked_sub(1)?.checked_mul(ENTRY_LEN)?;
        let bytes: &[u8; ENTRY_LEN] = self.entries.get(at..)?.first_chunk()?;
        let [sp_low, sp_high, bp_low, bp_high, regs, kind] = *bytes;
        Some(Entry {
            sp_offset: i16::from_le_bytes([sp_low, sp_high]),
            bp_offset: i16::from_le_bytes([bp_low, bp_high]),
            sp_reg: u16::from(regs & 0xf),
            bp_reg: u16::from(regs >> 4),
            kind: self.kind(kind),
        })
    }

    fn kind(&self, bits: u8) -> Kind {
        match (self.is_new, bits & 7) {
            (true, 2) | (false, 0) => Kind::Call,
            (true, 3) | (false, 1) => Kind::Regs,
            (true, 4) | (false, 2) => Kind::Iret,
            _ => Kind::End,
        }
    }

    /// The return addresses, the innermost first.
    pub(super) fn callers(&self, sample: &Sample<'_>) -> Vec<u64> {
        let mut callers = Vec::new();
        let mut frame = Frame {
            rip: sample.place.rip,
            rsp: sample.place.rsp,
            rbp: Some(sample.place.rbp),
        };
        // A return address may be the first instruction of what comes behind a call
        // that never returns; an interrupted one is what it is.
        let mut is_return = false;
        while callers.len() < MAX_DEPTH {
            let at = frame.rip.wrapping_sub(u64::from(is_return));
            let Some(next) = self
                .entry(at)
                .and_then(|entry| self.step(frame, entry, &sample.stack))
            else {
                break;
            };
            // Frames lie above each other, or something is wrong.
            if next.0.rsp <= frame.rsp {
                break;
            }
            (frame, is_return) = next;
            callers.push(frame.rip);
        }
        callers
    }

    /// The caller's frame, and whether its RIP is a return address.
    fn step(&self, frame: Frame, entry: Entry, stack: &KeptStack<'_>) -> Option<(Frame, bool)> {
        let offset = i64::from(entry.sp_offset);
        let top = match entry.sp_reg {
            REG_SP => frame.rsp.wrapping_add_signed(offset),
            REG_BP => frame.rbp?.wrapping_add_signed(offset),
            REG_SP_INDIRECT => stack.at(frame.rsp)?.wrapping_add_signed(offset),
            REG_BP_INDIRECT => stack.at(frame.rbp?.wrapping_add_signed(offset))?,
            _ => return None,
        };
        let below = |distance: u64| stack.at(top.wrapping_add(distance));
        let (rip, rsp, is_return) = match entry.kind {
            Kind::End => return None,
            Kind::Call => (stack.at(top.wrapping_sub(8))?, top, true),
            Kind::Regs => (below(REGS_RIP)?, below(REGS_RSP)?, false),
            Kind::Iret => (below(0)?, below(IRET_RSP)?, false),
        };
        let rbp_at = |from: u64| stack.at(from.wrapping_add_signed(entry.bp_offset.into()));
        let rbp = match entry.bp_reg {
            REG_PREV_SP => rbp_at(top),
            REG_BP => frame.rbp.and_then(rbp_at),
            _ if entry.kind == Kind::Regs => below(REGS_RBP),
            _ => frame.rbp,
        };
        Some((Frame { rip, rsp, rbp }, is_return))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::activity::Activity;
    use super::super::super::samples::{Place, Samples};
    use super::*;

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const TABLE: u64 = 0xffff_ffff_8200_0000;
    const STACK: u64 = 0xffff_c900_0001_3000;
    const SHIFT: u64 = 0x1200_0000;

    /// Entries of (distance from TEXT, sp_reg | bp_reg << 4, kind, sp_offset, bp_offset).
    fn orc(entries: &[(u64, u8, u8, i16, i16)], is_new: bool) -> Orc {
        let (mut ips, mut table) = (Vec::new(), Vec::new());
        for (index, (distance, regs, kind, sp, bp)) in entries.iter().enumerate() {
            let place = TABLE + 4 * index as u64;
            ips.extend(((TEXT + distance).wrapping_sub(place) as i32).to_le_bytes());
            table.extend(sp.to_le_bytes());
            table.extend(bp.to_le_bytes());
            table.extend([*regs, *kind]);
        }
        let ips = KernelSection {
            address: TABLE,
            bytes: ips,
        };
        Orc::new(&ips, table, is_new, SHIFT).unwrap()
    }

    fn run(orc: &Orc, rip: u64, rbp: u64, words: &[u64]) -> Vec<u64> {
        let stack: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let place = Place {
            rip: TEXT + SHIFT + rip,
            rsp: STACK,
            rbp,
            user: false,
        };
        let mut samples = Samples::new();
        samples.push(1, Activity::Guest, place, &stack);
        let sample = samples.iter().next().unwrap();
        let relative = |rip: u64| rip.wrapping_sub(TEXT + SHIFT);
        orc.callers(&sample).into_iter().map(relative).collect()
    }

    /// A function with 16 bytes of locals, one with RBP as its frame, and the first one.
    const CALLS: &[(u64, u8, u8, i16, i16)] = &[
        (0x100, 5, 0, 8, 0),
        (0x104, 5, 0, 24, 0),
        (0x200, 4 | 1 << 4, 0, 16, -16),
        (0x300, 5, 0, 8, 0),
        (0x400, 0, 0, 0, 0),
    ];
    const CODE: u64 = TEXT + SHIFT;

    #[test]
    fn calls_are_followed_by_stack_and_frame_pointers() {
        let words = [
            0,
            0,
            CODE + 0x210,
            0,
            0,
            STACK + 0x80,
            CODE + 0x310,
            CODE + 0x410,
        ];
        let rbp = STACK + 5 * 8;
        let orc = orc(CALLS, false);
        assert_eq!(run(&orc, 0x104, rbp, &words), [0x210, 0x310, 0x410]);
        // Before the locals are there.
        assert_eq!(run(&orc, 0x103, rbp, &words[2..]), [0x210]);
        assert_eq!(run(&orc, 0x50, rbp, &words), [0u64; 0]);
    }

    #[test]
    fn an_interrupt_leads_back_to_what_it_interrupted() {
        for (is_new, call, regs) in [(false, 0, 1), (true, 2, 3)] {
            let entries = [(0x100, 5, regs, 0, 0), (0x200, 5, call, 8, 0)];
            let mut words = [0; 32];
            words[4] = STACK + 0xd0;
            words[16] = CODE + 0x200;
            words[19] = STACK + 0xc0;
            words[24] = CODE + 0x300;
            let found = run(&orc(&entries, is_new), 0x100, 0, &words);
            assert_eq!(found, [0x200, 0x300]);
        }
    }

    #[test]
    fn a_stack_that_runs_in_circles_ends() {
        let entries = [(0, 9, 0, 0, 0)];
        let words = [STACK, CODE + 1, CODE + 2];
        assert_eq!(run(&orc(&entries, false), 1, 0, &words), [0u64; 0]);
        let entries = [(0, 5, 0, -8, 0)];
        assert_eq!(run(&orc(&entries, false), 1, 0, &[CODE; 64]), [0u64; 0]);
        let entries = [(0, 5, 0, 8, 0)];
        let deep = run(&orc(&entries, false), 1, 0, &[CODE + 9; 250]);
        assert_eq!(deep.len(), MAX_DEPTH);
    }

    #[test]
    fn tables_out_of_order_are_not_used() {
        let ips = KernelSection {
            address: TABLE,
            bytes: vec![9, 0, 0, 0, 1, 0, 0, 0],
        };
        assert!(Orc::new(&ips, vec![0; 12], false, 0).is_none());
        let short = KernelSection {
            address: TABLE,
            bytes: vec![0; 8],
        };
        assert!(Orc::new(&short, vec![0; 11], false, 0).is_none());
    }
}

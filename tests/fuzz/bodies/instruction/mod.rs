//! The fallback emulator: arbitrary instructions in arbitrary states.
//!
//! Input: a [`world`], then instructions, each a length (4 bits), whether those that
//! follow it in memory are run ahead (1 bit), and its bytes. They run one after the
//! other, whatever becomes of each.
//!
//! What holds: an instruction that faults or is not known has changed no register
//! and no state; user code changes nothing but what is a user's; no table leads to
//! memory that it does not map; the state stays one that KVM takes; and the same
//! again gives the same.

mod world;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use kvm_bindings::{kvm_regs, kvm_sregs};
use mayfly::memory::GuestRam;
use mayfly::vcpu::emulate::{Outcome, Sandbox};

use self::world::{PAGES, SECRET, SECRET_BYTE, World, is_users, world};
use super::script::{Script, u32_at, u64_at};

/// More would only be slow.
const MOST_INSTRUCTIONS: usize = 16;
const PAGE: usize = 4096;

const INVALID_OPCODE: u8 = 6;
const PAGE_FAULT: u8 = 14;
const SIMD_EXCEPTION: u8 = 19;

const FLAGS_ALWAYS: u64 = 2;
const FLAGS_NEVER: u64 = !0x3f_7fd7;
const IOPL: u64 = 3 << 12;
/// IF, IOPL, VM, VIF and VIP: not for users with IOPL 0 to change.
const FLAGS_KERNEL: u64 = 1 << 9 | IOPL | 1 << 17 | 1 << 19 | 1 << 20;

/// Runs the script, and again: what comes out depends on the input alone, so
/// nothing of the VMM's own registers is in it.
pub fn run(data: &[u8]) {
    let first = execute(data);
    if first.repeatable {
        assert!(execute(data) == first, "two runs differ");
    }
}

/// What a script leaves behind.
#[derive(PartialEq)]
struct End {
    state: Snapshot,
    memory: Vec<u8>,
    /// No instruction told the time, a random number, or which processor this is.
    repeatable: bool,
}

/// Builds the world and runs the instructions.
fn execute(data: &[u8]) -> End {
    let mut script = Script::new(data);
    let World {
        mut sandbox,
        fetch,
        own_tables,
    } = world(&mut script);
    let (user, tables) = (is_user(&sandbox), sandbox.sregs.cr3);
    let first = read(&sandbox.ram);
    let mut memory = first.clone();
    let mut repeatable = !fetch;
    for _ in 0..MOST_INSTRUCTIONS {
        if script.is_empty() {
            break;
        }
        let head = script.u8();
        let len = usize::from(head & 0xf);
        let code = script.bytes(len);
        if fetch {
            put_at_rip(&sandbox, code);
            memory = read(&sandbox.ram);
        }
        let before = Snapshot::of(&sandbox);
        let outcome = if fetch {
            sandbox.run_at_rip()
        } else {
            sandbox.run(code)
        };
        let now = read(&sandbox.ram);
        // Of fetched code the bytes given need not be those that ran.
        let insn = (!fetch).then(|| decode(&before, code));
        check_end(&before, &outcome, &sandbox, insn.as_ref());
        match outcome {
            Outcome::Done => check_rip(&before, &sandbox, insn.as_ref()),
            // Accessed bits may have been set on the way, in the tables.
            Outcome::NotCovered if !own_tables => assert!(now == memory),
            _ => {}
        }
        repeatable &= insn.is_some_and(|insn| is_repeatable(insn.mnemonic()));
        memory = now;
        if fetch && !user && head & 1 << 4 != 0 && matches!(outcome, Outcome::Done) {
            let before = Snapshot::of(&sandbox);
            let outcome = sandbox.run_ahead();
            check_run(&before, &outcome, &Snapshot::of(&sandbox));
            memory = read(&sandbox.ram);
        }
        if !matches!(outcome, Outcome::Done) {
            // On to the next, as if this one had not been.
            let next = sandbox.regs.rip.wrapping_add(len as u64);
            sandbox.regs.rip = next & rip_mask(&sandbox.sregs);
        }
    }
    if paging(&sandbox) && !own_tables && sandbox.sregs.cr3 == tables {
        check_secret(&sandbox.ram);
        if user && !fetch {
            check_isolation(&first, &memory);
        }
    }
    End {
        state: Snapshot::of(&sandbox),
        memory,
        repeatable,
    }
}

/// Whether it does the same each time.
fn is_repeatable(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{Cpuid, Rdpid, Rdrand, Rdseed, Rdtsc, Rdtscp};
    !matches!(mnemonic, Rdtsc | Rdtscp | Rdrand | Rdseed | Rdpid | Cpuid)
}

/// The mapped pages.
fn read(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; (PAGES.end - PAGES.start) as usize * PAGE];
    ram.read(PAGES.start << 12, &mut bytes).expect("RAM");
    bytes
}

/// Writes the code where RIP points to, if that is one of the mapped pages.
fn put_at_rip(sandbox: &Sandbox, code: &[u8]) {
    let at = sandbox.regs.rip & 0x1f_ffff;
    if PAGES.contains(&(at >> 12)) {
        sandbox.ram.write(at, code).expect("RAM");
    }
}

fn is_user(sandbox: &Sandbox) -> bool {
    sandbox.sregs.cs.selector & 3 == 3
}

fn is_64_bit(sregs: &kvm_sregs) -> bool {
    sregs.efer & 1 << 10 != 0 && sregs.cs.l != 0
}

/// RIP has 32 bits outside 64-bit code.
fn rip_mask(sregs: &kvm_sregs) -> u64 {
    if is_64_bit(sregs) {
        u64::MAX
    } else {
        u32::MAX.into()
    }
}

fn paging(sandbox: &Sandbox) -> bool {
    sandbox.sregs.cr0 & 1 << 31 != 0
}

/// All that an instruction could change, but for memory.
#[derive(PartialEq)]
struct Snapshot {
    regs: kvm_regs,
    sregs: kvm_sregs,
    image: Vec<u8>,
    xcr0: u64,
    msrs: Vec<(u32, u64)>,
}

impl Snapshot {
    fn of(sandbox: &Sandbox) -> Self {
        Self {
            regs: sandbox.regs,
            sregs: sandbox.sregs,
            image: sandbox.xsave().to_vec(),
            xcr0: sandbox.state.xcr0,
            msrs: sandbox.state.msrs.iter().map(|(i, v)| (*i, *v)).collect(),
        }
    }
}

/// How it ended goes with what it did.
fn check_end(before: &Snapshot, outcome: &Outcome, sandbox: &Sandbox, insn: Option<&Instruction>) {
    let after = Snapshot::of(sandbox);
    match outcome {
        Outcome::Done => check_done(before, &after),
        Outcome::Fault { vector, error, cr2 } => {
            let has_error = matches!(vector, 8 | 10..=14 | 17 | 21);
            assert_eq!(error.is_some(), has_error, "vector {vector}");
            assert_eq!(cr2.is_some(), *vector == PAGE_FAULT);
            if let (Some(cr2), Some(error)) = (cr2, error) {
                check_page_fault(before, *cr2, *error);
            }
            assert_eq!(after.regs, before.regs);
            let expected = kvm_sregs {
                cr2: cr2.unwrap_or(before.sregs.cr2),
                ..before.sregs
            };
            assert_eq!(after.sregs, expected);
            // A gather keeps the elements that it got before the fault, and a
            // floating-point exception (as #UD, if the guest has not enabled it)
            // its flags.
            let keeps = insn.is_none_or(Instruction::is_vsib);
            if !keeps && !matches!(*vector, SIMD_EXCEPTION | INVALID_OPCODE) {
                check_state_unchanged(before, &after);
            }
        }
        Outcome::Trap { .. } => {
            let expected = kvm_regs {
                rip: after.regs.rip,
                ..before.regs
            };
            assert_eq!(after.regs, expected);
            assert_eq!(after.sregs, before.sregs);
            check_state_unchanged(before, &after);
        }
        Outcome::NotCovered | Outcome::Retry | Outcome::PagingMode => {
            assert_eq!((after.regs, after.sregs), (before.regs, before.sregs));
            check_state_unchanged(before, &after);
        }
        Outcome::Failed(error) => panic!("{error}"),
    }
}

fn check_state_unchanged(before: &Snapshot, after: &Snapshot) {
    assert!(after.image == before.image);
    assert_eq!((after.xcr0, &after.msrs), (before.xcr0, &before.msrs));
}

fn check_done(before: &Snapshot, after: &Snapshot) {
    let flags = after.regs.rflags;
    assert_eq!(flags & (FLAGS_ALWAYS | FLAGS_NEVER), FLAGS_ALWAYS);
    if before.sregs.cs.selector & 3 == 3 {
        // A user may load data segments, and set the bases of FS and GS.
        let expected = kvm_sregs {
            ds: after.sregs.ds,
            es: after.sregs.es,
            fs: after.sregs.fs,
            gs: after.sregs.gs,
            ss: after.sregs.ss,
            ..before.sregs
        };
        assert_eq!(after.sregs, expected, "user code and system registers");
        assert_eq!((after.xcr0, &after.msrs), (before.xcr0, &before.msrs));
        if before.regs.rflags & IOPL == 0 {
            let changed = flags ^ before.regs.rflags;
            assert_eq!(changed & FLAGS_KERNEL, 0, "user code and system flags");
        }
    }
    if !is_64_bit(&before.sregs) {
        assert_eq!(after.regs.rip >> 32, 0);
    }
    check_image(before, after);
}

/// What runs ahead touches no system register, and stops at a fault or before it
/// would go too far: never because an instruction is unknown.
fn check_run(before: &Snapshot, outcome: &Outcome, after: &Snapshot) {
    let cr2 = match outcome {
        Outcome::Done | Outcome::Trap { .. } => None,
        Outcome::Fault { cr2, .. } => *cr2,
        other => panic!("a run ended with {other:?}"),
    };
    let expected = kvm_sregs {
        cr2: cr2.unwrap_or(before.sregs.cr2),
        ..before.sregs
    };
    assert_eq!(after.sregs, expected);
    assert_eq!((after.xcr0, &after.msrs), (before.xcr0, &before.msrs));
    assert_eq!(
        after.regs.rflags & (FLAGS_ALWAYS | FLAGS_NEVER),
        FLAGS_ALWAYS
    );
    check_image(before, after);
}

/// The error code's bits go together (SDM vol. 3 §4.7).
fn check_page_fault(before: &Snapshot, cr2: u64, error: u32) {
    let [present, write, user, reserved, fetch, key] = [0, 1, 2, 3, 4, 5].map(|i| error >> i & 1);
    assert_eq!(error >> 6, 0);
    assert!(present >= reserved && present >= key);
    assert!(write + fetch <= 1 && reserved + key <= 1 && fetch + key <= 1);
    assert!(user == 0 || before.sregs.cs.selector & 3 == 3);
    if !is_64_bit(&before.sregs) {
        assert_eq!(cr2 >> 32, 0, "linear addresses have 32 bits");
    }
}

/// KVM takes the image: MXCSR without reserved bits, a header that is one of the
/// standard form, no component that was never enabled (SDM vol. 1 §13.4.2).
fn check_image(before: &Snapshot, after: &Snapshot) {
    let image = &after.image;
    assert_eq!(u32_at(image, 24) & 0xffff_0000, 0, "MXCSR");
    let components = u64_at(image, 512);
    let possible = before.xcr0 | after.xcr0 | u64_at(&before.image, 512) | 3;
    assert_eq!(components & !possible, 0, "XSTATE_BV");
    assert!(
        image[520..576].iter().all(|byte| *byte == 0),
        "XSAVE header"
    );
}

/// The instruction as it is where it runs.
fn decode(before: &Snapshot, code: &[u8]) -> Instruction {
    let bitness = match (is_64_bit(&before.sregs), before.sregs.cs.db) {
        (true, _) => 64,
        (false, 0) => 16,
        (false, _) => 32,
    };
    Decoder::with_ip(bitness, code, before.regs.rip, DecoderOptions::NONE).decode()
}

/// What is no branch and no loop goes on behind itself.
fn check_rip(before: &Snapshot, sandbox: &Sandbox, insn: Option<&Instruction>) {
    let Some(insn) = insn else {
        return;
    };
    assert!(!insn.is_invalid());
    let repeats = insn.has_rep_prefix() || insn.has_repne_prefix();
    if insn.flow_control() == FlowControl::Next && !repeats {
        let next = insn.next_ip() & rip_mask(&before.sregs);
        assert_eq!(sandbox.regs.rip, next, "{insn:?}");
    }
}

fn check_secret(ram: &GuestRam) {
    let mut bytes = vec![0; (SECRET.end - SECRET.start) as usize];
    ram.read(SECRET.start, &mut bytes).expect("RAM");
    assert!(bytes.iter().all(|byte| *byte == SECRET_BYTE));
}

/// User code has changed no page that users may not write to.
fn check_isolation(first: &[u8], last: &[u8]) {
    let pages = first.chunks(PAGE).zip(last.chunks(PAGE));
    for (number, (first, last)) in PAGES.zip(pages) {
        assert!(is_users(number) || first == last, "page {number}");
    }
}

//! Planting, moving and removing the breakpoint ([`super::hooks`]).

use std::sync::Arc;

use super::error::Stop;
use super::hooks::{BREAKPOINT, Breakpoint, SharedHooks, VcpuHook};
use super::sandbox::Sandbox;
use super::syscall::{IA32_LSTAR, IA32_SFMASK};
use super::testing::{KERNEL_DATA, Machine};

const IDT: u64 = 0x5000;
const HANDLER: u64 = 0x9_0000;
const OTHER_HANDLER: u64 = 0x9_1000;
/// First byte of CLAC.
const FIRST: u8 = 0x0f;

struct Hooked {
    machine: Machine,
    hooks: Arc<SharedHooks>,
    vcpu: VcpuHook,
}

impl Hooked {
    fn new() -> Self {
        let mut machine = Machine::new();
        machine.sregs.idt.base = IDT;
        machine.sregs.idt.limit = 0xfff;
        for handler in [HANDLER, OTHER_HANDLER] {
            machine.ram.write(handler, &[FIRST, 0x01, 0xca]).unwrap();
        }
        machine.state.msrs.insert(IA32_LSTAR, 0xa_0000);
        machine.state.msrs.insert(IA32_SFMASK, 0x200);
        let hooks = Arc::new(SharedHooks::new(machine.ram.clone()));
        let vcpu = VcpuHook::new(hooks.clone());
        let new = Self {
            machine,
            hooks,
            vcpu,
        };
        new.set_gate(IDT, HANDLER);
        new
    }

    fn set_gate(&self, idt: u64, handler: u64) {
        let low = handler & 0xffff | 0x8e00_0008 << 16 | (handler >> 16 & 0xffff) << 48;
        self.machine.ram.write_u64(idt + 14 * 16, low).unwrap();
        self.machine
            .ram
            .write_u64(idt + 14 * 16 + 8, handler >> 32)
            .unwrap();
    }

    fn check(&mut self) {
        let Sandbox {
            ram, sregs, state, ..
        } = &mut *self.machine;
        self.vcpu.check(ram, sregs, 46, state).unwrap();
    }

    fn first_byte(&self, handler: u64) -> u8 {
        let mut byte = [0];
        self.machine.ram.read(handler, &mut byte).unwrap();
        byte[0]
    }

    fn breakpoint_at(&mut self, rip: u64) -> Result<Breakpoint, Stop> {
        self.machine.regs.rip = rip;
        self.machine.regs.rsp = KERNEL_DATA;
        self.vcpu.on_breakpoint(&mut self.machine.cpu())
    }
}

#[test]
fn nothing_is_planted_before_lstar_is_written() {
    let mut hooked = Hooked::new();
    hooked.machine.state.msrs.clear();
    hooked.check();
    assert_eq!(hooked.first_byte(HANDLER), FIRST);
    assert_eq!(hooked.hooks.planted(), 0);
}

#[test]
fn the_displaced_byte_comes_with_a_page_fault() {
    let mut hooked = Hooked::new();
    hooked.check();
    assert_eq!(hooked.first_byte(HANDLER), BREAKPOINT);
    let found = hooked.breakpoint_at(HANDLER).unwrap();
    assert_eq!(found, Breakpoint::PageFault(FIRST));
    hooked.check();
    assert_eq!(hooked.hooks.planted(), 1, "once is enough");
}

#[test]
fn a_breakpoint_elsewhere_is_the_guests() {
    let mut hooked = Hooked::new();
    hooked.check();
    hooked.machine.ram.write(0x9_2000, &[BREAKPOINT]).unwrap();
    let found = hooked.breakpoint_at(0x9_2000).unwrap();
    assert_eq!(found, Breakpoint::Guests);
}

#[test]
fn a_breakpoint_that_is_gone_is_run_anew() {
    let mut hooked = Hooked::new();
    hooked.check();
    hooked.hooks.unplant();
    let found = hooked.breakpoint_at(HANDLER);
    assert!(matches!(found, Err(Stop::Retry)), "{found:?}");
}

#[test]
fn what_the_guest_writes_over_it_is_displaced_anew() {
    let mut hooked = Hooked::new();
    hooked.check();
    hooked.machine.ram.write(HANDLER, &[0x90]).unwrap();
    hooked.check();
    let found = hooked.breakpoint_at(HANDLER).unwrap();
    assert_eq!(found, Breakpoint::PageFault(0x90));
    hooked.hooks.unplant();
    assert_eq!(hooked.first_byte(HANDLER), 0x90);
}

#[test]
fn the_hook_follows_the_gate_and_the_idt() {
    let mut hooked = Hooked::new();
    hooked.check();
    hooked.set_gate(IDT, OTHER_HANDLER);
    hooked.check();
    assert_eq!(hooked.first_byte(HANDLER), FIRST);
    assert_eq!(hooked.first_byte(OTHER_HANDLER), BREAKPOINT);
    hooked.set_gate(0x6000, HANDLER);
    hooked.machine.sregs.idt.base = 0x6000;
    hooked.check();
    assert_eq!(hooked.first_byte(HANDLER), BREAKPOINT);
    assert_eq!(hooked.first_byte(OTHER_HANDLER), FIRST);
}

#[test]
fn vcpus_share_a_handler_until_the_last_leaves() {
    let mut first = Hooked::new();
    let mut second = VcpuHook::new(first.hooks.clone());
    first.check();
    let Sandbox {
        ram, sregs, state, ..
    } = &mut *first.machine;
    second.check(ram, sregs, 46, state).unwrap();
    assert_eq!(first.hooks.planted(), 1);
    first.set_gate(0x6000, OTHER_HANDLER);
    first.machine.sregs.idt.base = 0x6000;
    first.check();
    assert_eq!(first.first_byte(HANDLER), BREAKPOINT, "the second's");
    let Sandbox {
        ram, sregs, state, ..
    } = &mut *first.machine;
    second.check(ram, sregs, 46, state).unwrap();
    assert_eq!(first.first_byte(HANDLER), FIRST);
}

#[test]
fn a_pause_gives_the_guest_its_bytes_back() {
    let mut hooked = Hooked::new();
    hooked.check();
    hooked.hooks.unplant();
    assert_eq!(hooked.first_byte(HANDLER), FIRST);
    hooked.check();
    assert_eq!(hooked.first_byte(HANDLER), FIRST, "suspended");
    hooked.hooks.replant();
    assert_eq!(hooked.first_byte(HANDLER), BREAKPOINT);
}

#[test]
fn tables_that_lead_nowhere_plant_nothing() {
    for (base, limit, handler) in [
        (IDT, 0xef - 1, HANDLER),
        (0x30_0000_0000, 0xfff, HANDLER),
        (u64::MAX - 8, 0xfff, HANDLER),
        (IDT, 0xfff, 0x40_0000),
        (IDT, 0xfff, u64::MAX),
    ] {
        let mut hooked = Hooked::new();
        hooked.machine.sregs.idt.base = base;
        hooked.machine.sregs.idt.limit = limit;
        hooked.set_gate(IDT, handler);
        hooked.check();
        assert_eq!(hooked.hooks.planted(), 0, "{base:#x} {handler:#x}");
    }
}

/// A vCPU that meets the breakpoint while another takes it away must not take
/// it for the guest's own.
#[test]
fn a_breakpoint_that_goes_away_is_never_the_guests() {
    let hooked = Hooked::new();
    let (hooks, ram) = (hooked.hooks.clone(), hooked.machine.ram.clone());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                hooks.acquire(HANDLER);
                hooks.release(HANDLER);
            }
        });
        let mut met = 0;
        let outcome = (0..2_000_000).try_for_each(|_| match hooks.displaced(&ram, HANDLER) {
            Ok(Some(FIRST)) => {
                met += 1;
                Ok(())
            }
            Err(Stop::Retry) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(outcome, Ok(()));
        assert!(met > 0);
    });
}

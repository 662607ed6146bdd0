//! Completing SYSCALL on hosts whose KVM leaves it half done (kvm-pvm).
//!
//! There a SYSCALL from guest user mode jumps to LSTAR with RCX, R11 and RFLAGS
//! set but CPL still 3, so the guest takes a page fault whose frame says
//! RIP = CR2 = LSTAR. To see these faults a breakpoint is planted on the first
//! byte of the guest's page-fault handler (IDT entry 14): KVM hands INT3 at CPL 0
//! back, and the frame tells whether to finish the SYSCALL or to run the
//! displaced instruction and let the guest have its fault.
//!
//! User code that jumps to LSTAR makes the same fault, with RCX and R11 of its
//! choosing. It cannot clear RFLAGS.IF, which a SYSCALL does where SFMASK says so:
//! that is the proof demanded here, and without it the guest gets its fault.
//!
//! A guest that plants a breakpoint of its own on that very byte cannot be told
//! from us; Linux forbids probes there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_sregs;

use super::cpu::Cpu;
use super::error::{EmulateError, Stop};
use super::host;
use super::paging::{Access, Kind, Privilege, Walker, bits};
use super::state::VcpuState;
use super::syscall::{self, SyscallMsrs};
use crate::memory::ram::GuestRam;

/// INT3.
pub(super) const BREAKPOINT: u8 = 0xcc;
/// Times planting is tried against a guest that writes the same byte.
const MAX_TRIES: usize = 8;
const GATE_SIZE: u64 = 16;
const PAGE_FAULT_GATE: u64 = 14 * GATE_SIZE;
const PAGE: u64 = 4096;

/// A page-fault handler's first byte.
struct Site {
    gpa: u64,
    /// What the guest has there, while our byte stands in its place.
    displaced: Option<u8>,
    /// vCPUs whose IDT leads here.
    vcpus: usize,
}

/// The planted breakpoints of one VM, shared by its vCPUs (which usually share one handler).
pub struct SharedHooks {
    ram: GuestRam,
    sites: Mutex<Vec<Site>>,
    suspended: AtomicBool,
    planted: AtomicU64,
}

impl SharedHooks {
    /// No hooks yet: vCPUs plant theirs when the guest writes LSTAR.
    pub fn new(ram: GuestRam) -> Self {
        Self {
            ram,
            sites: Mutex::new(Vec::new()),
            suspended: AtomicBool::new(false),
            planted: AtomicU64::new(0),
        }
    }

    /// How often a byte was planted.
    pub fn planted(&self) -> u64 {
        self.planted.load(Ordering::Relaxed)
    }

    /// Gives the guest its bytes back, until [`SharedHooks::replant`].
    ///
    /// For pauses in which guest memory is read (snapshots): all vCPUs stand still.
    pub fn unplant(&self) {
        let mut sites = self.lock();
        self.suspended.store(true, Ordering::Release);
        for site in sites.iter_mut() {
            self.remove(site);
        }
    }

    /// Plants again what [`SharedHooks::unplant`] removed.
    pub fn replant(&self) {
        let mut sites = self.lock();
        self.suspended.store(false, Ordering::Release);
        for site in sites.iter_mut() {
            self.plant(site);
        }
    }

    /// One more vCPU's handler begins at `gpa`.
    pub(super) fn acquire(&self, gpa: u64) {
        let mut sites = self.lock();
        let at = match sites.iter().position(|site| site.gpa == gpa) {
            Some(at) => at,
            None => {
                sites.push(Site {
                    gpa,
                    displaced: None,
                    vcpus: 0,
                });
                sites.len() - 1
            }
        };
        if let Some(site) = sites.get_mut(at) {
            site.vcpus += 1;
            self.plant(site);
        }
    }

    /// One vCPU's handler is no longer at `gpa`.
    pub(super) fn release(&self, gpa: u64) {
        let mut sites = self.lock();
        for site in sites.iter_mut().filter(|site| site.gpa == gpa) {
            site.vcpus = site.vcpus.saturating_sub(1);
            if site.vcpus == 0 {
                self.remove(site);
            }
        }
        sites.retain(|site| site.vcpus > 0);
    }

    /// Plants anew where the guest has written over our byte.
    fn renew(&self, gpa: u64) {
        let mut sites = self.lock();
        if let Some(site) = sites.iter_mut().find(|site| site.gpa == gpa) {
            self.plant(site);
        }
    }

    /// The byte that ours at `gpa` has displaced, or none if the breakpoint there
    /// is the guest's own. One look at both: they change together, under the lock.
    ///
    /// # Errors
    /// [`Stop::Retry`] if there is no breakpoint (any more).
    pub(super) fn displaced(&self, ram: &GuestRam, gpa: u64) -> Result<Option<u8>, Stop> {
        let sites = self.lock();
        if host::load_u8(ram, gpa) != Some(BREAKPOINT) {
            return Err(Stop::Retry);
        }
        let site = sites.iter().find(|site| site.gpa == gpa);
        Ok(site.and_then(|site| site.displaced))
    }

    fn plant(&self, site: &mut Site) {
        if self.suspended.load(Ordering::Acquire) {
            return;
        }
        for _ in 0..MAX_TRIES {
            match host::load_u8(&self.ram, site.gpa) {
                None | Some(BREAKPOINT) => return,
                Some(byte) if host::replace_u8(&self.ram, site.gpa, byte, BREAKPOINT) => {
                    site.displaced = Some(byte);
                    self.planted.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Some(_) => {}
            }
        }
    }

    /// What the guest has written over our byte stays.
    fn remove(&self, site: &mut Site) {
        if let Some(byte) = site.displaced.take() {
            host::replace_u8(&self.ram, site.gpa, BREAKPOINT, byte);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Site>> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one vCPU's IDT leads, as last resolved.
#[derive(Clone, Copy)]
struct Route {
    idt_base: u64,
    gate_gpa: u64,
    gate: [u8; GATE_SIZE as usize],
    handler_gpa: u64,
}

/// What a breakpoint at CPL 0 turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Breakpoint {
    /// The guest's own.
    Guests,
    /// Ours, after a SYSCALL, which is now complete.
    Syscall,
    /// Ours, after a page fault: run the instruction that begins with this byte.
    PageFault(u8),
}

/// One vCPU's side of the hooks.
pub(super) struct VcpuHook {
    shared: Arc<SharedHooks>,
    msrs: Option<SyscallMsrs>,
    route: Option<Route>,
    pub syscalls: u64,
    pub page_faults: u64,
}

impl VcpuHook {
    pub fn new(shared: Arc<SharedHooks>) -> Self {
        Self {
            shared,
            msrs: None,
            route: None,
            syscalls: 0,
            page_faults: 0,
        }
    }

    pub fn shared(&self) -> &SharedHooks {
        &self.shared
    }

    /// The MSRs, from the vCPU the first time.
    pub fn msrs(&mut self, state: &mut dyn VcpuState) -> Result<&mut SyscallMsrs, EmulateError> {
        let msrs = match self.msrs {
            Some(msrs) => msrs,
            None => SyscallMsrs::read(state)?,
        };
        Ok(self.msrs.insert(msrs))
    }

    /// Sees that the current page-fault handler has its breakpoint.
    ///
    /// The usual case reads 17 bytes of guest memory and compares them.
    pub fn check(
        &mut self,
        ram: &GuestRam,
        sregs: &kvm_sregs,
        physical_bits: u32,
        state: &mut dyn VcpuState,
    ) -> Result<(), EmulateError> {
        if self.msrs(state)?.lstar == 0 || sregs.efer & bits::EFER_LMA == 0 {
            return Ok(());
        }
        if let Some(route) = self.route.filter(|route| route.is_current(ram, sregs)) {
            if host::load_u8(ram, route.handler_gpa) != Some(BREAKPOINT) {
                self.shared.renew(route.handler_gpa);
            }
            return Ok(());
        }
        let walker = Walker::new(ram, sregs, 0, physical_bits);
        // A handler that is not mapped just now keeps the hook where it was.
        let Some(route) = Route::resolve(ram, sregs, &walker) else {
            return Ok(());
        };
        let old = self.route.replace(route).map(|old| old.handler_gpa);
        if old != Some(route.handler_gpa) {
            self.shared.acquire(route.handler_gpa);
            if let Some(old) = old {
                self.shared.release(old);
            }
        }
        Ok(())
    }

    /// INT3 at CPL 0 was handed back: whose is it, and what is to be done?
    pub fn on_breakpoint(&mut self, cpu: &mut Cpu<'_>) -> Result<Breakpoint, Stop> {
        let gpa = cpu.translate(cpu.regs.rip, Kind::Fetch)?;
        let Some(displaced) = self.shared.displaced(cpu.ram, gpa)? else {
            return Ok(Breakpoint::Guests);
        };
        let msrs = *self.msrs(cpu.state)?;
        if syscall::complete(cpu, &msrs) {
            self.syscalls += 1;
            return Ok(Breakpoint::Syscall);
        }
        self.page_faults += 1;
        Ok(Breakpoint::PageFault(displaced))
    }
}

impl Route {
    /// Follows IDTR and gate 14 to the handler's first byte.
    fn resolve(ram: &GuestRam, sregs: &kvm_sregs, walker: &Walker<'_>) -> Option<Self> {
        const GATE_PRESENT: u8 = 0x80;
        if u64::from(sregs.idt.limit) < PAGE_FAULT_GATE + GATE_SIZE - 1 {
            return None;
        }
        let at = sregs.idt.base.checked_add(PAGE_FAULT_GATE)?;
        if at % PAGE > PAGE - GATE_SIZE {
            return None;
        }
        let translate = |linear, kind, privilege| {
            walker
                .translate(linear, Access { kind, privilege })
                .map(|translation| translation.gpa)
                .ok()
        };
        let gate_gpa = translate(at, Kind::Read, Privilege::Implicit)?;
        let mut gate = [0; GATE_SIZE as usize];
        ram.read(gate_gpa, &mut gate).ok()?;
        let [o0, o1, _, _, _, attributes, o2, o3, o4, o5, o6, o7, ..] = gate;
        if attributes & GATE_PRESENT == 0 {
            return None;
        }
        let handler = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let handler_gpa = translate(handler, Kind::Fetch, Privilege::Supervisor)?;
        ram.contains(handler_gpa, 1).then_some(Self {
            idt_base: sregs.idt.base,
            gate_gpa,
            gate,
            handler_gpa,
        })
    }

    fn is_current(&self, ram: &GuestRam, sregs: &kvm_sregs) -> bool {
        let mut gate = [0; GATE_SIZE as usize];
        self.idt_base == sregs.idt.base
            && ram.read(self.gate_gpa, &mut gate).is_ok()
            && gate == self.gate
    }
}

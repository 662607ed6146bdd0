//! [`super::xsave`] and [`super::fpu`] against the manual and against this very processor.

use super::exception::Exception;
use super::state::{IMAGE_SIZE, XsaveImage};
use super::testing::{KERNEL_DATA, Machine, assemble};
use super::xsave_layout::{self, COMPACTED, XsaveLayout};

assemble! { xsave: "xsave [rdi]" }
assemble! { xsave64: "xsave64 [rdi]" }
assemble! { xsaveopt64: "xsaveopt64 [rdi]" }
assemble! { xsavec64: "xsavec64 [rdi]" }
assemble! { xsaves64: "xsaves64 [rdi]" }
assemble! { xrstor64: "xrstor64 [rdi]" }
assemble! { xrstors64: "xrstors64 [rdi]" }
assemble! { fxsave64: "fxsave64 [rdi]" }
assemble! { fxrstor64: "fxrstor64 [rdi]" }
assemble! { fninit: "fninit" }
assemble! { fwait: "fwait" }
assemble! { ldmxcsr: "ldmxcsr [rdi]" }
assemble! { stmxcsr: "stmxcsr [rdi]" }
assemble! { xgetbv: "xgetbv" }

const AREA: u64 = KERNEL_DATA;
const FILLER: u8 = 0x5a;

#[repr(C, align(64))]
struct Buffer([u8; IMAGE_SIZE]);

impl Buffer {
    fn filled() -> Self {
        let mut buffer = Self([FILLER; IMAGE_SIZE]);
        buffer.0[512..576].fill(0);
        buffer
    }
}

/// A machine whose RDI points at the area and whose EDX:EAX asks for `requested`.
fn machine(requested: u64) -> Machine {
    let mut machine = Machine::new();
    machine.regs.rdi = AREA;
    machine.regs.rax = requested & 0xffff_ffff;
    machine.regs.rdx = requested >> 32;
    machine.ram.write(AREA, &Buffer::filled().0).unwrap();
    machine
}

/// A machine with the manual's layout, not the host's.
fn with_sample_layout(requested: u64) -> Machine {
    let mut machine = machine(requested);
    machine.host.xsave = xsave_layout::tests::sample();
    machine
}

fn area(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; IMAGE_SIZE];
    machine.ram.read(AREA, &mut bytes).unwrap();
    bytes
}

fn word(machine: &Machine, offset: u64) -> u64 {
    machine.ram.read_u64(AREA + offset).unwrap()
}

/// Emulated processors (those of the hardware-KVM test machine) may lack it.
fn has_xsavec() -> bool {
    std::arch::is_x86_feature_detected!("xsavec") && std::arch::is_x86_feature_detected!("avx")
}

/// XCR0 of this process.
fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: only called where XSAVE is there, and so CR4.OSXSAVE is set.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(low) | u64::from(high) << 32
}

/// What this processor stores at one moment, with a pattern in YMM3 and in MXCSR.
#[repr(C)]
struct Saves {
    /// XSAVE64 of everything.
    whole: Buffer,
    /// XSAVE64, XSAVEC64 and XSAVEOPT64 of what was requested.
    full: Buffer,
    compacted: Buffer,
    optimised: Buffer,
}

fn native_saves(pattern: &[u8; 32], requested: u64) -> Box<Saves> {
    let mut saves = Box::new(Saves {
        whole: Buffer::filled(),
        full: Buffer::filled(),
        compacted: Buffer::filled(),
        optimised: Buffer::filled(),
    });
    // SAFETY: the four buffers are 64-byte aligned, 4096 bytes apart, and hold
    // any area of this process; every register touched is an operand or a
    // clobber, and MXCSR is put back.
    unsafe {
        std::arch::asm!(
            "vmovdqu ymm3, [{pattern}]",
            "ldmxcsr [{odd}]",
            "xsave64 [{saves}]",
            "mov eax, {low:e}", "mov edx, {high:e}",
            "xsave64 [{saves} + 4096]",
            "xsavec64 [{saves} + 8192]",
            "xsaveopt64 [{saves} + 12288]",
            "ldmxcsr [{usual}]",
            pattern = in(reg) pattern.as_ptr(),
            odd = in(reg) &0x3f80_u32, usual = in(reg) &0x1f80_u32,
            saves = in(reg) &raw mut *saves,
            low = in(reg) requested as u32, high = in(reg) (requested >> 32) as u32,
            inout("eax") u32::MAX => _, inout("edx") u32::MAX => _,
            out("ymm3") _,
        );
    }
    saves
}

fn pattern() -> [u8; 32] {
    std::array::from_fn(|at| at as u8 + 1)
}

#[test]
fn all_save_forms_store_what_the_processor_stores() {
    if !has_xsavec() {
        return;
    }
    for requested in [u64::MAX, 0b111, 0b110, 0b010, 0b100, 0b001] {
        let saves = native_saves(&pattern(), requested);
        for (code, expected) in [
            (xsave64(), &saves.full),
            (xsavec64(), &saves.compacted),
            (xsaveopt64(), &saves.optimised),
        ] {
            let mut machine = machine(requested);
            machine.state.xcr0 = xcr0();
            machine.state.image = XsaveImage(Box::new(saves.whole.0));
            machine.run(code).unwrap();
            let saved = area(&machine);
            let differs = (0..IMAGE_SIZE).find(|at| saved[*at] != expected.0[*at]);
            assert_eq!(differs, None, "{code:02x?} with RFBM {requested:#x}");
        }
    }
}

#[test]
fn both_restore_forms_load_what_was_saved() {
    if !has_xsavec() {
        return;
    }
    let saves = native_saves(&pattern(), u64::MAX);
    for saved in [&saves.whole, &saves.compacted] {
        let mut machine = machine(u64::MAX);
        machine.state.xcr0 = xcr0();
        machine.ram.write(AREA, &saved.0).unwrap();
        machine.run(xrstor64()).unwrap();
        let image = &machine.state.image;
        assert_eq!(image.get(160 + 48, 16), &pattern()[..16]);
        let upper = XsaveLayout::of_host().component(2).unwrap().offset + 48;
        assert_eq!(image.get(upper, 16), &pattern()[16..]);
        assert_eq!(image.number(24, 4), 0x3f80);
        assert_eq!(image.in_use() & 6, 6);
    }
}

#[test]
fn what_an_area_leaves_out_is_initialised() {
    let mut machine = with_sample_layout(0b111);
    let image = &mut machine.state.image;
    image.put(24, &0x3f80_u32.to_le_bytes());
    image.put(160, &[1; 256]);
    image.put(576, &[2; 256]);
    image.put(0, &[0x40, 3]);
    image.set_in_use(0b111);
    machine.ram.write(AREA + 512, &[0; 64]).unwrap();
    machine
        .ram
        .write(AREA + 24, &0x1fa0_u32.to_le_bytes())
        .unwrap();
    machine.run(xrstor64()).unwrap();
    let image = &machine.state.image;
    assert!(image.get(160, 256).iter().all(|byte| *byte == 0));
    assert!(image.get(576, 256).iter().all(|byte| *byte == 0));
    assert_eq!(image.number(0, 2), 0x37f);
    assert_eq!(
        image.number(24, 4),
        0x1fa0,
        "the standard form always loads MXCSR"
    );
}

#[test]
fn a_compacted_area_without_sse_resets_mxcsr() {
    let mut machine = with_sample_layout(0b111);
    machine.state.image.put(24, &0x3f80_u32.to_le_bytes());
    machine.ram.write_u64(AREA + 520, COMPACTED | 7).unwrap();
    machine.run(xrstor64()).unwrap();
    assert_eq!(machine.state.image.number(24, 4), 0x1f80);
    assert_eq!(machine.state.image.in_use() & 7, 0);
}

#[test]
fn components_that_were_not_asked_for_stay() {
    let mut machine = with_sample_layout(0b010);
    machine.state.image.put(576, &[2; 256]);
    machine.state.image.set_in_use(0b100);
    machine.ram.write_u64(AREA + 512, 0b010).unwrap();
    machine
        .ram
        .write(AREA + 24, &0x1f80_u32.to_le_bytes())
        .unwrap();
    machine.run(xrstor64()).unwrap();
    assert_eq!(machine.state.image.number(576, 8), 0x0202_0202_0202_0202);
    assert_eq!(machine.state.image.in_use(), 0b110);
}

#[test]
fn xsave_keeps_the_header_bits_of_others() {
    let mut machine = with_sample_layout(0b010);
    machine.ram.write_u64(AREA + 512, 0b101).unwrap();
    machine.state.image.set_in_use(0b010);
    machine.run(xsave64()).unwrap();
    assert_eq!(word(&machine, 512), 0b111);
}

#[test]
fn xsaves_counts_supervisor_components_as_initial() {
    let mut machine = with_sample_layout(u64::MAX);
    machine.state.msrs.insert(0xda0, 1 << 11);
    machine.state.xcr0 = 0x207;
    machine.state.image.put(2432, &[9; 8]);
    machine.state.image.set_in_use(1 << 9);
    machine.run(xsaves64()).unwrap();
    assert_eq!(word(&machine, 520), COMPACTED | 0xa07);
    assert_eq!(word(&machine, 512), 1 << 9);
    assert_eq!(word(&machine, 832), 0x0909_0909_0909_0909);
    machine.state.image = XsaveImage::initial();
    machine.run(xrstors64()).unwrap();
    assert_eq!(machine.state.image.number(2432, 8), 0x0909_0909_0909_0909);
}

#[test]
fn invalid_headers_are_general_protection_faults() {
    let headers: [(u64, u64, u64); 6] = [
        (0b1000, 0, 0),              // a component XCR0 lacks
        (1, 1, 0),                   // XCOMP_BV without its bit 63
        (1, 0, 1),                   // reserved bytes
        (0b111, COMPACTED | 3, 0),   // present but not in the layout
        (0, COMPACTED | 1 << 40, 0), // a layout XCR0 lacks
        (0, COMPACTED | 7, 1),       // reserved bytes
    ];
    for (xstate_bv, xcomp_bv, reserved) in headers {
        let mut machine = with_sample_layout(7);
        machine.ram.write_u64(AREA + 24, 0).unwrap();
        machine.ram.write_u64(AREA + 512, xstate_bv).unwrap();
        machine.ram.write_u64(AREA + 520, xcomp_bv).unwrap();
        machine.ram.write_u64(AREA + 528, reserved).unwrap();
        let fault = machine.fault(xrstor64());
        assert_eq!(fault, Exception::general_protection());
    }
    let mut machine = with_sample_layout(7);
    machine.ram.write_u64(AREA + 24, 0).unwrap();
    assert_eq!(machine.fault(xrstors64()), Exception::general_protection());
}

#[test]
fn areas_must_be_aligned_and_mapped() {
    let mut machine = machine(7);
    machine.regs.rdi += 16;
    assert_eq!(machine.fault(xsave()), Exception::general_protection());
    machine.regs.rdi = super::testing::END_OF_MAP - 64;
    let at = super::testing::END_OF_MAP;
    assert_eq!(machine.fault(xsave()), Exception::page_fault(at, 2));
}

#[test]
fn control_registers_are_checked() {
    let mut machine = machine(7);
    machine.sregs.cr0 |= 1 << 3;
    for code in [xsave(), fxsave64(), ldmxcsr(), fninit(), fwait()] {
        assert_eq!(machine.fault(code), Exception::device_not_available());
    }
    machine.sregs.cr4 &= !(1 << 18);
    assert_eq!(machine.fault(xsave()), Exception::invalid_opcode());
    assert_eq!(machine.fault(xgetbv()), Exception::invalid_opcode());
}

#[test]
fn supervisor_forms_need_privilege() {
    let mut machine = machine(7);
    machine.enter_user_mode();
    assert_eq!(machine.fault(xsaves64()), Exception::general_protection());
}

#[test]
fn fxsave_and_fxrstor_agree_with_each_other() {
    let mut machine = machine(0);
    machine.state.image.put(160, &[7; 256]);
    machine.state.image.put(8, &[1; 16]);
    machine.run(fxsave64()).unwrap();
    assert_eq!(area(&machine)[416..512], [FILLER; 96]);
    let before = machine.state.image.clone();
    machine.state.image = XsaveImage::initial();
    machine.run(fxrstor64()).unwrap();
    assert_eq!(machine.state.image.get(0, 416), before.get(0, 416));
    machine.run(fninit()).unwrap();
    assert_eq!(machine.state.image.number(0, 8), 0x37f);
    assert_eq!(machine.state.image.get(8, 16), [0; 16]);
}

#[test]
fn mxcsr_is_loaded_and_stored() {
    let mut machine = machine(0);
    machine.ram.write(AREA, &0x9f80_u32.to_le_bytes()).unwrap();
    machine.run(ldmxcsr()).unwrap();
    assert_eq!(
        machine.state.image.in_use(),
        2,
        "KVM takes MXCSR over only with SSE"
    );
    machine.regs.rdi = AREA + 8;
    machine.run(stmxcsr()).unwrap();
    assert_eq!(word(&machine, 8) as u32, 0x9f80);
    machine
        .ram
        .write(AREA + 8, &0x1_0000_u32.to_le_bytes())
        .unwrap();
    assert_eq!(machine.fault(ldmxcsr()), Exception::general_protection());
}

#[test]
fn a_pending_x87_exception_is_raised_by_fwait() {
    let mut machine = machine(0);
    machine.run(fwait()).unwrap();
    machine.state.image.put(2, &[0x81]);
    assert_eq!(machine.fault(fwait()), Exception::x87_floating_point());
}

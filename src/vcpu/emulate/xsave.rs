//! XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR and XRSTORS (SDM vol. 1 ch. 13).
//!
//! The vCPU's state is KVM's image in the standard form; what the guest's
//! instruction reads or writes is in either form. Supervisor components (those
//! of IA32_XSS) are not in KVM's image: they count as being in their initial
//! configuration.

use iced_x86::{Instruction, Mnemonic};

use super::cpu::Cpu;
use super::error::Stop;
use super::exception::Exception;
use super::fpu::{self, MXCSR, MXCSR_INITIAL};
use super::state::XsaveImage;
use super::xsave_layout::{AVX, COMPACTED, Component, EXTENDED, HEADER, SSE, X87};

const IA32_XSS: u32 = 0xda0;
/// x87 state but for MXCSR, as (offset, length).
const X87_CONTROL: (usize, usize) = (0, 24);
const X87_REGISTERS: (usize, usize) = (32, 128);
const XMM_REGISTERS: (usize, usize) = (160, 256);
/// MXCSR and its mask.
const MXCSR_AND_MASK: (usize, usize) = (MXCSR, 8);
/// Offset of XCOMP_BV from the area's start.
const XCOMP_BV: usize = HEADER + 8;

/// Executes any of the family.
pub(super) fn execute(cpu: &mut Cpu<'_>, insn: &Instruction) -> Result<(), Stop> {
    cpu.require_xsave()?;
    let form = Form::of(insn.mnemonic()).ok_or(Stop::NotCovered)?;
    if form.supervisor {
        cpu.require_cpl0()?;
    }
    let linear = cpu.aligned_address(insn, 0, 64)?;
    let supported = cpu.state.xcr0()?
        | if form.supervisor {
            cpu.state.msr(IA32_XSS)?.unwrap_or(0)
        } else {
            0
        };
    let area = Area {
        linear,
        wide: form.wide,
        supported,
        requested: supported & (cpu.regs.rdx << 32 | cpu.regs.rax & 0xffff_ffff),
    };
    match form.action {
        Action::Save {
            compacted,
            skip_initial,
        } => area.save(cpu, compacted, skip_initial),
        Action::Restore => area.restore(cpu, form.supervisor),
    }
}

enum Action {
    Save { compacted: bool, skip_initial: bool },
    Restore,
}

struct Form {
    action: Action,
    supervisor: bool,
    /// REX.W: instruction and data pointers of 64 bits.
    wide: bool,
}

impl Form {
    fn of(mnemonic: Mnemonic) -> Option<Self> {
        use Mnemonic::{
            Xrstor, Xrstor64, Xrstors, Xrstors64, Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt,
            Xsaveopt64, Xsaves, Xsaves64,
        };
        let save = |compacted, skip_initial| Action::Save {
            compacted,
            skip_initial,
        };
        let action = match mnemonic {
            Xsave | Xsave64 => save(false, false),
            Xsaveopt | Xsaveopt64 => save(false, true),
            Xsavec | Xsavec64 | Xsaves | Xsaves64 => save(true, true),
            Xrstor | Xrstor64 | Xrstors | Xrstors64 => Action::Restore,
            _ => return None,
        };
        let wide = matches!(
            mnemonic,
            Xsave64 | Xsaveopt64 | Xsavec64 | Xsaves64 | Xrstor64 | Xrstors64
        );
        let supervisor = matches!(mnemonic, Xsaves | Xsaves64 | Xrstors | Xrstors64);
        Some(Self {
            action,
            supervisor,
            wide,
        })
    }
}

/// The guest's XSAVE area and what the instruction may touch of it.
struct Area {
    linear: u64,
    wide: bool,
    /// XCR0, with IA32_XSS for the supervisor forms.
    supported: u64,
    /// RFBM: EDX:EAX masked by what is supported.
    requested: u64,
}

impl Area {
    fn at(&self, offset: usize) -> u64 {
        self.linear.wrapping_add(offset as u64)
    }

    fn save(&self, cpu: &mut Cpu<'_>, compacted: bool, skip_initial: bool) -> Result<(), Stop> {
        let image = cpu.state.xsave()?;
        let mut in_use = image.in_use() & self.requested;
        if compacted && image.number(MXCSR, 4) != u64::from(MXCSR_INITIAL) {
            in_use |= self.requested & SSE;
        }
        let saved = if skip_initial { in_use } else { self.requested };
        let mask = if compacted {
            self.requested | COMPACTED
        } else {
            self.requested
        };
        let layout = &cpu.host.xsave;
        let places: Vec<(Component, usize)> = if compacted {
            layout.compacted(mask).collect()
        } else {
            layout.standard(mask).collect()
        };
        cpu.probe_write(self.linear, layout.area_len(mask, compacted))?;

        let mxcsr_goes = if compacted {
            saved & SSE != 0
        } else {
            self.requested & (SSE | AVX) != 0
        };
        if saved & X87 != 0 {
            cpu.write(self.at(0), &fpu::control_words(&image, self.wide))?;
            self.save_part(cpu, &image, X87_REGISTERS)?;
        }
        if mxcsr_goes {
            self.save_part(cpu, &image, MXCSR_AND_MASK)?;
        }
        if saved & SSE != 0 {
            self.save_part(cpu, &image, XMM_REGISTERS)?;
        }
        for (component, offset) in places {
            if component.bit() & saved != 0 {
                let data = image.get(component.offset, component.size);
                cpu.write(self.at(offset), data)?;
            }
        }
        let kept = if compacted {
            0
        } else {
            cpu.read_number(self.at(HEADER), 8)? & !self.requested
        };
        cpu.write_number(self.at(HEADER), 8, kept | in_use)?;
        if compacted {
            cpu.write_number(self.at(XCOMP_BV), 8, mask)?;
        }
        Ok(())
    }

    fn save_part(
        &self,
        cpu: &mut Cpu<'_>,
        image: &XsaveImage,
        (offset, len): (usize, usize),
    ) -> Result<(), Stop> {
        cpu.write(self.at(offset), image.get(offset, len))
    }

    fn restore(&self, cpu: &mut Cpu<'_>, supervisor: bool) -> Result<(), Stop> {
        let mut fixed = [0; EXTENDED];
        cpu.read(self.linear, &mut fixed)?;
        let area = Fixed(fixed);
        let (xstate_bv, xcomp_bv) = (area.number(HEADER), area.number(XCOMP_BV));
        let compacted = xcomp_bv & COMPACTED != 0;
        if !self.header_is_valid(&area, supervisor) {
            return Err(Exception::general_protection().into());
        }
        let loaded = self.requested & xstate_bv;
        let initialised = self.requested & !xstate_bv;
        let mut image = cpu.state.xsave()?;
        let mxcsr = self.mxcsr(&area, &image, compacted)?;

        let layout = &cpu.host.xsave;
        let places: Vec<(Component, usize)> = if compacted {
            layout.compacted(xcomp_bv).collect()
        } else {
            layout.standard(loaded).collect()
        };
        for (component, offset) in places {
            // A supervisor component has no place in KVM's image.
            if component.bit() & loaded != 0 && component.offset >= EXTENDED {
                let mut data = vec![0; component.size];
                cpu.read(self.at(offset), &mut data)?;
                image.put(component.offset, &data);
            }
        }
        for (component, offset) in cpu.host.xsave.standard(initialised) {
            image.put(offset, &vec![0; component.size]);
        }
        if initialised & X87 != 0 {
            fpu::initialise_x87(&mut image);
        }
        if loaded & X87 != 0 {
            let control = area.part(X87_CONTROL);
            fpu::set_control_words(&mut image, control, self.wide);
            image.put(X87_REGISTERS.0, area.part(X87_REGISTERS));
        }
        if initialised & SSE != 0 {
            image.put(XMM_REGISTERS.0, &[0; XMM_REGISTERS.1]);
        }
        if loaded & SSE != 0 {
            image.put(XMM_REGISTERS.0, area.part(XMM_REGISTERS));
        }
        let in_image = cpu.host.xsave.in_standard_form();
        image.set_in_use(image.in_use() & !self.requested | loaded & in_image);
        if let Some(mxcsr) = mxcsr {
            fpu::set_mxcsr(&mut image, mxcsr);
        }
        Ok(cpu.state.set_xsave(&image)?)
    }

    /// What MXCSR becomes; `None` if it stays.
    fn mxcsr(
        &self,
        area: &Fixed,
        image: &XsaveImage,
        compacted: bool,
    ) -> Result<Option<u32>, Stop> {
        let (asked, present) = if compacted {
            let present = area.number(HEADER) & SSE != 0;
            (self.requested & SSE != 0, present)
        } else {
            (self.requested & (SSE | AVX) != 0, true)
        };
        if !asked {
            return Ok(None);
        }
        if !present {
            return Ok(Some(MXCSR_INITIAL));
        }
        fpu::checked_mxcsr(image, area.number(MXCSR) as u32).map(Some)
    }

    /// The checks of SDM vol. 1 §13.8 and §13.12.
    fn header_is_valid(&self, area: &Fixed, supervisor: bool) -> bool {
        let (xstate_bv, xcomp_bv) = (area.number(HEADER), area.number(XCOMP_BV));
        let zero = |offset, len| area.part((offset, len)).iter().all(|byte| *byte == 0);
        if xcomp_bv & COMPACTED == 0 {
            return !supervisor && xstate_bv & !self.supported == 0 && zero(XCOMP_BV, 16);
        }
        let components = xcomp_bv & !COMPACTED;
        components & !self.supported == 0
            && xstate_bv & !components == 0
            && zero(HEADER + 16, EXTENDED - HEADER - 16)
    }
}

/// Legacy region and header of an area.
struct Fixed([u8; EXTENDED]);

impl Fixed {
    fn part(&self, (offset, len): (usize, usize)) -> &[u8] {
        self.0.get(offset..offset + len).unwrap_or(&[])
    }

    fn number(&self, offset: usize) -> u64 {
        self.part((offset, 8))
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    }
}

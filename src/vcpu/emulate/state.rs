//! The parts of a vCPU's state that only ioctls reach, fetched when an instruction needs them.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_sregs, kvm_xsave};
use kvm_ioctls::VcpuFd;

use super::error::EmulateError;
use super::paging::bits;

/// Size of the XSAVE image KVM exchanges, in bytes: without AMX it always fits.
pub(super) const IMAGE_SIZE: usize = 4096;

/// A vCPU's FPU and extended state, in the standard (non-compacted) XSAVE form.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct XsaveImage(pub Box<[u8; IMAGE_SIZE]>);

impl XsaveImage {
    /// All components in their initial configuration (SDM vol. 1 §13.6).
    pub fn initial() -> Self {
        let mut image = Self(Box::new([0; IMAGE_SIZE]));
        image.put(0, &0x037f_u16.to_le_bytes());
        image.put(24, &0x1f80_u32.to_le_bytes());
        image.put(28, &0xffff_u32.to_le_bytes());
        image
    }

    /// `len` bytes at `offset`, empty if they are not within the image.
    pub fn get(&self, offset: usize, len: usize) -> &[u8] {
        offset
            .checked_add(len)
            .and_then(|end| self.0.get(offset..end))
            .unwrap_or(&[])
    }

    /// Writes `data` at `offset`; nothing if that is not within the image.
    pub fn put(&mut self, offset: usize, data: &[u8]) {
        let end = offset.checked_add(data.len());
        if let Some(to) = end.and_then(|end| self.0.get_mut(offset..end)) {
            to.copy_from_slice(data);
        }
    }

    /// The little-endian number of up to 8 bytes at `offset`.
    pub fn number(&self, offset: usize, len: usize) -> u64 {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(self.get(offset, len)) {
            *to = *from;
        }
        u64::from_le_bytes(word)
    }

    /// XSTATE_BV: the components that are not in their initial configuration.
    pub fn in_use(&self) -> u64 {
        self.number(512, 8)
    }

    /// Writes XSTATE_BV.
    pub fn set_in_use(&mut self, components: u64) {
        self.put(512, &components.to_le_bytes());
    }

    fn from_kvm(xsave: &kvm_xsave) -> Self {
        let mut image = Self(Box::new([0; IMAGE_SIZE]));
        for (to, from) in image.0.chunks_exact_mut(4).zip(&xsave.region) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        image
    }

    fn to_kvm(&self) -> kvm_xsave {
        let mut xsave = kvm_xsave::default();
        for (to, from) in xsave.region.iter_mut().zip(self.0.chunks_exact(4)) {
            *to = from
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        xsave
    }
}

/// State beyond the general and system registers.
pub(super) trait VcpuState {
    /// The extended state.
    fn image(&mut self) -> Result<&XsaveImage, EmulateError>;
    /// The extended state, to be changed.
    fn image_mut(&mut self) -> Result<&mut XsaveImage, EmulateError>;
    /// A copy of the extended state.
    fn xsave(&mut self) -> Result<XsaveImage, EmulateError> {
        self.image().cloned()
    }
    /// Replaces the extended state.
    fn set_xsave(&mut self, image: &XsaveImage) -> Result<(), EmulateError> {
        self.image_mut()?.clone_from(image);
        Ok(())
    }
    /// XCR0.
    fn xcr0(&mut self) -> Result<u64, EmulateError>;
    /// Writes XCR0. False if KVM refuses the value.
    fn set_xcr0(&mut self, value: u64) -> Result<bool, EmulateError>;
    /// A model-specific register; `None` if KVM has none of that index.
    fn msr(&mut self, index: u32) -> Result<Option<u64>, EmulateError>;
    /// Writes a model-specific register. False if KVM has none of that index or refuses the value.
    fn set_msr(&mut self, index: u32, value: u64) -> Result<bool, EmulateError>;
    /// Drops every cached translation of the guest.
    fn flush_tlb(&mut self, sregs: &kvm_sregs) -> Result<(), EmulateError>;
}

/// A vCPU's state as KVM holds it, while the vCPU does not run.
///
/// The extended state and XCR0 are read when first asked for; what has changed
/// of the extended state reaches KVM with [`KvmState::flush`].
pub(super) struct KvmState<'a> {
    vcpu: &'a mut VcpuFd,
    image: Option<XsaveImage>,
    image_changed: bool,
    xcr0: Option<u64>,
}

impl<'a> KvmState<'a> {
    /// Nothing read yet.
    pub fn new(vcpu: &'a mut VcpuFd) -> Self {
        Self {
            vcpu,
            image: None,
            image_changed: false,
            xcr0: None,
        }
    }

    /// Hands KVM the extended state, if it has changed.
    pub fn flush(self) -> Result<(), EmulateError> {
        let Some(image) = self.image.filter(|_| self.image_changed) else {
            return Ok(());
        };
        let xsave = image.to_kvm();
        // SAFETY: KVM reads as many bytes as KVM_CAP_XSAVE2 says, which is
        // 4096, the size of `kvm_xsave`, unless the process has asked for
        // dynamic features (AMX) by arch_prctl; Mayfly never does.
        unsafe { self.vcpu.set_xsave(&xsave) }.map_err(failed("write the FPU state"))
    }

    fn read_image(&mut self) -> Result<&mut XsaveImage, EmulateError> {
        let image = match self.image.take() {
            Some(image) => image,
            None => {
                let xsave = self.vcpu.get_xsave();
                XsaveImage::from_kvm(&xsave.map_err(failed("read the FPU state"))?)
            }
        };
        Ok(self.image.insert(image))
    }
}

fn failed(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> EmulateError {
    move |source| EmulateError::Kvm { action, source }
}

impl VcpuState for KvmState<'_> {
    fn image(&mut self) -> Result<&XsaveImage, EmulateError> {
        self.read_image().map(|image| &*image)
    }

    fn image_mut(&mut self) -> Result<&mut XsaveImage, EmulateError> {
        self.image_changed = true;
        self.read_image()
    }

    fn xcr0(&mut self) -> Result<u64, EmulateError> {
        if let Some(value) = self.xcr0 {
            return Ok(value);
        }
        let xcrs = self.vcpu.get_xcrs().map_err(failed("read XCR0"))?;
        let used = usize::try_from(xcrs.nr_xcrs).unwrap_or(0);
        let xcr0 = xcrs.xcrs.iter().take(used).find(|xcr| xcr.xcr == 0);
        Ok(*self.xcr0.insert(xcr0.map_or(1, |xcr| xcr.value)))
    }

    fn set_xcr0(&mut self, value: u64) -> Result<bool, EmulateError> {
        self.xcr0 = None;
        let mut xcrs = self.vcpu.get_xcrs().map_err(failed("read XCR0"))?;
        xcrs.nr_xcrs = 1;
        if let Some(first) = xcrs.xcrs.first_mut() {
            first.xcr = 0;
            first.value = value;
        }
        Ok(self.vcpu.set_xcrs(&xcrs).is_ok())
    }

    fn msr(&mut self, index: u32) -> Result<Option<u64>, EmulateError> {
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let Ok(mut msrs) = Msrs::from_entries(&[entry]) else {
            return Ok(None);
        };
        let read = self
            .vcpu
            .get_msrs(&mut msrs)
            .map_err(failed("read a model-specific register"))?;
        Ok((read == 1)
            .then(|| msrs.as_slice().first().map(|entry| entry.data))
            .flatten())
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<bool, EmulateError> {
        let entry = kvm_msr_entry {
            index,
            data: value,
            ..Default::default()
        };
        Ok(Msrs::from_entries(&[entry])
            .is_ok_and(|msrs| self.vcpu.set_msrs(&msrs).is_ok_and(|written| written == 1)))
    }

    /// KVM flushes, and re-reads shadowed page tables, when a SET_SREGS changes
    /// CR4: so a bit that the guest does not miss in between is flipped and put back.
    fn flush_tlb(&mut self, sregs: &kvm_sregs) -> Result<(), EmulateError> {
        let mut flipped = *sregs;
        flipped.cr4 ^= bits::CR4_PGE;
        self.vcpu
            .set_sregs(&flipped)
            .and_then(|()| self.vcpu.set_sregs(sregs))
            .map_err(failed("flush the guest's translations"))
    }
}

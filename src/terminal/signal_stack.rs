//! A second stack for a thread's signal handlers: without one, a thread that has
//! overflowed its own ends the process before the terminal is put back.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

/// Room for the largest signal frame (11 KiB with AMX) and the handler.
const SIZE: usize = 64 << 10;

/// The alternate signal stack of the thread that made it, as long as it lives.
#[derive(Debug)]
pub struct SignalStack {
    memory: Box<[MaybeUninit<u8>]>,
    /// It belongs to its thread.
    _not_send: PhantomData<*mut ()>,
}

impl SignalStack {
    /// Gives the calling thread one, unless it has one or the host refuses.
    pub fn install() -> Option<Self> {
        if replace(None)?.ss_flags & libc::SS_DISABLE == 0 {
            return None;
        }
        let mut stack = Self {
            memory: Box::new_uninit_slice(SIZE),
            _not_send: PhantomData,
        };
        let ours = libc::stack_t {
            ss_sp: stack.memory.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: SIZE,
        };
        replace(Some(&ours))?;
        Some(stack)
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        remove();
    }
}

/// Takes the calling thread's stack away, whoever has given it one.
pub(super) fn remove() {
    let none = libc::stack_t {
        ss_sp: ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: SIZE,
    };
    replace(Some(&none));
}

/// Sets the calling thread's stack, if `new` is given; tells what it was until now.
fn replace(new: Option<&libc::stack_t>) -> Option<libc::stack_t> {
    let mut old = libc::stack_t {
        ss_sp: ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null, or names memory that its `SignalStack` keeps until it
    // has taken it back; `old` is valid for writing.
    let result = unsafe { libc::sigaltstack(new, &mut old) };
    (result == 0).then_some(old)
}

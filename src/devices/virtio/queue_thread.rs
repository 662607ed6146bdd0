//! A thread that serves queues of a device, as the device has it.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::control::{Command, Control};

/// Stack of a thread that serves a device, in bytes.
pub const STACK: usize = 256 << 10;

/// A thread that obeys a [`Control`]. It ends when this is dropped.
pub struct QueueThread<S> {
    /// The way to it.
    pub control: Arc<Control<S>>,
    thread: Option<JoinHandle<()>>,
}

impl<S> QueueThread<S> {
    /// Starts a thread `name` whose `life` is to obey `control`.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(
        name: String,
        control: Arc<Control<S>>,
        life: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let thread = Builder::new().name(name).stack_size(STACK).spawn(life)?;
        Ok(Self {
            control,
            thread: Some(thread),
        })
    }

    /// Has all `threads` do the same, and waits until they have.
    pub fn ask_all(threads: &[Self], command: fn() -> Command<S>) {
        for thread in threads {
            // A thread that has ended does nothing any more, which is as good.
            let _ = thread.control.post(command());
        }
        for thread in threads {
            let _ = thread.control.wait_done();
        }
    }
}

impl<S> Drop for QueueThread<S> {
    fn drop(&mut self) {
        // One that has ended need not be asked.
        let _ = self.control.post(Command::End);
        if let Some(thread) = self.thread.take() {
            // Its panics are caught and told of.
            let _ = thread.join();
        }
    }
}

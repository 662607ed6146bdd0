//! Where a guest's time goes: vCPUs sampled, stacks counted (docs/profiling.md).
//!
//! ```text
//!  timer ─ signal ─► vCPU thread leaves KVM_RUN      alarm     what was it doing?
//!                     │ registers, top of the stack  sampler   guest_stack
//!                     ▼
//!                    a table a vCPU                  samples
//!                     │ at the end
//!                     ▼
//!                    callers, names                  unwind    boot::symbols
//!                     ▼
//!                    folded stacks, top table        stacks, fold
//! ```
//!
//! While the guest runs nothing is resolved or written. Without a profile no timer
//! runs, and none of this is touched.

mod activity;
mod alarm;
mod budget;
mod fold;
mod guest_stack;
mod sampler;
mod samples;
mod stacks;
mod unwind;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use thiserror::Error;

use self::fold::Folded;
pub use self::sampler::{Sampler, SamplerPlan};
pub use self::samples::Samples;
use crate::boot::Symbols;
use crate::config::ProfileConfig;

/// Why there is no profile.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The file cannot be opened.
    #[error("cannot open profile '{}'", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a FIFO or the like.
    #[error("cannot write the profile to '{}': it is no regular file; choose another", .0.display())]
    NotRegular(PathBuf),
    /// It cannot be written.
    #[error("cannot write profile '{}'", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// sigaction.
    #[error("cannot install the signal that samples vCPUs")]
    Signal(#[source] vmm_sys_util::errno::Error),
}

/// The profile of a VM: its file is open, and written at the end.
#[derive(Debug)]
pub struct Profile {
    file: File,
    path: PathBuf,
    hz: u32,
    /// The file was not there before, and nothing has been written yet.
    is_new: bool,
    folded: Folded,
}

impl Profile {
    /// Opens the file; what it holds stays until there is something to write.
    ///
    /// # Errors
    /// [`ProfileError`] if it cannot be written to.
    pub fn open(config: &ProfileConfig) -> Result<Self, ProfileError> {
        let (file, is_new) = open(&config.path)?;
        alarm::install_handler().map_err(ProfileError::Signal)?;
        Ok(Self {
            file,
            path: config.path.clone(),
            hz: config.hz,
            is_new,
            folded: Folded::default(),
        })
    }

    /// Samples of each vCPU a second.
    pub fn hz(&self) -> u32 {
        self.hz
    }

    /// Adds what was sampled of a kernel whose names `symbols` has: `vcpus` in their
    /// order. To be called once for each start of the guest.
    pub fn add(&mut self, vcpus: &[Samples], symbols: Option<&Symbols>) {
        self.folded.add(vcpus, symbols);
    }

    /// Writes the file, and returns the table of the busiest functions.
    ///
    /// # Errors
    /// [`ProfileError::Write`].
    pub fn write(mut self) -> Result<String, ProfileError> {
        self.is_new = false;
        let write = || {
            // Not so for devices, which need not be cut.
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
            // Line by line: another copy of it all could be large.
            let mut lines = BufWriter::new(&self.file);
            self.folded.write(&mut lines)?;
            lines.flush()
        };
        write().map_err(|source| ProfileError::Write {
            path: self.path.clone(),
            source,
        })?;
        Ok(self.folded.table(self.hz))
    }
}

impl Drop for Profile {
    /// A VM that never started leaves no file behind.
    fn drop(&mut self) {
        if self.is_new {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The file, and whether it is a new one.
fn open(path: &Path) -> Result<(File, bool), ProfileError> {
    let error = |source| ProfileError::Open {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    // Without blocking, should it be a FIFO.
    options
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    match options.clone().create_new(true).open(path) {
        Ok(file) => return Ok((file, true)),
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(error(source)),
        Err(_) => {}
    }
    let file = options.open(path).map_err(error)?;
    let kind = file.metadata().map_err(error)?.file_type();
    if !kind.is_file() && !kind.is_char_device() {
        return Err(ProfileError::NotRegular(path.to_owned()));
    }
    Ok((file, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path) -> ProfileConfig {
        ProfileConfig {
            path: path.to_owned(),
            hz: 99,
        }
    }

    #[test]
    fn a_profile_that_is_not_written_leaves_things_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        drop(Profile::open(&config(&path)).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "an earlier one, longer than nothing").unwrap();
        drop(Profile::open(&config(&path)).unwrap());
        assert!(path.exists());
        let table = Profile::open(&config(&path)).unwrap().write().unwrap();
        assert!(table.starts_with("mayfly: 0 samples of 0 vCPUs at 99 Hz:\n"));
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| Profile::open(&config(path)).unwrap_err();
        let error = refused(&dir.path().join("no/such/folder"));
        assert!(error.to_string().starts_with("cannot open profile '"));
        assert!(matches!(refused(dir.path()), ProfileError::Open { .. }));
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(matches!(refused(&fifo), ProfileError::Open { .. }));
    }
}

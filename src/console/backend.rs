//! Opening what the serial port leads to.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use thiserror::Error;

use super::descriptor::Descriptor;
use super::input::Input;
use super::output::{Finished, Output, OutputWriter, RING_SIZE};
use super::patient::Patience;
use super::pty;
use crate::config::SerialConfig;

/// Why the serial port cannot be led where the user wants it.
#[derive(Debug, Error)]
pub enum ConsoleError {
    /// The file cannot be written.
    #[error("cannot write the serial output to '{}'", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No pseudo-terminal.
    #[error("cannot make a pseudo-terminal for the serial port; is /dev/pts mounted?")]
    Pty(#[source] io::Error),
}

/// The serial port's far side, ready for use.
#[derive(Debug)]
pub struct Console {
    /// What is typed to the guest, if anything ever is.
    pub input: Option<Input>,
    /// What becomes of what the guest prints.
    pub output: Output,
    /// Where the user finds the pseudo-terminal, if there is one.
    pub pty_path: Option<PathBuf>,
    on_stdout: bool,
    /// Keeps the user's end of the pseudo-terminal open.
    pty_slave: Option<OwnedFd>,
}

impl Console {
    /// Opens what `serial` says: a file is created or emptied, a
    /// pseudo-terminal is made.
    ///
    /// # Errors
    /// [`ConsoleError`]; no thread has been started then.
    pub fn open(serial: &SerialConfig) -> Result<Self, ConsoleError> {
        match serial {
            SerialConfig::Null => Ok(Self::new(Output::discard())),
            SerialConfig::Stdio => Ok(Self::stdio()),
            SerialConfig::File(path) => Ok(Self::new(Output::to(open_file(path)?, RING_SIZE))),
            SerialConfig::Pty => Self::pty(),
        }
    }

    fn new(output: Output) -> Self {
        Self {
            input: None,
            output,
            pty_path: None,
            on_stdout: false,
            pty_slave: None,
        }
    }

    fn stdio() -> Self {
        let target = Descriptor::Standard(rustix::stdio::stdout());
        let source = Descriptor::Standard(rustix::stdio::stdin());
        Self {
            input: Some(Input::new(source, true)),
            on_stdout: true,
            ..Self::new(Output::to(target, RING_SIZE))
        }
    }

    fn pty() -> Result<Self, ConsoleError> {
        let pty = pty::open().map_err(ConsoleError::Pty)?;
        let source = pty.master.try_clone().map_err(ConsoleError::Pty)?;
        Ok(Self {
            input: Some(Input::new(source, false)),
            pty_path: Some(pty.path),
            pty_slave: Some(pty.slave),
            ..Self::new(Output::to(pty.master, RING_SIZE))
        })
    }

    /// Separates what the event loop owns from what stays until the end.
    pub fn split(self) -> (Option<Input>, ConsoleEnd) {
        let end = ConsoleEnd {
            output: self.output,
            on_stdout: self.on_stdout,
            pty_slave: self.pty_slave,
        };
        (self.input, end)
    }
}

/// What is left of a [`Console`] until the VM has ended.
#[derive(Debug)]
pub struct ConsoleEnd {
    /// What becomes of what the guest prints.
    pub output: Output,
    on_stdout: bool,
    pty_slave: Option<OwnedFd>,
}

impl ConsoleEnd {
    /// For the UART: takes what the guest prints. One at a time, see [`Output::writer`].
    pub fn writer(&self) -> OutputWriter {
        self.output.writer()
    }

    /// Waits for the reader, within `patience`. `line_open` then speaks of
    /// stdout: false if the serial port leads elsewhere.
    pub fn finish(self, patience: Patience) -> Finished {
        let finished = self.output.finish(patience);
        if let Some(slave) = &self.pty_slave {
            pty::drain(slave, patience);
        }
        Finished {
            line_open: finished.line_open && self.on_stdout,
            ..finished
        }
    }
}

/// Without blocking: opening a FIFO that nobody reads is an error, not a wait.
fn open_file(path: &Path) -> Result<OwnedFd, ConsoleError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(path)
        .map(OwnedFd::from)
        .map_err(|source| ConsoleError::File {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Read, Write};
    use std::time::Duration;

    #[test]
    fn a_file_is_emptied_and_gets_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial.log");
        fs::write(&path, "old and long").unwrap();
        let console = Console::open(&SerialConfig::File(path.clone())).unwrap();
        let (input, end) = console.split();
        let mut writer = end.writer();
        assert!(input.is_none());
        writer.push(b"new");
        let finished = end.finish(Patience::default());
        assert_eq!((finished.lost, finished.line_open), (0, false));
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        for path in ["/proc/no/such", "/proc", "/proc/version/x"] {
            let serial = SerialConfig::File(path.into());
            let error = Console::open(&serial).unwrap_err();
            assert!(error.to_string().contains(path));
            assert!(std::error::Error::source(&error).is_some());
        }
    }

    #[test]
    fn a_fifo_without_a_reader_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert!(Console::open(&SerialConfig::File(path)).is_err());
    }

    #[test]
    fn a_pty_waits_for_its_user() {
        let console = Console::open(&SerialConfig::Pty).unwrap();
        let path = console.pty_path.clone().unwrap();
        let (input, end) = console.split();
        let mut writer = end.writer();
        let mut input = input.unwrap();
        assert!(input.pollable() && !input.is_keyboard());
        end.output.start_writer().unwrap();
        writer.push(b"login: ");
        {
            let mut user = fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let mut greeting = [0; 7];
            user.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"login: ");
            user.write_all(b"\x01x\n").unwrap();
        }
        // The user has left, which is neither an end nor an error.
        let received = input.receive();
        assert!(!received.ended && !received.quit);
        assert_eq!(input.pending(), b"\x01x\n");
        let finished = end.finish(Patience {
            stall: Duration::from_millis(200),
            ..Patience::default()
        });
        assert_eq!((finished.lost, finished.line_open), (0, false));
    }
}

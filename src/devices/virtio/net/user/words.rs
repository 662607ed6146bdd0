//! What passt says on its standard error.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

/// The most bytes heard at once, and the most characters of a line told.
const MOST_HEARD: usize = 16 << 10;
const MOST_TOLD: usize = 200;

/// The reading end of passt's standard error.
///
/// Neither end waits. While nobody listens, the pipe fills up, and then words are lost
/// instead of passt.
pub(super) struct Words(File);

impl Words {
    /// The pipe, and its writing end.
    ///
    /// # Errors
    /// Those of `pipe2`.
    pub(super) fn pipe() -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Self(reader.into()), writer))
    }

    /// The lines said since the last time, those left out that are of no use to the user.
    pub(super) fn hear(&self) -> Vec<String> {
        let mut heard = vec![0; MOST_HEARD];
        let mut len = 0;
        while let Ok(count) = (&self.0).read(heard.get_mut(len..).unwrap_or_default()) {
            if count == 0 {
                break;
            }
            len += count;
        }
        heard.truncate(len);
        let text = String::from_utf8_lossy(&heard);
        text.lines().filter_map(plain).collect()
    }
}

impl AsFd for Words {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The line as one can print it; `None` for what passt says every time that it starts as
/// root, and for each line on a host without a system log.
fn plain(line: &str) -> Option<String> {
    let noise = line.is_empty()
        || line.starts_with("Don't run as root")
        || (line.starts_with("Failed to send") && line.ends_with("to syslog"));
    let printable = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    (!noise).then(|| line.chars().map(printable).take(MOST_TOLD).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_heard_once_and_without_noise() {
        let (words, writer) = Words::pipe().unwrap();
        assert!(words.hear().is_empty());
        let text = b"Failed to send 46 bytes to syslog\nNo external\troutable\x1b[0m interface\n\n\
            Don't run as root. Changing to nobody...\nlast";
        rustix::io::write(&writer, text).unwrap();
        assert_eq!(words.hear(), ["No external routable [0m interface", "last"]);
        assert!(words.hear().is_empty());
        drop(writer);
        assert!(words.hear().is_empty());
    }

    #[test]
    fn who_speaks_to_nobody_is_not_held_up() {
        let (words, writer) = Words::pipe().unwrap();
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        let mut said = 0;
        while let Ok(count) = rustix::io::write(&writer, &line) {
            said += count;
        }
        assert!(said > MOST_HEARD);
        assert_eq!(words.hear().len(), MOST_HEARD.div_ceil(100));
        assert!(rustix::io::write(&writer, &line).is_ok());
    }
}

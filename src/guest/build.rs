//! Running the build script and hearing its progress.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::{GuestError, Variant};

/// What the script puts before everything it tells a front end.
const MARK: &str = "mayfly-build: ";

/// Runs the script to its end and returns the folder with the guest.
pub fn run(
    script: &Path,
    cache: &Path,
    variant: Variant,
    progress: &mut dyn FnMut(u8, &str),
) -> Result<PathBuf, GuestError> {
    let mut running = start(script, cache, variant).map_err(GuestError::RunScript)?;
    let mut last_words = String::new();
    if let Some(errors) = running.0.stderr.take() {
        for line in BufReader::new(errors).split(b'\n') {
            let line = line.map_err(GuestError::RunScript)?;
            let line = String::from_utf8_lossy(&line);
            let text = line.trim();
            match parse_progress(text) {
                Some((percent, doing)) => progress(percent, doing),
                None if text.is_empty() => {}
                None => last_words = text.strip_prefix(MARK).unwrap_or(text).to_owned(),
            }
        }
    }
    let mut folder = String::new();
    if let Some(mut output) = running.0.stdout.take() {
        output
            .read_to_string(&mut folder)
            .map_err(GuestError::RunScript)?;
    }
    let status = running.0.wait().map_err(GuestError::RunScript)?;
    if !status.success() {
        if last_words.is_empty() {
            last_words = format!("the build script ended with {status}");
        }
        return Err(GuestError::Build {
            variant: variant.name(),
            message: last_words,
        });
    }
    Ok(PathBuf::from(folder.trim_end()))
}

/// The script's process; dropping it ends the build, which then cleans up.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let (Ok(None), Some(pid)) = (self.0.try_wait(), pid_of(&self.0)) {
            // Either may fail if it ended meanwhile; nothing is left to do then.
            let _ = kill_process(pid, Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn start(script: &Path, cache: &Path, variant: Variant) -> std::io::Result<Running> {
    let mut command = Command::new("bash");
    command
        .arg(script)
        .args(["--variant", variant.name(), "--cache"])
        .arg(cache)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C at the terminal ends us, and the kernel then ends the script:
        // one way out, whatever ends us.
        .process_group(0);
    // SAFETY: between fork and exec the closure makes one system call (prctl)
    // and touches no memory, lock or allocator of the parent.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
    }
    command.spawn().map(Running)
}

/// Reads a line `mayfly-build: PERCENT TEXT`.
fn parse_progress(line: &str) -> Option<(u8, &str)> {
    let (percent, text) = line.strip_prefix(MARK)?.split_once(' ')?;
    let percent = percent.parse().ok().filter(|percent| *percent <= 100)?;
    Some((percent, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn run_text(text: &str) -> (Result<PathBuf, GuestError>, Vec<(u8, String)>) {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, text).unwrap();
        let mut heard = Vec::new();
        let result = run(
            &script,
            folder.path(),
            Variant::Full,
            &mut |percent, doing| {
                heard.push((percent, doing.to_owned()));
            },
        );
        (result, heard)
    }

    #[test]
    fn progress_and_result_are_heard() {
        let (result, heard) =
            run_text("echo mayfly-build: 5 unpacking it >&2; echo noise >&2; echo /some/folder");
        assert_eq!(result.unwrap(), PathBuf::from("/some/folder"));
        assert_eq!(heard, [(5, "unpacking it".to_owned())]);
    }

    #[test]
    fn a_failure_is_told_in_the_scripts_last_words() {
        let (result, _) =
            run_text("echo mayfly-build: 5 on >&2; echo mayfly-build: no network >&2; exit 1");
        assert_eq!(
            result.unwrap_err().to_string(),
            "cannot build the full guest: no network"
        );
        let (result, _) = run_text("kill -9 $$");
        assert!(result.unwrap_err().to_string().contains("signal"));
    }

    #[test]
    fn a_build_given_up_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        let mark = folder.path().join("cleaned");
        let text = format!(
            "trap 'kill $!; touch {}; exit 1' TERM; sleep 60 & echo ready >&2; wait $!",
            mark.display()
        );
        fs::write(&script, text).unwrap();
        let mut running = start(&script, folder.path(), Variant::Full).unwrap();
        let mut line = String::new();
        BufReader::new(running.0.stderr.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        drop(running);
        assert!(mark.exists());
    }

    #[test]
    fn only_progress_lines_are_progress() {
        assert_eq!(
            parse_progress("mayfly-build: 16 compiling the kernel"),
            Some((16, "compiling the kernel"))
        );
        for other in [
            "mayfly-build: 101 x",
            "mayfly-build: no network",
            "16 compiling",
            "",
        ] {
            assert_eq!(parse_progress(other), None);
        }
    }
}

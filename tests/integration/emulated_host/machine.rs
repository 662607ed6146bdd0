//! Runs one command on the emulated host: QEMU with its emulated SVM, a root disk
//! made from a [`RootTree`], and the command's output and exit status back; or up to
//! a moment at which the host's power is cut.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::root::RootTree;

/// Lines of output that a failure shows.
const TAIL: usize = 60;

/// How often a watched host says that it is alive, and how long it may be silent.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often a host gets a byte on its second serial port, which nobody reads there.
///
/// QEMU 10.0 now and then forgets an interrupt that comes while its emulated processor goes
/// into a guest or out of it. If that was the host's timer, whose next one the host would
/// only have set then, the guest's vCPU runs on for ever. Any other interrupt brings the
/// forgotten one along.
const NUDGE: Duration = Duration::from_secs(1);
const STILL: Duration = Duration::from_secs(60);
/// The socket of a watched host's monitor.
const MONITOR: &str = "monitor";
const STOOD_STILL: &str = "standing still, all of it,";

/// An emulated host to be; the fields are public so that a test says only what it
/// wants different from [`EmulatedHost::new`].
pub struct EmulatedHost {
    /// Directory with the kernel and initrd (what guest-images/host/build.sh prints).
    pub files: PathBuf,
    pub cpus: u32,
    pub memory_mib: u32,
    /// Count instructions: one is one nanosecond of the host's clock and one tick
    /// of its TSC. Needs `cpus` to be 1.
    pub icount: bool,
    /// After this the host is killed and the run has failed.
    pub timeout: Duration,
    /// Kernel modules to load beyond those that every host loads.
    pub modules: Vec<String>,
    /// More words for its kernel's command line.
    pub kernel_words: Vec<String>,
    /// More arguments for QEMU: devices, networks.
    pub qemu_args: Vec<String>,
    /// Where the command runs.
    pub directory: PathBuf,
    /// Its environment, beyond PATH and HOME.
    pub environment: Vec<(String, String)>,
    /// Options of `-drive` for each disk beyond the root disk.
    disks: Vec<String>,
    /// Whether the host says all the time that it is alive.
    watched: bool,
}

/// What a command did.
pub struct Outcome {
    pub status: i32,
    /// Standard output and error as they came.
    pub output: String,
    /// From QEMU's start to its end.
    pub elapsed: Duration,
}

impl EmulatedHost {
    /// A host of one processor and 1 GiB with a minute to live.
    pub fn new(files: &Path) -> Self {
        Self {
            files: files.to_path_buf(),
            cpus: 1,
            memory_mib: 1024,
            icount: false,
            timeout: Duration::from_secs(60),
            modules: Vec::new(),
            kernel_words: Vec::new(),
            qemu_args: Vec::new(),
            directory: PathBuf::from("/"),
            environment: Vec::new(),
            disks: Vec::new(),
            watched: false,
        }
    }

    /// Gives the host a disk, QEMU's `-drive` with these options (`file=PATH`), raw and
    /// virtio, and returns its name there. Its errors are the host's to see.
    pub fn add_disk(&mut self, options: &str) -> String {
        self.disks.push(format!(
            "{options},format=raw,if=virtio,rerror=report,werror=report"
        ));
        // The root disk is vda.
        let letter = char::from(b'a' + u8::try_from(self.disks.len()).expect("few disks"));
        format!("/dev/vd{letter}")
    }

    /// [`run`](Self::run), over again if the host stands still all the same ([`NUDGE`]), and
    /// nothing runs in it any more. Whatever hangs *in* the host is found out by the
    /// tests there, within their own limits.
    ///
    /// # Errors
    ///
    /// As of `run`.
    pub fn run_watched(
        &mut self,
        root: &dyn Fn() -> RootTree,
        command: &[&str],
    ) -> Result<Outcome, String> {
        self.watched = true;
        let first = self.run(root(), command);
        match first {
            Err(told) if told.contains(STOOD_STILL) => {
                println!("{told}\n-- once more:");
                self.run(root(), command)
            }
            outcome => outcome,
        }
    }

    /// Boots the host on `root`, runs `command` there and shuts it down.
    ///
    /// # Errors
    ///
    /// One text, with the end of the output, if the host did not come to report
    /// the command's exit status in time.
    pub fn run(&self, root: RootTree, command: &[&str]) -> Result<Outcome, String> {
        let start = Instant::now();
        let past = self.boot(root, command, &mut |_| false)?;
        // The line that guest-images/host/root-init writes.
        let status = past.console.lines().find_map(|line| {
            line.strip_prefix("emulated-host: exit ")?
                .trim()
                .parse()
                .ok()
        });
        match (past.end, status) {
            (End::Ended, Some(status)) => Ok(Outcome {
                status,
                output: past.output,
                elapsed: start.elapsed(),
            }),
            (End::StoodStill, _) => Err(past.told(STOOD_STILL)),
            (End::TimedOut, _) => Err(past.told(&format!("not done after {:?}", self.timeout))),
            _ => Err(past.told("dead before its time")),
        }
    }

    /// Boots the host on `root` and runs `command` there until `enough` says so of the
    /// output so far; then the host's power is cut. Returns the output.
    ///
    /// # Errors
    ///
    /// One text, with the end of the output, if the host ended by itself or that
    /// moment did not come in time.
    pub fn run_until(
        &self,
        root: RootTree,
        command: &[&str],
        enough: &mut dyn FnMut(&str) -> bool,
    ) -> Result<String, String> {
        let past = self.boot(root, command, enough)?;
        match past.end {
            End::PowerCut => Ok(past.output),
            End::StoodStill => Err(past.told(STOOD_STILL)),
            End::TimedOut => Err(past.told(&format!("not as far after {:?}", self.timeout))),
            End::Ended => Err(past.told("at its end before its power was cut")),
        }
    }

    fn boot(
        &self,
        mut root: RootTree,
        command: &[&str],
        enough: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Past, String> {
        root.write(
            Path::new("/emulated-host/command"),
            &self.command_file(command),
        );
        let image = root.make_image();
        let console_file = root.scratch().join("console");
        let error_file = root.scratch().join("qemu-errors");
        let mut qemu = self
            .qemu(&image, &console_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&error_file).map_err(|error| error.to_string())?)
            .spawn()
            .map_err(|error| format!("cannot start QEMU (package qemu-system-x86): {error}"))?;
        let monitor = root.scratch().join(MONITOR);
        let (output, end, registers) =
            self.collect_output(&mut qemu, &console_file, &monitor, enough);
        let _ = qemu.wait();
        let console = fs::read(&console_file).unwrap_or_default();
        Ok(Past {
            command: format!("{command:?}"),
            console: String::from_utf8_lossy(&console).into_owned(),
            output,
            errors: qemu_errors(&error_file) + &registers,
            end,
        })
    }

    /// Passes on what QEMU prints until it ends; it is killed when its time is over,
    /// or at once when `enough` says so.
    fn collect_output(
        &self,
        qemu: &mut Child,
        console: &Path,
        monitor: &Path,
        enough: &mut dyn FnMut(&str) -> bool,
    ) -> (String, End, String) {
        let start = Instant::now();
        // The console's length, and when it was last another one.
        let mut life = (0, start);
        let (reader, receiver) = read_along(qemu.stdout.take().expect("QEMU's output is a pipe"));
        let mut nudges = qemu.stdin.take();
        let mut nudged = start;
        let mut output = String::new();
        let end = loop {
            let left = self.timeout.saturating_sub(start.elapsed());
            let length = fs::metadata(console).map_or(0, |file| file.len());
            if length != life.0 {
                life = (length, Instant::now());
            }
            if self.watched && life.1.elapsed() > STILL {
                break End::StoodStill;
            }
            if nudged.elapsed() >= NUDGE && !self.icount {
                nudged = Instant::now();
                // Who has ended, or takes none now, needs none.
                let _ = nudges.as_mut().map(|pipe| pipe.write_all(b"\n"));
            }
            match receiver.recv_timeout(left.min(NUDGE)) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    print!("{text}");
                    output.push_str(&text);
                    if enough(&output) {
                        break End::PowerCut;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break End::Ended,
                Err(RecvTimeoutError::Timeout) if left > NUDGE => {}
                Err(RecvTimeoutError::Timeout) => break End::TimedOut,
            }
        };
        // A few times, to tell a loop from a halt.
        let registers = match end {
            End::StoodStill => (0..3).map(|_| registers(monitor)).collect(),
            _ => String::new(),
        };
        if end != End::Ended {
            let _ = qemu.kill();
        }
        let _ = reader.join();
        (output, end, registers)
    }

    fn qemu(&self, image: &Path, console_file: &Path) -> Command {
        // QEMU must not outlive this test, however that ends.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        qemu.args(["-M", "q35", "-cpu", "EPYC,+svm,+npt"]);
        if self.icount {
            qemu.args(["-accel", "tcg,thread=single"]);
            qemu.args(["-icount", "shift=0,sleep=off"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi"]);
        }
        qemu.args(["-smp", &self.cpus.to_string()]);
        qemu.args(["-m", &self.memory_mib.to_string()]);
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        qemu.arg("-serial");
        qemu.arg(format!("file:{}", console_file.display()));
        qemu.args(["-serial", "stdio"]);
        if self.watched {
            let monitor = console_file.with_file_name(MONITOR);
            qemu.arg("-monitor");
            qemu.arg(format!("unix:{},server=on,wait=off", monitor.display()));
        }
        qemu.arg("-drive");
        qemu.arg(format!(
            "file={},format=raw,if=virtio,cache=unsafe",
            image.display()
        ));
        for disk in &self.disks {
            qemu.args(["-drive", disk]);
        }
        qemu.arg("-kernel").arg(self.files.join("vmlinuz"));
        qemu.arg("-initrd").arg(self.files.join("initrd.cpio"));
        qemu.arg("-append").arg(format!(
            "console=ttyS0 quiet reboot=t panic=-1 mitigations=off MODULES={} {}",
            self.modules.join(","),
            self.kernel_words.join(" ")
        ));
        qemu.args(&self.qemu_args);
        qemu
    }

    /// A shell script that becomes the command.
    fn command_file(&self, command: &[&str]) -> String {
        let mut script = format!(
            "cd {} || exit 126\n",
            quote(&self.directory.to_string_lossy())
        );
        for (name, value) in &self.environment {
            script.push_str(&format!("export {name}={}\n", quote(value)));
        }
        if self.watched {
            let seconds = HEARTBEAT.as_secs();
            script.push_str(&format!(
                "while sleep {seconds}; do echo alive >/dev/ttyS0; done &\n"
            ));
        }
        let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
        script.push_str(&format!("exec {}\n", words.join(" ")));
        script
    }
}

/// How a host came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ended,
    TimedOut,
    StoodStill,
    PowerCut,
}

/// What is left of a host.
struct Past {
    command: String,
    console: String,
    output: String,
    errors: String,
    end: End,
}

impl Past {
    /// A failure, with what a reader needs to understand it.
    fn told(&self, what: &str) -> String {
        format!(
            "the emulated host was {what} running {}\n\
             {}-- the end of its console:\n{}\n-- the end of its output:\n{}",
            self.command,
            self.errors,
            tail(&self.console),
            tail(&self.output),
        )
    }
}

/// What QEMU's monitor says of the emulated processor: for whoever wonders why it stands still.
fn registers(monitor: &Path) -> String {
    let answer = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(monitor)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"info registers\n")?;
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            text.extend_from_slice(&buffer[..count]);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    match answer() {
        Ok(text) => text
            .lines()
            .filter(|line| {
                ["RIP=", "CS ", "CR0=", "EFER="]
                    .iter()
                    .any(|name| line.contains(name))
            })
            .map(|line| format!("{}\n", line.trim()))
            .collect(),
        Err(error) => format!("QEMU's monitor does not answer: {error}\n"),
    }
}

/// Reads QEMU's output as it comes.
fn read_along(mut stdout: ChildStdout) -> (JoinHandle<()>, Receiver<Vec<u8>>) {
    let (sender, receiver) = channel();
    let reader = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            let _ = sender.send(buffer[..count].to_vec());
        }
    });
    (reader, receiver)
}

/// `text` as one word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The last [`TAIL`] lines.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// What QEMU had to say, without its warnings about features of the processor
/// model that it lacks.
fn qemu_errors(file: &Path) -> String {
    fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.contains("TCG doesn't support requested feature"))
        .map(|line| format!("{line}\n"))
        .collect()
}

//! Runs one command on the emulated host: QEMU with its emulated SVM, a root disk
//! made from a [`RootTree`], and the command's output and exit status back.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::root::RootTree;

/// Lines of output that a failure shows.
const TAIL: usize = 60;

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
    /// More arguments for QEMU: devices, networks, disks.
    pub qemu_args: Vec<String>,
    /// Where the command runs.
    pub directory: PathBuf,
    /// Its environment, beyond PATH and HOME.
    pub environment: Vec<(String, String)>,
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
            qemu_args: Vec::new(),
            directory: PathBuf::from("/"),
            environment: Vec::new(),
        }
    }

    /// Boots the host on `root`, runs `command` there and shuts it down.
    ///
    /// # Errors
    ///
    /// One text, with the end of the output, if the host did not come to report
    /// the command's exit status in time.
    pub fn run(&self, mut root: RootTree, command: &[&str]) -> Result<Outcome, String> {
        let start = Instant::now();
        root.write(
            Path::new("/emulated-host/command"),
            &self.command_file(command),
        );
        let image = root.make_image();
        let console_file = root.scratch().join("console");
        let error_file = root.scratch().join("qemu-errors");
        let mut qemu = self
            .qemu(&image, &console_file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&error_file).map_err(|error| error.to_string())?)
            .spawn()
            .map_err(|error| format!("cannot start QEMU (package qemu-system-x86): {error}"))?;
        let (output, in_time) = self.collect_output(&mut qemu, start);
        let _ = qemu.wait();
        let console = fs::read(&console_file).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        // The line that guest-images/host/root-init writes.
        let status = console.lines().find_map(|line| {
            line.strip_prefix("emulated-host: exit ")?
                .trim()
                .parse()
                .ok()
        });
        match status {
            Some(status) if in_time => Ok(Outcome {
                status,
                output,
                elapsed: start.elapsed(),
            }),
            _ => Err(format!(
                "the emulated host {} running {command:?}\n\
                 {}-- the end of its console:\n{}\n-- the end of its output:\n{}",
                if in_time {
                    "died".to_string()
                } else {
                    format!("was not done after {:?}", self.timeout)
                },
                qemu_errors(&error_file),
                tail(&console),
                tail(&output),
            )),
        }
    }

    /// Passes on what QEMU prints until it ends, or kills it when its time is
    /// over; the flag says that it ended.
    fn collect_output(&self, qemu: &mut Child, start: Instant) -> (String, bool) {
        let mut stdout = qemu.stdout.take().expect("QEMU's output is a pipe");
        let (sender, receiver) = channel::<Vec<u8>>();
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                let _ = sender.send(buffer[..count].to_vec());
            }
        });
        let mut output = Vec::new();
        let in_time = loop {
            let left = self.timeout.saturating_sub(start.elapsed());
            match receiver.recv_timeout(left) {
                Ok(bytes) => {
                    print!("{}", String::from_utf8_lossy(&bytes));
                    output.extend(bytes);
                }
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        if !in_time {
            let _ = qemu.kill();
        }
        let _ = reader.join();
        (String::from_utf8_lossy(&output).into_owned(), in_time)
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
        qemu.arg("-drive");
        qemu.arg(format!(
            "file={},format=raw,if=virtio,cache=unsafe",
            image.display()
        ));
        qemu.arg("-kernel").arg(self.files.join("vmlinuz"));
        qemu.arg("-initrd").arg(self.files.join("initrd.cpio"));
        qemu.arg("-append").arg(format!(
            "console=ttyS0 quiet reboot=t panic=-1 mitigations=off MODULES={}",
            self.modules.join(",")
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
        let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
        script.push_str(&format!("exec {}\n", words.join(" ")));
        script
    }
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

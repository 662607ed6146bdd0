//! The machines that are compared: the same bare guest with the same disk, under
//! Mayfly and under QEMU.

use std::path::Path;
use std::process::Command;

use mayfly::memory::layout::VIRTIO_MMIO_START;

use super::guests;
use super::microvm;

/// What is asked of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Bytes a request.
    pub block: u64,
    /// Requests in flight.
    pub depth: u64,
    pub write: bool,
    pub random: bool,
    pub count: u64,
}

impl Workload {
    pub const fn new(block: u64, depth: u64, write: bool, random: bool, count: u64) -> Self {
        Self {
            block,
            depth,
            write,
            random,
            count,
        }
    }

    /// What the guest is told of it.
    pub fn words(&self) -> String {
        format!(
            "bare.block={} bare.depth={} bare.count={} bare.warm={} bare.write={} bare.random={}",
            self.block,
            self.depth,
            self.count,
            self.count / 10,
            u8::from(self.write),
            u8::from(self.random),
        )
    }
}

/// A guest and its disk.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The bare guest that makes the load.
    pub guest: &'static str,
    pub image: &'a Path,
    /// Past the host's page cache.
    pub direct: bool,
    /// What the guest is told.
    pub words: &'a str,
}

impl Machine<'_> {
    /// Under Mayfly.
    pub fn mayfly(&self, aio: &str, transport: &str) -> Command {
        let mut line = self.words.to_owned();
        if transport == "mmio" {
            line = format!("bare.mmio={VIRTIO_MMIO_START} {line}");
        }
        let cache = if self.direct { "none" } else { "writeback" };
        let mut command = Command::new(env!("CARGO_BIN_EXE_mayfly"));
        command
            .args(["run", "--json", "--memory", "64M", "--transport", transport])
            .arg("--disk")
            .arg(format!(
                "path={},format=raw,cache={cache},aio={aio}",
                self.image.display()
            ))
            .arg("--kernel")
            .arg(guests::bare(self.guest))
            .args(["--cmdline", &line]);
        command
    }

    /// Under QEMU's smallest machine, with a thread of its own for the disk. `cpu` is
    /// its processor model, `iothread` has more properties of the thread.
    pub fn qemu(&self, cpu: &str, iothread: &str) -> Command {
        let direct = if self.direct { "on" } else { "off" };
        let mut command = microvm::command(cpu, &guests::bare(self.guest), self.words);
        command
            .arg("-object")
            .arg(format!("iothread,id=disk-thread{iothread}"))
            .arg("-blockdev")
            .arg(format!(
                "driver=file,node-name=file,filename={},aio=io_uring,cache.direct={direct}",
                self.image.display()
            ))
            .args(["-blockdev", "driver=raw,node-name=disk,file=file"])
            .arg("-device")
            .arg("virtio-blk-device,drive=disk,iothread=disk-thread,bus=virtio-mmio-bus.0");
        command
    }
}

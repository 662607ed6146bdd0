//! The machines that are compared: the same bare guest at the same kind of tap, under
//! Mayfly and under QEMU.

use std::process::Command;

use mayfly::memory::layout::VIRTIO_MMIO_START;

use super::common::guests;
use super::microvm;

/// What the guest does (guest-images/bare/net_load.inc).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Send,
    Receive,
    /// One frame at a time, there and back.
    Return,
}

/// What is asked of the network.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub mode: Mode,
    /// Bytes of a frame.
    pub size: u64,
    /// TCP segments, which the other side may cut up.
    pub big: bool,
    pub count: u64,
}

impl Workload {
    pub const fn new(mode: Mode, size: u64, count: u64) -> Self {
        Self {
            mode,
            size,
            big: false,
            count,
        }
    }

    /// Segments of 45 pieces that fill a frame for Ethernet each.
    pub const fn big(mode: Mode, count: u64) -> Self {
        Self {
            mode,
            size: 65_214,
            big: true,
            count,
        }
    }

    /// Frames beside those that are measured.
    pub fn warm(&self) -> u64 {
        self.count / 10
    }

    /// What the guest is told of it.
    pub fn words(&self) -> String {
        format!(
            "bare.mode={} bare.size={} bare.gso={} bare.buffer={} bare.count={} bare.warm={}",
            self.mode as u8,
            self.size,
            u8::from(self.big),
            if self.big { 4096 } else { 2048 },
            self.count,
            self.warm(),
        )
    }
}

/// A guest and its tap.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The bare guest that makes the load.
    pub guest: &'static str,
    /// A persistent tap of one queue, with headers.
    pub tap: &'a str,
    /// What the guest is told.
    pub words: &'a str,
}

impl Machine<'_> {
    /// Under Mayfly.
    pub fn mayfly(&self, transport: &str) -> Command {
        let mut line = self.words.to_owned();
        if transport == "mmio" {
            line = format!("bare.mmio={VIRTIO_MMIO_START} {line}");
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_mayfly"));
        command
            .args(["run", "--json", "--memory", "64M", "--transport", transport])
            .args(["--net", &format!("tap={}", self.tap)])
            .arg("--kernel")
            .arg(guests::bare(self.guest))
            .args(["--cmdline", &line]);
        command
    }

    /// Under QEMU's smallest machine, served by QEMU itself. `cpu` is its processor
    /// model.
    pub fn qemu(&self, cpu: &str) -> Command {
        let mut command = microvm::command(cpu, &guests::bare(self.guest), self.words);
        command
            .args(["-global", "virtio-mmio.ioeventfd=on", "-netdev"])
            .arg(format!(
                "tap,id=net,ifname={},script=no,downscript=no,vhost=off",
                self.tap
            ))
            .args([
                "-device",
                "virtio-net-device,netdev=net,bus=virtio-mmio-bus.0",
            ]);
        command
    }
}

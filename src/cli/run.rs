//! `mayfly run`: boot a VM and wait for its end.

use std::ffi::OsStr;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args};

use super::{default_guest, exit_codes, logging, say};
use crate::config::shares::{CpuLimit, CpuPins, CpuWeight};
use crate::config::{
    self, BootProtocol, CmdlineConfig, CmdlineMode, ConfigError, CpuModel, CpusConfig, DiskConfig,
    Irqchip, Kaslr, MemoryConfig, NetConfig, ProfileConfig, SerialConfig, SharesConfig, Transport,
    UnpackInitrd, VmConfig,
};
use crate::one_line::one_line;
use crate::vm::exit::ExitReason;
use crate::vm::{self, Report};

/// Stands for the default guest's kernel until it is known where that lies.
const DEFAULT_GUEST: &str = "default guest";

/// The flags of `mayfly run`.
#[derive(Debug, Args)]
#[command(after_help = exit_codes::table())]
pub(super) struct RunArgs {
    /// Kernel: vmlinux or bzImage; without it the default guest boots
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Unpack a compressed initrd on the host: auto (on kvm-pvm hosts), always, never
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_value = "auto", default_missing_value = "always")]
    unpack_initrd: UnpackInitrd,

    /// Words added to the default kernel command line
    #[arg(
        long,
        value_name = "STRING",
        allow_hyphen_values = true,
        conflicts_with = "cmdline_only"
    )]
    cmdline: Option<String>,

    /// The whole kernel command line, instead of the default
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    cmdline_only: Option<String>,

    /// Number of virtual CPUs, and after commas sockets=, cores= (of a socket), threads= (of
    /// a core); one socket of N cores without them
    #[arg(
        long,
        value_name = "N,…",
        default_value = "1",
        verbatim_doc_comment,
        allow_negative_numbers = true
    )]
    cpus: CpusConfig,

    /// Guest memory, for example 512M or 2G, taken from the host only when touched; and after
    /// commas hugepages=2M|1G|thp, shared, mergeable, prealloc, lock, numa=NODE
    #[arg(
        long,
        value_name = "SIZE,…",
        default_value = "256M",
        verbatim_doc_comment,
        allow_negative_numbers = true
    )]
    memory: MemoryConfig,

    /// The serial port: stdio, null, pty or file=PATH
    #[arg(long, value_name = "WHERE", default_value = "stdio",
          value_parser = OsStringValueParser::new().try_map(|text| serial(&text)))]
    serial: SerialConfig,

    /// A disk, the first is /dev/vda: path=FILE, and after commas readonly or ephemeral,
    /// format=, cache=, aio=, backing=, queues=, serial=, iops=, bandwidth= (may be repeated)
    #[arg(long = "disk", value_name = "path=FILE,…", verbatim_doc_comment,
          value_parser = OsStringValueParser::new().try_map(|text| DiskConfig::parse(&text)))]
    disks: Vec<DiskConfig>,

    /// A network interface, the first is eth0: user (needs no privileges), tap=NAME, tap=new
    /// or fd=N, and after commas forward=tcp:HOST:GUEST (with user), mac=, queues=, mtu=,
    /// offload=, bandwidth=, packets=, ip=ADDRESS/PREFIX, gw= (may be repeated)
    #[arg(long = "net", value_name = "user|tap=NAME,…", verbatim_doc_comment,
          value_parser = NetConfig::parse)]
    nets: Vec<NetConfig>,

    /// The VM's name, from which its interfaces have their MAC addresses
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// How the guest finds its virtio devices: pci or mmio
    #[arg(long, value_name = "KIND", default_value = "pci")]
    transport: Transport,

    /// Where ephemeral disks keep what the guest writes (in memory without it)
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,

    /// Give the guest a virtio entropy device
    #[arg(long)]
    rng: bool,

    /// How the kernel is entered: auto, linux64 or pvh
    #[arg(long, value_name = "PROTOCOL", default_value = "auto")]
    boot_protocol: BootProtocol,

    /// Interrupt controllers: auto, split (fast start) or kernel (with PIC and PIT)
    #[arg(long, value_name = "KIND", default_value = "auto")]
    irqchip: Irqchip,

    /// The processor that the guest sees: host, x86-64-v2, x86-64-v3 or x86-64-v4
    #[arg(long = "cpu", value_name = "MODEL", default_value = "host")]
    cpu_model: CpuModel,

    /// Host CPUs that virtual CPUs run on: VCPU:HOST, separated by commas; HOST is a number,
    /// a range such as 2-3, or several of these with + between them
    #[arg(long, value_name = "0:2,1:3,…", verbatim_doc_comment)]
    cpu_pin: Option<CpuPins>,

    /// The VM's weight among those that want the same host CPUs, 1 to 10000; others have 100
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_weight: Option<CpuWeight>,

    /// The VM's processor time at most, in percent of one host CPU
    #[arg(long, value_name = "PERCENT%", allow_negative_numbers = true)]
    cpu_limit: Option<CpuLimit>,

    /// Put the kernel at a random address: auto (if it can be moved), on, off
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_value = "auto", default_missing_value = "on")]
    kaslr: Kaslr,

    /// Start again when the guest resets itself, instead of ending; disks and networks stay
    #[arg(long)]
    reboot: bool,

    /// Sample what the vCPUs do, 99 times a second or hz= times: folded stacks for flame graphs
    /// go to the file, a table of the busiest functions to stderr
    #[arg(long, value_name = "FILE[,hz=N]", verbatim_doc_comment,
          value_parser = OsStringValueParser::new().try_map(|text| ProfileConfig::parse(&text)))]
    profile: Option<ProfileConfig>,

    /// Stop the VM after a while, for example 90s or 5m
    #[arg(long, value_name = "DURATION", value_parser = config::duration::parse)]
    timeout: Option<Duration>,

    /// Print one JSON object about the run as the last line of stdout
    #[arg(long)]
    json: bool,

    /// Say what is done: the final command line, the boot protocol, … (-vv: details)
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

fn serial(text: &OsStr) -> Result<SerialConfig, ConfigError> {
    SerialConfig::parse(text)
}

/// Boots what `args` describe; the exit code is the VM's.
pub(super) fn run(args: RunArgs, started: Instant) -> u8 {
    logging::init(args.verbose);
    let json = args.json;
    let report = match prepare(args) {
        Ok(config) => vm::run(&config, started),
        Err(reason) => Report::of_failure(reason, started),
    };
    tell(&report, json)
}

/// Tells the user how it ended and gives the exit code.
pub(super) fn tell(report: &Report, json: bool) -> u8 {
    // The prompt, or our own line, is not to continue the guest's last one.
    if report.line_open && !json && stdout().is_terminal() {
        say::on_stdout(report.line_break());
    }
    if let Some(profile) = &report.profile {
        say::on_stderr(profile);
    }
    if let Some(summary) = report.summary() {
        say::on_stderr(&summary);
    }
    if json {
        say::on_stdout(&report.json_line());
    }
    report.reason.code()
}

/// Flags to a configuration, with the default guest where no kernel is given.
fn prepare(args: RunArgs) -> Result<VmConfig, ExitReason> {
    let default_guest = args.kernel.is_none();
    let mut config = args
        .into_config()
        .validated()
        .map_err(|error| ExitReason::Usage {
            message: one_line(&error),
        })?;
    if default_guest {
        default_guest::choose(&mut config).map_err(|error| ExitReason::HostError {
            message: one_line(&error),
        })?;
    }
    Ok(config)
}

impl RunArgs {
    fn into_config(self) -> VmConfig {
        let cmdline = match (self.cmdline_only, self.cmdline) {
            (Some(text), _) => CmdlineConfig {
                mode: CmdlineMode::Replace,
                text,
            },
            (None, text) => CmdlineConfig {
                mode: CmdlineMode::Extend,
                text: text.unwrap_or_default(),
            },
        };
        VmConfig {
            initrd: self.initrd,
            unpack_initrd: self.unpack_initrd,
            cmdline,
            boot_protocol: self.boot_protocol,
            cpus: self.cpus,
            memory: self.memory,
            irqchip: self.irqchip,
            serial: self.serial,
            disks: self.disks,
            nets: self.nets,
            name: self.name,
            transport: self.transport,
            scratch_dir: self.scratch_dir,
            rng: self.rng,
            cpu_model: self.cpu_model,
            kaslr: self.kaslr,
            reboot: self.reboot,
            profile: self.profile,
            shares: SharesConfig {
                pin: self.cpu_pin.unwrap_or_default(),
                weight: self.cpu_weight,
                limit: self.cpu_limit,
            },
            timeout: self.timeout,
            ..VmConfig::new(self.kernel.unwrap_or_else(|| DEFAULT_GUEST.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::net::NetBackend;
    use clap::Parser;

    fn config(flags: &[&str]) -> VmConfig {
        let args = ["mayfly", "run"].iter().chain(flags);
        match Cli::try_parse_from(args).unwrap().command {
            Command::Run(args) => args.into_config(),
            Command::Doctor(_) | Command::Image(_) => unreachable!("run was asked for"),
        }
    }

    #[test]
    fn no_flags_are_the_default_machine() {
        assert_eq!(config(&[]), VmConfig::new(DEFAULT_GUEST.into()));
    }

    #[test]
    fn every_flag_arrives() {
        let line = "--kernel k --initrd i --unpack-initrd=never --cmdline -- --cpus 4,threads=2 \
                    --memory 1GiB,lock,numa=0 --serial file=s --boot-protocol pvh --irqchip kernel \
                    --disk path=a --disk b,readonly --transport mmio --scratch-dir d --rng \
                    --net tap=t,mtu=9000 --net user --name box \
                    --cpu x86-64-v3 --kaslr=off --reboot --profile p,hz=7 \
                    --cpu-pin 0:2,3:1-2 --cpu-weight 200 --cpu-limit 150% \
                    --timeout 5m --json -vv";
        let flags: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            config(&flags),
            VmConfig {
                kernel: "k".into(),
                initrd: Some("i".into()),
                unpack_initrd: UnpackInitrd::Never,
                cmdline: CmdlineConfig {
                    mode: CmdlineMode::Extend,
                    text: "--".to_owned(),
                },
                cpus: "4,sockets=1,cores=2,threads=2".parse().unwrap(),
                memory: "1G,lock,numa=0".parse().unwrap(),
                serial: SerialConfig::File("s".into()),
                boot_protocol: BootProtocol::Pvh,
                irqchip: Irqchip::Kernel,
                disks: vec![
                    DiskConfig::new("a".into()),
                    DiskConfig {
                        readonly: true,
                        ..DiskConfig::new("b".into())
                    },
                ],
                nets: vec![
                    NetConfig {
                        mtu: Some(9000),
                        ..NetConfig::new(NetBackend::Tap("t".to_owned()))
                    },
                    NetConfig::new(NetBackend::User { forwards: vec![] }),
                ],
                name: Some("box".to_owned()),
                transport: Transport::Mmio,
                scratch_dir: Some("d".into()),
                rng: true,
                cpu_model: CpuModel::V3,
                kaslr: Kaslr::Off,
                reboot: true,
                profile: Some(ProfileConfig {
                    path: "p".into(),
                    hz: 7,
                }),
                shares: SharesConfig {
                    pin: "0:2,3:1-2".parse().unwrap(),
                    weight: Some("200".parse().unwrap()),
                    limit: Some("150%".parse().unwrap()),
                },
                timeout: Some(Duration::from_secs(300)),
            }
        );
    }

    #[test]
    fn words_with_a_default_of_their_own() {
        assert_eq!(
            config(&["--unpack-initrd"]).unpack_initrd,
            UnpackInitrd::Always
        );
        assert_eq!(config(&["--kaslr"]).kaslr, Kaslr::On);
        let replaced = config(&["--cmdline-only", "quiet"]).cmdline;
        assert_eq!(replaced.mode, CmdlineMode::Replace);
        assert_eq!(replaced.text, "quiet");
    }

    #[test]
    fn a_bad_configuration_is_bad_usage() {
        let args = ["mayfly", "run", "--cpus", "0"];
        let Command::Run(args) = Cli::try_parse_from(args).unwrap().command else {
            unreachable!("run was asked for");
        };
        let reason = prepare(*args).unwrap_err();
        assert_eq!(reason.code(), 245);
    }
}

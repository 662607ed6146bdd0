//! The guest that runs when no kernel is given.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::say;
use crate::config::net::NetBackend;
use crate::config::{CmdlineMode, VmConfig};
use crate::guest::{self, GuestError, Variant};

/// The word on the command line that asks for a shell.
const SHELL: &str = "mayfly.shell";
/// The key on the command line that names the device of the root file system.
const ROOT: &str = "root";
/// The key on the command line that tells the kernel its address.
const ADDRESS: &str = "ip";

/// Makes `config` boot the default guest, which is built first if need be. An
/// initrd that the user gave stays. With `root=` on the command line there is none:
/// the kernel mounts that device itself.
pub(super) fn choose(config: &mut VmConfig) -> Result<(), GuestError> {
    let mut progress = Progress::default();
    let image = guest::ensure(Variant::Full, &mut |percent, doing| {
        progress.show(percent, doing);
    });
    progress.clear();
    let image = image?;
    ask_for_address(config);
    config.kernel = image.vmlinux;
    if config.initrd.is_none() && !config.cmdline.has_key(ROOT) {
        let shell = config.cmdline.has_word(SHELL);
        config.initrd = Some(if shell { image.shell } else { image.init });
    }
    Ok(())
}

/// Has the kernel ask for its address where Mayfly knows that somebody answers.
fn ask_for_address(config: &mut VmConfig) {
    let user = |net: &crate::config::NetConfig| matches!(net.backend, NetBackend::User { .. });
    let Some(number) = config.nets.iter().position(user) else {
        return;
    };
    let told = config.nets.iter().any(|net| net.ip.is_some()) || config.cmdline.has_key(ADDRESS);
    if told || config.cmdline.mode == CmdlineMode::Replace {
        return;
    }
    let words = std::mem::take(&mut config.cmdline.text);
    config.cmdline.text = format!("{ADDRESS}=:::::eth{number}:dhcp {words}");
}

/// How far the build is: a bar on a terminal, lines elsewhere.
#[derive(Debug, Default)]
struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    fn show(&mut self, percent: u8, doing: &str) {
        let percent = percent.min(100);
        if stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(new_bar);
            bar.set_position(percent.into());
            bar.set_message(doing.to_owned());
        } else if self.last != doing {
            doing.clone_into(&mut self.last);
            say::on_stderr(&format!(
                "mayfly: building the default guest: {percent}% {doing}\n"
            ));
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    let template = "mayfly: building the default guest {bar:20} {pos:>3}% {elapsed} {msg}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(100).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

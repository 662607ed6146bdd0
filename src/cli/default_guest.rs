//! The guest that runs when no kernel is given.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::say;
use crate::config::net::NetBackend;
use crate::config::{CmdlineMode, VmConfig};
use crate::guest::{self, GuestError, Variant};
use crate::host::Backend;

/// The word on the command line that asks for a shell.
const SHELL: &str = "mayfly.shell";
/// The key on the command line that names the device of the root file system.
const ROOT: &str = "root";
/// The key on the command line that tells the kernel its address.
const ADDRESS: &str = "ip";

/// Leaves out what the kernel tells of its own parameters.
const NO_PARAMETERS: &str = "initcall_blacklist=param_sysfs_builtin_init";

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
    spare_initcalls(config, Backend::detect());
    config.kernel = image.vmlinux;
    if config.initrd.is_none() && !config.cmdline.has_key(ROOT) {
        let shell = config.cmdline.has_word(SHELL);
        config.initrd = Some(if shell { image.shell } else { image.init });
    }
    Ok(())
}

/// Without names for the parameters of what is built in, in `/sys/module`, which nothing in
/// this guest looks at, a kernel that is interpreted starts an eighth sooner.
fn spare_initcalls(config: &mut VmConfig, backend: Backend) {
    if !backend.interprets_kernel_code() || config.cmdline.mode == CmdlineMode::Replace {
        return;
    }
    let words = std::mem::take(&mut config.cmdline.text);
    config.cmdline.text = format!("{NO_PARAMETERS} {words}");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CmdlineConfig;

    #[test]
    fn parameters_of_modules_have_no_names_where_that_costs_a_second() {
        let words = |backend, mode| {
            let mut config = VmConfig::new("kernel".into());
            config.cmdline = CmdlineConfig {
                mode,
                text: "quiet -- a".to_owned(),
            };
            spare_initcalls(&mut config, backend);
            config.cmdline.text
        };
        let (more, whole) = (CmdlineMode::Extend, CmdlineMode::Replace);
        let spared = "initcall_blacklist=param_sysfs_builtin_init quiet -- a";
        assert_eq!(words(Backend::Pvm, more), spared);
        assert_eq!(words(Backend::Pvm, whole), "quiet -- a");
        assert_eq!(words(Backend::Svm, more), "quiet -- a");
    }
}

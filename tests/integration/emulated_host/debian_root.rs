//! A whole Debian: its own kernels and initramfs, its root on a disk that
//! guest-images/debian/root.sh has installed, up to the login prompt.
//!
//! Only on hardware KVM; `tests/bench/stock_kernels.sh --debian` boots the same on this
//! machine's, where it takes minutes. The variable `MAYFLY_DEBIAN_KERNELS` names more
//! kernels than the one that the suite boots (`6.1 6.12 generic`); they also have to power
//! off when the power button is pressed, which takes half as long again
//! (`tests/bench/stock_kernels.sh --emulated`).

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::machine::EmulatedHost;
use super::root::RootTree;
use super::{MAYFLY, host_files, warnings};
use crate::common::built::built_by;

/// The kernel that every run of the suite boots.
const KERNEL: &str = "6.1";

/// A host with the installed Debian as a disk, what is written to which goes to a file
/// of QEMU's, and a script that boots it there, waits for its prompt and ends it.
fn host_with(files: &Path, name: &str, end: End) -> (EmulatedHost, RootTree, String) {
    let folder = files.join(name);
    let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd.img"));
    let mut root = RootTree::new(host_files());
    root.add_program(Path::new(MAYFLY));
    root.add(&kernel).add(&initrd);
    let mut host = EmulatedHost::new(host_files());
    host.memory_mib = 2048;
    host.timeout = Duration::from_secs(900);
    let image = files.join("root.ext4");
    let disk = host.add_disk(&format!("file={},snapshot=on", image.display()));
    let ending = match end {
        End::PowerButton => format!("{WAIT_FOR_LOGIND}\nkill -TERM $vm"),
        End::AtOnce => "kill -INT $vm".to_owned(),
    };
    // Warnings and what is worse go to the console.
    let script = format!(
        "mkfifo /tmp/keyboard
         {MAYFLY} run --json --timeout 14m --cpus 2 --memory 768M --kernel {} --initrd {} \
         --disk path={disk},format=raw --cmdline 'loglevel=5 root=/dev/vda rw' \
         >/tmp/console 2>&1 </tmp/keyboard &
         vm=$!
         exec 3>/tmp/keyboard
         shows() {{ until grep -q \"$1\" /tmp/console || ! kill -0 $vm; do sleep 0.2; done; }}
         shows 'mayfly login:'
         {ending}
         wait $vm
         status=$?
         cat /tmp/console
         exit $status",
        kernel.display(),
        initrd.display(),
    );
    (host, root, script)
}

/// Logs in and waits until systemd-logind has found the power button, whose driver is a
/// module: a press before that is nobody's, as on any machine.
const WAIT_FOR_LOGIND: &str = r"
    echo root >&3
    shows 'root@mayfly:'
    cat >&3 <<'END'
until journalctl -b -u systemd-logind | grep -q 'Watching system buttons'; do sleep 1; done
echo the button is wa''tched
END
    shows 'the button is watched'";

/// How a guest at its prompt is ended.
#[derive(Clone, Copy)]
enum End {
    PowerButton,
    AtOnce,
}

/// Boots one of the kernels in `files` to the prompt and ends it.
fn comes_to_its_prompt(files: &Path, name: &str, end: End) {
    let (host, root, script) = host_with(files, name, end);
    let outcome = host.run(root, &["sh", "-c", &script]).unwrap();
    let output = outcome.output.replace('\r', "");
    println!("{name}: {:?} with the host's own start", outcome.elapsed);
    // The name is the disk's /etc/hostname.
    assert!(output.contains("mayfly login:"), "{output}");
    let boot = warnings::Boot {
        kernel: name,
        has_device: true,
    };
    warnings::are_explained(boot, &warnings::told_on_the_console(&output));
    let json: Value = serde_json::from_str(output.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("the last line is not JSON ({error}): {output}"));
    let (status, reason) = match end {
        End::PowerButton => (0, "power-off"),
        End::AtOnce => (243, "user-quit"),
    };
    assert_eq!(outcome.status, status, "{output}");
    assert_eq!(json["reason"], reason, "{output}");
    let by_systemd = output.contains("Reached target \u{1b}[0;1;39mpoweroff.target");
    assert_eq!(by_systemd, matches!(end, End::PowerButton), "{output}");
    assert!(json["disks"][0]["requests"].as_u64() > Some(0), "{output}");
}

#[test]
fn debian_shows_its_login_prompt() {
    let kernels = std::env::var("MAYFLY_DEBIAN_KERNELS").unwrap_or_default();
    if kernels.is_empty() {
        comes_to_its_prompt(&built_by("debian/root.sh"), KERNEL, End::AtOnce);
        return;
    }
    let files = built_by("debian/root.sh --all-kernels");
    for name in kernels.split_whitespace() {
        comes_to_its_prompt(&files, name, End::PowerButton);
    }
}

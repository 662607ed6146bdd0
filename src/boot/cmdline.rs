//! The kernel command line: defaults, what the host advises, what the user says.

use super::error::BootError;
use super::memory_error;
use crate::memory::GuestRam;
use crate::memory::layout::{CMDLINE_ADDR, CMDLINE_MAX};

/// What every guest is given unless the user replaces the line; each is right
/// on every host:
///
/// - `console=ttyS0`: the console is the serial port Mayfly shows.
/// - `reboot=k`: reset through the i8042 first, which Mayfly has, and not by
///   trying the ways a PC might have one after the other.
/// - `panic=-1`: a panic resets at once, and so ends the VM.
/// - `no_timer_check`: the check waits for ticks and, on a host that delivers
///   them late, panics over a timer that works.
/// - `i8042.noaux i8042.nomux i8042.dumbkbd`: there is no keyboard or mouse
///   behind the i8042, and looking for them takes timeouts.
/// - `random.trust_cpu=on`: seeds from RDRAND instead of waiting for entropy.
pub const DEFAULT_CMDLINE: &[&str] = &[
    "console=ttyS0",
    "reboot=k",
    "panic=-1",
    "no_timer_check",
    "i8042.noaux",
    "i8042.nomux",
    "i8042.dumbkbd",
    "random.trust_cpu=on",
];

/// Options of which each occurrence counts: one more console, more initcalls left out.
const ADD_UP: [&str; 2] = ["console", "initcall_blacklist"];

/// What the user says about the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserCmdline<'a> {
    /// Added behind the defaults and the host's advice (`--cmdline`).
    Extend(&'a str),
    /// Instead of both (`--cmdline-only`).
    Replace(&'a str),
}

/// Builds the line: [`DEFAULT_CMDLINE`], then the host's `advice`, then the
/// user's text. A default or an advice whose key the user sets is left out,
/// so that the line shows what holds; except those of [`ADD_UP`]. So is what is
/// `useless` to the kernel.
pub fn build_cmdline(user: UserCmdline<'_>, advice: &[&str], useless: &[&str]) -> String {
    match user {
        UserCmdline::Replace(text) => text.to_owned(),
        UserCmdline::Extend(text) => {
            let keys: Vec<&str> = options(text).map(|(key, _)| key).collect();
            let is_set = |wanted| keys.iter().any(|key| same_key(key, wanted));
            let ours = DEFAULT_CMDLINE.iter().chain(advice).copied();
            let ours = ours.filter(|word| !useless.contains(word)).filter(|word| {
                let key = word.split_once('=').map_or(*word, |(key, _)| key);
                ADD_UP.contains(&key) || !is_set(key)
            });
            let text = text.trim();
            ours.chain((!text.is_empty()).then_some(text))
                .collect::<Vec<_>>()
                .join(" ")
        }
    }
}

/// Checks a command line against a kernel's limit.
///
/// # Errors
/// [`BootError::CommandLineLength`], [`BootError::CommandLineByte`].
pub fn check_cmdline(cmdline: &str, kernel_max: usize) -> Result<(), BootError> {
    for (position, byte) in cmdline.bytes().enumerate() {
        let what = match byte {
            0 => "a NUL byte",
            b'\n' | b'\r' => "a line break",
            _ => continue,
        };
        return Err(BootError::CommandLineByte { what, position });
    }
    let max = kernel_max.min(CMDLINE_MAX.saturating_sub(1));
    if cmdline.len() > max {
        return Err(BootError::CommandLineLength {
            len: cmdline.len(),
            max,
        });
    }
    Ok(())
}

/// Writes the line and its NUL into guest memory.
///
/// # Errors
/// Those of [`check_cmdline`], or [`BootError::Memory`].
pub(super) fn write_cmdline(
    ram: &GuestRam,
    cmdline: &str,
    kernel_max: usize,
) -> Result<(), BootError> {
    check_cmdline(cmdline, kernel_max)?;
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    ram.write(CMDLINE_ADDR, &bytes)
        .map_err(|source| memory_error("command line", source))
}

/// Whether `cmdline` sets `wanted` as the kernel reads it, with a value or without.
pub fn has_key(cmdline: &str, wanted: &str) -> bool {
    options(cmdline).any(|(key, _)| same_key(key, wanted))
}

/// Whether `cmdline` gives `wanted` a value (`key=…`, be it empty) as the kernel reads it.
pub fn has_value(cmdline: &str, wanted: &str) -> bool {
    options(cmdline).any(|(key, value)| same_key(key, wanted) && value.is_some())
}

/// The values that `cmdline` gives to `wanted`, in order; a word without `=` gives "".
pub(super) fn values<'a>(cmdline: &'a str, wanted: &str) -> Vec<&'a str> {
    options(cmdline)
        .filter(|(key, _)| same_key(key, wanted))
        .map(|(_, value)| value.unwrap_or_default())
        .collect()
}

/// Whether ACPI is switched off: Linux goes by the last word that switches it off or on.
pub fn acpi_is_off(cmdline: &str) -> bool {
    values(cmdline, "acpi")
        .into_iter()
        .rfind(|value| matches!(*value, "off" | "force"))
        == Some("off")
}

/// Whether `word` stands anywhere in `cmdline`, behind `--` or in quotes too, with spaces
/// round it: so do those read it that know nothing of the kernel's parameters, Linux's
/// decompressor (`cmdline_find_option_bool`) and programs in the guest.
pub fn has_word(cmdline: &str, word: &str) -> bool {
    cmdline.split(|c: char| c <= ' ').any(|given| given == word)
}

/// What the kernel itself looks at: keys with their values, out of their quotes.
fn options(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    kernel_words(text).map(|word| {
        let word = word.trim_matches('"');
        match word.split_once('=') {
            Some((key, value)) => (key, Some(value.trim_matches('"'))),
            None => (word, None),
        }
    })
}

/// The words the kernel itself looks at: spaces part them except in double
/// quotes, and those behind `--` are for init.
fn kernel_words(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    })
    .filter(|word| !word.is_empty())
    .take_while(|word| *word != "--")
}

/// The kernel takes `-` and `_` in a key for the same.
fn same_key(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'-' { b'_' } else { byte };
    one.len() == other.len() && one.bytes().map(plain).eq(other.bytes().map(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_text_follows_defaults_and_advice() {
        let line = build_cmdline(UserCmdline::Extend(" quiet "), &["nokaslr"], &[]);
        assert!(line.starts_with("console=ttyS0 reboot=k panic=-1 "));
        assert!(line.ends_with(" nokaslr quiet"));
        let plain = build_cmdline(UserCmdline::Extend(""), &[], &[]);
        assert_eq!(plain, DEFAULT_CMDLINE.join(" "));
    }

    #[test]
    fn what_the_user_sets_is_not_said_twice() {
        let user = UserCmdline::Extend("panic=5 random.trust-cpu=off no_timer_check");
        let line = build_cmdline(user, &["panic=9", "tsc=reliable"], &[]);
        assert_eq!(line.matches("panic=").count(), 1);
        assert!(!line.contains("trust_cpu"));
        assert_eq!(line.matches("no_timer_check").count(), 1);
        assert!(line.contains("tsc=reliable"));
        let line = build_cmdline(UserCmdline::Extend("console=hvc0"), &[], &[]);
        assert!(line.contains("console=ttyS0") && line.ends_with("console=hvc0"));
        let user = UserCmdline::Extend("initcall_blacklist=theirs");
        let line = build_cmdline(user, &["initcall_blacklist=ours"], &[]);
        assert!(line.contains("=ours ") && line.ends_with("=theirs"));
    }

    #[test]
    fn words_for_init_or_in_quotes_set_nothing() {
        let user = UserCmdline::Extend("dyndbg=\"file x panic=1\" -- panic=2");
        assert!(build_cmdline(user, &[], &[]).contains("panic=-1"));
    }

    #[test]
    fn keys_are_the_kernels_and_words_are_anybodys() {
        let line = "quiet \"dyndbg=file x +p\" a-b=\"c d\" root= ip\tx=1 -- init=2 shell";
        assert_eq!(values(line, "dyndbg"), ["file x +p"]);
        assert_eq!(values(line, "a_b"), ["c d"]);
        for (key, is_there, with_value) in [
            ("quiet", true, false),
            ("root", true, true),
            ("ip", true, false),
            ("x", true, true),
            ("file", false, false),
            ("init", false, false),
        ] {
            assert_eq!(has_key(line, key), is_there, "{key}");
            assert_eq!(has_value(line, key), with_value, "{key}");
        }
        for word in ["quiet", "x", "ip", "x=1", "shell", "--"] {
            assert!(has_word(line, word), "{word}");
        }
        for part in ["roo", "root", "dyndbg", "init", "hell"] {
            assert!(!has_word(line, part), "{part}");
        }
    }

    #[test]
    fn the_last_word_on_acpi_holds() {
        for (line, is_off) in [
            ("", false),
            ("acpi=off", true),
            ("acpi=off acpi=strict", true),
            ("acpi=off acpi=force", false),
            ("quiet -- acpi=off", false),
        ] {
            assert_eq!(acpi_is_off(line), is_off, "{line}");
        }
    }

    #[test]
    fn replacing_leaves_nothing_of_ours() {
        let line = build_cmdline(UserCmdline::Replace("root=/dev/vda"), &["nokaslr"], &[]);
        assert_eq!(line, "root=/dev/vda");
    }

    #[test]
    fn the_limit_is_the_kernels_and_the_room_we_have() {
        let long = "x".repeat(2048);
        assert!(check_cmdline(&long[..2047], 2047).is_ok());
        assert!(matches!(
            check_cmdline(&long, 2047),
            Err(BootError::CommandLineLength {
                len: 2048,
                max: 2047
            })
        ));
        let huge = "x".repeat(CMDLINE_MAX);
        assert!(check_cmdline(&huge[1..], usize::MAX).is_ok());
        assert!(check_cmdline(&huge, usize::MAX).is_err());
    }

    #[test]
    fn bytes_that_would_end_the_line_are_refused() {
        for text in ["a\0b", "a\nb", "a\rb"] {
            assert!(matches!(
                check_cmdline(text, 100),
                Err(BootError::CommandLineByte { position: 1, .. })
            ));
        }
    }

    #[test]
    fn the_line_ends_with_a_nul_in_memory() {
        let ram = GuestRam::new(2 << 20).unwrap();
        ram.write(CMDLINE_ADDR, &[0xff; 16]).unwrap();
        write_cmdline(&ram, "abc", 100).unwrap();
        let mut back = [0; 5];
        ram.read(CMDLINE_ADDR, &mut back).unwrap();
        assert_eq!(&back, b"abc\0\xff");
    }

    #[test]
    fn useless_words_of_ours_are_left_out_and_the_users_stay() {
        let user = UserCmdline::Extend("i8042.nomux useless");
        let line = build_cmdline(user, &["useless", "good"], &["useless", "i8042.noaux"]);
        let expected = "console=ttyS0 reboot=k panic=-1 no_timer_check i8042.dumbkbd \
                        random.trust_cpu=on good i8042.nomux useless";
        assert_eq!(line, expected);
    }
}

use super::*;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Starts what `script` says in the place of passt, with a folder that it finds in `$0`.
fn start(
    script: &str,
    options: &UserOptions,
) -> (Result<Passt, UserError>, UnixStream, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("passt");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let path = Some(folder.path().into());
    let passt = Passt::start_in(path, options, theirs, PATIENCE);
    (passt, ours, folder)
}

fn refusal(script: &str) -> String {
    let (passt, ..) = start(script, &UserOptions::default());
    passt.err().unwrap().to_string()
}

fn alive(id: u32) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

#[test]
fn a_missing_program_is_told_with_the_way_to_get_it() {
    let empty = tempfile::tempdir().unwrap();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let path = Some(empty.path().into());
    let error = Passt::start_in(path, &UserOptions::default(), theirs, PATIENCE);
    let error = error.err().unwrap();
    assert!(matches!(error, UserError::Missing));
    assert!(error.to_string().contains("apt install passt"), "{error}");
}

#[test]
fn refusals_are_told_in_the_programs_own_words() {
    assert_eq!(
        refusal("echo Failed to send 9 bytes to syslog >&2; echo No route >&2; exit 1"),
        "'passt' cannot make the user network: No route"
    );
    assert_eq!(
        refusal("for word in a b c d; do echo $word >&2; done; exit 1"),
        "'passt' cannot make the user network: a; b; c"
    );
    let no_ipv6 = "echo No external routable interface for IPv6 >&2";
    assert_eq!(
        refusal(&format!("{no_ipv6}; echo Port 80 is taken >&2; exit 1")),
        "'passt' cannot make the user network: Port 80 is taken"
    );
    assert_eq!(
        refusal(&format!(
            "{no_ipv6}; echo External interface not usable >&2; exit 1"
        )),
        "'passt' cannot make the user network: No external routable interface for IPv6; \
         External interface not usable"
    );
    assert_eq!(
        refusal("exit 7"),
        "'passt' cannot make the user network: it ended with exit status: 7"
    );
}

#[test]
fn a_program_that_never_gets_ready_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("passt");
    fs::write(
        &program,
        "#!/bin/sh\necho Waiting >&2\nexec /bin/sleep 60\n",
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let path = Some(folder.path().into());
    let patience = Duration::from_secs(2);
    let result = Passt::start_in(path, &UserOptions::default(), theirs, patience);
    let text = result.err().unwrap().to_string();
    assert_eq!(text, "'passt' is not ready after 2 seconds: Waiting");
    // Its end of the socket is closed with it.
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_program_gets_its_socket_and_nothing_else() {
    // Descriptors that a caller left open, as a shell's `3<file` does.
    let strays = [(); 3].map(|()| {
        let file = fs::File::open("/dev/null").unwrap();
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        file
    });
    let script = "
        folder=${0%/*}
        /bin/ls /proc/$$/fd > $folder/descriptors
        /usr/bin/tr '\\0' '\\n' < /proc/$$/environ > $folder/environment
        echo \"$@\" > $folder/arguments
        [ \"$3 $5\" = '--fd --pid' ] && echo $$ > $6
        exec /bin/cat";
    let options = UserOptions {
        mtu: Some(1400),
        ..UserOptions::default()
    };
    let (passt, mut ours, folder) = start(script, &options);
    let passt = passt.unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let arguments = read("arguments");
    let words: Vec<&str> = arguments.split_whitespace().collect();
    assert_eq!(words[..3], ["--foreground", "--quiet", "--fd"]);
    assert!(arguments.contains("--mtu 1400"), "{arguments}");
    let descriptors = read("descriptors");
    let mut open: BTreeSet<&str> = descriptors.split_whitespace().collect();
    assert!(open.remove(words[3]), "the socket is there: {descriptors}");
    for stray in &strays {
        let number = stray.as_raw_fd().to_string();
        assert!(!open.contains(number.as_str()), "{descriptors}");
    }
    // The shell has its script open at 10 or so.
    let below_10: Vec<&&str> = open.iter().filter(|number| number.len() == 1).collect();
    assert_eq!(below_10, [&"0", &"1", &"2"], "{descriptors}");
    let environment = read("environment");
    let environment: Vec<&str> = environment.lines().collect();
    assert_eq!(environment, [format!("PATH={}", folder.path().display())]);
    drop(passt);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn nothing_is_left_of_a_program_that_was_dropped() {
    let (passt, _ours, _folder) = start("echo $$; exec /bin/sleep 60", &UserOptions::default());
    let passt = passt.unwrap();
    let id = passt.child.id();
    assert!(alive(id));
    drop(passt);
    assert!(!alive(id));
}

#[test]
fn forwards_are_handed_on_and_loopback_is_kept_from_the_guest() {
    let forward = |protocol, host| Forward {
        protocol,
        address: None,
        host,
        guest: 80,
    };
    let mut options = UserOptions {
        forwards: vec![forward(Protocol::Tcp, 8080), forward(Protocol::Tcp, 8081)],
        mtu: None,
    };
    let text = arguments(&options, 9).join(" ");
    assert!(text.starts_with("--foreground --quiet --fd 9 --pid /proc/self/fd/1 --no-map-gw"));
    let forwards = "--tcp-ports 127.0.0.1/8080:80 --tcp-ports 127.0.0.1/8081:80";
    assert!(text.ends_with(forwards), "{text}");
    options.forwards.push(forward(Protocol::Udp, 8080));
    let text = arguments(&options, 9).join(" ");
    assert!(!text.contains("--no-map-gw"), "{text}");
    assert!(text.ends_with("--udp-ports 127.0.0.1/8080:80"), "{text}");
}

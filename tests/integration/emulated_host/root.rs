//! The emulated host's root disk: a directory tree gathered from this machine's
//! files, each at its own absolute path, turned into an ext4 image without root.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Room left on the disk for what runs in the host, in bytes. The image is
/// sparse, so unused room costs nothing.
const SPARE: u64 = 1 << 30;

/// A tree that becomes the root disk of an emulated host.
pub struct RootTree {
    /// Holds the tree, and later its image; removed when this is dropped.
    dir: TempDir,
    added: HashSet<PathBuf>,
}

impl RootTree {
    /// Starts a tree that boots: the directories of a Debian system and the
    /// static busybox of `host` (what guest-images/host/build.sh prints) under
    /// all its names.
    pub fn new(host: &Path) -> Self {
        let dir = TempDir::with_prefix_in("host-", env!("CARGO_TARGET_TMPDIR"))
            .expect("create a temporary directory");
        let tree = Self {
            dir,
            added: HashSet::new(),
        };
        for name in ["dev", "proc", "sys", "tmp", "run", "root", "emulated-host"] {
            create_dir_all(&tree.tree().join(name));
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            create_dir_all(&tree.tree().join("usr").join(name));
            symlink(format!("usr/{name}"), tree.tree().join(name)).expect("link a directory");
        }
        tree.install(
            &host.join("root-init"),
            Path::new("/sbin/emulated-host-init"),
        );
        tree.install(&host.join("busybox"), Path::new("/bin/busybox"));
        for applet in applets(&host.join("busybox")) {
            // Nothing else is in these directories yet, so no link can exist.
            if applet != "busybox" {
                symlink("busybox", tree.tree().join("bin").join(applet)).expect("link an applet");
            }
        }
        tree
    }

    /// Adds a file, or a directory with all that is in it, at its own absolute
    /// path. Symbolic links to files are followed, others are left out.
    pub fn add(&mut self, path: &Path) -> &mut Self {
        assert!(path.is_absolute(), "{} is not absolute", path.display());
        if path.is_dir() {
            create_dir_all(&self.place(path));
            for entry in fs::read_dir(path).expect("list a directory") {
                let entry = entry.expect("list a directory").path();
                if !(entry.is_symlink() && entry.is_dir()) && entry.exists() {
                    self.add(&entry);
                }
            }
        } else if self.added.insert(path.to_path_buf()) {
            self.install(path, path);
        }
        self
    }

    /// Adds a program and the shared libraries that it loads.
    pub fn add_program(&mut self, path: &Path) -> &mut Self {
        self.add(path);
        for library in shared_libraries(path) {
            self.add(&library);
        }
        self
    }

    /// Writes a new file.
    pub fn write(&mut self, path: &Path, content: &str) -> &mut Self {
        let place = self.place(path);
        fs::write(&place, content)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", place.display()));
        self
    }

    /// Makes the ext4 image and returns its path; it lives as long as `self`.
    pub fn make_image(&self) -> PathBuf {
        let image = self.dir.path().join("root.ext4");
        let size = tree_size(&self.tree()) * 5 / 4 + SPARE;
        let output = Command::new("mke2fs")
            .env("PATH", super::path_with_sbin())
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096"])
            .args(["-O", "^has_journal,^resize_inode"])
            .args(["-E", "lazy_itable_init=1,root_owner=0:0"])
            .arg("-d")
            .arg(self.tree())
            .arg(&image)
            .arg(format!("{}k", size / 1024))
            .stdin(Stdio::null())
            .output()
            .expect("run mke2fs (package e2fsprogs)");
        assert!(
            output.status.success(),
            "mke2fs failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        image
    }

    /// The directory for files about this tree that are not in it.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// Where `path` lies in the tree; its parent directory exists afterwards.
    fn place(&self, path: &Path) -> PathBuf {
        let mut place = self.tree();
        for component in path.components() {
            match component {
                Component::Normal(name) => place.push(name),
                Component::RootDir | Component::CurDir => {}
                _ => panic!("{} is not a plain path", path.display()),
            }
        }
        create_dir_all(place.parent().expect("a path below the tree"));
        place
    }

    /// Copies `source`, with its permissions, to `path` in the tree.
    fn install(&self, source: &Path, path: &Path) {
        let place = self.place(path);
        // One of busybox's links gives way to the real program.
        let _ = fs::remove_file(&place);
        let copied = source.canonicalize().and_then(|source| {
            // A link costs nothing, but needs one file system and a file of ours.
            fs::hard_link(&source, &place).or_else(|_| fs::copy(&source, &place).map(drop))
        });
        if let Err(error) = copied {
            panic!("cannot put {} on the root disk: {error}", source.display());
        }
    }
}

fn create_dir_all(path: &Path) {
    fs::create_dir_all(path)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
    // Whatever this process's umask is.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
}

/// The names that a busybox answers to.
fn applets(busybox: &Path) -> Vec<String> {
    let output = Command::new(busybox)
        .arg("--list")
        .stdin(Stdio::null())
        .output()
        .expect("run busybox");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_string)
        .collect()
}

/// The shared libraries of a program, the dynamic linker among them; none for a
/// static one.
fn shared_libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd")
        .arg(program)
        .stdin(Stdio::null())
        .output()
        .expect("run ldd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("not found"), "{}: {text}", program.display());
    // Lines are `name => /path (address)` or `/path (address)`.
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// Bytes that a tree's files fill, in whole blocks, and a block for each inode.
fn tree_size(dir: &Path) -> u64 {
    fs::read_dir(dir)
        .expect("list a directory")
        .map(|entry| {
            let entry = entry.expect("list a directory");
            let metadata = entry.metadata().expect("examine a file");
            if metadata.is_dir() {
                4096 + tree_size(&entry.path())
            } else {
                4096 + metadata.len().next_multiple_of(4096)
            }
        })
        .sum()
}

//! The recipe's files, embedded, and the hash that names what they make.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::GuestError;

macro_rules! recipe {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../guest-images/tiny/", $name)).as_slice())),*]
    };
}

/// Name below the recipe's folder and content, in the order in which the script
/// hashes them.
const FILES: [(&str, &[u8]); 23] = recipe![
    "build.sh",
    "full.config",
    "init/build.sh",
    "init/button.c",
    "init/commands.c",
    "init/commands.h",
    "init/console.c",
    "init/dns.c",
    "init/ethtool.c",
    "init/files.c",
    "init/init.c",
    "init/kernel.c",
    "init/net.c",
    "init/net.h",
    "init/ping.c",
    "init/shell.c",
    "init/spin.c",
    "init/sys.h",
    "init/tcp.c",
    "init/text.c",
    "init/text.h",
    "init/udp.c",
    "minimal.config",
];

/// The script that builds.
const SCRIPT: &str = "build.sh";

/// Sixteen hexadecimal digits that change with every change of the recipe.
///
/// As the script computes it: the SHA-256 of `sha256sum`'s output for the files.
pub fn hash() -> String {
    let mut list = Sha256::new();
    for (name, content) in FILES {
        list.update(format!("{:x}  {name}\n", Sha256::digest(content)));
    }
    let mut digits = format!("{:x}", list.finalize());
    digits.truncate(16);
    digits
}

/// Writes the recipe below `guests` and returns the script's path.
///
/// The folder is named by the hash and stays: it is small, and writing it again
/// while another process builds from it changes nothing.
pub fn write_to(guests: &Path) -> Result<PathBuf, GuestError> {
    let folder = guests.join("recipe").join(hash());
    for (name, content) in FILES {
        let path = folder.join(name);
        write_once(&path, content).map_err(|source| GuestError::WriteRecipe { path, source })?;
    }
    Ok(folder.join(SCRIPT))
}

/// Puts the file in place in one step, unless it is there already.
fn write_once(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}", std::process::id()));
    fs::write(&partial, content)?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_recipe_is_embedded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-images/tiny");
        let mut found = Vec::new();
        for part in ["", "init"] {
            for entry in fs::read_dir(folder.join(part)).unwrap() {
                let path = entry.unwrap().path();
                let name = path
                    .strip_prefix(&folder)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                if path.is_file() && name != "README.md" {
                    found.push(name);
                }
            }
        }
        found.sort();
        assert_eq!(found, FILES.map(|(name, _)| name));
    }

    #[test]
    fn the_recipe_is_written_once() {
        let guests = tempfile::tempdir().unwrap();
        let script = write_to(guests.path()).unwrap();
        assert_eq!(script, write_to(guests.path()).unwrap());
        let written = fs::read(&script).unwrap();
        assert_eq!(written, FILES[0].1);
        let folder = script.parent().unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 4);
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let guests = tempfile::tempdir().unwrap();
        let file = guests.path().join("file");
        fs::write(&file, "").unwrap();
        let error = write_to(&file).unwrap_err();
        assert!(error.to_string().contains("file/recipe"), "{error}");
    }
}

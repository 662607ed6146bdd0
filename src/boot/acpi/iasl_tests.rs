//! ACPICA's compiler has its say: `iasl` decompiles every table without a complaint,
//! and compiles what it then reads there to the same bytes. The RSDP it cannot read;
//! `walk_tests` does.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::walk_tests::{Found, shapes, walk};
use crate::tools_for_tests::need;

/// What stands in iasl's output, or in what it makes of a table, where something is
/// wrong; in small letters.
const COMPLAINTS: [&str; 9] = [
    "error",
    "warning",
    "invalid",
    "incorrect",
    "unknown",
    "corrupt",
    "terminates",
    "****",
    // Resources that it does not know for such.
    "(_crs, buffer",
];

/// Runs iasl in `dir`: what it says, as an error if it fails.
fn iasl(dir: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new("iasl").current_dir(dir).args(args).output();
    let output = output.expect("run iasl");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}

fn complaint(text: &str) -> Option<&str> {
    text.lines().find(|line| {
        let line = line.to_lowercase();
        COMPLAINTS.iter().any(|word| line.contains(word))
    })
}

/// Decompiles a table and compiles the outcome; what iasl has against it, if anything.
fn check(table: &Found) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("table.dat"), &table.bytes).unwrap();
    let said = iasl(dir.path(), &["-d", "table.dat"])?;
    let source = fs::read_to_string(dir.path().join("table.dsl")).map_err(|_| said.clone())?;
    if let Some(line) = complaint(&said).or_else(|| complaint(&source)) {
        return Err(line.to_owned());
    }

    // With all warnings there are, and without optimizations, which change bytes; but
    // that no AML reads a name (4089) is no fault: drivers read `ADDR`.
    let options = ["-w3", "-vw", "4089", "-oa", "-p", "again", "table.dsl"];
    let said = iasl(dir.path(), &options)?;
    if !said.contains(" 0 Errors, 0 Warnings,") {
        return Err(said);
    }
    let again = fs::read(dir.path().join("again.aml")).map_err(|_| said)?;
    if without_maker(table.signature, &again) != without_maker(table.signature, &table.bytes) {
        return Err(format!("other bytes when compiled again: {again:02x?}"));
    }
    Ok(())
}

/// A table without the checksum and the compiler's name and version in its header.
fn without_maker(signature: [u8; 4], table: &[u8]) -> Vec<u8> {
    let mut table = table.to_vec();
    if signature != *b"FACS" && table.len() >= 36 {
        table[9] = 0;
        table[28..36].fill(0);
    }
    table
}

#[test]
fn iasl_reads_every_table_and_makes_the_same_of_it() {
    need(&["iasl"]);
    // Most tables are the same in most machines.
    let mut seen = Vec::new();
    for config in shapes() {
        for table in walk(&config) {
            if seen.contains(&table.bytes) {
                continue;
            }
            let name = table.signature.escape_ascii();
            check(&table).unwrap_or_else(|said| panic!("{name} of {config:?}: {said}"));
            seen.push(table.bytes);
        }
    }
}

/// A table of a machine with one CPU and one PCI device, after `change`.
fn changed(signature: &[u8; 4], change: impl FnOnce(&mut Vec<u8>)) -> Found {
    let config = super::AcpiConfig {
        pci_devices: 1,
        ..super::tests::ONE_CPU
    };
    let mut tables = walk(&config).into_iter();
    let mut table = tables.find(|table| table.signature == *signature).unwrap();
    change(&mut table.bytes);
    table
}

fn mend_checksum(table: &mut [u8]) {
    table[9] = 0;
    table[9] = super::tests::sum(table).wrapping_neg();
}

#[test]
fn what_is_wrong_in_a_table_is_found() {
    need(&["iasl"]);
    let sum = changed(b"FACP", |table| table[9] ^= 1);
    assert!(check(&sum).unwrap_err().contains("checksum"));

    let entry = changed(b"APIC", |table| {
        table[44] = 0xee;
        mend_checksum(table);
    });
    assert!(check(&entry).unwrap_err().contains("Unknown"));

    let cut = changed(b"MCFG", |table| {
        table.truncate(58);
        table[4] = 58;
        mend_checksum(table);
    });
    check(&cut).unwrap_err();

    // A second device of that name; and a port descriptor of a kind that there is not.
    let twice = changed(b"DSDT", |table| {
        let com1 = table.windows(4).position(|name| name == b"COM1").unwrap();
        table[com1..com1 + 4].copy_from_slice(b"RTC_");
        mend_checksum(table);
    });
    assert!(check(&twice).unwrap_err().contains("AE_ALREADY_EXISTS"));
    let ports = [0x47, 1, 0xf8, 3];
    let resource = changed(b"DSDT", |table| {
        let at = table.windows(4).position(|bytes| bytes == ports).unwrap();
        table[at] = 0x40;
        mend_checksum(table);
    });
    assert!(check(&resource).unwrap_err().contains("Buffer"));
}

//! Which processor a guest sees with `--cpu x86-64-vN`: a level of the x86-64 psABI, and
//! what an operating system needs beside it.
//!
//! The same level on two hosts shows the same instructions to programs. What
//! mitigations a kernel finds, the family and model, the caches and the name in the brand
//! string are the host's.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::fmt;

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use thiserror::Error;

use super::CpuidError;
use super::features::{FEATURES, Features, Register};

/// Highest basic and extended leaf shown.
const MAX_BASIC: u32 = 0x1f;
const MAX_EXTENDED: u32 = 0x8000_0021;
/// The last subleaf of leaf 7 that is shown.
const MAX_STRUCTURED: u32 = 2;
/// The leaf that describes XSAVE.
const LEAF_XSAVE: u32 = 0xd;
/// Legacy region and header of an XSAVE area: all of it that x87 and SSE need, in bytes.
const XSAVE_MINIMUM: u32 = 576;

/// A level of the x86-64 psABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// x86-64-v2.
    V2,
    /// x86-64-v3.
    V3,
    /// x86-64-v4.
    V4,
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        })
    }
}

/// Why a guest cannot have the processor asked for.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The host has less.
    #[error(
        "cannot give the guest an {level} processor: this host lacks {missing}; use --cpu {instead}"
    )]
    Lacking {
        /// What was asked for.
        level: Level,
        /// What there is not, separated by commas.
        missing: String,
        /// A model that the host does have.
        instead: String,
    },
    /// A table too long.
    #[error(transparent)]
    Table(#[from] CpuidError),
}

/// What of `supported`, KVM's offer, guests of `level` see. `leaks` says that guests see
/// the host's features whatever KVM is told: then these make up the level.
///
/// # Errors
/// [`ModelError::Lacking`] if the host has not all of the level.
pub fn restrict(supported: &CpuId, level: Level, leaks: bool) -> Result<CpuId, ModelError> {
    let offer = supported.as_slice();
    if leaks {
        check(level, own)?;
        log::warn!("this host's KVM shows guests features that --cpu {level} masks");
    } else {
        check(level, |leaf, index| answer(offer, leaf, index))?;
    }
    let entries = masked(offer, level);
    let table = CpuId::from_entries(&entries);
    Ok(table.map_err(|_| CpuidError::TooManyLeaves(entries.len()))?)
}

/// What `level` leaves of KVM's offer.
fn masked(offer: &[kvm_cpuid_entry2], level: Level) -> Vec<kvm_cpuid_entry2> {
    let left = offer.iter().filter_map(|entry| restricted(entry, level));
    let mut entries: Vec<_> = left.collect();
    set_xsave_sizes(&mut entries);
    entries
}

/// Whether all of `level` is in what `answer` gives for a leaf and a subleaf.
fn check(level: Level, answer: impl Fn(u32, u32) -> [u32; 4]) -> Result<(), ModelError> {
    let missing = lacking(level, &answer);
    if missing.is_empty() {
        return Ok(());
    }
    let complete = |lower: &Level| *lower < level && lacking(*lower, &answer).is_empty();
    let instead = [Level::V3, Level::V2].into_iter().find(complete);
    Err(ModelError::Lacking {
        level,
        missing: missing.join(", "),
        instead: instead.map_or("host".to_owned(), |lower| format!("{lower} or host")),
    })
}

fn lacking(level: Level, answer: &impl Fn(u32, u32) -> [u32; 4]) -> Vec<&'static str> {
    let mut missing = Vec::new();
    for group in FEATURES {
        let offered = in_register(answer(group.leaf, group.index), group.register);
        for feature in group.features {
            if feature.needed_by(level) && offered & feature.mask() == 0 {
                missing.push(feature.name);
            }
        }
    }
    missing
}

/// The answer that a table gives.
fn answer(table: &[kvm_cpuid_entry2], leaf: u32, index: u32) -> [u32; 4] {
    let entry = table
        .iter()
        .find(|entry| entry.function == leaf && entry.index == index);
    entry.map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
}

/// The answer of the processor that this runs on.
fn own(leaf: u32, index: u32) -> [u32; 4] {
    // A leaf beyond the last is answered by another.
    if __cpuid(leaf & 0xffff_0000).eax < leaf {
        return [0; 4];
    }
    let found = __cpuid_count(leaf, index);
    [found.eax, found.ebx, found.ecx, found.edx]
}

fn in_register(answer: [u32; 4], register: Register) -> u32 {
    let [eax, ebx, ecx, edx] = answer;
    match register {
        Register::Eax => eax,
        Register::Ebx => ebx,
        Register::Ecx => ecx,
        Register::Edx => edx,
    }
}

/// What of a register is shown.
#[derive(Clone, Copy)]
enum Shown {
    /// All of it: it has no features.
    Whole,
    /// The features of the table.
    Listed,
    /// The number of a last leaf, but no higher one than this.
    UpTo(u32),
    Nothing,
}

/// What of each register of a leaf is shown; of other leaves nothing is.
fn shown(leaf: u32, index: u32, level: Level) -> Option<[Shown; 4]> {
    use Shown::{Listed, Nothing, UpTo, Whole};
    Some(match (leaf, index) {
        (0, _) => [UpTo(MAX_BASIC), Whole, Whole, Whole],
        // Family, model, stepping; the rest of EBX is the topology's.
        (1, _) => [Whole, Whole, Listed, Listed],
        // Caches and TLBs.
        (2 | 4 | 0x8000_0005 | 0x8000_0006 | 0x8000_0019 | 0x8000_001d, _) => [Whole; 4],
        (6, _) => [Listed, Nothing, Nothing, Nothing],
        (7, 0) => [UpTo(MAX_STRUCTURED), Listed, Listed, Listed],
        (7, 2) => [Nothing, Nothing, Nothing, Listed],
        (LEAF_XSAVE, _) if level < Level::V3 => return None,
        (LEAF_XSAVE, 0) => [Listed, Whole, Whole, Nothing],
        (LEAF_XSAVE, 1) => [Listed, Whole, Nothing, Nothing],
        (LEAF_XSAVE, component) if has_state(component, level) => [Whole; 4],
        // Clocks of the processor.
        (0x15 | 0x16, _) => [Whole; 4],
        (0x4000_0000, _) => [Whole; 4],
        (0x4000_0001, _) => [Listed, Nothing, Nothing, Nothing],
        (0x8000_0000, _) => [UpTo(MAX_EXTENDED), Whole, Whole, Whole],
        (0x8000_0001, _) => [Whole, Whole, Listed, Listed],
        // The brand string.
        (0x8000_0002..=0x8000_0004, _) => [Whole; 4],
        (0x8000_0007, _) => [Nothing, Nothing, Nothing, Listed],
        // Widths of addresses, and the topology.
        (0x8000_0008, _) => [Whole, Listed, Whole, Nothing],
        (0x8000_001e, _) => [Whole; 4],
        (0x8000_0021, _) => [Listed, Nothing, Listed, Nothing],
        _ => return None,
    })
}

/// Whether XSAVE saves `component` for guests of `level`.
fn has_state(component: u32, level: Level) -> bool {
    let bit = 1u32.checked_shl(component).unwrap_or(0);
    allowed(LEAF_XSAVE, 0, Register::Eax, level) & bit != 0
}

/// The features in a register that `level` allows.
fn allowed(leaf: u32, index: u32, register: Register, level: Level) -> u32 {
    let here = |f: &&Features| f.leaf == leaf && f.index == index && f.register == register;
    let features = FEATURES.iter().filter(here).flat_map(|f| f.features);
    features
        .filter(|feature| feature.shown_by(level))
        .fold(0, |mask, feature| mask | feature.mask())
}

/// What guests of `level` see of one leaf.
fn restricted(entry: &kvm_cpuid_entry2, level: Level) -> Option<kvm_cpuid_entry2> {
    let shown = shown(entry.function, entry.index, level)?;
    let mut entry = *entry;
    let (leaf, index) = (entry.function, entry.index);
    let registers = [
        (&mut entry.eax, Register::Eax),
        (&mut entry.ebx, Register::Ebx),
        (&mut entry.ecx, Register::Ecx),
        (&mut entry.edx, Register::Edx),
    ];
    for ((value, register), shown) in registers.into_iter().zip(shown) {
        *value = match shown {
            Shown::Whole => *value,
            Shown::Listed => *value & allowed(leaf, index, register, level),
            Shown::UpTo(last) => (*value).min(last),
            Shown::Nothing => 0,
        };
    }
    Some(entry)
}

/// Makes the sizes in leaf 0xd those of the states that are left (Intel SDM vol. 1 §13.2):
/// ECX of its subleaf 0 for all of them, EBX for those of the reset state. KVM keeps EBX up to
/// date when the guest sets XCR0.
fn set_xsave_sizes(entries: &mut [kvm_cpuid_entry2]) {
    let end = entries
        .iter()
        .filter(|e| e.function == LEAF_XSAVE && e.index >= 2)
        .map(|e| e.ebx.saturating_add(e.eax))
        .fold(XSAVE_MINIMUM, u32::max);
    for entry in entries.iter_mut().filter(|e| e.function == LEAF_XSAVE) {
        match entry.index {
            0 => (entry.ebx, entry.ecx) = (XSAVE_MINIMUM, end),
            1 => entry.ebx = XSAVE_MINIMUM,
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;

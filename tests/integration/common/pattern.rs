//! What the bare guest `blk_pattern` writes to a disk, and what it says of it: an
//! independent reader of both.

use std::collections::HashMap;

use super::Outcome;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"MAFY-BLK");
const WORDS: u64 = BLOCK as u64 / 8;

/// Block number `number` of a disk with `blocks` places.
pub fn block(number: u64, blocks: u64) -> Vec<u8> {
    let mut words = vec![MAGIC, number, place(number, blocks)];
    let start = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    words.extend((3..WORDS - 1).map(|i| start.wrapping_add(i.wrapping_mul(0xbf58_476d_1ce4_e5b9))));
    let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
    words.push(sum);
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Where block number `number` lies, in blocks; `blocks` must be a power of two.
pub fn place(number: u64, blocks: u64) -> u64 {
    assert!(blocks.is_power_of_two(), "{blocks} is no power of two");
    number.wrapping_mul(0x9e37_79b1) % blocks
}

/// What the guest has been told by its disk, as far as it came to say so.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// The newest write of each place, by its number.
    newest: HashMap<u64, u64>,
    /// The newest of them that a FLUSH came after.
    flushed: HashMap<u64, u64>,
    /// Writes.
    pub writes: usize,
    /// FLUSHes.
    pub flushes: usize,
}

impl Acknowledged {
    /// Adds what a guest printed, whose last line may be cut off.
    ///
    /// # Errors
    /// The line of a request that failed, or one that is not understood.
    pub fn add(&mut self, printed: &str, blocks: u64) -> Result<(), String> {
        for line in printed.split_inclusive('\n') {
            let Some(line) = line.strip_suffix('\n') else {
                break;
            };
            self.add_line(line.trim_end_matches('\r'), blocks)?;
        }
        Ok(())
    }

    fn add_line(&mut self, line: &str, blocks: u64) -> Result<(), String> {
        let unknown = || format!("the guest said '{line}'");
        let number = |digits| u64::from_str_radix(digits, 16).map_err(|_| unknown());
        match line.split_at_checked(1) {
            _ if ["pattern", "done", ""].contains(&line) => {}
            Some(("W", digits)) => {
                let number = number(digits)?;
                let newest = self.newest.entry(place(number, blocks)).or_default();
                *newest = number.max(*newest);
                self.writes += 1;
            }
            Some(("F", digits)) => {
                let before = number(digits)?;
                let covered = self.newest.iter().filter(|(_, number)| **number < before);
                self.flushed.extend(covered);
                self.flushes += 1;
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Looks for every acknowledged write in the disk's bytes.
    ///
    /// # Errors
    /// What is missing, or not whole.
    pub fn verify_all(&self, disk: &[u8], blocks: u64) -> Result<(), String> {
        verify(&self.newest, disk, blocks)
    }

    /// The same for what a FLUSH came after.
    ///
    /// # Errors
    /// What is missing, or not whole.
    pub fn verify_flushed(&self, disk: &[u8], blocks: u64) -> Result<(), String> {
        verify(&self.flushed, disk, blocks)
    }
}

/// Each place must hold, whole, the write told or a later one to the same place: what
/// was done after the last word is not known.
fn verify(told: &HashMap<u64, u64>, disk: &[u8], blocks: u64) -> Result<(), String> {
    for (&place, &number) in told {
        let offset = usize::try_from(place).map_err(|error| error.to_string())? * BLOCK;
        let found = disk.get(offset..offset + BLOCK);
        let found = found.ok_or(format!("the disk ends before block {place}"))?;
        let there = u64::from_le_bytes(found[8..16].try_into().expect("eight bytes"));
        if there < number || found != block(there, blocks) || self::place(there, blocks) != place {
            return Err(format!(
                "block {place} should hold write {number} whole, or a later one; \
                 it begins with {:02x?}",
                &found[..24]
            ));
        }
    }
    Ok(())
}

/// What a guest that came to its end has been told.
#[track_caller]
pub fn acknowledged(outcome: &Outcome, blocks: u64) -> Acknowledged {
    let mut told = Acknowledged::default();
    if let Err(error) = told.add(&format!("{}\n", outcome.guest()), blocks) {
        panic!("{error}: {outcome}");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_reader_finds_what_is_lost_torn_or_misplaced() {
        const BLOCKS: u64 = 4;
        let mut disk = vec![0; BLOCKS as usize * BLOCK];
        let mut told = Acknowledged::default();
        told.add(
            "pattern\nW00000000\nW00000001\nF00000002\nW00000005\nW0",
            BLOCKS,
        )
        .unwrap();
        assert_eq!((told.writes, told.flushes), (3, 1));
        assert!(told.verify_all(&disk, BLOCKS).is_err());
        let put = |disk: &mut Vec<u8>, number| {
            let offset = place(number, BLOCKS) as usize * BLOCK;
            disk[offset..offset + BLOCK].copy_from_slice(&block(number, BLOCKS));
            offset
        };
        put(&mut disk, 0);
        put(&mut disk, 1);
        assert!(told.verify_flushed(&disk, BLOCKS).is_ok());
        // Write 5 goes where write 1 was.
        assert!(told.verify_all(&disk, BLOCKS).is_err());
        let offset = put(&mut disk, 5);
        assert!(told.verify_all(&disk, BLOCKS).is_ok());
        // A later one that nobody has told of yet.
        put(&mut disk, 9);
        assert!(told.verify_all(&disk, BLOCKS).is_ok());
        disk[offset + BLOCK - 1] ^= 1;
        assert!(told.verify_all(&disk, BLOCKS).is_err());
        assert!(told.add("E00000007\n", BLOCKS).is_err());
    }
}

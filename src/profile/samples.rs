//! Where samples are kept until the end: a bounded table of words.
//!
//! A sample is a few words, and of its stack only the words that can matter: return
//! addresses into the kernel, and pointers into the stack itself. When the table is
//! full, every second sample is dropped and the others count twice, as do those that
//! come from then on half as often: a long run gets a coarser profile, never a larger one.

use super::activity::Activity;

/// Words of a vCPU's table. Its memory is taken from the host as it fills.
const WORDS: usize = (32 << 20) / size_of::<u64>();
/// Words of a stack that are kept at most.
const MAX_KEPT: usize = 256;
/// How far up a stack is looked at, in bytes.
pub(super) const MAX_STACK: usize = 8 << 10;
/// Words before those of the stack.
const HEADER: usize = 4;

/// The registers that tell where a vCPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub rip: u64,
    pub rsp: u64,
    pub rbp: u64,
    /// Whether it is in user mode.
    pub user: bool,
}

/// One look at a vCPU.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    /// How many samples it stands for.
    pub weight: u64,
    pub activity: Activity,
    pub place: Place,
    pub stack: KeptStack<'a>,
}

/// The samples of one vCPU.
#[derive(Debug)]
pub struct Samples {
    words: Vec<u64>,
    limit: usize,
    activities: Vec<Activity>,
    /// Of how many samples one is kept.
    stride: u64,
}

impl Samples {
    /// An empty table.
    pub(super) fn new() -> Self {
        Self::with_room_for(WORDS)
    }

    fn with_room_for(limit: usize) -> Self {
        Self {
            words: Vec::with_capacity(limit),
            limit,
            activities: Vec::new(),
            stride: 1,
        }
    }

    /// Of how many samples one is to be made.
    pub(super) fn stride(&self) -> u64 {
        self.stride
    }

    /// Keeps a sample; `stack` is what lies from RSP upwards.
    pub(super) fn push(&mut self, weight: u64, activity: Activity, place: Place, stack: &[u8]) {
        let kept = interesting(place.rsp, stack).take(MAX_KEPT);
        let most = self.words.len().saturating_add(HEADER + MAX_KEPT);
        if most > self.limit {
            self.thin_out();
        }
        let at = self.words.len();
        self.words.extend([0, place.rip, place.rsp, place.rbp]);
        self.words.extend(kept);
        let kept = self.words.len().saturating_sub(at + HEADER);
        let activity = self.number(activity);
        if let Some(head) = self.words.get_mut(at) {
            let head_of = Head {
                weight,
                activity,
                kept,
                user: place.user,
            };
            *head = head_of.packed();
        }
    }

    /// The number that stands for `activity`: there are few different ones, and no more
    /// than fit into the header's field.
    fn number(&mut self, activity: Activity) -> usize {
        let known = self.activities.iter().position(|known| *known == activity);
        known.unwrap_or_else(|| {
            if self.activities.len() < Head::MAX_ACTIVITY {
                self.activities.push(activity);
            }
            self.activities.len().saturating_sub(1)
        })
    }

    /// Drops every second sample.
    fn thin_out(&mut self) {
        let (mut from, mut to, mut index) = (0usize, 0usize, 0u64);
        while let Some(head) = self.words.get(from).copied() {
            let mut head = Head::unpacked(head);
            let len = HEADER + head.kept;
            let end = from.saturating_add(len);
            if index.is_multiple_of(2) && end <= self.words.len() {
                head.weight = head.weight.saturating_mul(2);
                self.words.copy_within(from..end, to);
                if let Some(first) = self.words.get_mut(to) {
                    *first = head.packed();
                }
                to = to.saturating_add(len);
            }
            from = end;
            index = index.wrapping_add(1);
        }
        self.words.truncate(to);
        self.stride = self.stride.saturating_mul(2);
    }

    /// Whether there is no sample.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// All samples that are kept.
    pub(super) fn iter(&self) -> impl Iterator<Item = Sample<'_>> {
        let mut rest = self.words.as_slice();
        std::iter::from_fn(move || {
            let (header, after) = rest.split_first_chunk::<HEADER>()?;
            let [head, rip, rsp, rbp] = *header;
            let head = Head::unpacked(head);
            let (kept, next) = after.split_at_checked(head.kept)?;
            rest = next;
            let activity = self.activities.get(head.activity);
            Some(Sample {
                weight: head.weight,
                activity: activity.copied().unwrap_or(Activity::Guest),
                place: Place {
                    rip,
                    rsp,
                    rbp,
                    user: head.user,
                },
                stack: KeptStack { words: kept, rsp },
            })
        })
    }
}

/// The first word of a sample.
struct Head {
    /// 40 bits.
    weight: u64,
    /// 12 bits.
    activity: usize,
    /// 11 bits.
    kept: usize,
    user: bool,
}

impl Head {
    const MAX_ACTIVITY: usize = 1 << 12;

    fn packed(&self) -> u64 {
        let weight = self.weight.min((1 << 40) - 1);
        weight << 24
            | (self.activity as u64 & 0xfff) << 12
            | (self.kept as u64 & 0x7ff) << 1
            | u64::from(self.user)
    }

    fn unpacked(word: u64) -> Self {
        Self {
            weight: word >> 24,
            activity: (word >> 12) as usize & 0xfff,
            kept: (word >> 1) as usize & 0x7ff,
            user: word & 1 != 0,
        }
    }
}

/// The words of a stack that were kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct KeptStack<'a> {
    words: &'a [u64],
    rsp: u64,
}

/// Addresses in the kernel's image and its modules have these upper bits.
const KERNEL_HALF: u64 = 0xffff_ffff;
const KERNEL_FIRST: u64 = 0xffff_ffff_8000_0000;
/// Longest distance of a pointer into the stack: Linux has 16 KiB.
const STACK_SIZE: u64 = 16 << 10;
const IS_POINTER: u64 = 1 << 47;

/// Of a stack's words those that can matter, packed: place / 8 (16 bits), what it is,
/// the address or the distance from RSP (32 bits).
fn interesting(rsp: u64, stack: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let words = stack.chunks_exact(8).zip(0u64..);
    words.filter_map(move |(bytes, index)| {
        let value = u64::from_le_bytes(bytes.try_into().ok()?);
        let place = index << 48;
        if value >= KERNEL_FIRST {
            return Some(place | value & KERNEL_HALF);
        }
        let distance = value.checked_sub(rsp)?;
        (distance < STACK_SIZE).then_some(place | IS_POINTER | distance)
    })
}

impl KeptStack<'_> {
    /// The word at `address`, if it was kept.
    pub(super) fn at(&self, address: u64) -> Option<u64> {
        let index = address.checked_sub(self.rsp)? / 8;
        let found = self.words.binary_search_by_key(&index, |word| word >> 48);
        self.words
            .get(found.ok()?)
            .map(|word| unpacked(*word, self.rsp))
    }

    /// The addresses of code among them, from RSP upwards.
    pub(super) fn code(&self) -> impl Iterator<Item = u64> + '_ {
        let code = self.words.iter().filter(|word| *word & IS_POINTER == 0);
        code.map(|word| unpacked(*word, self.rsp))
    }
}

fn unpacked(word: u64, rsp: u64) -> u64 {
    let low = word & KERNEL_HALF;
    if word & IS_POINTER == 0 {
        KERNEL_FIRST | low
    } else {
        rsp.wrapping_add(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(rip: u64) -> Place {
        Place {
            rip,
            rsp: 0xffff_c900_0000_3e00,
            rbp: 7,
            user: rip.is_multiple_of(3),
        }
    }

    fn stack(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn what_is_kept_comes_back() {
        let mut samples = Samples::new();
        let words = [1, 0xffff_ffff_8123_4567, 0xffff_c900_0000_3f00, 0, u64::MAX];
        let port = Activity::Port {
            port: 0x3f8,
            is_out: true,
        };
        samples.push(3, port, place(9), &stack(&words));
        samples.push(1, Activity::Guest, place(10), &[]);
        let back: Vec<_> = samples.iter().collect();
        assert_eq!(back.len(), 2);
        assert_eq!((back[0].weight, back[0].activity), (3, port));
        assert_eq!(back[0].place, place(9));
        let rsp = place(9).rsp;
        assert_eq!(back[0].stack.at(rsp), None);
        assert_eq!(back[0].stack.at(rsp + 8), Some(words[1]));
        assert_eq!(back[0].stack.at(rsp + 16), Some(words[2]));
        assert_eq!(back[0].stack.at(rsp - 8), None);
        let code: Vec<u64> = back[0].stack.code().collect();
        assert_eq!(code, [words[1], words[4]]);
        assert_eq!(back[1].place, place(10));
        assert_eq!(back[1].stack.code().count(), 0);
    }

    #[test]
    fn a_full_table_gets_coarser_and_the_weight_stays() {
        let mut samples = Samples::with_room_for(4 * (HEADER + MAX_KEPT));
        let words = stack(&[u64::MAX; 50]);
        let mut given = 0;
        for rip in 0..1000 {
            // What a sampler does: one of so many, which stands for them.
            if rip % samples.stride() == 0 {
                let stride = samples.stride();
                samples.push(stride, Activity::Guest, place(rip), &words);
            }
            given += 1;
        }
        let kept: u64 = samples.iter().map(|sample| sample.weight).sum();
        assert!(samples.stride() > 1 && samples.words.len() <= samples.limit);
        assert!(kept.abs_diff(given) < 2 * samples.stride() + 100, "{kept}");
        assert!(
            samples
                .iter()
                .all(|sample| sample.stack.code().count() == 50)
        );
    }

    #[test]
    fn more_activities_than_there_is_room_for_do_no_harm() {
        let mut samples = Samples::new();
        for address in 0..10_000 {
            let activity = Activity::Mmio {
                address,
                is_write: false,
            };
            samples.push(1, activity, place(1), &[]);
        }
        assert_eq!(samples.iter().count(), 10_000);
        assert!(samples.activities.len() <= Head::MAX_ACTIVITY);
    }
}

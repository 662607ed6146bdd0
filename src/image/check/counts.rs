//! References to clusters, counted.

use std::collections::BTreeMap;

use super::CheckError;

/// Clusters that are counted together.
const PAGE: u64 = 4096;
/// Pages at most: 512 MiB of them, for 16 TiB of clusters of 64 KiB.
const PAGES_MAX: usize = 1 << 16;

/// How often each cluster of a file is referred to, up to 65535.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pages: BTreeMap<u64, Box<[u16]>>,
}

impl Counts {
    /// One reference more.
    pub(super) fn add(&mut self, cluster: u64) -> Result<(), CheckError> {
        let number = cluster / PAGE;
        if !self.pages.contains_key(&number) {
            if self.pages.len() >= PAGES_MAX {
                return Err(CheckError::TooWide);
            }
            let page = vec![0; PAGE as usize].into_boxed_slice();
            self.pages.insert(number, page);
        }
        if let Some(count) = self.count(cluster) {
            *count = count.saturating_add(1);
        }
        Ok(())
    }

    /// How often the cluster is referred to; from now on never.
    pub(super) fn take(&mut self, cluster: u64) -> u64 {
        let count = self.count(cluster).map(std::mem::take);
        count.unwrap_or_default().into()
    }

    /// How often the cluster is referred to.
    pub(super) fn get(&mut self, cluster: u64) -> u64 {
        self.count(cluster).copied().unwrap_or_default().into()
    }

    fn count(&mut self, cluster: u64) -> Option<&mut u16> {
        let page = self.pages.get_mut(&(cluster / PAGE))?;
        page.get_mut(usize::try_from(cluster % PAGE).ok()?)
    }

    /// The clusters that are referred to, in order, with how often.
    pub(super) fn left(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pages.iter().flat_map(|(number, page)| {
            let clusters = number * PAGE..;
            let counts = page.iter().map(|count| u64::from(*count));
            clusters.zip(counts).filter(|(_, count)| *count > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_where_there_are_any() {
        let mut counts = Counts::default();
        for cluster in [5, 1 << 40, 5] {
            counts.add(cluster).unwrap();
        }
        assert_eq!(counts.get(5), 2);
        assert_eq!(counts.get(6), 0);
        assert_eq!(counts.left().collect::<Vec<_>>(), [(5, 2), (1 << 40, 1)]);
        assert_eq!(counts.take(5), 2);
        assert_eq!(counts.take(5), 0);
        assert_eq!(counts.left().collect::<Vec<_>>(), [(1 << 40, 1)]);
    }

    #[test]
    fn wide_images_are_refused_before_memory_ends() {
        let mut counts = Counts::default();
        for page in 0..PAGES_MAX as u64 {
            counts.add(page * PAGE).unwrap();
        }
        counts.add(1).unwrap();
        let refused = counts.add(PAGES_MAX as u64 * PAGE);
        assert!(matches!(refused, Err(CheckError::TooWide)));
    }
}

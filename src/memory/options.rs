//! What guest RAM is made of on the host, where it is not the plain kind.

use std::fmt;

/// Where guest RAM comes from and how it is kept; the default is private anonymous
/// memory that is taken from the host when it is touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RamOptions {
    /// Larger pages than those of 4 KiB.
    pub hugepages: HugePages,
    /// Whether it is a file (memfd) that other processes can be given.
    pub shared: bool,
    /// Whether the host may merge pages that hold the same (KSM).
    pub mergeable: bool,
    /// Whether all of it is taken from the host at the start.
    pub prealloc: bool,
    /// Whether it is never swapped out.
    pub lock: bool,
    /// The NUMA nodes that it may come from.
    pub numa: Option<NumaNodes>,
}

/// Pages larger than 4 KiB behind guest RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// What the host does by itself.
    #[default]
    Host,
    /// Transparent huge pages, where the host finds some.
    Transparent,
    /// Out of the host's pool of 2 MiB pages.
    Pool2M,
    /// Out of the host's pool of 1 GiB pages.
    Pool1G,
}

impl HugePages {
    /// Size in bytes of the pages in the pool that guest RAM is taken from, if it is.
    pub fn pool_page(self) -> Option<u64> {
        match self {
            Self::Host | Self::Transparent => None,
            Self::Pool2M => Some(2 << 20),
            Self::Pool1G => Some(1 << 30),
        }
    }
}

/// A run of NUMA nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumaNodes {
    first: u16,
    last: u16,
}

impl NumaNodes {
    /// Nodes that x86-64 kernels can have (`CONFIG_NODES_SHIFT` is 10 at most).
    pub const MAX: u16 = 1024;

    /// The nodes `first..=last`; none if that is empty or beyond [`NumaNodes::MAX`].
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last && last < Self::MAX).then_some(Self { first, last })
    }

    /// Reads `N` or `N-M`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        match text.split_once('-') {
            Some((first, last)) => Self::new(number(first)?, number(last)?),
            None => Self::new(number(text)?, number(text)?),
        }
    }

    /// Whether `node` is one of them.
    pub fn contains(self, node: u16) -> bool {
        (self.first..=self.last).contains(&node)
    }

    /// Their numbers.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

/// As [`NumaNodes::parse`] reads it.
impl fmt::Display for NumaNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last {
            write!(f, "{first}")
        } else {
            write!(f, "{first}-{last}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_one_or_a_run() {
        for (text, first, last) in [("0", 0, 0), ("0-1", 0, 1), ("7-1023", 7, 1023)] {
            let nodes = NumaNodes::parse(text).unwrap();
            assert_eq!(nodes, NumaNodes { first, last });
            assert_eq!(nodes.to_string(), text);
            assert_eq!(nodes.iter().count(), usize::from(last - first) + 1);
        }
        for text in [
            "", "-", "-1", "1-", "1-0", "+1", "0-+1", "1024", "0-1024", "0,1", "all", "1-2-3",
            "70000",
        ] {
            assert_eq!(NumaNodes::parse(text), None, "{text}");
        }
    }
}

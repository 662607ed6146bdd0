//! Whether the tap's interface is up, as the host sees it.

use std::os::fd::BorrowedFd;

use super::super::link::LinkWatch;
use super::netlink::{Change, Interface, News, Questions};

/// Notices taken in at one go, lest a storm of them holds up the guest's frames. More
/// than the socket can hold, so that nothing is left that nobody is woken for.
const MOST_AT_ONCE: usize = 1024;

/// Looks at one interface of the namespace in which it was made.
pub(super) struct TapWatch {
    news: News,
    questions: Questions,
    state: State,
}

/// What is known of the interface.
struct State {
    index: u32,
    is_up: bool,
    /// Where the interface is no more, or out of sight, nothing changes.
    is_final: bool,
    dropped: Option<u64>,
    /// What it had dropped before.
    dropped_at_first: u64,
}

impl TapWatch {
    /// Watches `interface`, which `news` and `questions` are about. What has happened
    /// since `news` was opened is not lost.
    pub(super) fn new(news: News, questions: Questions, interface: &Interface) -> Self {
        Self {
            news,
            questions,
            state: State {
                index: interface.index,
                is_up: interface.is_up,
                is_final: false,
                dropped: interface.dropped,
                dropped_at_first: interface.dropped.unwrap_or(0),
            },
        }
    }

    fn ask(&mut self) {
        if self.state.is_final {
            return;
        }
        match self.questions.by_index(self.state.index) {
            Ok(Some(interface)) => self.state.is_now(&interface),
            Ok(None) => self.state.is_gone(),
            Err(error) => log::debug!("cannot ask for the state of a tap: {error}"),
        }
    }
}

impl LinkWatch for TapWatch {
    fn fd(&self) -> BorrowedFd<'_> {
        self.news.fd()
    }

    fn is_up(&mut self) -> bool {
        let mut must_ask = false;
        let state = &mut self.state;
        for _ in 0..MOST_AT_ONCE {
            let more = self.news.take(|change| match change {
                Change::Is(interface) => state.is_now(&interface),
                Change::WasRemoved(interface) => state.was_removed(&interface),
                Change::Anything => must_ask = true,
            });
            if !more {
                break;
            }
        }
        if must_ask {
            self.ask();
        }
        self.state.is_up
    }

    fn overruns(&mut self) -> Option<u64> {
        self.ask();
        let dropped = self.state.dropped?;
        Some(dropped.saturating_sub(self.state.dropped_at_first))
    }
}

impl State {
    fn is_now(&mut self, interface: &Interface) {
        if interface.index == self.index && !self.is_final {
            self.is_up = interface.is_up;
            self.dropped = interface.dropped.or(self.dropped);
        }
    }

    fn was_removed(&mut self, interface: &Interface) {
        if interface.index != self.index || self.is_final {
            return;
        }
        self.dropped = interface.dropped.or(self.dropped);
        if interface.moves {
            // It lives on where it cannot be seen: somebody will bring it up there.
            self.is_up = true;
            self.is_final = true;
        } else {
            self.is_gone();
        }
    }

    fn is_gone(&mut self) {
        self.is_up = false;
        self.is_final = true;
    }
}

//! A level-triggered line that several devices share.

use std::sync::{Arc, Mutex, PoisonError};

use crate::devices::LevelLine;

/// The line itself, and how many hold it up.
pub struct SharedLevel {
    line: Box<dyn LevelLine>,
    holders: Mutex<usize>,
}

impl SharedLevel {
    /// The line, which nobody holds up.
    pub fn new(line: Box<dyn LevelLine>) -> Self {
        Self {
            line,
            holders: Mutex::new(0),
        }
    }
}

/// What one device has of the line.
pub struct LevelSource {
    shared: Arc<SharedLevel>,
    asserted: Mutex<bool>,
}

impl LevelSource {
    /// One more who may hold the line up.
    pub fn new(shared: Arc<SharedLevel>) -> Self {
        Self {
            shared,
            asserted: Mutex::new(false),
        }
    }
}

impl LevelLine for LevelSource {
    fn set_level(&self, asserted: bool) {
        let mut own = self.asserted.lock().unwrap_or_else(PoisonError::into_inner);
        if *own == asserted {
            return;
        }
        *own = asserted;
        let shared = &self.shared;
        let mut holders = shared
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = *holders;
        *holders = if asserted {
            before.saturating_add(1)
        } else {
            before.saturating_sub(1)
        };
        if (before == 0) != (*holders == 0) {
            shared.line.set_level(asserted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Line(Arc<Mutex<Vec<bool>>>);

    impl LevelLine for Line {
        fn set_level(&self, asserted: bool) {
            self.0.lock().unwrap().push(asserted);
        }
    }

    #[test]
    fn the_line_is_up_while_anybody_holds_it() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new(SharedLevel::new(Box::new(Line(seen.clone()))));
        let [a, b] = [(); 2].map(|()| LevelSource::new(shared.clone()));
        let take = || std::mem::take(&mut *seen.lock().unwrap());
        b.set_level(false);
        assert!(take().is_empty());
        a.set_level(true);
        a.set_level(true);
        b.set_level(true);
        assert_eq!(take(), [true]);
        a.set_level(false);
        a.set_level(false);
        assert!(take().is_empty());
        b.set_level(false);
        assert_eq!(take(), [false]);
    }
}

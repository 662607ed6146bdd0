//! How much may be used up for what a guest leaves, over all of its starts.

/// An amount that only gets less.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
}

impl Budget {
    /// There is as much as `amount`.
    pub(super) fn of(amount: u64) -> Self {
        Self { left: amount }
    }

    /// Takes `amount`; false, with nothing taken, if there is less.
    pub(super) fn take(&mut self, amount: u64) -> bool {
        let left = self.left.checked_sub(amount);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// Takes `amount`, or what there is.
    pub(super) fn spend(&mut self, amount: u64) {
        self.left = self.left.saturating_sub(amount);
    }

    /// Whether nothing is left.
    pub(super) fn is_used_up(&self) -> bool {
        self.left == 0
    }

    /// What is left, for tests.
    #[cfg(test)]
    pub(super) fn left(&self) -> u64 {
        self.left
    }
}

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
}

//! Bytes read as choices.

/// What is left of a fuzz target's bytes; when none are left, every choice is 0.
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl<'a> Choices<'a> {
    /// Whether all is read.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    /// Bytes as they are, fewer than `end`.
    pub(super) fn bytes(&mut self, end: usize) -> &'a [u8] {
        let wanted = self.below(end);
        let (taken, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

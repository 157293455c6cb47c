//! The one source of luck: a splitmix64 stream.
//!
//! Written out here, not taken from a library, because a seed that stays in `tests/sim` has to mean the same run for ever.

/// A seeded stream of numbers. Equal seeds give equal streams.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        let mut rng = Rng(seed ^ 0x9e37_79b9_7f4a_7c15);
        rng.next();
        rng
    }

    /// An independent stream, so that drawing more in one place does not shift what is drawn in another.
    pub(crate) fn fork(&mut self, label: u64) -> Rng {
        Rng::new(self.next() ^ label.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// The same, without drawing: what is added to the simulator later takes its luck from here, so that what a kept
    /// seed decided before stays as it was.
    pub(crate) fn aside(&self, label: u64) -> Rng {
        self.clone().fork(label)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// An index into something of length `n`, which is above 0.
    pub(crate) fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// True once in `n` times; never if `n` is 0.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If the stream changed, every kept seed would silently test something else.
    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut rng = Rng::new(7);
        assert_eq!([rng.next(), rng.next()], [18363971414914884509, 8043341295829897994]);
    }
}

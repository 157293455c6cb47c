//! Unpredictable bytes.

/// Bytes fetched at a time.
const AHEAD: usize = 512;

/// Fills with bytes of the cryptographic generator, which the operating system seeds.
pub fn fill(out: &mut [u8]) {
    // It fails only where the system has no source of entropy; going on with predictable keys would be worse.
    aws_lc_rs::rand::fill(out).expect("the system's random generator works");
}

/// The same bytes, fetched ahead, since a login wants a few and each call of the generator has a price of its own.
pub(crate) struct Random {
    ahead: [u8; AHEAD],
    /// Of these, the ones from here on are not given out.
    at: usize,
}

impl Random {
    pub(crate) fn new() -> Random {
        Random { ahead: [0; AHEAD], at: AHEAD }
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        if out.len() > AHEAD {
            return fill(out);
        }
        if AHEAD - self.at < out.len() {
            fill(&mut self.ahead);
            self.at = 0;
        }
        let given = &mut self.ahead[self.at..self.at + out.len()];
        out.copy_from_slice(given);
        // Nobody else gets them, or finds them in memory.
        given.fill(0);
        self.at += out.len();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Two clients with one cancel key could cancel each other's requests.
    #[test]
    fn no_byte_is_given_twice_or_kept() {
        let mut random = Random::new();
        let mut seen = HashSet::new();
        for len in [32, 32, AHEAD, 16, AHEAD + 1, 100].repeat(10) {
            let mut bytes = vec![0; len];
            random.fill(&mut bytes);
            assert!(bytes.chunks_exact(16).all(|chunk| chunk != [0; 16] && seen.insert(chunk.to_vec())));
            assert!(random.ahead[..random.at].iter().all(|byte| *byte == 0));
        }
    }
}

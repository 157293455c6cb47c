//! What happened, as a hash and, when asked, as lines.
//!
//! Two runs of one seed must have the same hash: whatever differs is a decision that did not come from the seed.

/// Collects events.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    lines: Option<Vec<String>>,
}

/// Lines kept for a verbose run; older ones go first.
const LINES_MAX: usize = 200_000;

impl Trace {
    pub(crate) fn new(is_verbose: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: is_verbose.then(Vec::new) }
    }

    /// Records one event: its kind, who, and the bytes that matter.
    pub(crate) fn note(&mut self, kind: u8, who: u64, bytes: &[u8]) {
        self.events += 1;
        self.mix(u64::from(kind));
        self.mix(who);
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// Adds a line to a verbose run; `text` is not called otherwise.
    pub(crate) fn say(&mut self, now: u64, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines
            && lines.len() < LINES_MAX
        {
            lines.push(format!("{:>10.3} ms  {}", now as f64 / 1000.0, text()));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

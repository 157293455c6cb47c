//! Monotonic time in core's unit.

use forebay_core::time::Instant;

/// Counts microseconds since the engine's start; shared by all its threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(std::time::Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(std::time::Instant::now())
    }

    pub(crate) fn now(self) -> Instant {
        // 2^64 microseconds are 584,000 years.
        Instant(self.0.elapsed().as_micros() as u64)
    }
}

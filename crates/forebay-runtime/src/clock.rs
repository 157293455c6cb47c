//! Monotonic time in core's unit.

use forebay_core::time::Instant;

/// Counts microseconds since the engine's start; shared by all its threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The system's microseconds at the start.
    start: u64,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { start: micros(libc::CLOCK_MONOTONIC) }
    }

    /// That of another process on this machine, by what its [`Clock::origin`] is.
    pub(crate) fn of(start: u64) -> Clock {
        Clock { start: start.min(micros(libc::CLOCK_MONOTONIC)) }
    }

    /// The system's microseconds at its zero.
    pub(crate) fn origin(self) -> u64 {
        self.start
    }

    pub(crate) fn now(self) -> Instant {
        Instant(micros(libc::CLOCK_MONOTONIC).saturating_sub(self.start))
    }

    /// As [`Clock::now`], late by a tick of the scheduler at most (10 ms), for a fifth of the cost.
    pub(crate) fn about_now(self) -> Instant {
        Instant(micros(libc::CLOCK_MONOTONIC_COARSE).saturating_sub(self.start))
    }
}

/// The system's count. Straight from it: std's way over two checked subtractions costs as much as the reading.
fn micros(clock: libc::clockid_t) -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` lives over the call. Both clocks exist since Linux 2.6.32, so that it can't fail.
    unsafe { libc::clock_gettime(clock, &raw mut at) };
    // Both count up from zero at boot: 2^64 microseconds are 584,000 years.
    at.tv_sec as u64 * 1_000_000 + at.tv_nsec as u64 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A coarse time ahead of the exact one would let a wait end before its time; one that stands still, no stall show.
    #[test]
    fn the_coarse_time_follows_the_exact_one() {
        let clock = Clock::start();
        for _ in 0..10_000 {
            let (about, now) = (clock.about_now(), clock.now());
            assert!(about <= now, "{about:?} is ahead of {now:?}");
        }
        let before = clock.now();
        while clock.about_now() < before {
            assert!(clock.now().since(before).as_secs() < 20, "it stands still");
        }
    }
}

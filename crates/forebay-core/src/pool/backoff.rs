//! How an endpoint does: pauses between tries that grow while they fail. It never closes or bans anything.

use std::sync::Arc;
use std::time::Duration;

use crate::time::Instant;

/// First pause after a failure.
const FIRST: Duration = Duration::from_millis(50);
/// Pause while the server says that it is full: at most two tries a second.
const FULL: Duration = Duration::from_millis(500);

/// Failures to open a server, since the last success.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    until: Instant,
    since: Option<Instant>,
    cause: Option<Arc<str>>,
}

impl Backoff {
    /// Whether a try is allowed.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// When the next try is allowed.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// A try succeeded.
    pub fn succeeded(&mut self) {
        *self = Backoff::default();
    }

    /// A try failed. `luck` in 0..256 spreads the tries of many poolers.
    pub fn failed(&mut self, cause: Arc<str>, max: Duration, luck: u8, now: Instant) {
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(max.max(FIRST));
        self.failures = self.failures.saturating_add(1);
        self.until = now + pause.mul_f64(0.75 + f64::from(luck) / 512.0);
        self.since.get_or_insert(now);
        self.cause = Some(cause);
    }

    /// The server has no place for us at the moment: it is full, not sick.
    pub fn full(&mut self, now: Instant) {
        self.until = now + FULL;
    }

    /// Since when all tries have failed, and why the last one did.
    pub fn sickness(&self) -> Option<(Instant, Arc<str>)> {
        Some((self.since?, self.cause.clone()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_end_with_a_success() {
        let mut backoff = Backoff::default();
        let (max, mut now, mut last) = (Duration::from_secs(5), Instant(1_000_000), 0);
        for _ in 0..20 {
            assert!(backoff.is_over(now));
            backoff.failed("refused".into(), max, 128, now);
            let pause = backoff.until().micros_since(now);
            assert!(pause >= last && pause <= 5_000_000);
            last = pause;
            now = backoff.until();
        }
        assert_eq!(last, 5_000_000);
        assert_eq!(backoff.sickness().map(|(since, _)| since), Some(Instant(1_000_000)));
        backoff.succeeded();
        assert!(backoff.is_over(now) && backoff.sickness().is_none());
    }

    /// A saturated server that counted as sick would be cut off just when it is needed.
    #[test]
    fn a_full_server_is_not_sick() {
        let mut backoff = Backoff::default();
        backoff.full(Instant(0));
        assert!(backoff.sickness().is_none());
        assert!(!backoff.is_over(Instant(400_000)) && backoff.is_over(Instant(500_000)));
    }
}

//! How an endpoint does: pauses between tries that grow while they fail. It never closes or bans anything.

use std::sync::Arc;
use std::time::Duration;

use crate::time::Instant;

/// First pause after a failure.
const FIRST: Duration = Duration::from_millis(50);
/// Longest pause while an endpoint has been out of reach for less than [`SHORT_OUTAGE`]: a restart is met soon after it is
/// over. A try costs either side next to nothing.
const QUICK: Duration = Duration::from_millis(200);
/// See there.
const SHORT_OUTAGE: Duration = Duration::from_secs(60);
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

    /// A try failed. `luck` in 0..256 spreads the tries of many poolers. `is_refusal`: the server has refused the login, and
    /// will do so again until somebody changes something.
    pub fn failed(&mut self, cause: Arc<str>, is_refusal: bool, max: Duration, luck: u8, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let is_short = !is_refusal && now.since(since) < SHORT_OUTAGE;
        let max = if is_short { max.min(QUICK) } else { max };
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(max.max(FIRST));
        self.failures = self.failures.saturating_add(1);
        self.until = now + pause.mul_f64(0.75 + f64::from(luck) / 512.0);
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
            backoff.failed("no such role".into(), true, max, 128, now);
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

    /// A server that restarts for three seconds must not cost five more.
    #[test]
    fn a_short_outage_is_met_soon_after_its_end_and_a_long_one_with_patience() {
        let (mut backoff, max, start) = (Backoff::default(), Duration::from_secs(5), Instant(1_000_000));
        let mut now = start;
        let mut tries = 0;
        while now.since(start) < SHORT_OUTAGE {
            backoff.failed("refused".into(), false, max, 255, now);
            assert!(backoff.until().since(now) <= Duration::from_millis(250));
            now = backoff.until();
            tries += 1;
        }
        assert!(tries < 5 * 60 + 10, "{tries}");
        backoff.failed("refused".into(), false, max, 128, now);
        assert_eq!(backoff.until().since(now), max);
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

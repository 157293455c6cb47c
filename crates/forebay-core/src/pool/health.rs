//! How an endpoint does, as all workers know it: pauses between tries that grow while they fail. It closes nothing that
//! works.
//!
//! | standing | tries |
//! |---|---|
//! | well | as many as are wanted |
//! | sick: tries have failed since the last that succeeded | one after each pause: of 200 ms in the first minute, longer after that and after a refused login |
//! | full: the server has no place for us | one after the other, and half a second after each that is refused |

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
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
/// How long after its last refusal a server is still taken to be full.
const FULL_FOR: Duration = Duration::from_secs(2);

/// How an endpoint does; the table is in the module's head.
#[derive(Debug, Default)]
pub struct Health {
    /// Tries that failed since the last success.
    failures: AtomicU32,
    /// When the last of them was told.
    failed_at: AtomicU64,
    /// No try before, unless it is well.
    until: AtomicU64,
    /// Until then pauses end at [`QUICK`].
    quick_until: AtomicU64,
    /// When it is no longer taken to be full.
    full_until: AtomicU64,
    sick: Mutex<Option<Sickness>>,
}

/// Since when all tries have failed, and why the last one did.
#[derive(Clone, Debug)]
pub struct Sickness {
    /// See there.
    pub since: Instant,
    /// See there.
    pub cause: Arc<str>,
}

impl Health {
    /// Whether tries need not wait for each other.
    pub fn is_well(&self, now: Instant) -> bool {
        self.failures.load(SeqCst) == 0 && self.full_until.load(SeqCst) <= now.0
    }

    /// When a try is allowed: not after `now` if it is.
    pub fn next_try(&self, now: Instant) -> Instant {
        if self.is_well(now) { now } else { Instant(self.until.load(SeqCst)) }
    }

    /// Takes the next try, so that the other workers do not try as well. False: it is not due, or taken.
    pub fn claim(&self, max: Duration, now: Instant) -> bool {
        if self.is_well(now) {
            return true;
        }
        let pause = match self.failures.load(SeqCst) {
            0 => FULL,
            failures => self.pause(failures, max, now),
        };
        let take = |until: u64| (until <= now.0).then_some((now + pause).0);
        self.until.fetch_update(SeqCst, SeqCst, take).is_ok()
    }

    /// A try succeeded. True: others may have waited for that.
    pub fn succeeded(&self, now: Instant) -> bool {
        if self.is_well(now) {
            return false;
        }
        self.failures.store(0, SeqCst);
        self.until.store(now.0, SeqCst);
        *self.sick() = None;
        true
    }

    /// A try failed. `luck` in 0..256 spreads the tries of many poolers; `begun`: when the try was.
    pub fn failed(&self, cause: &str, max: Duration, luck: u8, begun: Instant, now: Instant) {
        self.failed_with(cause, SHORT_OUTAGE, max, luck, begun, now);
    }

    /// The same where the server has refused the login, and will do so again until somebody changes something.
    pub fn refused(&self, cause: &str, max: Duration, luck: u8, begun: Instant, now: Instant) {
        self.failed_with(cause, Duration::ZERO, max, luck, begun, now);
    }

    fn failed_with(&self, cause: &str, quick_for: Duration, max: Duration, luck: u8, begun: Instant, now: Instant) {
        let mut sick = self.sick();
        let since = sick.as_ref().map_or(now, |sick| sick.since);
        *sick = Some(Sickness { since, cause: cause.into() });
        // Those that were under way together are one failure: none of them was tried in spite of another.
        let is_counted = self.failures.load(SeqCst) == 0 || begun.0 >= self.failed_at.load(SeqCst);
        if !is_counted {
            return;
        }
        self.failed_at.store(now.0, SeqCst);
        self.quick_until.store((since + quick_for).0, SeqCst);
        let failures = self.failures.fetch_add(1, SeqCst).min(u32::MAX / 2);
        let pause = self.pause(failures, max, now).mul_f64(0.75 + f64::from(luck) / 512.0);
        self.until.store((now + pause).0, SeqCst);
    }

    /// The pause after so many failures.
    fn pause(&self, failures: u32, max: Duration, now: Instant) -> Duration {
        let is_quick = now.0 < self.quick_until.load(SeqCst);
        let max = if is_quick { max.min(QUICK) } else { max };
        FIRST.saturating_mul(1 << failures.min(16)).min(max.max(FIRST))
    }

    /// The server has no place for us at the moment: it is full, not sick.
    pub fn full(&self, now: Instant) {
        self.until.store((now + FULL).0, SeqCst);
        self.full_until.store((now + FULL_FOR).0, SeqCst);
    }

    /// What is wrong, if all tries fail.
    pub fn sickness(&self) -> Option<Sickness> {
        if self.failures.load(SeqCst) == 0 { None } else { self.sick().clone() }
    }

    fn sick(&self) -> std::sync::MutexGuard<'_, Option<Sickness>> {
        self.sick.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How endpoints do, by what tells them apart: for a pool, or for all.
#[derive(Debug)]
pub struct Healths<K> {
    known: Mutex<Vec<(K, Arc<Health>)>>,
}

impl<K> Default for Healths<K> {
    fn default() -> Self {
        Healths { known: Mutex::default() }
    }
}

impl<K: Clone + Eq> Healths<K> {
    /// The health of `key`.
    pub fn of(&self, key: &K) -> Arc<Health> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that a reload has taken away are held by nobody else.
        known.retain(|(_, health)| Arc::strong_count(health) > 1);
        if let Some((_, health)) = known.iter().find(|(other, _)| other == key) {
            return health.clone();
        }
        let health = Arc::<Health>::default();
        known.push((key.clone(), health.clone()));
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn pauses_grow_to_the_limit_and_end_with_a_success() {
        let (health, mut now, mut last) = (Health::default(), Instant(1_000_000), 0);
        for _ in 0..20 {
            assert!(health.next_try(now) <= now);
            health.refused("no such role", MAX, 128, now, now);
            let pause = health.next_try(now).micros_since(now);
            assert!(pause >= last && pause <= 5_000_000);
            last = pause;
            now = health.next_try(now);
        }
        assert_eq!(last, 5_000_000);
        assert_eq!(health.sickness().map(|sick| sick.since), Some(Instant(1_000_000)));
        assert!(health.succeeded(now) && !health.succeeded(now));
        assert!(health.is_well(now) && health.sickness().is_none());
    }

    /// A server that restarts for three seconds must not cost five more.
    #[test]
    fn a_short_outage_is_met_soon_after_its_end_and_a_long_one_with_patience() {
        let (health, start) = (Health::default(), Instant(1_000_000));
        let mut now = start;
        let mut tries = 0;
        while now.since(start) < SHORT_OUTAGE {
            health.failed("refused", MAX, 255, now, now);
            assert!(health.next_try(now).since(now) <= Duration::from_millis(250));
            now = health.next_try(now);
            tries += 1;
        }
        assert!(tries < 5 * 60 + 10, "{tries}");
        health.failed("refused", MAX, 128, now, now);
        assert_eq!(health.next_try(now).since(now), MAX);
    }

    /// Four servers that were opened at once, and all of them refused, would make a pool wait as after four tries.
    #[test]
    fn tries_that_were_under_way_together_are_one_failure() {
        let (health, at) = (Health::default(), |ms: u64| Instant(ms * 1000));
        for _ in 0..4 {
            health.refused("no such role", MAX, 128, at(0), at(10));
        }
        assert_eq!(health.next_try(at(10)), at(60), "as after one");
        health.refused("no such role", MAX, 128, at(5), at(50));
        assert_eq!(health.next_try(at(50)), at(60), "nor is one that was begun before it was known");
        health.refused("no such role", MAX, 128, at(60), at(70));
        assert_eq!(health.next_try(at(70)), at(170));
    }

    /// A saturated server that counted as sick would be cut off just when it is needed.
    #[test]
    fn a_full_server_is_not_sick() {
        let health = Health::default();
        health.full(Instant(0));
        assert!(health.sickness().is_none() && !health.is_well(Instant(0)));
        assert!(health.next_try(Instant(400_000)) > Instant(400_000));
        assert!(health.next_try(Instant(500_000)) <= Instant(500_000));
    }

    /// Row 16 of the faults: eight workers that each try twice a second are a storm.
    #[test]
    fn a_full_server_is_tried_by_one_at_a_time() {
        let health = Health::default();
        health.full(Instant(0));
        let at = |ms: u64| Instant(ms * 1000);
        assert!(!health.claim(MAX, at(499)) && health.claim(MAX, at(500)) && !health.claim(MAX, at(501)));
        health.full(at(510));
        assert!(!health.claim(MAX, at(1009)) && health.claim(MAX, at(1010)));
        health.succeeded(at(1020));
        assert!(health.claim(MAX, at(1021)) && !health.claim(MAX, at(1022)), "one by one, as long as they succeed");
        assert!(health.claim(MAX, at(2511)) && health.claim(MAX, at(2511)), "nobody has been refused for long");
    }

    /// Ten workers that all try a host which does not answer would hold ten clients up.
    #[test]
    fn a_sick_endpoint_is_tried_by_one_at_a_time() {
        let health = Health::default();
        health.failed("no answer", MAX, 0, Instant(0), Instant(0));
        let due = health.next_try(Instant(0));
        assert!(health.claim(MAX, due) && !health.claim(MAX, due));
    }
}

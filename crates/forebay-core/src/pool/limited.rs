//! A limit over several pools.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::time::Instant;

/// Permits, and whether a pool was refused one since it was last found that none waits.
#[derive(Debug, Default)]
pub struct Limited {
    permits: Permits,
    is_wanted: AtomicBool,
    share: Share,
}

/// What this process has of a budget that it shares with others. It is lent: once its time is over, which needs nobody to
/// say so, only what is left without a loan may be used. Until something is told that is nothing.
#[derive(Debug, Default)]
pub struct Share {
    servers: AtomicU32,
    until: AtomicU64,
    after: AtomicU32,
}

impl Share {
    /// `servers` until then, and at most `after` from there on.
    pub fn set(&self, servers: u32, until: Instant, after: u32) {
        self.after.store(after.min(servers), SeqCst);
        self.servers.store(servers, SeqCst);
        self.until.store(until.0, SeqCst);
    }

    /// How many servers there may be.
    pub fn most(&self, now: Instant) -> u32 {
        if now.0 < self.until.load(SeqCst) { self.servers.load(SeqCst) } else { self.after.load(SeqCst) }
    }

    /// Whether anything was told.
    pub fn is_told(&self) -> bool {
        self.until.load(SeqCst) > 0
    }
}

impl Limited {
    /// See there.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Takes a permit, unless the limit is reached.
    pub fn take(&self, limit: Option<u32>) -> bool {
        // A limit of 0 is none to the count of permits.
        limit != Some(0) && self.permits.try_take(limit.unwrap_or(0))
    }

    /// As [`Self::take`] would find at this moment, without writing.
    pub fn is_reached(&self, limit: Option<u32>) -> bool {
        limit.is_some_and(|limit| self.permits.used() >= limit)
    }

    /// Whether a pool may wait for a permit.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(SeqCst)
    }

    /// See [`Self::is_wanted`].
    pub fn set_wanted(&self, is_wanted: bool) {
        if self.is_wanted() != is_wanted {
            self.is_wanted.store(is_wanted, SeqCst);
        }
    }
}

impl Deref for Limited {
    type Target = Permits;

    fn deref(&self) -> &Permits {
        &self.permits
    }
}

/// A count that must not pass a limit.
#[derive(Debug, Default)]
pub struct Permits {
    used: AtomicU32,
}

impl Permits {
    /// Takes one, unless `limit` are taken. A limit of 0 is none.
    pub fn try_take(&self, limit: u32) -> bool {
        self.used.fetch_update(SeqCst, SeqCst, |used| (limit == 0 || used < limit).then_some(used + 1)).is_ok()
    }

    /// Whether `limit` are taken: as [`Self::try_take`] would find at this moment, without writing.
    pub fn is_full(&self, limit: u32) -> bool {
        limit != 0 && self.used.load(SeqCst) >= limit
    }

    /// Gives one back.
    pub fn give_back(&self) {
        let before = self.used.fetch_sub(1, SeqCst);
        assert!(before > 0, "a permit given back was taken");
    }

    /// How many are taken.
    pub fn used(&self) -> u32 {
        self.used.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that was stopped for long wakes with what others were lent meanwhile.
    #[test]
    fn a_share_ends_by_itself_and_nothing_is_one_before_it_is_told() {
        let limited = Limited::default();
        assert_eq!((limited.share().most(Instant(0)), limited.share().is_told()), (0, false));
        assert!(!limited.take(Some(limited.share().most(Instant(0)))), "nothing means none, and not no limit");
        limited.share().set(2, Instant(1000), 1);
        let most = |now| Some(limited.share().most(Instant(now)));
        assert!(limited.take(most(999)) && limited.take(most(999)) && limited.is_reached(most(999)));
        assert!(!limited.take(most(999)));
        limited.give_back();
        assert!(limited.is_reached(most(1000)) && !limited.take(most(1000)) && limited.take(most(999)));
        assert!(!limited.is_reached(None) && limited.take(None));
    }
}

//! A limit over several pools.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

/// Permits, and whether a pool was refused one since it was last found that none waits.
#[derive(Debug, Default)]
pub struct Limited {
    permits: Permits,
    is_wanted: AtomicBool,
}

impl Limited {
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

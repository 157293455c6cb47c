//! A limit over several pools.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::shared::Permits;

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

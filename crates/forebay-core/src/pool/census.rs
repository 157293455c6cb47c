//! How many clients each database and each user has, over all workers. A lock, taken when a client comes and goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

/// What clients are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    /// The database that they asked for.
    Database,
    /// The user that they are.
    User,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Census {
    counts: Mutex<FxHashMap<(Of, Arc<str>), u32>>,
}

impl Census {
    /// Counts a client, unless `limit` are counted. A limit of 0 is none.
    pub fn try_count(&self, of: Of, name: &Arc<str>, limit: u32) -> bool {
        let mut counts = self.lock();
        let count = counts.entry((of, name.clone())).or_default();
        let has_room = limit == 0 || *count < limit;
        *count += u32::from(has_room);
        has_room
    }

    /// Forgets a client that was counted.
    pub fn forget(&self, of: Of, name: &Arc<str>) {
        let mut counts = self.lock();
        let key = (of, name.clone());
        let count = counts.get_mut(&key).expect("a client that is forgotten was counted");
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<(Of, Arc<str>), u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit of a database is none of a user of the same name, and names that nobody uses take no room.
    #[test]
    fn clients_are_counted_by_what_they_are_of() {
        let (census, name) = (Census::default(), Arc::<str>::from("app"));
        assert!(census.try_count(Of::Database, &name, 1));
        assert!(!census.try_count(Of::Database, &name, 1));
        assert!(census.try_count(Of::User, &name, 1));
        assert!(census.try_count(Of::Database, &name, 0));
        for _ in 0..2 {
            census.forget(Of::Database, &name);
        }
        assert!(census.try_count(Of::Database, &name, 1));
        census.forget(Of::Database, &name);
        census.forget(Of::User, &name);
        assert!(census.lock().is_empty());
    }
}

//! Statements of all workers: [`Registry`].

use std::sync::{Arc, Mutex, PoisonError, Weak};

use forebay_sql::shape::Shape;
use rustc_hash::FxHashMap;

use super::{Statement, StatementKey};

/// Statements of all workers: gives equal content one name. Its lock is taken when a worker meets a text
/// it does not hold, never for one it knows.
#[derive(Debug, Default)]
pub struct Registry {
    known: Mutex<RegistryTable>,
}

#[derive(Debug, Default)]
struct RegistryTable {
    by_key: FxHashMap<StatementKey, Weak<Statement>>,
    last_id: u64,
    sweep_at: usize,
}

impl Registry {
    pub(super) fn find_or_add(&self, key: StatementKey, shape: Arc<Shape>) -> Arc<Statement> {
        let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = table.by_key.get(&key).and_then(Weak::upgrade) {
            return statement;
        }
        if table.by_key.len() >= table.sweep_at.max(1024) {
            table.by_key.retain(|_, s| s.strong_count() > 0);
            table.sweep_at = table.by_key.len() * 2;
        }
        table.last_id += 1;
        let statement = Arc::new(Statement::new(key.clone(), table.last_id, shape));
        table.by_key.insert(key, Arc::downgrade(&statement));
        statement
    }

    /// The number of a statement that nobody else is given.
    pub(super) fn next_id(&self) -> u64 {
        let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        table.last_id += 1;
        table.last_id
    }
}

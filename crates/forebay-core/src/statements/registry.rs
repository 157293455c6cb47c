//! Statements of all workers: [`Registry`].

use std::sync::{Arc, Mutex, PoisonError, Weak};

use forebay_sql::shape::Shape;
use rustc_hash::FxHashMap;

use super::prepared::{Prepared, StatementKey};

/// Statements of all workers: gives equal content one name. Its lock is taken when a worker meets a text
/// it does not hold, never for one it knows.
#[derive(Debug)]
pub struct Registry {
    prefix: Box<[u8]>,
    pub(super) known: Mutex<RegistryTable>,
}

#[derive(Debug, Default)]
pub(super) struct RegistryTable {
    pub(super) by_key: FxHashMap<StatementKey, Weak<Prepared>>,
    /// Those that came from another process, or are on their way to one.
    pub(super) by_id: FxHashMap<u64, Weak<Prepared>>,
    last_id: u64,
    sweep_at: usize,
    sweep_ids_at: usize,
}

impl RegistryTable {
    /// Forgets numbers of statements that nobody has any more, when there are many.
    pub(super) fn sweep_ids(&mut self) {
        if self.by_id.len() >= self.sweep_ids_at.max(1024) {
            self.by_id.retain(|_, s| s.strong_count() > 0);
            self.sweep_ids_at = self.by_id.len() * 2;
        }
    }
}

/// What names begin with where nothing is to be kept from being guessed.
const PREFIX: &str = "fb_";

/// Characters in a name that nobody guesses: 36^8 are 41 bits, and each guess is a statement.
const GUESS_CHARACTERS: usize = 8;

impl Default for Registry {
    fn default() -> Registry {
        Registry { prefix: PREFIX.as_bytes().into(), known: Mutex::default() }
    }
}

impl Registry {
    /// Names its statements so that who does not know `random` guesses none of them.
    pub fn with_names_of(random: u64) -> Registry {
        let mut left = random;
        let characters = (0..GUESS_CHARACTERS).map(|_| {
            let digit = char::from_digit((left % 36) as u32, 36).unwrap_or('0');
            left /= 36;
            digit
        });
        let prefix = PREFIX.chars().chain(characters).chain(['_']).collect::<String>();
        Registry { prefix: prefix.into_bytes().into(), known: Mutex::default() }
    }

    /// Names its statements as another process does that it succeeds, with numbers behind `last_id`.
    pub fn succeeding(prefix: &[u8], last_id: u64) -> Registry {
        let table = RegistryTable { last_id, ..RegistryTable::default() };
        Registry { prefix: prefix.into(), known: Mutex::new(table) }
    }

    /// The last number that was given.
    pub fn last_id(&self) -> u64 {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).last_id
    }

    /// What the names of its statements begin with.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    fn name(&self, id: u64) -> Box<[u8]> {
        [&self.prefix, id.to_string().as_bytes()].concat().into()
    }

    pub(super) fn find_or_add(&self, key: StatementKey, shape: Arc<Shape>) -> Arc<Prepared> {
        let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = table.by_key.get(&key).and_then(Weak::upgrade) {
            return statement;
        }
        if table.by_key.len() >= table.sweep_at.max(1024) {
            table.by_key.retain(|_, s| s.strong_count() > 0);
            table.sweep_at = table.by_key.len() * 2;
        }
        table.last_id += 1;
        let name = self.name(table.last_id);
        let statement = Arc::new(Prepared::new(key.clone(), table.last_id, name, shape));
        table.by_key.insert(key, Arc::downgrade(&statement));
        statement
    }

    /// The number and name of a statement that nobody else is given.
    pub(super) fn next(&self) -> (u64, Box<[u8]>) {
        let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        table.last_id += 1;
        (table.last_id, self.name(table.last_id))
    }
}

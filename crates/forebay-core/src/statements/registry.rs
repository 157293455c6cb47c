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
    known: Mutex<RegistryTable>,
}

#[derive(Debug, Default)]
struct RegistryTable {
    by_key: FxHashMap<StatementKey, Weak<Prepared>>,
    last_id: u64,
    sweep_at: usize,
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

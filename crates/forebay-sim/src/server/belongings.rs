//! What a session owns beside its settings: temporary tables, locks, cursors, channels, sequences, random numbers.

use std::collections::{BTreeMap, BTreeSet};

use crate::server::language::Question;

/// A temporary table, which holds one value.
#[derive(Clone, Debug)]
struct Table {
    content: String,
    /// ON COMMIT DROP.
    drops: bool,
}

/// What a transaction brings back when it fails.
#[derive(Clone, Debug)]
struct Saved {
    tables: BTreeMap<String, Table>,
    channels: BTreeSet<String>,
    cursors: BTreeMap<String, String>,
    notified: usize,
}

/// What a session owns.
#[derive(Clone, Debug, Default)]
pub(super) struct Belongings {
    tables: BTreeMap<String, Table>,
    channels: BTreeSet<String>,
    /// With their contents.
    cursors: BTreeMap<String, String>,
    /// How often each is held.
    locks: BTreeMap<String, u32>,
    /// What currval says.
    sequences: BTreeMap<String, String>,
    /// Channels and payloads to be told when the transaction commits.
    notified: Vec<(String, String)>,
    /// What the random numbers began with, and how many have been drawn since.
    seed: Option<(String, u32)>,
    /// Loaded, for as long as the session lives.
    libraries: BTreeSet<String>,
    /// As the transaction began, and at each savepoint.
    saved: Vec<Saved>,
}

/// Seeds that clients use; the pooler's own are told from them by that.
pub(crate) const SEEDS: [&str; 2] = ["0.25", "0.5"];

impl Belongings {
    pub(super) fn begin(&mut self) {
        if self.saved.is_empty() {
            self.savepoint();
        }
    }

    pub(super) fn savepoint(&mut self) {
        let (tables, channels, cursors) = (self.tables.clone(), self.channels.clone(), self.cursors.clone());
        self.saved.push(Saved { tables, channels, cursors, notified: self.notified.len() });
    }

    /// Forgets all but the first `count` savepoints.
    pub(super) fn release(&mut self, count: usize) {
        self.saved.truncate(count + 1);
    }

    /// Returns what is to be told.
    pub(super) fn commit(&mut self) -> Vec<(String, String)> {
        self.saved.clear();
        self.tables.retain(|_, table| !table.drops);
        std::mem::take(&mut self.notified)
    }

    /// Back to the innermost savepoint, or to where the transaction began.
    pub(super) fn restore(&mut self) {
        let Some(Saved { tables, channels, cursors, notified }) = self.saved.last().cloned() else { return };
        self.notified.truncate(notified);
        (self.tables, self.channels) = (tables, channels);
        // What was closed stays closed.
        self.cursors.retain(|name, content| cursors.get(name) == Some(content));
    }

    pub(super) fn rollback(&mut self) {
        self.saved.truncate(1);
        self.restore();
        self.saved.clear();
    }

    /// False: there is one of that name.
    pub(super) fn create(&mut self, name: &str, content: &str, drops: bool) -> bool {
        let table = Table { content: content.to_owned(), drops };
        !self.tables.contains_key(name) && self.tables.insert(name.to_owned(), table).is_none()
    }

    pub(super) fn drop_table(&mut self, name: &str) -> bool {
        self.tables.remove(name).is_some()
    }

    pub(super) fn drop_all_tables(&mut self) {
        self.tables.clear();
    }

    pub(super) fn content(&self, name: &str) -> Option<String> {
        self.tables.get(name).map(|table| table.content.clone())
    }

    pub(super) fn declare(&mut self, name: &str, content: &str) -> bool {
        !self.cursors.contains_key(name) && self.cursors.insert(name.to_owned(), content.to_owned()).is_none()
    }

    pub(super) fn fetch(&self, name: &str) -> Option<String> {
        self.cursors.get(name).cloned()
    }

    /// False: there is none of that name.
    pub(super) fn close(&mut self, name: Option<&str>) -> bool {
        match name {
            Some(name) => self.cursors.remove(name).is_some(),
            None => {
                self.cursors.clear();
                true
            }
        }
    }

    pub(super) fn listen(&mut self, channel: &str) {
        self.channels.insert(channel.to_owned());
    }

    /// What the same transaction has said already is said once.
    pub(super) fn notify(&mut self, channel: &str, payload: &str) {
        let said = (channel.to_owned(), payload.to_owned());
        if !self.notified.contains(&said) {
            self.notified.push(said);
        }
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = &String> {
        self.channels.iter()
    }

    /// Whether it listens: what its transaction has not committed does not count.
    pub(super) fn hears(&self, channel: &str) -> bool {
        self.saved.first().map_or(&self.channels, |saved| &saved.channels).contains(channel)
    }

    pub(super) fn unlisten(&mut self, channel: Option<&str>) {
        self.channels.retain(|known| channel.is_some_and(|channel| channel != known));
    }

    pub(super) fn lock(&mut self, key: &str) {
        *self.locks.entry(key.to_owned()).or_default() += 1;
    }

    /// False: it is not held.
    pub(super) fn unlock(&mut self, key: &str) -> bool {
        let Some(count) = self.locks.get_mut(key) else { return false };
        *count -= 1;
        self.locks.retain(|_, count| *count > 0);
        true
    }

    pub(super) fn unlock_all(&mut self) {
        self.locks.clear();
    }

    pub(super) fn set_sequence(&mut self, name: &str, value: &str) {
        self.sequences.insert(name.to_owned(), value.to_owned());
    }

    pub(super) fn sequence(&self, name: &str) -> Option<String> {
        self.sequences.get(name).cloned()
    }

    pub(super) fn forget_sequences(&mut self) {
        self.sequences.clear();
    }

    /// Those that a text names.
    pub(super) fn forget_sequences_in(&mut self, text: &str) {
        self.sequences.retain(|name, _| !text.contains(&format!("'{name}'")));
    }

    pub(super) fn set_seed(&mut self, seed: &str) {
        self.seed = SEEDS.contains(&seed).then(|| (seed.to_owned(), 0));
    }

    pub(super) fn load(&mut self, library: &str) {
        self.libraries.insert(library.to_owned());
    }

    /// Random numbers that nobody has seeded are all alike here, which no real ones are.
    pub(super) fn random(&mut self) -> String {
        match &mut self.seed {
            None => "random".to_owned(),
            Some((seed, count)) => {
                *count += 1;
                format!("number {count} of {seed}")
            }
        }
    }

    /// What is there, but for prepared statements and who one is.
    pub(super) fn has(&self, question: Question) -> bool {
        match question {
            Question::Temp => !self.tables.is_empty(),
            Question::Lock => !self.locks.is_empty(),
            Question::Channel => !self.channels.is_empty(),
            Question::Cursor => !self.cursors.is_empty(),
            Question::Seed => self.seed.is_some(),
            Question::Library => !self.libraries.is_empty(),
            Question::Sequence => !self.sequences.is_empty(),
            Question::Prepared | Question::Authorization => false,
        }
    }

    /// What must not reach another client, in words.
    pub(super) fn held(&self) -> Option<String> {
        let named = [
            ("temporary table", self.tables.keys().next()),
            ("advisory lock", self.locks.keys().next()),
            ("cursor", self.cursors.keys().next()),
            ("channel", self.channels.iter().next()),
            ("value of sequence", self.sequences.keys().next()),
            ("seed", self.seed.as_ref().map(|(seed, _)| seed)),
            ("library", self.libraries.iter().next()),
        ];
        named.into_iter().find_map(|(kind, name)| name.map(|name| format!("{kind} {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An oracle that undoes too much, or too little, would accuse the pooler of its own mistakes.
    #[test]
    fn a_rollback_undoes_tables_and_channels_but_neither_locks_nor_closed_cursors() {
        let mut own = Belongings::default();
        own.declare("k", "old");
        own.begin();
        own.create("t", "1", false);
        own.lock("7");
        own.savepoint();
        own.listen("n");
        own.close(Some("k"));
        own.declare("l", "new");
        own.restore();
        assert!(own.content("t").is_some() && !own.has(Question::Channel));
        own.rollback();
        assert!(!own.has(Question::Temp) && !own.has(Question::Cursor) && own.has(Question::Lock));
        own.begin();
        own.create("t", "1", true);
        own.commit();
        assert!(!own.has(Question::Temp), "dropped on commit");
    }
}

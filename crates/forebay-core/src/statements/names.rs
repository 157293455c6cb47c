//! What a client's names stand for: [`ClientStatements`].

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Statement;
use super::held::Unanswered;
use crate::moving::part::part_struct;
use crate::planted::{Bug, planted};
use crate::session::expect::Change;

/// A client's names.
#[derive(Default)]
pub struct ClientStatements {
    named: FxHashMap<Box<[u8]>, ClientEntry>,
    unnamed: ClientEntry,
}

/// A meaning that is `None` stands for a name whose removal is not answered yet.
#[derive(Default)]
struct ClientEntry {
    statement: Option<Arc<Statement>>,
    unanswered: Unanswered,
}

part_struct!(ClientEntry { statement: Option<Arc<Statement>>, unanswered: Unanswered });
part_struct!(ClientStatements { named: FxHashMap<Box<[u8]>, ClientEntry>, unnamed: ClientEntry });

/// What a name means to a client.
pub enum Lookup {
    /// Nothing.
    Unknown,
    /// This.
    Known(Arc<Statement>),
    /// Something that an earlier segment, not yet answered, will or will not have made.
    Unconfirmed,
}

impl ClientStatements {
    fn entry(&mut self, name: &[u8]) -> Option<&mut ClientEntry> {
        if name.is_empty() { Some(&mut self.unnamed) } else { self.named.get_mut(name) }
    }

    fn drop_if_void(&mut self, name: &[u8]) {
        if self.named.get(name).is_some_and(|e| e.statement.is_none() && e.unanswered.changes == 0) {
            self.named.remove(name);
        }
    }

    /// What `name` means in `segment`.
    pub fn find(&self, name: &[u8], segment: u32) -> Lookup {
        let entry = if name.is_empty() { Some(&self.unnamed) } else { self.named.get(name) };
        match entry {
            Some(e) if e.unanswered.holds(segment) => Lookup::Unconfirmed,
            Some(ClientEntry { statement: Some(s), .. }) => Lookup::Known(s.clone()),
            _ => Lookup::Unknown,
        }
    }

    /// Gives `name` a meaning or takes it away, to be confirmed or undone; returns the one it had.
    pub fn change(&mut self, name: &[u8], to: Option<Arc<Statement>>, segment: u32) -> Option<Arc<Statement>> {
        if !name.is_empty() && !self.named.contains_key(name) {
            self.named.insert(name.into(), ClientEntry::default());
        }
        let entry = self.entry(name).expect("inserted above");
        entry.unanswered.add(segment);
        if planted(Bug::StaleStatement) && to.is_some() && entry.statement.is_some() {
            return entry.statement.clone();
        }
        std::mem::replace(&mut entry.statement, to)
    }

    /// The same statement of a client is another on servers by now. Not where a change of the name is on its way.
    pub fn now_means(&mut self, name: &[u8], statement: &Arc<Statement>) {
        if let Some(entry) = self.entry(name)
            && entry.unanswered.changes == 0
        {
            entry.statement = Some(statement.clone());
        }
    }

    /// The server has answered a change of `name`: it holds.
    pub fn confirm(&mut self, name: &[u8]) {
        if let Some(entry) = self.entry(name) {
            entry.unanswered.answered();
            self.drop_if_void(name);
        }
    }

    /// The server has skipped what was to make this change: what was before holds again.
    pub fn undo(&mut self, change: &Change) {
        if let Some(entry) = self.entry(&change.name) {
            entry.unanswered.answered();
            // An unnamed Parse of a later segment has replaced the one that is undone.
            if entry.unanswered.segment == change.segment {
                entry.statement = change.before.clone();
            }
            self.drop_if_void(&change.name);
        }
    }

    /// A change that was confirmed is as if it had never been made: what was before holds again.
    pub fn restore(&mut self, change: &Change) {
        if !change.name.is_empty() && !self.named.contains_key(&change.name) {
            self.named.insert(change.name.clone(), ClientEntry::default());
        }
        if let Some(entry) = self.entry(&change.name) {
            entry.statement = change.before.clone();
            self.drop_if_void(&change.name);
        }
    }

    /// Whether a segment before `segment` will, or will not, make something of a name.
    pub fn is_unconfirmed(&self, segment: u32) -> bool {
        self.named.values().any(|entry| entry.unanswered.holds(segment))
    }

    /// Takes all names away, to be confirmed or undone; the unnamed statement stays.
    pub fn take_all(&mut self, segment: u32) -> Vec<Change> {
        let there = self.named.iter_mut().filter(|(_, entry)| entry.statement.is_some());
        let taken = there.map(|(name, entry)| {
            entry.unanswered.add(segment);
            Change { name: name.clone(), before: entry.statement.take(), segment }
        });
        taken.collect()
    }

    /// Whether `name` stands for the statement that servers know as `server_name`, confirmed or not.
    pub fn means(&self, name: &[u8], server_name: &[u8]) -> bool {
        let entry = if name.is_empty() { Some(&self.unnamed) } else { self.named.get(name) };
        entry.and_then(|e| e.statement.as_ref()).is_some_and(|s| s.name() == server_name)
    }

    /// The client's name for the statement that servers know as `name`: of several, one that is preferred.
    pub fn name_of(&self, name: &[u8], is_preferred: impl Fn(&[u8]) -> bool) -> Option<&[u8]> {
        let unnamed: (&[u8], &ClientEntry) = (b"", &self.unnamed);
        let all = std::iter::once(unnamed).chain(self.named.iter().map(|(name, entry)| (&**name, entry)));
        let found =
            all.filter(|(_, entry)| entry.statement.as_ref().is_some_and(|s| s.name() == name)).map(|(name, _)| name);
        let mut first = None;
        for name in found {
            if is_preferred(name) {
                return Some(name);
            }
            first = first.or(Some(name));
        }
        first
    }

    /// Forgets the unnamed statement (a simple query drops it).
    pub fn clear_unnamed(&mut self) {
        self.unnamed = ClientEntry::default();
    }

    /// Forgets all names (DEALLOCATE ALL, DISCARD ALL) but those that messages behind it change; the unnamed statement, which
    /// it may be itself, stays.
    pub fn forget_named(&mut self) {
        self.named.retain(|_, entry| entry.unanswered.changes > 0);
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether nothing is prepared, not even unnamed.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed.statement.is_none()
    }
}

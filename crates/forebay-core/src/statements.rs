//! Prepared statements: one identity by content for all clients, a name for it on servers, and the two
//! tables that say who has what ([`ClientStatements`], [`ServerStatements`]).
//!
//! A change that a message in flight will make is made at once and marked with the segment (the run of
//! messages up to a Sync) it belongs to; when the server skips that segment after an error, the change is
//! undone. A later segment never relies on an unconfirmed one: it waits.

use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustc_hash::{FxHashMap, FxHasher};

use crate::planted::{Bug, planted};

/// A statement's content, and the name it has on every server.
#[derive(Debug)]
pub struct Statement {
    key: StatementKey,
    /// `fb_<n>`, or empty for one that is sent unnamed because its text was seen only once.
    name: Box<[u8]>,
    id: u64,
    commits: bool,
    ends_transaction: bool,
}

/// What makes two statements the same: never a bare hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StatementKey {
    text: Arc<[u8]>,
    types: Arc<[u8]>,
    environment: Arc<str>,
}

impl StatementKey {
    fn bytes(&self) -> u64 {
        (self.text.len() + self.types.len()) as u64
    }
}

impl Statement {
    fn once(key: StatementKey) -> Arc<Statement> {
        Arc::new(Statement::new(key, 0))
    }

    fn new(key: StatementKey, id: u64) -> Statement {
        let name = if id == 0 { Box::default() } else { format!("fb_{id}").into_bytes().into_boxed_slice() };
        let (commits, ends_transaction) = (is_commit(&key.text), ends_transaction(&key.text));
        Statement { key, name, id, commits, ends_transaction }
    }

    /// Its text, without the final NUL.
    pub fn text(&self) -> &[u8] {
        &self.key.text
    }
    /// The type OIDs of its Parse message, four bytes each.
    pub fn types(&self) -> &[u8] {
        &self.key.types
    }
    /// Its name on servers; empty: the unnamed statement.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
    /// Whether it has a name of its own.
    pub fn is_shared(&self) -> bool {
        self.id != 0
    }
    /// Whether it commits: its loss in flight leaves the outcome unknown.
    pub fn is_commit(&self) -> bool {
        self.commits
    }
    /// Whether it may run in a transaction that has failed.
    pub fn ends_transaction(&self) -> bool {
        self.ends_transaction
    }
}

fn first_word(text: &[u8]) -> &[u8] {
    text.trim_ascii_start().split(|b| !b.is_ascii_alphabetic()).next().unwrap_or_default()
}

fn ends_transaction(text: &[u8]) -> bool {
    let word = first_word(text);
    is_commit(text) || word.eq_ignore_ascii_case(b"rollback") || word.eq_ignore_ascii_case(b"abort")
}

/// Whether a text begins with COMMIT or END.
pub fn is_commit(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    if !matches!(text.first(), Some(b'c' | b'C' | b'e' | b'E')) {
        return false;
    }
    let word = first_word(text);
    word.eq_ignore_ascii_case(b"commit") || word.eq_ignore_ascii_case(b"end")
}

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
    fn find_or_add(&self, key: StatementKey) -> Arc<Statement> {
        let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = table.by_key.get(&key).and_then(Weak::upgrade) {
            return statement;
        }
        if table.by_key.len() >= table.sweep_at.max(1024) {
            table.by_key.retain(|_, s| s.strong_count() > 0);
            table.sweep_at = table.by_key.len() * 2;
        }
        table.last_id += 1;
        let statement = Arc::new(Statement::new(key.clone(), table.last_id));
        table.by_key.insert(key, Arc::downgrade(&statement));
        statement
    }
}

/// Texts met once: slots of a direct-mapped table, a hash each. A false hit only names a statement early.
const SEEN_SLOTS: usize = 4096;

/// A Parse message's content, still in the buffer that it came in.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    /// The text, without the final NUL.
    pub text: &'a [u8],
    /// The type OIDs, four bytes each.
    pub types: &'a [u8],
    /// What of the client's parameters can change its meaning.
    pub environment: &'a Arc<str>,
}

impl Content<'_> {
    fn key(&self) -> StatementKey {
        StatementKey { text: self.text.into(), types: self.types.into(), environment: self.environment.clone() }
    }

    fn hash(&self) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write(self.text);
        hasher.write(self.types);
        hasher.write(self.environment.as_bytes());
        hasher.finish() | 1
    }

    fn is_of(&self, statement: &Statement) -> bool {
        let key = &statement.key;
        *key.text == *self.text && *key.types == *self.types && *key.environment == **self.environment
    }
}

/// One worker's view of the registry: by hash, and compared whole before it is believed.
pub struct StatementCache {
    registry: Arc<Registry>,
    held: FxHashMap<u64, Arc<Statement>>,
    held_bytes: u64,
    bytes_max: u64,
    seen: Box<[u64]>,
}

impl StatementCache {
    /// Holds at most `bytes_max` bytes of texts.
    pub fn new(registry: Arc<Registry>, bytes_max: u64) -> StatementCache {
        StatementCache {
            registry,
            held: FxHashMap::default(),
            held_bytes: 0,
            bytes_max,
            seen: vec![0; SEEN_SLOTS].into_boxed_slice(),
        }
    }

    /// The limit of a changed configuration.
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// The shared statement of this content.
    pub fn share(&mut self, content: Content<'_>) -> Arc<Statement> {
        let hash = content.hash();
        match self.held.get(&hash) {
            Some(statement) if content.is_of(statement) => statement.clone(),
            found => {
                let is_free = found.is_none();
                self.add(content.key(), hash, is_free)
            }
        }
    }

    fn add(&mut self, key: StatementKey, hash: u64, is_free: bool) -> Arc<Statement> {
        let bytes = key.bytes();
        if self.held_bytes + bytes > self.bytes_max {
            self.held.retain(|_, s| Arc::strong_count(s) > 1);
            self.held_bytes = self.held.values().map(|s| s.key.bytes()).sum();
        }
        let statement = self.registry.find_or_add(key);
        if is_free && self.held_bytes + bytes <= self.bytes_max {
            self.held_bytes += bytes;
            self.held.insert(hash, statement.clone());
        }
        statement
    }

    /// The statement for an unnamed Parse: shared from its second sight on, so that texts with literals
    /// in them, which never come again, do not crowd out those that do.
    pub fn share_if_seen(&mut self, content: Content<'_>) -> Arc<Statement> {
        let hash = content.hash();
        match self.held.get(&hash) {
            Some(statement) if content.is_of(statement) => return statement.clone(),
            _ => {}
        }
        let slot = &mut self.seen[(hash >> 32) as usize % SEEN_SLOTS];
        if *slot == hash {
            return self.share(content);
        }
        *slot = hash;
        Statement::once(content.key())
    }
}

/// A change that messages in flight will make, or not.
#[derive(Default)]
struct Unanswered {
    segment: u32,
    changes: u32,
}

impl Unanswered {
    fn add(&mut self, segment: u32) {
        self.segment = segment;
        self.changes += 1;
    }

    fn answered(&mut self) {
        self.changes = self.changes.saturating_sub(1);
    }

    /// Whether `segment` must wait before it may rely on this.
    fn holds(&self, segment: u32) -> bool {
        self.changes > 0 && self.segment != segment
    }
}

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

    /// The server has answered a change of `name`: it holds.
    pub fn confirm(&mut self, name: &[u8]) {
        if let Some(entry) = self.entry(name) {
            entry.unanswered.answered();
            self.drop_if_void(name);
        }
    }

    /// The server has skipped a change of `name`: `before` holds again.
    pub fn undo(&mut self, name: &[u8], before: Option<Arc<Statement>>, segment: u32) {
        if let Some(entry) = self.entry(name) {
            entry.unanswered.answered();
            // An unnamed Parse of a later segment has replaced the one that is undone.
            if entry.unanswered.segment == segment {
                entry.statement = before;
            }
            self.drop_if_void(name);
        }
    }

    /// The client's name for the statement that servers know as `name`.
    pub fn name_of(&self, name: &[u8]) -> Option<&[u8]> {
        let is_it = |entry: &ClientEntry| entry.statement.as_ref().is_some_and(|s| s.name() == name);
        if is_it(&self.unnamed) {
            return Some(b"");
        }
        self.named.iter().find(|(_, entry)| is_it(entry)).map(|(name, _)| &**name)
    }

    /// Forgets the unnamed statement (a simple query drops it).
    pub fn clear_unnamed(&mut self) {
        self.unnamed = ClientEntry::default();
    }

    /// Forgets all names (DEALLOCATE ALL, DISCARD ALL).
    pub fn clear(&mut self) {
        self.named.clear();
        self.clear_unnamed();
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

/// What is prepared on a server.
#[derive(Default)]
pub struct ServerStatements {
    named: FxHashMap<u64, ServerEntry>,
    unnamed: Option<Arc<Statement>>,
    clock: u64,
}

/// An entry that is not `present` stands for a Close that is not answered yet.
struct ServerEntry {
    statement: Arc<Statement>,
    present: bool,
    unanswered: Unanswered,
    used: u64,
}

/// Whether a server has a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It must be parsed first.
    Absent,
    /// It is there, or will be if this segment gets that far.
    Present,
    /// An earlier segment, not yet answered, will or will not have made it.
    Unconfirmed,
}

impl ServerStatements {
    /// Whether `statement` is there for `segment`; marks it as used.
    pub fn find(&mut self, statement: &Arc<Statement>, segment: u32) -> Presence {
        if !statement.is_shared() {
            let same = self.unnamed.as_ref().is_some_and(|s| Arc::ptr_eq(s, statement));
            return if same { Presence::Present } else { Presence::Absent };
        }
        self.clock += 1;
        match self.named.get_mut(&statement.id) {
            Some(e) if e.unanswered.holds(segment) => Presence::Unconfirmed,
            Some(e) if e.present => {
                e.used = self.clock;
                Presence::Present
            }
            _ => Presence::Absent,
        }
    }

    /// The statement to close before one more is parsed, when `max` are there.
    pub fn surplus(&self, max: u32) -> Option<Arc<Statement>> {
        if self.named.len() < max as usize || self.named.values().filter(|e| e.present).count() < max as usize {
            return None;
        }
        let settled = self.named.values().filter(|e| e.present && e.unanswered.changes == 0);
        settled.min_by_key(|e| e.used).map(|e| e.statement.clone())
    }

    fn change(&mut self, statement: &Arc<Statement>, present: bool, segment: u32) {
        self.clock += 1;
        let entry = self.named.entry(statement.id).or_insert_with(|| ServerEntry {
            statement: statement.clone(),
            present,
            unanswered: Unanswered::default(),
            used: 0,
        });
        entry.present = present;
        entry.used = self.clock;
        entry.unanswered.add(segment);
    }

    fn answered(&mut self, statement: &Arc<Statement>, present: bool) {
        if let Some(entry) = self.named.get_mut(&statement.id) {
            entry.unanswered.answered();
            entry.present = present;
            if !present && entry.unanswered.changes == 0 {
                self.named.remove(&statement.id);
            }
        }
    }

    /// A Parse is on its way in `segment`.
    pub fn parse_sent(&mut self, statement: &Arc<Statement>, segment: u32) {
        if statement.is_shared() {
            self.change(statement, true, segment);
        } else {
            self.unnamed = Some(statement.clone());
        }
    }

    /// A Close is on its way in `segment`.
    pub fn close_sent(&mut self, statement: &Arc<Statement>, segment: u32) {
        self.change(statement, false, segment);
    }

    /// A Parse was answered by ParseComplete, or a Close was skipped: it is there.
    pub fn is_there(&mut self, statement: &Arc<Statement>) {
        if statement.is_shared() {
            self.answered(statement, true);
        }
    }

    /// A Parse failed or was skipped, or a Close was answered: it is not there.
    pub fn is_gone(&mut self, statement: &Arc<Statement>) {
        if statement.is_shared() {
            self.answered(statement, false);
        } else {
            self.unnamed = None;
        }
    }

    /// The unnamed statement is gone (a simple query drops it).
    pub fn clear_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// Whether an unnamed statement that we know of is there.
    pub fn has_unnamed(&self) -> bool {
        self.unnamed.is_some()
    }

    /// Everything is gone (DEALLOCATE ALL, DISCARD ALL).
    pub fn clear(&mut self) {
        self.named.clear();
        self.unnamed = None;
    }

    /// How many named ones there are.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(cache: &mut StatementCache, text: &str, types: &[u8], environment: &str) -> Arc<Statement> {
        cache.share(Content { text: text.as_bytes(), types, environment: &environment.into() })
    }

    fn cache() -> StatementCache {
        StatementCache::new(Arc::default(), 1 << 20)
    }

    /// Two clients with one text share a plan; with other types or another environment they must not.
    #[test]
    fn equal_content_is_one_statement_and_other_content_is_not() {
        let mut cache = cache();
        let a = share(&mut cache, "select 1", &[], "");
        assert!(Arc::ptr_eq(&a, &share(&mut cache, "select 1", &[], "")));
        assert_ne!(a.name(), share(&mut cache, "select 1", &[0, 0, 0, 23], "").name());
        assert_ne!(a.name(), share(&mut cache, "select 1", &[], "timezone\0UTC\0").name());
        let mut elsewhere = StatementCache::new(cache.registry.clone(), 1 << 20);
        assert_eq!(a.name(), share(&mut elsewhere, "select 1", &[], "").name());
    }

    #[test]
    fn an_unnamed_text_is_shared_from_its_second_sight_on() {
        let mut cache = cache();
        let content = Content { text: b"select 2", types: &[], environment: &"".into() };
        assert!(!cache.share_if_seen(content).is_shared());
        assert!(cache.share_if_seen(content).is_shared());
    }

    /// A later pipeline that trusted an unanswered Parse would run into "does not exist".
    #[test]
    fn a_later_segment_does_not_rely_on_an_unconfirmed_one() {
        let mut cache = cache();
        let s = share(&mut cache, "select 3", &[], "");
        let mut client = ClientStatements::default();
        client.change(b"a", Some(s.clone()), 1);
        assert!(matches!(client.find(b"a", 1), Lookup::Known(_)));
        assert!(matches!(client.find(b"a", 2), Lookup::Unconfirmed));
        client.undo(b"a", None, 1);
        assert!(matches!(client.find(b"a", 2), Lookup::Unknown));
        let mut server = ServerStatements::default();
        server.parse_sent(&s, 1);
        assert_eq!(server.find(&s, 2), Presence::Unconfirmed);
        server.is_there(&s);
        assert_eq!(server.find(&s, 2), Presence::Present);
    }

    #[test]
    fn the_least_recently_used_statement_leaves_first() {
        let mut cache = cache();
        let mut server = ServerStatements::default();
        let [a, b] = ["select 4", "select 5"].map(|t| share(&mut cache, t, &[], ""));
        for s in [&a, &b] {
            server.parse_sent(s, 1);
            server.is_there(s);
        }
        assert_eq!(server.find(&a, 1), Presence::Present);
        assert!(server.surplus(3).is_none());
        assert!(Arc::ptr_eq(&server.surplus(2).expect("two are there"), &b));
    }

    #[test]
    fn texts_that_nobody_uses_leave_when_the_limit_is_reached() {
        let mut cache = StatementCache::new(Arc::default(), 40);
        for i in 0..100 {
            share(&mut cache, &format!("select {i}"), &[], "");
        }
        assert!(cache.held_bytes <= 40);
        assert!(cache.held.len() <= 4);
    }

    #[test]
    fn commit_is_told_by_its_first_word() {
        assert!(is_commit(b"  commit") && is_commit(b"END;") && is_commit(b"COMMIT AND CHAIN"));
        assert!(!is_commit(b"commits") && !is_commit(b"select 'commit'"));
    }
}

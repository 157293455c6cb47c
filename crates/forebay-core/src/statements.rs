//! Prepared statements: one identity by content for all clients, and a name for it on servers. The tables that say
//! who has what are in [`names`] and [`held`].

pub(crate) mod fixed;
pub mod held;
pub mod names;
mod registry;

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::renamed::Moved;
use forebay_sql::cache::ShapeCache;
use forebay_sql::clock::has_clock_literal;
use forebay_sql::lexer::{Backslash, Kind, Lexer};
use forebay_sql::shape::{Shape, StatementShape, Verb};
pub use held::{Presence, ServerStatements};
pub use names::{ClientStatements, Lookup};
pub use registry::Registry;
use rustc_hash::{FxHashMap, FxHasher};

/// A statement's content, and the name it has on every server.
#[derive(Debug)]
pub struct Statement {
    key: StatementKey,
    /// `fb_<random>_<n>`, or empty for one that is sent unnamed because its text was seen only once.
    name: Box<[u8]>,
    id: u64,
    commits: bool,
    ends_transaction: bool,
    takes_away: bool,
    shape: Arc<Shape>,
    /// The PREPARE that makes it, where a Query did.
    query: Option<Box<[u8]>>,
    /// What its text names.
    needs: Option<Box<Needs>>,
    may_name_another: bool,
    /// Where a name was replaced in its text, or in its PREPARE.
    moved: Moved,
    /// The columns of its result as its clients were first told of them.
    columns: OnceLock<Box<[u8]>>,
    /// The types of its parameters as its clients were first told of them, in the form of [`Statement::types`].
    parameters: OnceLock<Box<[u8]>>,
    /// A client was told of other types, those of a temporary table or of a change that was undone.
    is_told_otherwise: AtomicBool,
}

/// Another statement that a text names.
#[derive(Debug)]
struct Needs {
    statement: Arc<Statement>,
    /// Its client's name for that.
    name: Box<[u8]>,
    /// The text as its client said it.
    said: Box<[u8]>,
}

/// What makes two statements the same: never a bare hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StatementKey {
    text: Arc<[u8]>,
    types: Arc<[u8]>,
    environment: Arc<str>,
    epoch: u32,
    /// Databases may differ in what their sessions start with, and what a statement does is read once for all.
    backslash: Backslash,
}

impl StatementKey {
    fn bytes(&self) -> u64 {
        (self.text.len() + self.types.len()) as u64
    }
}

impl Statement {
    fn new(key: StatementKey, id: u64, name: Box<[u8]>, shape: Arc<Shape>) -> Statement {
        // A text without a statement does nothing, and may do so in a failed transaction.
        let is_empty = shape.is_parsed && shape.statements.is_empty();
        let (commits, ends_transaction) = (is_commit(&key.text), is_empty || ends_transaction(&key.text));
        let takes_away = takes_all(&shape);
        let may_name = |verb| matches!(verb, Verb::Execute | Verb::Deallocate | Verb::Explain | Verb::Schema);
        let may_name_another = matches!(&*shape.statements, [s] if may_name(s.verb));
        Statement {
            key,
            name,
            id,
            commits,
            ends_transaction,
            takes_away,
            shape,
            query: None,
            needs: None,
            may_name_another,
            moved: Moved::default(),
            columns: OnceLock::new(),
            parameters: OnceLock::new(),
            is_told_otherwise: AtomicBool::new(false),
        }
    }

    /// Its text, without the final NUL.
    pub fn text(&self) -> &[u8] {
        &self.key.text
    }
    /// The type OIDs of its Parse message, four bytes each.
    pub fn types(&self) -> &[u8] {
        &self.key.types
    }
    /// The PREPARE that makes it on a server, if a client made it by one.
    pub fn query(&self) -> Option<&[u8]> {
        self.query.as_deref()
    }
    /// The statement that must be on a server before this one is of use there.
    pub fn needs(&self) -> Option<&Arc<Statement>> {
        self.needs.as_ref().map(|needs| &needs.statement)
    }
    /// What its client calls that one.
    pub(crate) fn needs_name(&self) -> &[u8] {
        self.needs.as_ref().map_or(b"", |needs| &needs.name)
    }
    /// Its text as its client said it.
    pub(crate) fn said(&self) -> &[u8] {
        self.needs.as_ref().map_or(self.text(), |needs| &needs.said)
    }
    /// Whether its text may be about another statement.
    pub(crate) fn may_name_another(&self) -> bool {
        self.may_name_another
    }
    /// What it was made of.
    pub fn content(&self) -> Content<'_> {
        let StatementKey { text, types, environment, epoch, backslash } = &self.key;
        Content { text, types, environment, epoch: *epoch, backslash: *backslash }
    }
    /// Its name on servers; empty: the unnamed statement.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
    /// Where a name was replaced in its text, or in the PREPARE that makes it.
    pub(crate) fn moved(&self) -> Moved {
        self.moved
    }
    /// The number of the schema's state in which its clients parsed it.
    pub fn epoch(&self) -> u32 {
        self.key.epoch
    }
    /// What was set where its clients made it, as [`crate::parameters::Image::environment`] has it.
    pub fn environment(&self) -> &Arc<str> {
        &self.key.environment
    }
    /// Whether clients know the columns of its result.
    pub fn is_described(&self) -> bool {
        self.columns.get().is_some()
    }
    /// Notes what a server says of its columns, in the form of `columns.rs`. Returns whether clients were told the same
    /// before, if anything.
    pub fn is_as_described(&self, columns: Box<[u8]>) -> bool {
        match self.columns.get() {
            Some(known) => *known == columns,
            None => self.columns.set(columns).is_ok(),
        }
    }
    /// Notes which types of its parameters a client is told, four bytes each.
    pub fn note_parameters(&self, types: &[u8]) {
        if **self.parameters.get_or_init(|| types.into()) != *types {
            self.is_told_otherwise.store(true, Ordering::Relaxed);
        }
    }
    /// The types to parse it with on a server that lacks it: those by which its clients write values, if they agree.
    pub fn types_told(&self) -> &[u8] {
        match self.parameters.get() {
            Some(told) if !self.is_told_otherwise.load(Ordering::Relaxed) => told,
            _ => self.types(),
        }
    }
    /// What it does.
    pub fn shape(&self) -> &Shape {
        &self.shape
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
    /// Whether it takes prepared statements away, and it is known which: a DEALLOCATE or DISCARD ALL.
    pub fn takes_away(&self) -> bool {
        self.takes_away
    }
}

/// Whether a text takes all prepared statements away: DEALLOCATE ALL, DISCARD ALL.
pub(crate) fn takes_all(shape: &Shape) -> bool {
    let takes_all = |s: &StatementShape| s.verb == Verb::DiscardAll || (s.verb == Verb::Deallocate && s.name.is_none());
    shape.statements.iter().any(takes_all)
}

/// The words that a text begins with, behind spaces and comments.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut lexer = Lexer::new(text, Backslash::Plain);
    std::iter::from_fn(move || lexer.next().filter(|token| token.kind == Kind::Word).map(|token| lexer.bytes(token)))
}

fn ends_transaction(text: &[u8]) -> bool {
    let is_rollback = |word: &[u8]| word.eq_ignore_ascii_case(b"rollback") || word.eq_ignore_ascii_case(b"abort");
    is_commit(text) || words(text).next().is_some_and(is_rollback)
}

/// Whether a text begins with COMMIT, END or PREPARE TRANSACTION: were its answer lost, so is what became of the
/// transaction.
pub fn is_commit(text: &[u8]) -> bool {
    let mut words = words(text);
    let Some(first) = words.next() else { return false };
    first.eq_ignore_ascii_case(b"commit")
        || first.eq_ignore_ascii_case(b"end")
        || first.eq_ignore_ascii_case(b"prepare")
            && words.next().is_some_and(|second| second.eq_ignore_ascii_case(b"transaction"))
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
    /// The number of the schema's state.
    pub epoch: u32,
    /// What a backslash means in its strings.
    pub backslash: Backslash,
}

impl Content<'_> {
    fn key(&self) -> StatementKey {
        let environment = self.environment.clone();
        let (epoch, backslash) = (self.epoch, self.backslash);
        StatementKey { text: self.text.into(), types: self.types.into(), environment, epoch, backslash }
    }

    fn hash(&self) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write(self.text);
        hasher.write(self.types);
        hasher.write(self.environment.as_bytes());
        hasher.write_u32(self.epoch);
        hasher.write_u8(self.backslash as u8);
        hasher.finish() | 1
    }

    fn is_of(&self, statement: &Statement) -> bool {
        let key = &statement.key;
        *key.text == *self.text
            && *key.types == *self.types
            && *key.environment == **self.environment
            && key.epoch == self.epoch
            && key.backslash == self.backslash
    }
}

/// One worker's view of the registry: by hash, and compared whole before it is believed.
pub struct StatementCache {
    registry: Arc<Registry>,
    held: FxHashMap<u64, Arc<Statement>>,
    held_bytes: u64,
    bytes_max: u64,
    seen: Box<[u64]>,
    shapes: ShapeCache,
}

/// Shapes that a worker keeps.
const SHAPES_MAX: usize = 8192;

impl StatementCache {
    /// Holds at most `bytes_max` bytes of texts.
    pub fn new(registry: Arc<Registry>, bytes_max: u64) -> StatementCache {
        StatementCache {
            registry,
            held: FxHashMap::default(),
            held_bytes: 0,
            bytes_max,
            seen: vec![0; SEEN_SLOTS].into_boxed_slice(),
            shapes: ShapeCache::new(SHAPES_MAX),
        }
    }

    /// What names of statements begin with on servers.
    pub fn prefix(&self) -> &[u8] {
        self.registry.prefix()
    }

    /// What `text` does.
    pub fn shape(&mut self, text: &[u8], backslash: Backslash) -> Arc<Shape> {
        self.shapes.shape(text, backslash)
    }

    /// The limit of a changed configuration.
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// The shared statement of this content; one of its own for each call where sharing would hand on the time at which
    /// another client's was parsed.
    pub fn share(&mut self, content: Content<'_>) -> Arc<Statement> {
        let hash = content.hash();
        match self.held.get(&hash) {
            Some(statement) if content.is_of(statement) => statement.clone(),
            _ if has_clock_literal(content.text, content.backslash) => self.private(content),
            found => {
                let is_free = found.is_none();
                let shape = self.shapes.shape(content.text, content.backslash);
                self.add(content.key(), shape, hash, is_free)
            }
        }
    }

    /// A statement of this content with a name of its own, that no other client is given.
    pub fn private(&mut self, content: Content<'_>) -> Arc<Statement> {
        Arc::new(self.made(content, true))
    }

    /// A statement of this content without a name.
    pub fn once(&mut self, content: Content<'_>) -> Arc<Statement> {
        Arc::new(self.made(content, false))
    }

    /// A statement whose text names another, where that name was replaced: that of one client, who said `said`.
    pub(crate) fn naming(
        &mut self,
        content: Content<'_>,
        is_named: bool,
        (needs, name): (Arc<Statement>, &str),
        moved: Moved,
        said: &[u8],
    ) -> Arc<Statement> {
        let mut statement = self.made(content, is_named);
        let needs = Needs { statement: needs, name: name.as_bytes().into(), said: said.into() };
        (statement.needs, statement.moved) = (Some(Box::new(needs)), moved);
        statement.takes_away = matches!(&*statement.shape.statements, [s] if s.verb == Verb::Deallocate);
        Arc::new(statement)
    }

    /// A statement that a client prepares by a Query; `query` gives its text with the name that it is given, and where that
    /// stands.
    pub(crate) fn by_query(
        &mut self,
        body: &[u8],
        backslash: Backslash,
        environment: &Arc<str>,
        query: impl FnOnce(&[u8]) -> (Vec<u8>, Moved),
    ) -> Arc<Statement> {
        let mut statement = self.made(Content { text: body, types: &[], environment, epoch: 0, backslash }, true);
        let (query, moved) = query(&statement.name);
        (statement.query, statement.moved) = (Some(query.into_boxed_slice()), moved);
        Arc::new(statement)
    }

    /// A statement that any server can prepare, to stand for one that it may not be able to.
    pub(crate) fn stand_in(&mut self) -> Arc<Statement> {
        let query = |name: &[u8]| [b"PREPARE ", name, b" AS SELECT 1"].concat();
        self.by_query(b"SELECT 1", Backslash::Plain, &Arc::default(), |name| (query(name), Moved::default()))
    }

    fn made(&mut self, content: Content<'_>, is_named: bool) -> Statement {
        let shape = self.shapes.shape(content.text, content.backslash);
        let (id, name) = if is_named { self.registry.next() } else { (0, Box::default()) };
        Statement::new(content.key(), id, name, shape)
    }

    fn add(&mut self, key: StatementKey, shape: Arc<Shape>, hash: u64, is_free: bool) -> Arc<Statement> {
        let bytes = key.bytes();
        if self.held_bytes + bytes > self.bytes_max {
            self.held.retain(|_, s| Arc::strong_count(s) > 1);
            self.held_bytes = self.held.values().map(|s| s.key.bytes()).sum();
        }
        let statement = self.registry.find_or_add(key, shape);
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
        if *slot == hash && !has_clock_literal(content.text, content.backslash) {
            return self.share(content);
        }
        *slot = hash;
        self.once(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(cache: &mut StatementCache, text: &str, types: &[u8], environment: &str) -> Arc<Statement> {
        cache.share(Content {
            text: text.as_bytes(),
            types,
            environment: &environment.into(),
            epoch: 0,
            backslash: Backslash::Plain,
        })
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
        let content =
            Content { text: b"select 2", types: &[], environment: &"".into(), epoch: 0, backslash: Backslash::Plain };
        assert!(!cache.share_if_seen(content).is_shared());
        assert!(cache.share_if_seen(content).is_shared());
    }

    /// Shared, it would tell one client the time at which another's was parsed.
    #[test]
    fn a_text_that_names_the_time_of_its_parse_is_shared_with_nobody() {
        let mut cache = cache();
        let text = "select timestamptz 'now'";
        let a = share(&mut cache, text, &[], "");
        let b = share(&mut cache, text, &[], "");
        assert!(a.is_shared() && b.is_shared(), "each has a name on servers");
        assert_ne!(a.name(), b.name());
        let (environment, text) = ("".into(), text.as_bytes());
        let content = Content { text, types: &[], environment: &environment, epoch: 0, backslash: Backslash::Plain };
        for _ in 0..3 {
            assert!(!cache.share_if_seen(content).is_shared());
        }
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
        assert!(
            !is_commit(b"commits") && !is_commit(b"select 'commit'") && !is_commit(b"commit_log") && !is_commit(b"")
        );
        assert!(is_commit(b"prepare  Transaction 'a'") && !is_commit(b"prepare transactions as select 1"));
    }

    /// Tracers put a comment before every statement; a COMMIT that was not seen as one would be reported as undone.
    #[test]
    fn comments_before_a_commit_do_not_hide_it() {
        for text in ["/* a /* b */ **/commit", "-- note\n commit", "--\r\x0bcommit", "/*x*/ -- y\n/**/ COMMIT"] {
            assert!(is_commit(text.as_bytes()), "{text}");
        }
        for text in ["/* commit", "/* /* */ commit", "-- commit", "/ commit", "/*/ commit"] {
            assert!(!is_commit(text.as_bytes()), "{text}");
        }
        assert!(ends_transaction(b"/* route */ Rollback to a") && !ends_transaction(b"rollbacks"));
        assert!(is_commit(b"prepare /* two */ transaction 'a'"));
    }
}

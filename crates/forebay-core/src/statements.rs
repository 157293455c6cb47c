//! Prepared statements: one identity by content for all clients, and a name for it on servers. The tables that say
//! who has what are in [`names`] and [`held`].

pub(crate) mod fixed;
pub mod held;
pub mod names;
mod prepared;
mod raw;
mod registry;

use std::hash::Hasher;
use std::sync::Arc;

use crate::renamed::Moved;
use forebay_sql::cache::ShapeCache;
use forebay_sql::clock::has_clock_literal;
use forebay_sql::lexer::Backslash;
use forebay_sql::shape::{Shape, Verb};
pub use held::{Presence, ServerStatements};
pub use names::{ClientStatements, Lookup};
use prepared::Needs;
pub(crate) use prepared::takes_all;
pub use prepared::{Prepared, StatementKey, ends, ends_cut};
pub(crate) use raw::Raw;
pub use registry::Registry;
use rustc_hash::{FxHashMap, FxHasher};

/// A worker's hold of a statement.
///
/// Clients of all workers may have prepared the same one. Each worker counts for itself who uses it, so that no message
/// of a client writes to memory that another worker's do.
#[derive(Debug)]
pub struct Statement {
    of: Arc<Prepared>,
}

impl Statement {
    fn new(of: Prepared) -> Arc<Statement> {
        Arc::new(Statement { of: Arc::new(of) })
    }

    /// What tells it from all others that are there.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.of) as usize
    }

    /// Whether both are the same statement.
    pub fn is(&self, other: &Statement) -> bool {
        Arc::ptr_eq(&self.of, &other.of)
    }
}

impl std::ops::Deref for Statement {
    type Target = Prepared;

    fn deref(&self) -> &Prepared {
        &self.of
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
        Statement::new(self.made(content, true))
    }

    /// A statement of this content without a name.
    pub fn once(&mut self, content: Content<'_>) -> Arc<Statement> {
        Statement::new(self.made(content, false))
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
        Statement::new(statement)
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
        Statement::new(statement)
    }

    /// A statement that any server can prepare, to stand for one that it may not be able to.
    pub(crate) fn stand_in(&mut self) -> Arc<Statement> {
        let query = |name: &[u8]| [b"PREPARE ", name, b" AS SELECT 1"].concat();
        self.by_query(b"SELECT 1", Backslash::Plain, &Arc::default(), |name| (query(name), Moved::default()))
    }

    fn made(&mut self, content: Content<'_>, is_named: bool) -> Prepared {
        let shape = self.shapes.shape(content.text, content.backslash);
        let (id, name) = if is_named { self.registry.next() } else { (0, Box::default()) };
        Prepared::new(content.key(), id, name, shape)
    }

    fn add(&mut self, key: StatementKey, shape: Arc<Shape>, hash: u64, is_free: bool) -> Arc<Statement> {
        let bytes = key.bytes();
        if self.held_bytes + bytes > self.bytes_max {
            self.held.retain(|_, s| Arc::strong_count(s) > 1);
            self.held_bytes = self.held.values().map(|s| s.key.bytes()).sum();
        }
        let statement = Arc::new(Statement { of: self.registry.find_or_add(key, shape) });
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

    /// A count that all workers write to goes from core to core with each message of a popular statement.
    #[test]
    fn who_uses_a_statement_is_counted_by_each_worker_for_itself() {
        let mut cache = cache();
        let mut elsewhere = StatementCache::new(cache.registry.clone(), 1 << 20);
        let here = share(&mut cache, "select 1", &[], "");
        let there = share(&mut elsewhere, "select 1", &[], "");
        let users: Vec<_> = (0..100).map(|_| share(&mut cache, "select 1", &[], "")).collect();
        assert_eq!(Arc::strong_count(&here.of), 2, "one a worker");
        assert!(users.iter().all(|user| user.is(&there) && Arc::ptr_eq(user, &here)));
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
}

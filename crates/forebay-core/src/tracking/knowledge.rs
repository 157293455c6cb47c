//! What is known of a database's own objects, for all workers and pools that lead to it.
//!
//! It is read ([`super::reader`]) at first use, when a statement changed the schema, and every `catalogue_refresh`. In
//! between a change that forebay saw and the next reading nothing but PostgreSQL's own objects is known, so that all
//! else counts as opaque.

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use forebay_sql::catalogue::{Builder, Catalogue};
use forebay_sql::fingerprint::fingerprint;
use forebay_sql::lexer::Backslash;
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use crate::parameters::is_restorable;
use crate::pool::Pool;
use crate::time::Instant;

/// Readings of a schema that changes all the time follow each other no sooner, in microseconds.
const READ_AGAIN_US: u64 = 1_000_000;

/// A connection that was refused is not tried again for so long; free servers of the pools read meanwhile.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Custom settings that are asked for, if anything may have been set.
pub(crate) const CUSTOM_MAX: usize = 256;

/// Servers of which it is known who notified through them.
const NOTIFIERS_MAX: usize = 4096;

/// Texts of which it is remembered that a replica has refused them; one more, and all are forgotten.
const REFUSED_MAX: usize = 256;
/// A longer one is not remembered.
const REFUSED_BYTES_MAX: usize = 4096;

/// Never read.
const NEVER: u64 = u64::MAX;

/// What all workers know of one database.
#[derive(Debug)]
pub struct Knowledge {
    /// Counts up whenever `catalogue` is another.
    version: AtomicU32,
    /// Counts up whenever objects have changed: statements parsed before may have another meaning now.
    epoch: AtomicU32,
    catalogue: Mutex<Known>,
    /// Custom settings that code in the database is known to set: they are in no list, so they are asked for by name.
    custom: Mutex<Arc<[Arc<str>]>>,
    /// Clients that notify, as they know themselves, by the servers' process ids.
    notifiers: Mutex<FxHashMap<u32, u32>>,
    read_at: AtomicU64,
    is_stale: AtomicBool,
    is_being_read: AtomicBool,
    /// Until then no connection is opened to read it: the last one was refused.
    refused_until: AtomicU64,
    reads_sequences: AtomicBool,
    /// What replicas tell those that ask them alone: they may lag behind.
    of_replicas: OnceLock<Arc<Knowledge>>,
    /// The other way round.
    of_primary: Weak<Knowledge>,
    refused: Mutex<Refused>,
}

/// Fingerprints of texts that a replica has refused, for people.
#[derive(Debug, Default)]
struct Refused {
    /// The catalogue that had judged them.
    catalogue: u32,
    texts: FxHashSet<Box<[u8]>>,
}

struct Known {
    catalogue: Arc<Catalogue>,
    /// Of the rows that it was made of.
    digest: u64,
    /// What [`Catalogue::STAMP`] answered before they were read.
    stamp: Option<Box<[u8]>>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Known({:x})", self.digest)
    }
}

impl Default for Knowledge {
    fn default() -> Self {
        Knowledge {
            version: AtomicU32::new(1),
            epoch: AtomicU32::new(0),
            catalogue: Mutex::new(Known { catalogue: Catalogue::builtin(), digest: 0, stamp: None }),
            custom: Mutex::new(Arc::new([])),
            notifiers: Mutex::default(),
            read_at: AtomicU64::new(NEVER),
            is_stale: AtomicBool::new(true),
            is_being_read: AtomicBool::new(false),
            refused_until: AtomicU64::new(0),
            reads_sequences: AtomicBool::new(false),
            of_replicas: OnceLock::new(),
            of_primary: Weak::new(),
            refused: Mutex::default(),
        }
    }
}

impl Knowledge {
    /// What is known of the same database by those that any of a cluster's endpoints may tell.
    pub fn of_replicas(self: &Arc<Self>) -> Arc<Knowledge> {
        let new = || Arc::new(Knowledge { of_primary: Arc::downgrade(self), ..Knowledge::default() });
        self.of_replicas.get_or_init(new).clone()
    }

    /// The number of the schema's state, part of a shared statement's key.
    pub fn epoch(&self) -> u32 {
        self.epoch.load(SeqCst)
    }

    /// Another process has counted that far.
    pub fn catch_up(&self, epoch: u32) {
        self.epoch.fetch_max(epoch, SeqCst);
    }

    /// Whether anybody asks for currval or lastval in this database.
    pub fn reads_sequences(&self) -> bool {
        self.reads_sequences.load(SeqCst)
    }

    /// Somebody asks for currval or lastval.
    pub fn note_reader_of_sequences(&self) {
        self.reads_sequences.store(true, SeqCst);
    }

    /// Code of the database, old or just made, may set these.
    pub fn note_custom<'n>(&self, names: impl Iterator<Item = &'n str>) {
        let mut custom = self.custom.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |name: &&str| is_restorable(name) && !custom.iter().any(|known| **known == **name);
        let mut added: Vec<Arc<str>> = names.filter(is_new).map(Arc::from).collect();
        if !added.is_empty() && custom.len() < CUSTOM_MAX {
            added.extend(custom.iter().cloned());
            added.sort_unstable();
            added.dedup();
            added.truncate(CUSTOM_MAX);
            *custom = added.into();
        }
    }

    /// A client with this process id notifies, or may, through the server with that one.
    pub fn note_notifier(&self, server: u32, client: u32) {
        if let Some(of_primary) = self.of_primary.upgrade() {
            return of_primary.note_notifier(server, client);
        }
        let mut notifiers = self.notifiers.lock().unwrap_or_else(PoisonError::into_inner);
        if notifiers.len() >= NOTIFIERS_MAX && !notifiers.contains_key(&server) {
            notifiers.clear();
        }
        notifiers.insert(server, client);
    }

    /// The client that last notified, or may have, through a server.
    pub fn notifier(&self, server: u32) -> Option<u32> {
        if let Some(of_primary) = self.of_primary.upgrade() {
            return of_primary.notifier(server);
        }
        self.notifiers.lock().unwrap_or_else(PoisonError::into_inner).get(&server).copied()
    }

    /// A replica has refused a text that the catalogue takes for a reading one.
    pub fn note_refused_text(&self, catalogue: &Catalogue, text: &[u8]) {
        let Some(key) = key_of(text) else { return };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.catalogue != catalogue.id() || refused.texts.len() >= REFUSED_MAX {
            *refused = Refused { catalogue: catalogue.id(), ..Refused::default() };
        }
        refused.texts.insert(key);
    }

    /// Whether one has, since the catalogue was last read.
    pub fn was_refused(&self, text: &[u8]) -> bool {
        let catalogue = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner).catalogue.id();
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.catalogue == catalogue && key_of(text).is_some_and(|key| refused.texts.contains(&key))
    }

    /// The names of [`Self::note_custom`].
    pub fn custom(&self) -> Arc<[Arc<str>]> {
        self.custom.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Objects have changed, or may have.
    pub fn schema_changed(&self) {
        self.forget();
        self.of_replicas.get().into_iter().for_each(|of_replicas| of_replicas.forget());
        self.of_primary.upgrade().into_iter().for_each(|of_primary| of_primary.forget());
    }

    fn forget(&self) {
        self.epoch.fetch_add(1, SeqCst);
        self.is_stale.store(true, SeqCst);
        let mut known = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        known.catalogue = Catalogue::builtin();
        known.digest = 0;
        known.stamp = None;
        self.version.fetch_add(1, SeqCst);
    }

    /// Whether it is to be read now.
    #[inline]
    pub(super) fn is_due(&self, now: Instant, refresh_us: u64) -> bool {
        if refresh_us == 0 || self.is_being_read.load(SeqCst) {
            return false;
        }
        let read_at = self.read_at.load(SeqCst);
        let age = now.0.saturating_sub(read_at);
        read_at == NEVER || age >= refresh_us || (self.is_stale.load(SeqCst) && age >= READ_AGAIN_US)
    }

    /// The caller reads it, and nobody else; `None`: somebody does already.
    pub(super) fn begin_reading(self: &Arc<Self>) -> Option<Box<Reading>> {
        if self.is_being_read.swap(true, SeqCst) {
            return None;
        }
        self.is_stale.store(false, SeqCst);
        Some(Box::new(Reading::new(self.clone())))
    }

    /// Whether a connection may be opened to read it.
    pub(super) fn is_reader_let_in(&self, now: Instant) -> bool {
        now.0 >= self.refused_until.load(SeqCst)
    }

    /// None could be.
    pub(super) fn note_refused(&self, now: Instant) {
        self.refused_until.store((now + REFUSED_FOR).0, SeqCst);
        // A server of the pool need not wait to read it instead.
        self.read_at.store(NEVER, SeqCst);
    }

    /// Whether the database is as it was when it was last read.
    fn is_unchanged(&self, stamp: Option<&[u8]>) -> bool {
        let known = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        stamp.is_some() && known.stamp.as_deref() == stamp
    }

    /// It has been looked at, and nothing has changed.
    fn end_unchanged(&self, now: Instant) {
        self.read_at.store(now.0, SeqCst);
        self.is_being_read.store(false, SeqCst);
    }

    fn end_reading(&self, now: Instant, read: Option<Reading>) {
        self.read_at.store(now.0, SeqCst);
        if let Some(Reading { builder, digest, stamp, .. }) = read {
            let digest = digest.finish();
            let mut known = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
            // What changed while it was read is read again.
            if known.digest != digest && !self.is_stale.load(SeqCst) {
                let is_first = known.digest == 0;
                let catalogue = builder.finish();
                self.note_custom(catalogue.settings_named().iter().map(|name| &**name));
                if catalogue.reads_sequences() {
                    self.reads_sequences.store(true, SeqCst);
                }
                *known = Known { catalogue: Arc::new(catalogue), digest, stamp };
                self.version.fetch_add(1, SeqCst);
                if !is_first {
                    self.epoch.fetch_add(1, SeqCst);
                }
            }
        } else {
            self.is_stale.store(true, SeqCst);
        }
        self.is_being_read.store(false, SeqCst);
    }
}

/// A catalogue as its rows come in.
pub struct Reading {
    knowledge: Arc<Knowledge>,
    builder: Builder,
    digest: FxHasher,
    stamp: Option<Box<[u8]>>,
}

impl Reading {
    fn new(knowledge: Arc<Knowledge>) -> Reading {
        let mut digest = FxHasher::default();
        digest.write_u8(1);
        Reading { knowledge, builder: Builder::new(), digest, stamp: None }
    }

    /// Whether the database is as it was when it was last read.
    pub(super) fn is_unchanged(&self) -> bool {
        self.knowledge.is_unchanged(self.stamp.as_deref())
    }

    /// It has been looked at, and nothing has changed.
    pub(super) fn ends_unchanged(self, now: Instant) {
        self.knowledge.end_unchanged(now);
    }

    /// All rows are there.
    pub(super) fn ends(self, now: Instant) {
        self.knowledge.clone().end_reading(now, Some(self));
    }

    /// It can't be read to its end.
    pub(super) fn breaks_off(self, now: Instant) {
        self.knowledge.end_reading(now, None);
    }

    /// Nobody is let in to read it.
    pub(super) fn was_refused(self, now: Instant) {
        self.knowledge.end_reading(now, None);
        self.knowledge.note_refused(now);
    }

    /// What tells whether anything has changed.
    pub(crate) fn stamp(&mut self, value: Option<&[u8]>) {
        self.stamp = value.map(Box::from);
    }

    /// One row of the answer.
    pub(crate) fn row(&mut self, values: &[Option<&[u8]>]) {
        for value in values {
            self.digest.write(value.unwrap_or(b"\xff"));
            self.digest.write_u8(0);
        }
        self.builder.row(values);
    }
}

/// What texts of one shape have in common.
fn key_of(text: &[u8]) -> Option<Box<[u8]>> {
    let mut key = Vec::new();
    let has_one = text.len() <= REFUSED_BYTES_MAX && fingerprint(text, Backslash::Plain, &mut key);
    has_one.then(|| key.into())
}

impl Pool {
    /// What is known of its database, as of now.
    #[inline]
    pub(crate) fn look_up_catalogue(&mut self) {
        if self.knowledge.version.load(SeqCst) != self.catalogue_version {
            self.take_catalogue();
        }
    }

    /// It leads to another database from now on, of which nothing is taken for granted.
    pub(crate) fn move_to(&mut self, knowledge: Arc<Knowledge>) {
        knowledge.schema_changed();
        (self.knowledge, self.catalogue_version) = (knowledge, 0);
    }

    #[cold]
    fn take_catalogue(&mut self) {
        let known = self.knowledge.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        self.catalogue = known.catalogue.clone();
        self.catalogue_version = self.knowledge.version.load(SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH_US: u64 = 30_000_000;

    fn read(knowledge: &Arc<Knowledge>, at: u64, rows: &[&str]) {
        assert!(knowledge.is_due(Instant(at), REFRESH_US));
        let mut reading = knowledge.begin_reading().expect("nobody reads");
        assert!(!knowledge.is_due(Instant(at), REFRESH_US) && knowledge.begin_reading().is_none(), "one at a time");
        reading.stamp(Some(rows.concat().as_bytes()));
        rows.iter().for_each(|row| reading.row(&[Some(row.as_bytes())]));
        reading.ends(Instant(at));
    }

    /// A trigger that was made a moment ago must not be taken for none.
    #[test]
    fn between_a_change_and_the_next_reading_nothing_is_known() {
        let knowledge = Arc::new(Knowledge::default());
        read(&knowledge, 0, &["a"]);
        let (version, epoch) = (knowledge.version.load(SeqCst), knowledge.epoch());
        knowledge.schema_changed();
        assert!(knowledge.version.load(SeqCst) > version && knowledge.epoch() > epoch);
        assert!(!knowledge.is_due(Instant(10), REFRESH_US), "not twice within a second");
        read(&knowledge, READ_AGAIN_US, &["a", "b"]);
        assert!(!knowledge.is_due(Instant(READ_AGAIN_US + 1), REFRESH_US));
        let epoch = knowledge.epoch();
        read(&knowledge, READ_AGAIN_US + REFRESH_US, &["a", "b"]);
        assert_eq!(knowledge.epoch(), epoch, "nothing changed");
        read(&knowledge, READ_AGAIN_US + 2 * REFRESH_US, &["a", "c"]);
        assert!(knowledge.epoch() > epoch, "changed past us");
    }

    /// Reading everything again every half a minute would cost a server a second of work in a large database.
    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let knowledge = Arc::new(Knowledge::default());
        read(&knowledge, 0, &["a", "b"]);
        assert!(knowledge.is_unchanged(Some(b"ab")) && !knowledge.is_unchanged(Some(b"ac")));
        assert!(!knowledge.is_unchanged(None));
        knowledge.schema_changed();
        assert!(!knowledge.is_unchanged(Some(b"ab")), "what is known was dropped");
    }

    /// No list of settings tells of custom ones: whose name is forgotten loses its value at the next hand-over.
    #[test]
    fn names_of_custom_settings_outlive_a_change_of_the_schema() {
        let knowledge = Arc::new(Knowledge::default());
        knowledge.note_custom(["app.b", "app.a"].into_iter());
        knowledge.schema_changed();
        knowledge.note_custom(["app.b", "seed"].into_iter());
        assert_eq!(*knowledge.custom(), [Arc::from("app.a"), Arc::from("app.b")]);
    }

    #[test]
    fn a_reading_that_a_change_overtook_is_not_believed() {
        let knowledge = Arc::new(Knowledge::default());
        let reading = knowledge.begin_reading().expect("nobody reads");
        knowledge.schema_changed();
        let version = knowledge.version.load(SeqCst);
        reading.ends(Instant(0));
        assert_eq!(knowledge.version.load(SeqCst), version);
        assert!(knowledge.is_stale.load(SeqCst));
    }

    /// A role whose connections the pool takes all up would else never have its catalogue read.
    #[test]
    fn where_no_reader_is_let_in_a_server_may_read_at_once() {
        let knowledge = Arc::new(Knowledge::default());
        let at = Instant(5);
        knowledge.begin_reading().expect("nobody reads").was_refused(at);
        assert!(knowledge.is_due(at, REFRESH_US) && !knowledge.is_reader_let_in(at));
        knowledge.begin_reading().expect("nobody reads").breaks_off(at);
        assert!(!knowledge.is_due(at, REFRESH_US), "what was lost is not begun again at once");
        assert!(!knowledge.is_reader_let_in(at) && knowledge.is_reader_let_in(at + REFUSED_FOR));
    }
}

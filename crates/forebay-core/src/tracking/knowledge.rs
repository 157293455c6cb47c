//! What is known of a database's own objects, for all workers and pools that lead to it.
//!
//! It is read by a server of a pool when that comes free: at first use, when a statement changed the schema, and every
//! `catalogue_refresh`. In between a change that forebay saw and the next reading nothing but PostgreSQL's own objects
//! is known, so that all else counts as opaque.

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_sql::catalogue::{Builder, Catalogue};
use rustc_hash::{FxHashMap, FxHasher};

use crate::io::Io;
use crate::parameters::{is_restorable, is_utf8};
use crate::pool::Pool;
use crate::session::expect::Own;
use crate::session::server::ServerKey;
use crate::time::Instant;
use crate::worker::Worker;

/// Readings of a schema that changes all the time follow each other no sooner, in microseconds.
const READ_AGAIN_US: u64 = 1_000_000;

/// Custom settings that are asked for, if anything may have been set.
pub(crate) const CUSTOM_MAX: usize = 256;

/// Servers of which it is known who notified through them.
const NOTIFIERS_MAX: usize = 4096;

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
    reads_sequences: AtomicBool,
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
            reads_sequences: AtomicBool::new(false),
        }
    }
}

impl Knowledge {
    /// The number of the schema's state, part of a shared statement's key.
    pub fn epoch(&self) -> u32 {
        self.epoch.load(SeqCst)
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

    /// A client with this process id notifies through the server with that one.
    pub fn note_notifier(&self, server: u32, client: u32) {
        let mut notifiers = self.notifiers.lock().unwrap_or_else(PoisonError::into_inner);
        if notifiers.len() >= NOTIFIERS_MAX && !notifiers.contains_key(&server) {
            notifiers.clear();
        }
        notifiers.insert(server, client);
    }

    /// The client that last notified through a server.
    pub fn notifier(&self, server: u32) -> Option<u32> {
        self.notifiers.lock().unwrap_or_else(PoisonError::into_inner).get(&server).copied()
    }

    /// The names of [`Self::note_custom`].
    pub fn custom(&self) -> Arc<[Arc<str>]> {
        self.custom.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Objects have changed, or may have.
    pub fn schema_changed(&self) {
        self.epoch.fetch_add(1, SeqCst);
        self.is_stale.store(true, SeqCst);
        let mut known = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        known.catalogue = Catalogue::builtin();
        known.digest = 0;
        known.stamp = None;
        self.version.fetch_add(1, SeqCst);
    }

    /// Whether it is to be read now; then the caller does it, and nobody else.
    fn begin_reading(&self, now: Instant, refresh_us: u64) -> bool {
        if refresh_us == 0 {
            return false;
        }
        let read_at = self.read_at.load(SeqCst);
        let age = now.0.saturating_sub(read_at);
        let is_due = read_at == NEVER || age >= refresh_us || (self.is_stale.load(SeqCst) && age >= READ_AGAIN_US);
        let is_ours = is_due && !self.is_being_read.swap(true, SeqCst);
        if is_ours {
            self.is_stale.store(false, SeqCst);
        }
        is_ours
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
        if let Some(Reading { builder, digest, stamp }) = read {
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
    builder: Builder,
    digest: FxHasher,
    stamp: Option<Box<[u8]>>,
}

impl Reading {
    fn new() -> Reading {
        let mut digest = FxHasher::default();
        digest.write_u8(1);
        Reading { builder: Builder::new(), digest, stamp: None }
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

impl Pool {
    /// What is known of its database, as of now.
    #[inline]
    pub(crate) fn look_up_catalogue(&mut self) {
        if self.knowledge.version.load(SeqCst) != self.catalogue_version {
            self.take_catalogue();
        }
    }

    #[cold]
    fn take_catalogue(&mut self) {
        let known = self.knowledge.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        self.catalogue = known.catalogue.clone();
        self.catalogue_version = self.knowledge.version.load(SeqCst);
    }
}

impl<I: Io> Worker<I> {
    /// Has a free server read the catalogue, if that is due. True: it is busy with that.
    pub(crate) fn read_catalogue(&mut self, io: &mut I, key: ServerKey) -> bool {
        let (now, id, usage) = (self.now, self.servers[key].pool, self.servers[key].usage);
        let pool = self.pool(id);
        let is_tracked = usage.unwrap_or(pool.settings.usage()).is_tracked();
        if !is_tracked || !pool.knowledge.begin_reading(now, pool.settings.catalogue_refresh) {
            return false;
        }
        self.servers[key].reading = Some(Box::new(Reading::new()));
        self.send_own(io, key, Own::Stamp, Catalogue::STAMP);
        true
    }

    /// It is known whether the catalogue has changed: if so, it is read.
    pub(crate) fn stamp_read(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        let (now, server) = (self.now, &mut self.servers[key]);
        let pool = &self.pools[server.pool.0 as usize];
        let stamp = server.reading.as_ref().and_then(|reading| reading.stamp.as_deref());
        if error.is_some() {
            server.reading = None;
            pool.knowledge.end_reading(now, None);
        } else if pool.knowledge.is_unchanged(stamp) {
            server.reading = None;
            pool.knowledge.end_unchanged(now);
        } else {
            pool.stats.stats.catalogue_loads.add(1);
            let is_utf8 = server.encoding().is_none_or(is_utf8);
            // The last client may have set another. Both are one transaction, and only for that.
            let encoding = if is_utf8 { "" } else { "SET LOCAL client_encoding TO 'UTF8';" };
            self.send_own(io, key, Own::Catalogue, &format!("{encoding}{}", Catalogue::QUERY));
        }
    }

    /// The catalogue has been read, or could not be.
    pub(crate) fn catalogue_read(&mut self, key: ServerKey, error: Option<(String, String)>) {
        let (now, server) = (self.now, &mut self.servers[key]);
        let (id, reading) = (server.pool, server.reading.take());
        if let (Some(reading), None) = (reading, &error) {
            self.pool(id).knowledge.end_reading(now, Some(*reading));
        } else {
            self.pool(id).knowledge.end_reading(now, None);
        }
    }

    /// A server that was reading the catalogue is gone.
    pub(crate) fn reading_is_lost(&mut self, reading: Option<Box<Reading>>, pool: crate::pool::PoolId) {
        if reading.is_some() {
            let now = self.now;
            self.pool(pool).knowledge.end_reading(now, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(knowledge: &Knowledge, at: u64, rows: &[&str]) {
        assert!(knowledge.begin_reading(Instant(at), 30_000_000));
        assert!(!knowledge.begin_reading(Instant(at), 30_000_000), "one reads at a time");
        let mut reading = Reading::new();
        reading.stamp(Some(rows.concat().as_bytes()));
        rows.iter().for_each(|row| reading.row(&[Some(row.as_bytes())]));
        knowledge.end_reading(Instant(at), Some(reading));
    }

    /// A trigger that was made a moment ago must not be taken for none.
    #[test]
    fn between_a_change_and_the_next_reading_nothing_is_known() {
        let knowledge = Knowledge::default();
        read(&knowledge, 0, &["a"]);
        let (version, epoch) = (knowledge.version.load(SeqCst), knowledge.epoch());
        knowledge.schema_changed();
        assert!(knowledge.version.load(SeqCst) > version && knowledge.epoch() > epoch);
        assert!(!knowledge.begin_reading(Instant(10), 30_000_000), "not twice within a second");
        read(&knowledge, READ_AGAIN_US, &["a", "b"]);
        assert!(!knowledge.begin_reading(Instant(READ_AGAIN_US + 1), 30_000_000));
        let epoch = knowledge.epoch();
        read(&knowledge, READ_AGAIN_US + 30_000_000, &["a", "b"]);
        assert_eq!(knowledge.epoch(), epoch, "nothing changed");
        read(&knowledge, READ_AGAIN_US + 60_000_000, &["a", "c"]);
        assert!(knowledge.epoch() > epoch, "changed past us");
    }

    /// Reading everything again every half a minute would cost a server a second of work in a large database.
    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let knowledge = Knowledge::default();
        read(&knowledge, 0, &["a", "b"]);
        assert!(knowledge.is_unchanged(Some(b"ab")) && !knowledge.is_unchanged(Some(b"ac")));
        assert!(!knowledge.is_unchanged(None));
        knowledge.schema_changed();
        assert!(!knowledge.is_unchanged(Some(b"ab")), "what is known was dropped");
    }

    /// No list of settings tells of custom ones: whose name is forgotten loses its value at the next hand-over.
    #[test]
    fn names_of_custom_settings_outlive_a_change_of_the_schema() {
        let knowledge = Knowledge::default();
        knowledge.note_custom(["app.b", "app.a"].into_iter());
        knowledge.schema_changed();
        knowledge.note_custom(["app.b", "seed"].into_iter());
        assert_eq!(*knowledge.custom(), [Arc::from("app.a"), Arc::from("app.b")]);
    }

    #[test]
    fn a_reading_that_a_change_overtook_is_not_believed() {
        let knowledge = Knowledge::default();
        assert!(knowledge.begin_reading(Instant(0), 1));
        knowledge.schema_changed();
        let version = knowledge.version.load(SeqCst);
        knowledge.end_reading(Instant(0), Some(Reading::new()));
        assert_eq!(knowledge.version.load(SeqCst), version);
        assert!(knowledge.is_stale.load(SeqCst));
    }
}

//! Connections on their way in: how many may owe us a word, of all together and of one address.
//!
//! | a connection | that | leaves by |
//! |---|---|---|
//! | owes | has not sent a whole packet, or has been on its way for long | a first packet in time; a login; its end |
//! | talks | has sent one in time | a login; its end; a third of `limits.client_login_timeout` |
//!
//! Whoever connects and says nothing costs a descriptor, so that an attack of that kind is one on descriptors. Where too
//! many owe, the one that has owed for longest goes: of the address that has too many, or else of the one that has most.
//! Who is served owes for a few turns and is never that one, and nobody goes who has just come. Those who talk are left
//! alone, as long as they are no more than may be clients: after a restart a whole service comes at once.
//!
//! It is counted over all workers, by a lock that is taken as a connection comes, talks and is let in. Each worker turns
//! away those of its own that are beyond its part of the limit; one that has none such tells the others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_spec::{Report, errors};
use rustc_hash::FxHashMap;

use crate::event::Level;
use crate::io::{Close, Io, Peer};
use crate::misses::Source;
use crate::session::client::{ClientKey, ClientState};
use crate::time::Instant;
use crate::worker::{Message, Worker};

/// So many may owe where a quarter of the clients that may be there is less: they take no place of a client.
const OWING_MIN: u32 = 1024;

/// Those that talk for longer than this part of the time for a login owe.
const LATE_AFTER: u32 = 3;

/// Where no descriptor is left, so many that owe are turned away at once.
const FILES_FREED: u32 = 8;

/// Nobody is turned away sooner: where thousands come at once, what they have said may not have been read yet.
const GRACE: Duration = Duration::from_secs(2);

/// How a client stands that is not let in yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrival {
    /// It is none.
    #[default]
    Over,
    /// It owes us a word.
    Owes,
    /// It talks.
    Talks,
}

/// How many there are, over all workers.
#[derive(Debug, Default)]
pub struct Crowd {
    counts: Mutex<Counts>,
    /// Descriptors that the process may have; 0: nobody has told.
    files_max: AtomicU32,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    owing: u32,
    by_source: FxHashMap<Source, u32>,
}

impl Crowd {
    /// The process may have so many descriptors: a quarter of them is for those that owe.
    pub fn set_files_max(&self, files: u32) {
        self.files_max.store(files, Relaxed);
    }

    fn files_max(&self) -> u32 {
        match self.files_max.load(Relaxed) {
            0 => u32::MAX,
            files => files,
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn owes(&mut self, source: Source) {
        self.owing += 1;
        *self.by_source.entry(source).or_default() += 1;
    }

    fn owes_no_more(&mut self, source: Source) {
        self.owing -= 1;
        let count = self.by_source.get_mut(&source).expect("one that owes was counted");
        *count -= 1;
        if *count == 0 {
            self.by_source.remove(&source);
        }
    }

    fn of(&self, source: Source) -> u32 {
        self.by_source.get(&source).copied().unwrap_or_default()
    }
}

/// A worker's own, by their numbers: in the order in which they came.
#[derive(Default)]
pub(crate) struct Arrivals {
    owing: FxHashMap<Source, BTreeMap<u64, ClientKey>>,
    talking: BTreeMap<u64, ClientKey>,
    /// Those turned away since that was last told, and of them the last: whence it came, and how many owed beside it.
    turned_away: u64,
    last: Option<(Source, u32, u32)>,
}

impl Arrivals {
    fn owes_no_more(&mut self, source: Source, id: u64) {
        if let Some(of) = self.owing.get_mut(&source) {
            of.remove(&id);
            if of.is_empty() {
                self.owing.remove(&source);
            }
        }
    }

    /// How many of ours owe, of a source or in all.
    fn owing_of(&self, source: Option<Source>) -> usize {
        match source {
            Some(source) => self.owing.get(&source).map_or(0, BTreeMap::len),
            None => self.owing.values().map(BTreeMap::len).sum(),
        }
    }

    /// The one of `source` that has owed for longest.
    fn first_of(&self, source: Source) -> Option<ClientKey> {
        self.owing.get(&source)?.values().next().copied()
    }

    /// The same of the source of which most owe.
    fn first_of_most(&self) -> Option<ClientKey> {
        let most = self.owing.values().max_by_key(|of| of.len())?;
        most.values().next().copied()
    }

    fn first_talking(&self) -> Option<ClientKey> {
        self.talking.values().next().copied()
    }
}

impl<I: Io> Worker<I> {
    /// A client has connected.
    pub(crate) fn arrives(&mut self, io: &mut I, key: ClientKey) {
        self.shared.crowd.counts().all += 1;
        self.stats.arriving.add(1);
        self.owes(key);
        self.make_way(io, key);
    }

    fn owes(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        client.arrival = Arrival::Owes;
        let source = Source::of(&client.peer);
        self.arrivals.owing.entry(source).or_default().insert(client.id, key);
        self.shared.crowd.counts().owes(source);
    }

    fn owes_no_more(&mut self, key: ClientKey) {
        let client = &self.clients[key];
        let source = Source::of(&client.peer);
        self.arrivals.owes_no_more(source, client.id);
        self.shared.crowd.counts().owes_no_more(source);
    }

    /// It has sent a whole packet.
    pub(crate) fn talks(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get(key) else { return };
        if client.arrival == Arrival::Owes && self.now < self.late_at(client.connected_at) {
            let id = client.id;
            self.owes_no_more(key);
            self.arrivals.talking.insert(id, key);
            self.clients[key].arrival = Arrival::Talks;
        }
    }

    /// It comes from elsewhere than its connection does. Returns where that comes from.
    pub(crate) fn comes_from(&mut self, io: &mut I, key: ClientKey, peer: Peer) -> Peer {
        let owes = self.clients[key].arrival == Arrival::Owes;
        if owes {
            self.owes_no_more(key);
        }
        let before = std::mem::replace(&mut self.clients[key].peer, peer);
        if owes {
            self.owes(key);
            self.make_way(io, key);
        }
        before
    }

    /// It is let in, brings a CancelRequest, or is gone.
    pub(crate) fn arrival_is_over(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        let (arrival, id) = (client.arrival, client.id);
        match arrival {
            Arrival::Over => return,
            Arrival::Owes => self.owes_no_more(key),
            Arrival::Talks => drop(self.arrivals.talking.remove(&id)),
        }
        self.clients[key].arrival = Arrival::Over;
        self.shared.crowd.counts().all -= 1;
        self.stats.arriving.sub(1);
    }

    fn late_at(&self, connected_at: Instant) -> Instant {
        connected_at + Duration::from_micros(self.tables.config.limits.login_timeout) / LATE_AFTER
    }

    /// Turns away those that are too many, but for the one that has just come.
    fn make_way(&mut self, io: &mut I, newest: ClientKey) {
        self.note_late();
        if self.is_counted_by_address(newest) {
            let source = Source::of(&self.clients[newest].peer);
            self.make_way_of(io, Some(source), Some(newest));
        }
        self.make_way_of(io, None, Some(newest));
        let all = self.tables.config.limits.clients_max.saturating_add(self.logins_max());
        while self.shared.crowd.counts().all > all {
            let owing = self.arrivals.first_of_most().filter(|key| *key != newest);
            let Some(key) = owing.or_else(|| self.arrivals.first_talking()) else { return };
            self.send_off(io, key, errors::too_many_logins(all.saturating_add(1), all));
        }
    }

    /// Another worker has none that could go.
    pub(crate) fn make_way_for(&mut self, io: &mut I, source: Option<Source>) {
        self.note_late();
        self.make_way_of(io, source, None);
    }

    /// Once a second: those go that were too new to when they were too many, and that is told in one line.
    pub(crate) fn sweep_arrivals(&mut self, io: &mut I) {
        self.note_late();
        let limit = self.tables.config.limits.address_logins_max;
        let counts = self.shared.crowd.counts();
        let is_loud = |source: &Source, first: &ClientKey| {
            limit > 0 && counts.of(*source) > limit && self.is_counted_by_address(*first)
        };
        let first = self.arrivals.owing.iter().filter_map(|(source, of)| Some((*source, *of.values().next()?)));
        let loud: Vec<_> = first.filter(|(source, first)| is_loud(source, first)).map(|(source, _)| source).collect();
        drop(counts);
        for source in loud.into_iter().map(Some).chain([None]) {
            self.make_way_of(io, source, None);
        }
        self.tell_turned_away(io);
    }

    fn is_new(&self, key: ClientKey) -> bool {
        self.now.since(self.clients[key].connected_at) < GRACE
    }

    /// Turns away those that are too many of a source, or in all: of ours those beyond our part, and by others the rest.
    fn make_way_of(&mut self, io: &mut I, source: Option<Source>, newest: Option<ClientKey>) {
        let limit = match source {
            Some(_) => self.tables.config.limits.address_logins_max,
            None => self.logins_max(),
        };
        let counts = self.shared.crowd.counts();
        let found = source.map_or(counts.owing, |source| counts.of(source));
        drop(counts);
        if found <= limit || (limit == 0 && source.is_some()) {
            return;
        }
        let part = limit / u32::from(self.shared.workers);
        let most = (self.arrivals.owing_of(source) as u32).saturating_sub(part).min(found - limit);
        for _ in 0..most {
            let first = source.map_or_else(|| self.arrivals.first_of_most(), |source| self.arrivals.first_of(source));
            let Some(key) = first.filter(|key| newest != Some(*key)) else { break };
            if self.is_new(key) {
                return;
            }
            self.arrivals.last = Some((Source::of(&self.clients[key].peer), found, limit));
            self.send_off(io, key, errors::too_many_logins(found, limit));
        }
        if newest.is_some() && most == 0 {
            self.tell_others(io, || Message::MakeWay(source));
        }
    }

    /// Those that talk for too long owe.
    fn note_late(&mut self) {
        while let Some(first) = self.arrivals.first_talking() {
            let client = &self.clients[first];
            if self.now < self.late_at(client.connected_at) {
                return;
            }
            self.arrivals.talking.remove(&client.id);
            self.owes(first);
        }
    }

    /// How many may owe in all.
    fn logins_max(&self) -> u32 {
        let limits = &self.tables.config.limits;
        let own = if limits.logins_max > 0 { limits.logins_max } else { (limits.clients_max / 4).max(OWING_MIN) };
        own.min(self.shared.crowd.files_max() / 4)
    }

    /// Programs of this host, and a load balancer that is about to say whom it brings, stand for many.
    fn is_counted_by_address(&self, key: ClientKey) -> bool {
        let client = &self.clients[key];
        let is_header_due = client.login.as_ref().is_some_and(|login| login.is_header_due);
        matches!(client.peer, Peer::Tcp(address, _) if !address.to_canonical().is_loopback()) && !is_header_due
    }

    #[cold]
    fn send_off(&mut self, io: &mut I, key: ClientKey, report: Report) {
        self.stats.logins_turned_away.add(1);
        self.arrivals.turned_away += 1;
        let client = &mut self.clients[key];
        if matches!(client.state, ClientState::Secret | ClientState::Login) {
            return self.refuse_and_close(io, key, report);
        }
        // Nobody has asked anything that could be answered; and what waits until it is read keeps the descriptor.
        self.stats.refusals.count(report.code);
        self.close_client(io, key, report.code, Close::Now);
    }

    /// The process has no descriptor left for another connection: some of those that have owed for longest give theirs.
    #[cold]
    pub fn short_of_files(&mut self, io: &mut I) {
        for _ in 0..FILES_FREED {
            let Some(key) = self.arrivals.first_of_most().filter(|key| !self.is_new(*key)) else { return };
            self.send_off(io, key, errors::too_many_files());
        }
    }

    fn tell_turned_away(&mut self, io: &mut I) {
        let Some((source, owing, limit)) = self.arrivals.last.take() else { return };
        let fields = vec![
            ("count", std::mem::take(&mut self.arrivals.turned_away).into()),
            ("owing", u64::from(owing).into()),
            ("limit", u64::from(limit).into()),
            ("source", source.to_string().into()),
        ];
        self.log(io, Level::Warn, "logins_turned_away", fields);
    }
}

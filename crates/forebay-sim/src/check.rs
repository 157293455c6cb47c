//! The checkers: each rule of the design that a step can break, with what has to be remembered for it.
//!
//! | rule | where |
//! |---|---|
//! | a reply reaches its asker, in order, exactly (I1, I2, I3) | [`crate::client::mirror`] |
//! | a parameter never leaks (I7, I8) | [`crate::client::mirror`] |
//! | one lessee a server, no hand-over while dirty (I9) | [`Checks::sent_to_server`], [`Checks::leased`] |
//! | limits hold over all workers (I12) | [`Checks::sent_to_server`] |
//! | what pins a server is there | `World::check_pins` |
//! | a cancel stops only its own request (I10) | [`Checks::cancel_hit`] |
//! | each request runs as its client's principal (I11) | `World::check_principal` |
//! | no secret is told in log, metrics, SHOW or errors (I14) | `World::check_logged`, `World::check_shown`, `World::check_said` |
//! | acknowledged effects are there, once (I4, I5) | [`Checks::unkept_promise`] |
//! | nothing runs that nobody sent (I6) | `World::check_origin` |
//! | orders are obeyed, worker by worker | `World::obeyed`, `World::answered_order`, [`Checks::leased`] |
//! | no permit is lost; what was removed or made smaller is closed | `World::check_rest` |
//! | the border's rules, buffers | [`crate::driver`] |
//! | every waiter ends (I15), nothing is left (I13) | `World::run`, `World::check_rest` |

use std::collections::{BTreeMap, BTreeSet};

use forebay_core::command::Snapshot;

use crate::cancels::Cancels;
use crate::net::LinkId;
use crate::regime::Regimes;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::waits::Waits;
use crate::wire::{Frame, Opening, Splitter, Tag};

/// A worker's connection to a server, as seen from outside.
#[derive(Debug)]
struct Tap {
    splitter: Splitter,
    /// Database and user it logged in to; `None` before, and for cancels.
    pool: Option<(String, String)>,
    /// It has been used, and is a server of its pool: the pool's listener is none, nor what reads the catalogue.
    is_of_pool: Option<bool>,
    is_listener: bool,
    /// The client that it serves or served last, and in which session.
    owner: Option<u32>,
    session: u64,
    /// The last whole message to it was of a COPY.
    ends_in_copy: bool,
    /// Messages of a new client may come.
    is_free: bool,
    is_closed: bool,
    /// How often the worker that opened it had been told to reconnect.
    reconnects: u64,
}

/// A server is given to a client, as its first message shows.
struct Lease {
    client: u32,
    session: u64,
    /// Whom the server served before, and in which session.
    last: Option<(u32, u64)>,
}

/// Bytes that a worker sends to a server.
pub(crate) struct Sending<'a> {
    pub(crate) at: u64,
    pub(crate) worker: usize,
    pub(crate) link: LinkId,
    /// All replies to what was sent before have reached the worker, and the session is at rest.
    pub(crate) is_quiet: bool,
    /// The worker cannot know yet that nobody reads.
    pub(crate) is_dead: bool,
    /// Something of a session that is there, where the server is at rest.
    pub(crate) held: Option<String>,
    /// Clients that listen to all that the server listens to: it may have been set for them.
    pub(crate) listeners: BTreeSet<u32>,
    /// The client whose role it has there.
    pub(crate) role_of: Option<u32>,
    pub(crate) bytes: &'a [u8],
}

/// What the checkers remember.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) regimes: Regimes,
    violation: Option<String>,
    taps: BTreeMap<LinkId, Tap>,
    new_leases: Vec<(LinkId, u32)>,
    pub(crate) cancels: Cancels,
    pub(crate) waits: Waits,
    /// The session that each client is in, if it is in one; numbers are never reused.
    sessions: BTreeMap<u32, u64>,
    /// Requests that clients had not been answered when they left, and of which session they are.
    left_behind: BTreeMap<Tag, u64>,
    /// Per worker: what it said when all was over.
    pub(crate) at_rest: BTreeMap<usize, String>,
    committed: BTreeMap<String, u32>,
    /// Effects that may be told to be permanent, though they are nowhere.
    pub(crate) beyond_telling: BTreeSet<String>,
    promised: BTreeSet<String>,
    known_clients: BTreeSet<u64>,
    /// Clients pinned by what is not there, and since when.
    stale_pins: BTreeMap<u64, u64>,
}

/// What the first query of a pool's listener holds, and that of a connection that reads the catalogue.
const LISTENER: &[u8] = b"forebay listener";
const READER: &[u8] = b"forebay catalogue";

/// A pin may outlive its cause for so long.
const STALE_US: u64 = 100_000;

impl Tap {
    fn new(reconnects: u64) -> Tap {
        Tap {
            splitter: Splitter::at_startup(),
            pool: None,
            is_of_pool: None,
            is_listener: false,
            owner: None,
            session: 0,
            ends_in_copy: false,
            is_free: true,
            is_closed: false,
            reconnects,
        }
    }

    /// The pool that a login names.
    fn startup(&mut self, frame: &Frame) -> Option<(String, String)> {
        let Some(Opening::Startup { params, .. }) = Opening::decode(frame) else { return None };
        self.splitter.is_startup = false;
        let of = |name| params.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
        self.pool = Some((of("database"), of("user")));
        self.pool.clone()
    }
}

impl Checks {
    pub(crate) fn new(regimes: Regimes) -> Checks {
        Checks {
            regimes,
            violation: None,
            taps: BTreeMap::new(),
            new_leases: Vec::new(),
            cancels: Cancels::default(),
            waits: Waits::default(),
            sessions: BTreeMap::new(),
            left_behind: BTreeMap::new(),
            at_rest: BTreeMap::new(),
            committed: BTreeMap::new(),
            beyond_telling: BTreeSet::new(),
            promised: BTreeSet::new(),
            known_clients: BTreeSet::new(),
            stale_pins: BTreeMap::new(),
        }
    }

    /// A rule is broken. The first one counts.
    pub(crate) fn fail(&mut self, words: String) {
        self.violation.get_or_insert(words);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.violation.is_some()
    }

    pub(crate) fn take_violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    /// Whether a request is one that its client has left behind.
    pub(crate) fn is_left_behind(&self, tag: &Tag) -> bool {
        self.left_behind.contains_key(tag)
    }

    /// The client that a server connection serves, or served last.
    pub(crate) fn owner(&self, link: LinkId) -> Option<u32> {
        self.taps.get(&link).and_then(|tap| tap.owner)
    }

    /// Whether the server serves that client, in the session that it is in.
    pub(crate) fn serves(&self, link: LinkId, client: usize) -> bool {
        let session = self.sessions.get(&(client as u32)).copied();
        let of = self.taps.get(&link).filter(|tap| !tap.is_closed && !tap.is_free);
        of.is_some_and(|tap| tap.owner == Some(client as u32) && Some(tap.session) == session)
    }

    /// Whether a connection has been used as a server of its pool; `None`: nobody has used it yet.
    pub(crate) fn is_of_pool(&self, link: LinkId) -> Option<bool> {
        self.taps.get(&link).and_then(|tap| tap.is_of_pool)
    }

    /// Whether it is a pool's listener.
    pub(crate) fn is_listener(&self, link: LinkId) -> bool {
        self.taps.get(&link).is_some_and(|tap| tap.is_listener)
    }

    pub(crate) fn take_new_leases(&mut self) -> Vec<(LinkId, u32)> {
        std::mem::take(&mut self.new_leases)
    }

    /// Whether nothing but messages of a COPY can be under way to the server. Once the COPY has failed they earn no
    /// reply and disturb nobody.
    pub(crate) fn ends_in_copy(&self, link: LinkId) -> bool {
        self.taps.get(&link).is_some_and(|tap| tap.ends_in_copy && tap.splitter.is_empty())
    }

    /// Looks at what a worker sends to a server. Returns the clients of whom a message is whole by that.
    pub(crate) fn sent_to_server(&mut self, sending: &Sending<'_>, scenario: &Scenario) -> BTreeSet<u32> {
        let tap = self.taps.entry(sending.link).or_insert_with(|| Tap::new(self.regimes.reconnects(sending.worker)));
        let target = tap.pool.as_ref().and_then(|(database, _)| self.regimes.target_on_server(database));
        let is_session_kept = target.is_some_and(|target| self.regimes.session_mode(target).1);
        tap.is_free |= sending.is_quiet || sending.is_dead;
        tap.splitter.push(sending.bytes);
        let (reconnects, mut opened, mut served, mut leases) = (tap.reconnects, None, BTreeSet::new(), Vec::new());
        loop {
            let frame = match tap.splitter.take() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(words) => {
                    self.fail(format!("a worker sends garbage to a server: {words}"));
                    return served;
                }
            };
            if tap.splitter.is_startup {
                tap.pool = tap.startup(&frame);
                continue;
            }
            // One that is given up before its first query is of nobody. Nor is one that tries an endpoint beside the pool, by
            // a query of nothing, or of one, which no client of a cluster sends. A login is asked whatever it is for.
            let is_of_login = frame.body.ends_with(b"pg_is_in_recovery()\0");
            let is_asked_nothing = is_of_login || frame.body == [0] || frame.body == *b"select 1\0";
            let is_trial = scenario.cluster.is_some() && frame.kind == b'Q' && is_asked_nothing;
            if tap.is_of_pool.is_none() && !is_trial && !matches!(frame.kind, b'p' | b'X') {
                let holds = |words: &[u8]| frame.body.windows(words.len()).any(|part| part == words);
                tap.is_listener = holds(LISTENER);
                let is_of_pool = !tap.is_listener && !holds(READER);
                tap.is_of_pool = Some(is_of_pool);
                opened = tap.pool.clone().filter(|_| is_of_pool);
            }
            tap.ends_in_copy = matches!(frame.kind, b'd' | b'c' | b'f');
            let Some(tag) = Tag::first_in(&frame.body) else { continue };
            served.insert(tag.client);
            // What a client that has left sent before is still of its last session.
            let is_owner = tap.owner == Some(tag.client);
            let last = if is_owner { tap.session } else { 0 };
            let session =
                self.left_behind.get(&tag).or_else(|| self.sessions.get(&tag.client)).copied().unwrap_or(last);
            if !is_owner && !tap.is_free {
                let owner = tap.owner;
                self.fail(format!("a server that serves client {owner:?} got {} of {tag}", frame.show()));
                return served;
            }
            let is_kept = (is_session_kept || sending.held.is_some()) && is_owner && tap.session == session;
            if tap.is_free && !is_kept {
                let last = tap.owner.map(|owner| (owner, tap.session));
                leases.push(Lease { client: tag.client, session, last });
            }
            if tap.is_free {
                (tap.owner, tap.session) = (Some(tag.client), session);
            }
            tap.is_free = false;
        }
        if let Some(pool) = opened {
            self.check_limits(&pool, scenario, sending.at);
        }
        for &client in &served {
            // A client that has kept its server, or got the same one again, has overtaken nobody.
            let is_new = leases.iter().any(|l| l.client == client && l.last.is_none_or(|(owner, _)| owner != client));
            self.is_served(client, is_new, scenario);
        }
        for lease in leases {
            self.leased(sending, target, reconnects, &lease);
        }
        served
    }

    /// A server is given to a client. `reconnects`: see [`Tap`].
    fn leased(&mut self, sending: &Sending<'_>, target: Option<usize>, reconnects: u64, lease: &Lease) {
        let Lease { client, session, last } = *lease;
        let is_of_session = target.is_some_and(|target| self.regimes.session_mode(target).0);
        if let Some((owner, of)) = last.filter(|(owner, _)| *owner != client)
            && is_of_session
            && self.sessions.get(&owner) == Some(&of)
        {
            return self
                .fail(format!("in session mode, client {owner} is there, but its server serves client {client}"));
        }
        // In session mode names go through as they are: the one that is there may be of a Parse of its own, just now.
        let may_be_own = target.is_some_and(|target| self.regimes.session_mode(target).1);
        let held = sending.held.as_ref().filter(|held| !(may_be_own && held.starts_with("prepared statement")));
        let is_own = |held: &&String| held.starts_with("channel") && sending.listeners.contains(&client);
        let held = held.filter(|held| !is_own(held));
        // Session 0: this client's, which was told that a request of it was not run.
        let is_own = |owner: u32, of: u64| owner == client && (of == session || of == 0);
        if let Some((owner, held)) = last.zip(held).filter(|((owner, of), _)| !is_own(*owner, *of)) {
            return self.fail(format!("client {client} got a server with {held} of client {}", owner.0));
        }
        if let Some(other) = sending.role_of.filter(|other| *other != client) {
            return self.fail(format!("client {client} got a server with the role of client {other}"));
        }
        let worker = sending.worker;
        let barred = target.and_then(|target| self.regimes.may_lease(worker, target, reconnects).err());
        // A client that is pinned keeps its server, and what it has the server hold may be more than is there.
        let is_same = last == Some((client, session));
        if let Some(why) = barred.filter(|_| !is_same && !self.regimes.held(worker, session)) {
            return self.fail(format!("worker {worker} gives client {client} a server {why}"));
        }
        if !self.regimes.may_begin(worker, session) {
            return self.fail(format!("client {client} begins another transaction on worker {worker}, which drains"));
        }
        if last.is_none_or(|(owner, _)| owner != client) {
            self.new_leases.push((sending.link, client));
        }
    }

    /// A client begins a session.
    pub(crate) fn session_begins(&mut self, client: usize, number: u64) {
        self.sessions.insert(client as u32, number);
    }

    /// A client has gone, or was told to go, with these requests under way: they may still be run.
    pub(crate) fn session_ends(&mut self, client: usize, under_way: Vec<Tag>) {
        if let Some(session) = self.sessions.remove(&(client as u32)) {
            self.left_behind.extend(under_way.into_iter().map(|tag| (tag, session)));
        }
        self.waits.ends(client as u32);
    }

    /// Bytes of a client's request reached a worker.
    pub(crate) fn demanded(&mut self, client: usize, worker: usize, database: &str, user: &str) {
        let session = self.sessions.get(&(client as u32)).copied().unwrap_or_default();
        let mut own = self.taps.values().filter(|t| t.owner == Some(client as u32) && t.session == session);
        let is_of_session = self.regimes.target(database).is_some_and(|target| self.regimes.session_mode(target).1);
        let is_served = own.any(|t| !t.is_closed && (!t.is_free || is_of_session));
        if !is_served {
            self.waits.begins(client as u32, worker, database, user);
        }
    }

    /// The client waits no more: it was served, or answered.
    pub(crate) fn is_answered(&mut self, client: usize) {
        self.waits.ends(client as u32);
    }

    /// A client's request was taken back from its server, or had none: it holds none of its pool any more.
    pub(crate) fn is_withdrawn(&mut self, client: usize) {
        for tap in self.taps.values_mut().filter(|tap| tap.owner == Some(client as u32)) {
            tap.session = 0;
        }
    }

    fn is_served(&mut self, client: u32, is_new: bool, scenario: &Scenario) {
        if !is_new {
            return self.waits.ends(client);
        }
        // Whose server can't be reset waits anew.
        let times = if scenario.failing_reset_one_in > 0 { 2 } else { 1 };
        self.waits.is_served(client, scenario.overtakes_max * times);
    }

    /// A connection to a server is given up, or has ended.
    pub(crate) fn closed(&mut self, link: LinkId) {
        if let Some(tap) = self.taps.get_mut(&link) {
            tap.is_closed = true;
        }
    }

    fn check_limits(&mut self, pool: &(String, String), scenario: &Scenario, now: u64) {
        let in_use = self.taps.values().filter(|tap| !tap.is_closed && tap.is_of_pool == Some(true));
        let open = || in_use.clone().filter_map(|tap| tap.pool.as_ref());
        let of_pool = open().filter(|p| *p == pool).count();
        let of_database = open().filter(|(database, _)| *database == pool.0).count();
        let Some(target) = self.regimes.target_on_server(&pool.0) else {
            return self.fail(format!("a worker logs in to {pool:?}, which nobody configured"));
        };
        // The replicas of a cluster have a pool of their own.
        let pools = if scenario.cluster.is_some() { 2 } else { 1 };
        let size = self.regimes.size_max(target, now) * pools;
        if of_pool > size as usize {
            return self.fail(format!("{of_pool} servers are open in pool {pool:?} of size {size}"));
        }
        let most = scenario.targets[target].max_db_connections as usize;
        if most > 0 && of_database > most {
            self.fail(format!("{of_database} servers are open in database {}, at most {most} may be", pool.0));
        }
    }

    /// A cancel stopped the statement with that tag, on the server at `link`. `under_way`: requests of that server's client
    /// that are not answered to their end.
    pub(crate) fn cancel_hit(&mut self, link: LinkId, tag: Option<Tag>, under_way: &[Tag]) {
        let last = self.taps.get(&link).and_then(|tap| tap.owner.map(|owner| (owner, tap.session)));
        if let Some((owner, session)) = last
            && tag.is_none_or(|tag| tag.client == owner)
            && self.sessions.get(&owner) != Some(&session)
        {
            // Its client has left: the pooler stops what it left behind.
            return;
        }
        // What belongs to a request that is not answered to its end may be hit in its place: it is done again.
        let hit = tag.as_ref().map_or(under_way, std::slice::from_ref);
        if !self.cancels.hit(hit) {
            let words = tag.map_or("a statement of nobody".to_owned(), |tag| tag.to_string());
            self.fail(format!("a cancel stopped {words}, for which none was sent"));
        }
    }

    /// Effects became permanent on a server.
    pub(crate) fn committed(&mut self, marks: &[String]) {
        for mark in marks {
            let times = self.committed.entry(mark.clone()).or_default();
            *times += 1;
        }
    }

    /// Whether an effect has become permanent on any server.
    pub(crate) fn is_committed(&self, mark: &str) -> bool {
        self.committed.contains_key(mark)
    }

    /// A client was told that these effects are permanent.
    pub(crate) fn acknowledged(&mut self, marks: &[String]) {
        for mark in marks {
            if !self.committed.contains_key(mark) && !self.beyond_telling.contains(mark) {
                self.fail(format!("{mark} was acknowledged, but is on no server"));
            }
            if !self.promised.insert(mark.clone()) {
                self.fail(format!("{mark} was acknowledged twice"));
            }
        }
    }

    /// At the end: an effect that happened twice.
    pub(crate) fn unkept_promise(&self) -> Option<String> {
        let twice = self.committed.iter().find(|(_, times)| **times > 1);
        twice.map(|(mark, times)| format!("{mark} happened {times} times"))
    }

    /// What a worker says of itself.
    pub(crate) fn snapshot(&mut self, worker: usize, snapshot: &Snapshot) {
        let waiting: u32 = snapshot.pools.iter().map(|p| p.cl_waiting).sum();
        let held = snapshot.servers.iter().filter(|s| s.client.is_some()).count();
        let left = (snapshot.clients.len(), held, waiting);
        let words = format!("{} clients, {} servers in use, {} waiting", left.0, left.1, left.2);
        self.at_rest.insert(worker, if left == (0, 0, 0) { String::new() } else { words });
        self.known_clients.extend(snapshot.clients.iter().map(|c| c.id));
    }

    /// A client holds one server at most, and one that is held has a holder.
    pub(crate) fn one_server_each(&mut self, snapshot: &Snapshot) {
        for client in &snapshot.clients {
            let held: Vec<u64> =
                snapshot.servers.iter().filter(|s| s.client == Some(client.id)).map(|s| s.id).collect();
            if held.len() > 1 || client.server != held.first().copied() {
                let (id, own) = (client.id, client.server);
                self.fail(format!("client {id} holds server {own:?}, and servers {held:?} are held by it"));
            }
        }
    }

    /// A client's server was looked at while nothing was under way: it is pinned by what is not there, or is not.
    pub(crate) fn pinned_by_nothing(&mut self, client: u64, name: Option<&'static str>, now: u64) {
        let Some(name) = name else {
            self.stale_pins.remove(&client);
            return;
        };
        let since = *self.stale_pins.entry(client).or_insert(now);
        if now - since > STALE_US {
            self.fail(format!("client {client} is pinned by {name}, and for long there has been none"));
        }
    }

    /// Some client's id, as the workers name it.
    pub(crate) fn pick_known_client(&mut self, rng: &mut Rng) -> Option<u64> {
        let ids: Vec<u64> = self.known_clients.iter().copied().collect();
        (!ids.is_empty()).then(|| *rng.pick(&ids))
    }
}

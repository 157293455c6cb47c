//! The checkers: each rule of the design that a step can break, with what has to be remembered for it.
//!
//! | rule | where |
//! |---|---|
//! | a reply reaches its asker, in order, exactly (I1, I2, I3) | [`crate::client::mirror`] |
//! | a parameter never leaks (I7, I8) | [`crate::client::mirror`] |
//! | one lessee a server, no hand-over while dirty (I9) | [`Checks::sent_to_server`] |
//! | limits hold over all workers (I12) | [`Checks::sent_to_server`] |
//! | a cancel stops only its own request (I10) | [`Checks::cancel_hit`] |
//! | acknowledged effects are there, once (I4, I5) | [`Checks::unkept_promise`] |
//! | nothing runs that nobody sent (I6) | `World::check_origin` |
//! | the border's rules, buffers | [`crate::driver`] |
//! | every waiter ends (I15), nothing is left (I13) | `World::run`, `World::check_rest` |

use std::collections::{BTreeMap, BTreeSet};

use forebay_core::command::Snapshot;
use forebay_core::config::PoolMode;

use crate::net::LinkId;
use crate::rng::Rng;
use crate::scenario::{Scenario, Target};
use crate::wire::{Opening, Splitter, Tag};

/// A worker's connection to a server, as seen from outside.
#[derive(Debug)]
struct Tap {
    splitter: Splitter,
    /// Database and user it logged in to; `None` before, and for cancels.
    pool: Option<(String, String)>,
    /// The client that it serves or served last, and in which session.
    owner: Option<u32>,
    session: u64,
    /// The last whole message to it was of a COPY.
    ends_in_copy: bool,
    /// Messages of a new client may come.
    is_free: bool,
    is_closed: bool,
}

/// A cancel request that a client sent.
#[derive(Debug)]
struct Cancel {
    client: u32,
    is_forged: bool,
    /// What its client waited for when it reached the pooler: all that it may stop.
    aims: Option<Vec<Tag>>,
    /// Which ReadyForQuery its client waited for by then: those that it had got, and would get.
    readies: std::ops::RangeInclusive<u64>,
    has_hit: bool,
}

/// A client whose request has reached a worker, but no server.
#[derive(Debug)]
struct Wait {
    worker: usize,
    database: String,
    user: String,
    /// Requests that came later and were served before.
    overtaken: u32,
    number: u64,
}

/// What the checkers remember.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    violation: Option<String>,
    taps: BTreeMap<LinkId, Tap>,
    new_leases: Vec<(LinkId, u32)>,
    cancels: Vec<Cancel>,
    waits: BTreeMap<u32, Wait>,
    demands: u64,
    /// The session that each client is in, if it is in one; numbers are never reused.
    sessions: BTreeMap<u32, u64>,
    /// Per worker: what it said when all was over.
    pub(crate) at_rest: BTreeMap<usize, String>,
    committed: BTreeMap<String, u32>,
    promised: BTreeSet<String>,
    known_clients: BTreeSet<u64>,
}

impl Checks {
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

    /// The client that a server connection serves, or served last.
    pub(crate) fn owner(&self, link: LinkId) -> Option<u32> {
        self.taps.get(&link).and_then(|tap| tap.owner)
    }

    pub(crate) fn take_new_leases(&mut self) -> Vec<(LinkId, u32)> {
        std::mem::take(&mut self.new_leases)
    }

    /// Whether nothing but messages of a COPY can be under way to the server. Once the COPY has failed they earn no
    /// reply and disturb nobody.
    pub(crate) fn ends_in_copy(&self, link: LinkId) -> bool {
        self.taps.get(&link).is_some_and(|tap| tap.ends_in_copy && tap.splitter.is_empty())
    }

    /// Bytes that a worker sends to a server. `is_quiet`: all replies to what was sent before have reached the worker,
    /// and the session is at rest. `is_dead`: the worker cannot know yet that nobody reads.
    pub(crate) fn sent_to_server(
        &mut self,
        link: LinkId,
        is_quiet: bool,
        is_dead: bool,
        bytes: &[u8],
        scenario: &Scenario,
    ) {
        let tap = self.taps.entry(link).or_insert_with(|| Tap {
            splitter: Splitter::at_startup(),
            pool: None,
            owner: None,
            session: 0,
            ends_in_copy: false,
            is_free: true,
            is_closed: false,
        });
        tap.is_free |= is_quiet || is_dead;
        tap.splitter.push(bytes);
        let (mut opened, mut served) = (None, BTreeSet::new());
        loop {
            let frame = match tap.splitter.take() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(words) => return self.fail(format!("a worker sends garbage to a server: {words}")),
            };
            if tap.splitter.is_startup {
                if let Some(Opening::Startup { params, .. }) = Opening::decode(&frame) {
                    tap.splitter.is_startup = false;
                    let of = |name| params.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
                    tap.pool = Some((of("database"), of("user")));
                    opened = tap.pool.clone();
                }
                continue;
            }
            tap.ends_in_copy = matches!(frame.kind, b'd' | b'c' | b'f');
            let Some(tag) = Tag::all_in(&frame.body).first().copied() else { continue };
            served.insert(tag.client);
            if tap.owner == Some(tag.client) {
                if tap.is_free {
                    tap.session = self.sessions.get(&tag.client).copied().unwrap_or(0);
                }
                tap.is_free = false;
                continue;
            }
            if !tap.is_free {
                let owner = tap.owner;
                return self.fail(format!("a server that serves client {owner:?} got {} of {tag}", frame.show()));
            }
            let session = self.sessions.get(&tag.client).copied().unwrap_or(0);
            let is_of_session = tap.pool.as_ref().is_some_and(|(d, _)| scenario.is_session_mode(d));
            if is_of_session
                && let Some(owner) = tap.owner
                && self.sessions.get(&owner) == Some(&tap.session)
            {
                return self.fail(format!("in session mode, client {owner} is there, but its server serves {tag}"));
            }
            (tap.owner, tap.session, tap.is_free) = (Some(tag.client), session, false);
            self.new_leases.push((link, tag.client));
        }
        if let Some(pool) = opened {
            self.check_limits(&pool, scenario);
        }
        for client in served {
            self.is_served(client, scenario);
        }
    }

    /// A client begins a session.
    pub(crate) fn session_begins(&mut self, client: usize, number: u64) {
        self.sessions.insert(client as u32, number);
    }

    /// A client has gone, or was told to go.
    pub(crate) fn session_ends(&mut self, client: usize) {
        self.sessions.remove(&(client as u32));
        self.waits.remove(&(client as u32));
    }

    /// Bytes of a client's request reached a worker.
    pub(crate) fn demanded(&mut self, client: usize, worker: usize, target: &Target, user: &str) {
        let session = self.sessions.get(&(client as u32)).copied().unwrap_or_default();
        let mut own = self.taps.values().filter(|t| t.owner == Some(client as u32) && t.session == session);
        let is_served = own.any(|t| !t.is_closed && (!t.is_free || target.mode == PoolMode::Session));
        if !is_served {
            let database = &target.name;
            self.demands += 1;
            let (database, user, number) = (database.clone(), user.to_owned(), self.demands);
            let wait = Wait { worker, database, user, overtaken: 0, number };
            self.waits.entry(client as u32).or_insert(wait);
        }
    }

    /// The client waits no more: it was served, or answered.
    pub(crate) fn is_answered(&mut self, client: usize) {
        self.waits.remove(&(client as u32));
    }

    fn is_served(&mut self, client: u32, scenario: &Scenario) {
        let Some(wait) = self.waits.remove(&client) else { return };
        let peers = self.waits.iter_mut().filter(|(_, w)| w.database == wait.database && w.user == wait.user);
        let mut passed = None;
        for (other, peer) in peers.filter(|(_, w)| w.number < wait.number) {
            peer.overtaken += 1;
            let most = if peer.worker == wait.worker { scenario.overtakes_max } else { scenario.overtakes_max * 3 };
            if peer.overtaken > most {
                passed = Some((*other, peer.overtaken));
            }
        }
        if let Some((other, times)) = passed {
            self.fail(format!("client {other} waits while {times} later requests were served, last client {client}'s"));
        }
    }

    /// A connection to a server is given up, or has ended.
    pub(crate) fn closed(&mut self, link: LinkId) {
        if let Some(tap) = self.taps.get_mut(&link) {
            tap.is_closed = true;
        }
    }

    fn check_limits(&mut self, pool: &(String, String), scenario: &Scenario) {
        let open = || self.taps.values().filter(|tap| !tap.is_closed).filter_map(|tap| tap.pool.as_ref());
        let of_pool = open().filter(|p| *p == pool).count();
        let of_database = open().filter(|(database, _)| *database == pool.0).count();
        let Some(target) = scenario.targets.iter().find(|t| t.name.replace("db", "real") == pool.0) else {
            return self.fail(format!("a worker logs in to {pool:?}, which nobody configured"));
        };
        if of_pool > target.pool_size as usize {
            return self.fail(format!("{of_pool} servers are open in pool {pool:?} of size {}", target.pool_size));
        }
        let most = target.max_db_connections as usize;
        if most > 0 && of_database > most {
            self.fail(format!("{of_database} servers are open in database {}, at most {most} may be", pool.0));
        }
        debug_assert!(matches!(target.mode, PoolMode::Session | PoolMode::Transaction | PoolMode::Statement));
    }

    /// A client sends a cancel request. Returns its number.
    pub(crate) fn cancel_sent(&mut self, client: usize, is_forged: bool) -> usize {
        self.cancels.push(Cancel { client: client as u32, is_forged, aims: None, readies: 0..=0, has_hit: false });
        self.cancels.len() - 1
    }

    /// The client that sent a cancel request.
    pub(crate) fn canceller(&self, number: usize) -> usize {
        self.cancels[number].client as usize
    }

    /// A cancel request reached the pooler, while its client waits for replies to `tags`.
    pub(crate) fn cancel_arrived(&mut self, number: usize, tags: Vec<Tag>, readies: std::ops::RangeInclusive<u64>) {
        // It may come in pieces; the last one is what the pooler can act on.
        let cancel = &mut self.cancels[number];
        (cancel.aims, cancel.readies) = (Some(tags), readies);
    }

    /// A cancel stopped the statement with that tag, on the server at `link`.
    pub(crate) fn cancel_hit(&mut self, link: LinkId, tag: Option<Tag>) {
        let last = self.taps.get(&link).and_then(|tap| tap.owner.map(|owner| (owner, tap.session)));
        if let Some((owner, session)) = last
            && tag.is_none_or(|tag| tag.client == owner)
            && self.sessions.get(&owner) != Some(&session)
        {
            // Its client has left: the pooler stops what it left behind.
            return;
        }
        let Some(tag) = tag else { return self.fail("a cancel stopped a statement of nobody".into()) };
        let is_it = |c: &&mut Cancel| !c.is_forged && !c.has_hit && c.aims.as_ref().is_some_and(|a| a.contains(&tag));
        match self.cancels.iter_mut().find(is_it) {
            Some(cancel) => cancel.has_hit = true,
            None => self.fail(format!("a cancel stopped {tag}, for which none was sent")),
        }
    }

    /// Whether a cancel of the client's own was sent for one of these requests, or since the last was answered.
    pub(crate) fn has_cancelled(&self, client: usize, tags: &[Tag], readies: u64) -> bool {
        let own = self.cancels.iter().filter(|c| !c.is_forged && c.client == client as u32);
        own.filter_map(|c| c.aims.as_ref().map(|aims| (c, aims)))
            .any(|(c, aims)| c.readies.contains(&readies) || aims.iter().any(|aim| tags.contains(aim)))
    }

    /// Effects became permanent on a server.
    pub(crate) fn committed(&mut self, marks: &[String]) {
        for mark in marks {
            let times = self.committed.entry(mark.clone()).or_default();
            *times += 1;
        }
    }

    /// A client was told that these effects are permanent.
    pub(crate) fn acknowledged(&mut self, marks: &[String]) {
        for mark in marks {
            if !self.committed.contains_key(mark) {
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
        for server in &snapshot.servers {
            let holders = snapshot.servers.iter().filter(|s| s.client.is_some() && s.client == server.client).count();
            if holders > 1 {
                self.violation.get_or_insert(format!("client {:?} holds {holders} servers", server.client));
            }
        }
    }

    /// Some client's id, as the workers name it.
    pub(crate) fn pick_known_client(&mut self, rng: &mut Rng) -> Option<u64> {
        let ids: Vec<u64> = self.known_clients.iter().copied().collect();
        (!ids.is_empty()).then(|| *rng.pick(&ids))
    }
}

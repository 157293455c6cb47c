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
use crate::scenario::Scenario;
use crate::wire::{Opening, Splitter, Tag};

/// A worker's connection to a server, as seen from outside.
#[derive(Debug)]
struct Tap {
    splitter: Splitter,
    /// Database and user it logged in to; `None` before, and for cancels.
    pool: Option<(String, String)>,
    /// The client that it serves or served last.
    owner: Option<u32>,
    /// Messages of a new client may come.
    is_free: bool,
    is_closed: bool,
}

/// A cancel request that a client sent.
#[derive(Debug)]
struct Cancel {
    client: u32,
    is_over: bool,
    hits: u32,
}

/// What the checkers remember.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    violation: Option<String>,
    taps: BTreeMap<LinkId, Tap>,
    new_leases: Vec<(LinkId, u32)>,
    cancels: Vec<Cancel>,
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
            is_free: true,
            is_closed: false,
        });
        tap.is_free |= is_quiet || is_dead;
        tap.splitter.push(bytes);
        let mut opened = None;
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
            let Some(tag) = Tag::all_in(&frame.body).first().copied() else { continue };
            if tap.owner == Some(tag.client) {
                tap.is_free = false;
                continue;
            }
            if !tap.is_free {
                let owner = tap.owner;
                return self.fail(format!("a server that serves client {owner:?} got {} of {tag}", frame.show()));
            }
            tap.owner = Some(tag.client);
            tap.is_free = false;
            self.new_leases.push((link, tag.client));
        }
        if let Some(pool) = opened {
            self.check_limits(&pool, scenario);
        }
    }

    /// Bytes that a worker received.
    pub(crate) fn received(&mut self, _link: LinkId, _bytes: &[u8]) {}

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

    /// A client sends a cancel request with its own key, while it waits for replies to `_tags`.
    pub(crate) fn cancel_sent(&mut self, client: usize, _tags: Vec<Tag>) {
        self.cancels.push(Cancel { client: client as u32, is_over: false, hits: 0 });
    }

    /// A cancel connection of the client has ended: it can stop nothing that begins later.
    pub(crate) fn cancel_ended(&mut self, client: usize) {
        let client = client as u32;
        if let Some(cancel) = self.cancels.iter_mut().find(|c| c.client == client && !c.is_over) {
            cancel.is_over = true;
        }
    }

    /// A cancel stopped a statement of that client.
    pub(crate) fn cancel_hit(&mut self, tag: Option<Tag>) {
        let Some(Tag { client, .. }) = tag else {
            return self.fail("a cancel stopped a statement of nobody".into());
        };
        match self.cancels.iter_mut().find(|c| c.client == client && c.hits == 0) {
            Some(cancel) => cancel.hits += 1,
            None => self.fail(format!("a cancel stopped {tag:?} of client {client}, which sent none")),
        }
    }

    /// Whether the client sent a cancel that may have been answered.
    pub(crate) fn has_cancelled(&self, client: usize) -> bool {
        self.cancels.iter().any(|c| c.client == client as u32)
    }

    /// The client got an answer to everything up to here.
    pub(crate) fn cancels_answered(&mut self, _client: usize) {}

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
    pub(crate) fn snapshot(&mut self, _worker: usize, snapshot: &Snapshot) {
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

//! Who holds a pool's servers, in words: what a client is told whose wait is over without one.
//!
//! Every worker knows its own servers only. When a wait is over it asks the others, which publish what theirs do
//! ([`crate::pool::shared::PoolShared`]); what they have not told within [`TELL_MAX`] is said to be unknown.

use std::borrow::Cow;
use std::time::Duration;

use forebay_spec::{Report, errors, pins};

use crate::checkout::seconds;
use crate::config::{PoolMode, Role};
use crate::io::Io;
use crate::pool::holding::{Holding, Lease};
use crate::pool::{Pool, PoolId};
use crate::session::IDLE;
use crate::session::client::{Client, ClientKey};
use crate::session::server::{Server, ServerState};
use crate::time::Instant;
use crate::tracking::pin::{self, REASONS};
use crate::worker::{Message, PoolName, Worker};

/// How long the other workers have to tell what their servers do.
const TELL_MAX: Duration = Duration::from_millis(50);
/// Time between two looks at whether they have.
const TELL_AGAIN: Duration = Duration::from_millis(5);

/// What a server does that no client has: in the order of [`WORDS`].
#[derive(Clone, Copy)]
enum Doing {
    Opening,
    Finishing,
    Cleaning,
    Resetting,
    Reading,
    Answering,
    CancelWait,
    Moving,
    Speaking,
}

const WORDS: [&str; Holding::DOINGS] = [
    "being opened",
    "running what a client that has left had asked for",
    "being cleaned behind a client that has left",
    "being reset",
    "reading the catalogue",
    "answering a question of ours",
    "waiting for a cancel to end",
    "moving between workers",
    "in the middle of a message",
];

impl Doing {
    fn of(server: &Server) -> Option<Doing> {
        Some(match server.state {
            ServerState::Connecting | ServerState::TlsAsked | ServerState::Tls | ServerState::Login => Doing::Opening,
            ServerState::Idle => return None,
            ServerState::Busy if server.is_being_reset => Doing::Resetting,
            ServerState::Busy if server.reading.is_some() => Doing::Reading,
            ServerState::Busy | ServerState::Listening => Doing::Answering,
            ServerState::Cleaning if server.is_finishing => Doing::Finishing,
            ServerState::Cleaning => Doing::Cleaning,
            ServerState::CancelWait => Doing::CancelWait,
            ServerState::Detaching | ServerState::Moving => Doing::Moving,
            ServerState::Leased => Doing::Speaking,
        })
    }
}

impl<I: Io> Worker<I> {
    /// What a client is told when its wait is over without a server.
    pub(crate) fn wait_report(&mut self, key: ClientKey) -> Report {
        let (id, since) = {
            let client = &self.clients[key];
            (client.serving().expect("a waiting client has a pool"), client.since)
        };
        let now = self.now;
        let pool = self.pool(id);
        let waited = seconds(now.since(since));
        if pool.is_held {
            let (role, database) = (role_in_words(pool), pool.database.clone());
            if self.is_hold_refused(&self.pools[id.0 as usize]) {
                let max =
                    self.pools[id.0 as usize].target.config.cluster.map_or(0, |cluster| cluster.holds_per_hour_max);
                return errors::role_flaps(database, role, max);
            }
            return errors::no_role(role, database, waited);
        }
        if let Some((endpoint, sick)) = pool.endpoints.sickness() {
            let retry = seconds(pool.endpoints.next_try(now).since(now));
            return errors::no_endpoint(pool.database.clone(), endpoint, sick.cause, retry);
        }
        let user_limit = self.user_limit(id);
        let pool = &self.pools[id.0 as usize];
        let all = self.holding(id).and(pool.shared.holding(self.id));
        if all.are_most_pinned() {
            let (size, label, reasons) = (pool.settings.pool_size, pool.label(), pins_in_words(&all));
            return errors::servers_pinned(all.pinned, size, label, reasons, waited, all.waiting);
        }
        let in_use = pool.shared.permits.used().saturating_sub(all.idle);
        let holders = in_words(pool, &all, user_limit, now);
        errors::checkout_timeout(pool.label(), waited, in_use, pool.settings.pool_size, all.waiting, holders)
    }

    /// What this worker's servers of a pool do.
    fn holding(&self, id: PoolId) -> Holding {
        let waiting = self.pools[id.0 as usize].waiters.len() as u32;
        let mut holding = Holding { waiting, told_at: self.now, ..Holding::default() };
        for (_, server) in self.servers.iter().filter(|(_, s)| s.pool == id && s.apart.is_none()) {
            match (server.client.and_then(|key| self.clients.get(key)), Doing::of(server)) {
                (Some(client), _) => {
                    holding.add_lease(lease(client, server));
                    if let Some(pin) = &client.pin {
                        holding.add_pin(REASONS.map(|reason| pin.reasons.has(reason)));
                    }
                }
                (None, Some(doing)) => holding.add_doing(doing as usize, server.since),
                (None, None) => holding.idle += 1,
            }
        }
        holding
    }

    /// Others wait in a pool: they may want to name who holds its servers.
    pub(crate) fn tell_holding(&mut self, name: &PoolName) {
        if let Some(id) = self.pool_ids.get(name).copied() {
            self.pools[id.0 as usize].shared.publish_holding(self.id, self.holding(id));
        }
    }

    /// Whether the other workers have told who holds their servers, or have had long enough for it; if not, the
    /// client is looked at again.
    pub(crate) fn have_others_told(&mut self, io: &mut I, key: ClientKey) -> bool {
        if self.shared.workers == 1 {
            return true;
        }
        let id = self.clients[key].serving().expect("a waiting client has a pool");
        let pool = &self.pools[id.0 as usize];
        let Some(asked_at) = self.clients[key].rare.as_ref().and_then(|rare| rare.asked_who_holds_at) else {
            let name = (pool.database.clone(), pool.user.clone());
            self.tell_others(io, || Message::WhoHolds(name.clone()));
            self.clients[key].rare().asked_who_holds_at = Some(self.now);
            self.arm_client_at(key, self.now + TELL_AGAIN);
            return false;
        };
        if pool.shared.have_told_since(self.id, asked_at) || self.now >= asked_at + TELL_MAX {
            return true;
        }
        self.arm_client_at(key, self.now + TELL_AGAIN);
        false
    }
}

fn lease(client: &Client, server: &Server) -> Lease {
    let pin = client.pin.as_ref().filter(|_| server.is_clean());
    let is_quiet = server.expect.is_empty();
    let state = match (server.state, pin) {
        (ServerState::Busy, _) => Cow::from("looked at, or made ready, for a session"),
        (ServerState::Listening, _) => Cow::from("held by LISTEN until its channels are taken over"),
        (_, Some(pin)) => Cow::from(format!("pinned by {}", pin::names(pin.reasons).join(", "))),
        _ if is_quiet && server.cancels > 0 => Cow::from("waiting for the end of a cancel"),
        _ if client.usage.mode == PoolMode::Session && is_quiet && server.status == IDLE => Cow::from("in a session"),
        _ if server.status == IDLE => Cow::from("in a request"),
        _ if is_quiet => Cow::from("idle in a transaction"),
        _ => Cow::from("in a transaction"),
    };
    let name = client.wanted.get("application_name").map_or(String::new(), |n| format!(" \"{n}\""));
    let since = pin.map_or(client.transaction_at, |pin| pin.since);
    Lease { since, holder: format!("{state} of client {}{name}", client.id).into() }
}

/// By what the servers of a pool are pinned, and how many by each.
fn role_in_words(pool: &Pool) -> &'static str {
    match pool.target.config.cluster.map(|cluster| cluster.role) {
        Some(Role::Primary) => "primary",
        Some(Role::Replica) => "replica",
        Some(Role::Any) | None => "endpoint",
    }
}

fn pins_in_words(all: &Holding) -> String {
    let counts = all.pins.iter().zip(&pins::ALL).filter(|(count, _)| **count > 0);
    counts.map(|(count, row)| format!("{count} {}", row.name)).collect::<Vec<_>>().join(", ")
}

/// What all workers' servers of a pool do, as far as it is known.
fn in_words(pool: &Pool, all: &Holding, user_limit: u32, now: Instant) -> String {
    let mut words = Vec::new();
    if let Some(lease) = &all.lease {
        words.push(format!("longest lease {}, {}", seconds(now.since(lease.since)), lease.holder));
    }
    for (doing, (count, since)) in WORDS.iter().zip(all.doing).filter(|(_, (count, _))| *count > 0) {
        words.push(format!("{count} {doing} ({})", seconds(now.since(since))));
    }
    let used = pool.shared.permits.used();
    if used > all.known() {
        words.push(format!("{} of which no worker has told", used - all.known()));
    }
    if all.idle > 0 {
        words.push(format!("{} idle", all.idle));
    }
    if pool.is_paused {
        words.push("the pool is paused until RESUME".to_owned());
    } else if !pool.shared.permits.is_full(pool.settings.pool_size) {
        let limits = [
            ("max_db_connections", &pool.shared.of_database, pool.settings.max_db_connections),
            ("max_user_connections", &pool.shared.of_user, user_limit),
        ];
        for (name, _, limit) in limits.into_iter().filter(|(_, permits, limit)| permits.is_full(*limit)) {
            words.push(format!("{name} of {limit} is reached by this and other pools"));
        }
        let part = pool.shared.of_database.share().most(now);
        if pool.is_budgeted() && pool.shared.of_database.is_reached(Some(part)) {
            words
                .push(format!("all {part} are in use that this node of the fleet has of the database's server_budget"));
        }
    }
    if words.is_empty() { "none of them is open".to_owned() } else { words.join("; ") }
}

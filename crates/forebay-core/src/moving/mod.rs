//! Online restart: connections, with all that is known of them, move to another process while they are in use.
//!
//! What moves in one piece is a [`group`]: a client, a server, or a client with its server. The worker that holds it
//!
//! | step | where | what holds |
//! |---|---|---|
//! | finds that it may move | [`leaving`] | nothing of ours is on its way |
//! | takes its connections out of the driver | [`leaving`] | it is [`Moving`]: what comes is kept, nothing is sent |
//! | writes it out and hands it on | [`leaving`] | it holds its permits still |
//! | is told that it has arrived | [`leaving`] | they are given back |
//!
//! and the worker that gets it reads it in ([`arriving`]), lets it go on with what was kept, and counts it.
//! A group that can't be handed on comes back the way it went, and goes on where it was; one that the other process has
//! refused does not try again.
//!
//! What may not move at the moment is looked at again every [`AGAIN`]; what never may ([`Stays`]) is left to the worker,
//! which lets it go when it is told that all others have gone.
//!
//! [`Moving`]: crate::session::client::ClientState::Moving

pub(crate) mod arriving;
mod group;
pub(crate) mod leaving;
pub(crate) mod part;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod turns;
mod values;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use rustc_hash::FxHashMap;
use zeroize::Zeroizing;

pub use arriving::Arrival;
pub use group::{examine, schema};
pub use part::Damaged;

use crate::cancel_key;
use crate::command::CommandId;
use crate::ids::WorkerId;
use crate::pool::PoolId;
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::ServerKey;
use crate::time::Instant;
use crate::worker::PoolName;

/// What was written of a group. Secrets are in it, so that it is wiped.
pub type State = Zeroizing<Vec<u8>>;

/// Groups of all workers that are taken out, or were handed on and are not known to have arrived: what is under way at once
/// stands still together, behind what is before it. One batch on its way, and one that is filled meanwhile.
const UNDER_WAY_MAX: usize = 96;
/// Of one worker, however many there are.
const UNDER_WAY_MIN: usize = 8;
/// How long until what could not move is looked at again.
const AGAIN: Duration = Duration::from_millis(2);
/// How long those are waited for that can't move at the moment, before it is said how many have not.
const SETTLES: Duration = Duration::from_millis(500);

/// A worker's part in an online restart.
pub(crate) struct Moves<H> {
    /// Groups go on to another process.
    is_on: bool,
    /// Clients that can't move are let go.
    lets_go: bool,
    leaving: Vec<Leaving<H>>,
    /// By number; not known to have arrived.
    sent: FxHashMap<u64, Receipt>,
    last_number: u64,
    /// Answered when nothing is left that may move.
    ordered: Option<CommandId>,
    /// Until then also when nothing is left that is about to.
    settles_until: Instant,
    /// When the next round is due, by an alarm.
    pub(crate) next_round_at: Option<Instant>,
}

impl<H> Default for Moves<H> {
    fn default() -> Self {
        Moves {
            is_on: false,
            lets_go: false,
            leaving: Vec::new(),
            sent: FxHashMap::default(),
            last_number: 0,
            ordered: None,
            settles_until: Instant::default(),
            next_round_at: None,
        }
    }
}

/// A group whose connections are being taken out.
struct Leaving<H> {
    client: Option<ClientKey>,
    /// What the client's state was.
    state: ClientState,
    server: Option<ServerKey>,
    client_out: Option<H>,
    server_out: Option<H>,
}

/// What a group that was handed on is still counted as.
struct Receipt {
    client: Option<Box<Client>>,
    server_of: Option<PoolId>,
}

/// Servers that another process still holds, by database and user: they take room in the pools until they arrive here, or
/// are gone.
#[derive(Debug, Default)]
pub struct Expected {
    by_pool: Mutex<FxHashMap<PoolName, u32>>,
}

impl Expected {
    /// One more, for which permits have been taken.
    pub(crate) fn add(&self, pool: PoolName) {
        *self.by_pool.lock().unwrap_or_else(PoisonError::into_inner).entry(pool).or_default() += 1;
    }

    /// One has arrived. False: it was not expected, and has no permits yet.
    pub(crate) fn arrived(&self, pool: &PoolName) -> bool {
        let mut all = self.by_pool.lock().unwrap_or_else(PoisonError::into_inner);
        let left = all.get_mut(pool).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }

    /// Not more of each pool are left to come than `most` says. Returns how many fewer these are, by pool.
    pub(crate) fn shrink(&self, most: impl Fn(&PoolName) -> u32) -> Vec<(PoolName, u32)> {
        let mut all = self.by_pool.lock().unwrap_or_else(PoisonError::into_inner);
        let fewer = all.iter_mut().map(|(pool, left)| {
            let surplus = left.saturating_sub(most(pool));
            *left -= surplus;
            (pool.clone(), surplus)
        });
        fewer.filter(|(_, surplus)| *surplus > 0).collect()
    }
}

/// Where clients are whose process ids do not say it, for they came from elsewhere.
#[derive(Debug, Default)]
pub struct Moved {
    by_pid: Mutex<FxHashMap<u32, Vec<Place>>>,
}

#[derive(Clone, Debug)]
struct Place {
    secret: Box<[u8]>,
    worker: WorkerId,
    client: ClientKey,
}

impl Moved {
    /// The client that was told this process id and this key, which peers may have passed on.
    pub(crate) fn find(&self, pid: u32, secret: &[u8]) -> Option<(WorkerId, ClientKey)> {
        let all = self.by_pid.lock().unwrap_or_else(PoisonError::into_inner);
        let places = all.get(&pid)?;
        let is_of = |place: &Place, secret: &[u8]| verify_slices_are_equal(&place.secret, secret).is_ok();
        let whole = cancel_key::with_all_hops(secret);
        places
            .iter()
            .find(|place| is_of(place, secret) || is_of(place, &whole))
            .map(|place| (place.worker, place.client))
    }

    fn add(&self, pid: u32, place: Place) {
        self.by_pid.lock().unwrap_or_else(PoisonError::into_inner).entry(pid).or_default().push(place);
    }

    /// The client has left the worker.
    pub(crate) fn remove(&self, pid: u32, worker: WorkerId, client: ClientKey) {
        let mut all = self.by_pid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = all.get_mut(&pid) {
            places.retain(|place| (place.worker, place.client) != (worker, client));
            if places.is_empty() {
                all.remove(&pid);
            }
        }
    }
}

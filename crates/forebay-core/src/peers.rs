//! Other poolers behind the same address: a CancelRequest that came here, and is for a client of one of them, is passed
//! on to it.
//!
//! Each peer is one worker's, so that `pool_size` holds over all of them. A request of which the peer makes nothing is
//! nothing here either: nobody is told.

use std::collections::VecDeque;

use forebay_pgwire::write;
use rustc_hash::FxHashMap;

use crate::cancel::{Canceller, Request, Stage};
use crate::cancel_key;
use crate::command::PeerRow;
use crate::event::Level;
use crate::ids::{ConnId, WorkerId};
use crate::io::{Close, ClosedBy, Io, Slice};
use crate::slab::{Key, Slab};
use crate::worker::{Message, Owner, Worker};

/// What SHOW CLIENTS calls the database of a request for a peer.
const NO_DATABASE: &str = "(nodb)";

/// A request on its way to a peer.
#[derive(Debug)]
pub struct Passed {
    peer: u16,
    pid: u32,
    secret: Box<[u8]>,
    canceller: Canceller,
    conn: Option<ConnId>,
    is_sent: bool,
}

/// What is on its way to peers.
#[derive(Default)]
pub struct Peering {
    passed: Slab<Passed>,
    /// By peer, the oldest first.
    waiting: FxHashMap<u16, VecDeque<Key<Passed>>>,
}

impl<I: Io> Worker<I> {
    /// A request is for a client of `peer`.
    pub(crate) fn pass_to_peer(&mut self, io: &mut I, peer: u16, request: Request) {
        let owner = WorkerId(peer % self.shared.workers);
        if owner != self.id {
            return io.tell(owner, Message::Cancel(Box::new(request)));
        }
        // Who guesses the keys of others is not to do it through us; and whether this one is right is not known here.
        let limit = self.passes_max(request.source, &request.secret);
        self.shared.passes.note(request.source, limit, self.now);
        let canceller = request.canceller;
        let Some(secret) = cancel_key::with_a_hop_less(&request.secret) else {
            return self.not_passed(io, peer, canceller, "its TTL was exhausted");
        };
        let waiting = self.peering.waiting.entry(peer).or_default();
        if waiting.len() >= self.tables.config.limits.waiters_max as usize {
            return self.not_passed(io, peer, canceller, "too many wait for that peer");
        }
        let (pid, secret) = (request.pid, secret.into_boxed_slice());
        let key = self.peering.passed.insert(Passed { peer, pid, secret, canceller, conn: None, is_sent: false });
        waiting.push_back(key);
        self.arm_passed(key, self.cancel_patience());
        self.tell_canceller(io, canceller, Stage::Waiting(NO_DATABASE.into()));
        self.connect_to_peer(io, peer);
    }

    /// Opens connections for those that wait, as many as may be.
    fn connect_to_peer(&mut self, io: &mut I, peer: u16) {
        let target = self.tables.peer(peer).cloned();
        let open = self.peering.passed.iter().filter(|(_, p)| p.peer == peer && p.conn.is_some()).count();
        let mut room = target.as_ref().map_or(usize::MAX, |target| (target.pool_size as usize).saturating_sub(open));
        while room > 0
            && let Some(key) = self.peering.waiting.get_mut(&peer).and_then(VecDeque::pop_front)
        {
            let Some(target) = &target else {
                // Here, and not by `end_passed`, which comes back: thousands that wait would be as many calls deep.
                if let Some(passed) = self.peering.passed.remove(key) {
                    self.not_passed(io, peer, passed.canceller, "it is no peer any more");
                }
                continue;
            };
            let conn = io.connect(&target.endpoint);
            self.set_owner(conn, Owner::Passed(key));
            self.peering.passed[key].conn = Some(conn);
            room -= 1;
        }
    }

    pub(crate) fn passed_connected(&mut self, io: &mut I, key: Key<Passed>) {
        let passed = &mut self.peering.passed[key];
        let (Some(conn), canceller) = (passed.conn, passed.canceller) else { return };
        let mut out = Vec::new();
        write::cancel_request(&mut out, passed.pid, &passed.secret);
        passed.is_sent = true;
        io.send(conn, &[Slice::Bytes(&out)]);
        self.stats.cancels_passed.add(1);
        self.arm_passed(key, Some(crate::deadline::CANCEL_MAX));
        self.tell_canceller(io, canceller, Stage::Sent);
    }

    /// The peer has closed the connection, or it did not come about.
    pub(crate) fn passed_closed(&mut self, io: &mut I, key: Key<Passed>, by: &ClosedBy) {
        let is_sent = self.is_passed(key);
        match by {
            ClosedBy::Error(cause) if !is_sent => self.end_passed(io, key, Some(cause)),
            _ => self.end_passed(io, key, None),
        }
    }

    /// It has waited, or the peer has kept it, for too long.
    pub(crate) fn passed_is_late(&mut self, io: &mut I, key: Key<Passed>, is_for_sending: bool) {
        let Some(passed) = self.peering.passed.get(key) else { return };
        if passed.is_sent != is_for_sending {
            return;
        }
        let (peer, conn) = (passed.peer, passed.conn);
        if let Some(conn) = conn {
            self.close_conn(io, conn, Close::Now);
        } else if let Some(waiting) = self.peering.waiting.get_mut(&peer) {
            waiting.retain(|other| *other != key);
        }
        self.end_passed(io, key, (!is_for_sending).then_some("cancel_wait_timeout"));
    }

    fn end_passed(&mut self, io: &mut I, key: Key<Passed>, because: Option<&str>) {
        let Some(passed) = self.peering.passed.remove(key) else { return };
        match because {
            Some(because) => self.not_passed(io, passed.peer, passed.canceller, because),
            None => self.tell_canceller(io, passed.canceller, Stage::Over),
        }
        self.connect_to_peer(io, passed.peer);
    }

    fn not_passed(&mut self, io: &mut I, peer: u16, canceller: Canceller, because: &str) {
        let fields = vec![("peer", u64::from(peer).into()), ("reason", because.into())];
        self.log(io, Level::Warn, "cancel_not_passed", fields);
        self.tell_canceller(io, canceller, Stage::Over);
    }

    /// Whether it was sent.
    pub(crate) fn is_passed(&self, key: Key<Passed>) -> bool {
        self.peering.passed.get(key).is_some_and(|passed| passed.is_sent)
    }

    /// Each peer of this worker's, for SHOW PEER_POOLS.
    pub(crate) fn peer_rows(&self) -> Vec<PeerRow> {
        let own = |id: u16| id % self.shared.workers == self.id.0;
        let rows = self.tables.config.peers.others.iter().filter(|peer| own(peer.id)).map(|peer| {
            let count = |is_counted: fn(&Passed) -> bool| {
                let all = self.peering.passed.iter().filter(|(_, passed)| passed.peer == peer.id);
                all.filter(|(_, passed)| is_counted(passed)).count() as u32
            };
            PeerRow {
                peer_id: peer.id,
                cl_active_cancel_req: count(|passed| passed.is_sent),
                cl_waiting_cancel_req: count(|passed| !passed.is_sent),
                sv_active_cancel: count(|passed| passed.is_sent),
                sv_login: count(|passed| passed.conn.is_some() && !passed.is_sent),
            }
        });
        rows.collect()
    }
}

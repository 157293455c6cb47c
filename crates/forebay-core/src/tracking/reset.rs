//! Resets: a server is brought back to its start before another client uses it: right away where nobody waits for it,
//! else in its hand-over ([`crate::hand_over`]). A reset that fails costs the server, never a client's isolation.

use forebay_sql::traces::Traces;

use super::{EVERYTHING, Left};
use crate::config::{Level, SequenceAffinity};
use crate::io::Io;
use crate::planted::{Bug, planted};
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::expect::{Expect, Own};
use crate::session::server::{Server, ServerKey, ServerState};
use crate::statements::fixed::Fixed;
use crate::worker::Worker;

/// What planted bugs leave out of a reset.
const GAPS: [(Bug, Traces); 4] = [
    (Bug::ResetForgetsLocks, Traces::LOCK),
    (Bug::ResetForgetsTemp, Traces::TEMP),
    (Bug::ResetForgetsSequences, Traces::SEQUENCE),
    (Bug::ResetForgetsCursors, Traces::CURSOR),
];

/// The statements that undo `dirt`.
fn undoing(dirt: Traces) -> Vec<Fixed> {
    let mut statements = Vec::new();
    let mut add = |when: Traces, statement: Fixed| {
        if dirt.has_any(when) {
            statements.push(statement);
        }
    };
    add(Traces::AUTHORIZATION, Fixed::ResetAuthorization);
    if !planted(Bug::ResetForgetsRole) {
        add(Traces::AUTHORIZATION | Traces::ANY_SETTING, Fixed::ResetRole);
    }
    add(Traces::AUTHORIZATION | Traces::ANY_SETTING, Fixed::ResetAll);
    add(Traces::CURSOR, Fixed::CloseAll);
    add(Traces::LISTEN, Fixed::UnlistenAll);
    add(Traces::SEQUENCE, Fixed::DiscardSequences);
    add(Traces::TEMP, Fixed::DiscardTemp);
    add(Traces::PREPARED, Fixed::DeallocateAll);
    match (dirt.has(Traces::LOCK), dirt.has(Traces::SEED)) {
        (true, true) => statements.push(Fixed::UnlockAllAndReseed),
        (true, false) => statements.push(Fixed::UnlockAll),
        (false, true) => statements.push(Fixed::Reseed),
        (false, false) => {}
    }
    statements
}

fn is_failure_ignored() -> bool {
    planted(Bug::ResetFailureIgnored) || planted(Bug::ResetFailsUnseen)
}

impl<I: Io> Worker<I> {
    /// What a server's random numbers are seeded with, in [-1, 1], so that the next client's are not the last one's.
    pub(crate) fn new_seed(io: &mut I) -> f64 {
        let mut random = [0; 8];
        io.fill_random(&mut random);
        u64::from_le_bytes(random) as f64 / u64::MAX as f64 * 2.0 - 1.0
    }

    /// What undoes all that is, or may be, left on a server.
    pub(crate) fn reset_statements(&mut self, key: ServerKey) -> Vec<Fixed> {
        let server = &mut self.servers[key];
        let id = server.pool;
        server.left.give_up();
        let gaps = GAPS.iter().filter(|(bug, _)| planted(*bug));
        let statements = undoing(gaps.fold(server.left.dirt, |dirt, (_, trace)| dirt.without(*trace)));
        self.pool(id).stats.stats.resets.add(1);
        statements
    }

    /// Has a server reset. What is set on it, or prepared, is forgotten when that is answered.
    pub(crate) fn reset(&mut self, io: &mut I, key: ServerKey) {
        let seed = Self::new_seed(io);
        let statements: Vec<_> = self.reset_statements(key).into_iter().map(|fixed| fixed.with(seed)).collect();
        let server = &mut self.servers[key];
        let id = server.pool;
        server.is_being_reset = true;
        self.pool(id).resetting += 1;
        let fault = if planted(Bug::ResetFails) || planted(Bug::ResetFailsUnseen) { "SELECT 1/0;" } else { "" };
        self.send_own(io, key, Own::Clean, &format!("{fault}{}", statements.join(";")));
    }

    /// A reset is answered.
    pub(crate) fn reset_done(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        let empty = self.images.empty();
        let server = &mut self.servers[key];
        let id = server.pool;
        server.is_being_reset = false;
        self.pools[id.0 as usize].resetting -= 1;
        if let Some((sqlstate, message)) = error.filter(|_| !is_failure_ignored()) {
            return self.replace_server(io, key, &format!("its reset failed: {sqlstate} {message}"));
        }
        let dirt = std::mem::take(&mut server.left.dirt);
        if dirt.has(Traces::PREPARED) {
            server.statements.clear();
        }
        if dirt.has_any(Traces::ANY_SETTING | Traces::AUTHORIZATION) {
            server.set = empty;
            server.is_set_known = true;
        }
        server.left.by = 0;
        if matches!(server.expect.front(), Some(Expect::Own(_))) {
            // The parameters of its next client are on their way.
            return;
        }
        if server.client.is_none() && self.has_connect_query(key) {
            return self.repeat_connect_query(io, key);
        }
        let server = &mut self.servers[key];
        server.enter(ServerState::Leased, self.now);
        if let Some(client_key) = server.client {
            self.prepared(io, key, client_key);
            self.ready.push_back(client_key);
        }
    }

    /// A server could not be made ready: it is closed, and the client it was for waits for another.
    pub(crate) fn replace_server(&mut self, io: &mut I, key: ServerKey, reason: &str) {
        let id = self.servers[key].pool;
        let client_key = self.take_back(key);
        self.retire(io, key, reason);
        if let Some(client_key) = client_key {
            self.enqueue(io, id, client_key);
        }
    }

    /// Takes a server, on which its client has done nothing yet, from the client, who is to wait for another.
    pub(crate) fn take_back(&mut self, key: ServerKey) -> Option<ClientKey> {
        let client_key = self.servers[key].client.take()?;
        let now = self.now;
        let client = self.clients.get_mut(client_key)?;
        client.server = None;
        client.is_held = false;
        if client.state != ClientState::Greeting {
            client.enter(ClientState::Waiting, now);
        }
        Some(client_key)
    }

    /// What the pool's level, and what can't be undone, ask of a server before it serves others.
    pub(crate) fn note_level(&mut self, key: ServerKey) {
        let server = &mut self.servers[key];
        server.note_level(self.pools[server.pool.0 as usize].settings.level);
    }
}

impl Left {
    /// Whether a free server is to be reset now, off everyone's path. With `sequence_affinity = "affinity"` what its
    /// last client knows of sequences is kept for that client as long as nobody else needs the server.
    pub(crate) fn is_reset_due(&self, affinity: SequenceAffinity) -> bool {
        let kept = if affinity == SequenceAffinity::Affinity { Traces::SEQUENCE } else { Traces::NONE };
        !self.dirt.without(kept).is_none()
    }
}

impl Server {
    /// What a server that leaves its client must go through before it serves others.
    pub(crate) fn note_parting(&mut self, client: &Client, level: Level) {
        (self.left.by, self.left.by_pid) = (client.id, client.virtual_pid);
        if !self.bound_deallocates.is_empty() {
            self.bound_deallocates.clear();
        }
        self.note_level(level);
    }

    /// What the pool's level, and what can't be undone, ask of it before it serves others.
    #[inline]
    pub(crate) fn note_level(&mut self, level: Level) {
        if level == Level::Strict && self.left.is_on {
            self.note_strict();
        }
        self.is_close_needed |= self.left.dirt.has(Traces::LIBRARY);
    }

    #[inline(never)]
    fn note_strict(&mut self) {
        // A custom setting, once set, leaves an empty one behind: who has not met it would see that it is not NULL.
        let left = &mut self.left;
        left.keep_custom(&self.set);
        self.is_close_needed |= left.may_have_custom || left.has_unknown_custom;
        left.dirt |= EVERYTHING.without(Traces::PREPARED);
    }
}

/// Whether an error says something of the server or the moment, and nothing of the value that was to be set: a limit
/// left behind by others, a statement of ours that a function took away (26), a shutdown.
pub(crate) fn is_of_server(sqlstate: &str) -> bool {
    matches!(sqlstate.get(..2), Some("08" | "25" | "26" | "53" | "57" | "58" | "XX"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_undoes_what_is_there_and_no_more() {
        assert_eq!(undoing(Traces::SEQUENCE), [Fixed::DiscardSequences]);
        let all = [
            "SET SESSION AUTHORIZATION DEFAULT",
            "RESET ROLE",
            "RESET ALL",
            "CLOSE ALL",
            "UNLISTEN *",
            "DISCARD SEQUENCES",
            "DISCARD TEMP",
            "DEALLOCATE ALL",
            "SELECT pg_catalog.pg_advisory_unlock_all(),pg_catalog.setseed(-0.500000000)",
        ];
        assert_eq!(undoing(EVERYTHING).into_iter().map(|fixed| fixed.with(-0.5)).collect::<Vec<_>>(), all);
    }
}

//! A transaction that may have listened is over: the listener takes the client's channels over from its server.
//!
//! | step | who | then |
//! |---|---|---|
//! | asked | the server is asked what it listens to, and listens to the channel of cuts | what is new is claimed |
//! | subscribed | the listener listens to what is new, and makes a cut | both hear the cut, in any order |
//! | cut | what the listener says behind the cut is the client's, and what the server says is not | |
//! | unlistened | the server listens to nothing any more | it may leave its client |
//!
//! All the while the client keeps its server, and hears what that says. If the listener does not come to be, or takes
//! no more channels, the client stays on its server, pinned.

use std::collections::BTreeSet;

use forebay_sql::traces::Traces;

use super::{CUT, Channel, Listens, Mark, Told};
use crate::io::{Close, Io};
use crate::planted::{Bug, planted};
use crate::pool::PoolId;
use crate::session::client::ClientKey;
use crate::session::expect::Own;
use crate::session::server::{Server, ServerKey, ServerState};
use crate::tracking::EVERYTHING;
use crate::worker::Worker;

/// Asks for what a session listens to.
pub(super) const CHANNELS: &str = "SELECT pg_catalog.pg_listening_channels()";

/// A takeover under way.
pub(crate) struct Takeover {
    mark: Mark,
    /// Channels that the listener is to hear for the client.
    added: Vec<Channel>,
    /// The listener is behind the cut.
    is_listener_past: bool,
    /// The server is.
    is_server_past: bool,
}

impl Takeover {
    /// The listener is past the cut, and what the server says before it comes first.
    pub(crate) fn is_server_behind(&self) -> bool {
        self.is_listener_past && !self.is_server_past
    }

    /// Its channels are heard for the client, and no claims any more.
    pub(crate) fn is_heard(&self) -> bool {
        self.is_listener_past
    }

    pub(crate) fn into_added(self) -> Vec<Channel> {
        self.added
    }
}

impl Listens {
    /// Whether what the client's server says of `channel` is for the client: else the listener says it too.
    pub(crate) fn hears_from_server(&self, channel: &[u8]) -> bool {
        if let Some(takeover) = &self.takeover
            && takeover.added.iter().any(|added| **added == *channel)
        {
            return !takeover.is_server_past;
        }
        !self.taken.contains(channel) || planted(Bug::CutIgnored)
    }
}

/// Whether the client's encoding is the one that sessions start with, the listener's among them.
fn is_encoding_shared(server: &Server) -> bool {
    let encoding = |image: &crate::parameters::Image| image.get("client_encoding").cloned();
    encoding(&server.reported) == encoding(&server.defaults)
}

impl<I: Io> Worker<I> {
    /// A transaction is over: the listener takes over what it has listened to, if anything; then it is looked at.
    pub(crate) fn settle(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        let Some(client) = server.client.and_then(|c| self.clients.get_mut(c)) else { return };
        let is_pinned = client.pin.as_ref().is_some_and(|pin| pin.reasons.has(Traces::LISTEN));
        let is_needed = server.left.fresh.has(Traces::LISTEN) || server.listen.is_restored || is_pinned;
        if !is_needed || !server.left.is_on {
            // Of most, there is nothing more to look at.
            let is_plain = client.pin.is_none() && !server.left.is_probe_needed();
            return if is_plain { self.transaction_over(io, key) } else { self.settle_transaction(io, key) };
        }
        client.is_held = true;
        if server.cancels > 0 {
            // The cancel would hit the question: it goes on when the cancel has ended, and not for ever without that.
            return self.arm_server(key);
        }
        self.ask_channels(io, key, &format!("LISTEN {CUT};{CHANNELS}"));
    }

    /// Asks a server what it listens to.
    pub(super) fn ask_channels(&mut self, io: &mut I, key: ServerKey, sql: &str) {
        let server = &mut self.servers[key];
        server.left.dirt |= Traces::LISTEN;
        server.listen.channels.clear();
        self.send_own(io, key, Own::Channels, sql);
    }

    /// What the transaction has listened to is dealt with: what else it has left is looked at.
    pub(crate) fn go_on_settling(&mut self, io: &mut I, key: ServerKey) {
        if let Some(client) = self.servers[key].client.and_then(|c| self.clients.get_mut(c)) {
            client.is_held = false;
        }
        if let Some(client_key) = self.servers[key].client {
            self.ready.push_back(client_key);
            self.deliver(io, client_key);
        }
        self.note_unprobed(io, key);
        self.settle_transaction(io, key);
    }

    /// The server has said what it listens to.
    pub(crate) fn channels_known(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        let (now, channels_max) = (self.now, self.tables.config.limits.client_channels_max as usize);
        let server = &mut self.servers[key];
        let Some(client_key) = server.client else { return server.enter(ServerState::Leased, now) };
        if server.listen.awaits.is_some() {
            return self.removals_known(io, key, client_key, error.is_none());
        }
        if error.is_some() {
            // What can't be told can't be taken over: the client stays where it is.
            server.enter(ServerState::Leased, now);
            server.left.fresh = server.left.fresh.without(Traces::LISTEN);
            server.left.dirt |= EVERYTHING;
            self.pinned_by(io, key, Traces::LISTEN, Traces::OPAQUE | Traces::LISTEN);
            return self.go_on_settling(io, key);
        }
        let mut channels: BTreeSet<Channel> = std::mem::take(&mut server.listen.channels).into_iter().collect();
        channels.remove(CUT.as_bytes());
        let is_movable = is_encoding_shared(server) && channels.iter().all(|name| std::str::from_utf8(name).is_ok());
        let taken = self.drop_removed(io, key, client_key, &channels);
        let added: Vec<_> = channels.difference(&taken).cloned().collect();
        if added.is_empty() {
            return self.unlisten(io, key);
        }
        if !is_movable || taken.len() + added.len() > channels_max {
            return self.keep_listens(io, client_key);
        }
        self.begin_takeover(io, key, client_key, added);
    }

    /// What a server listens to is known before its client's ReadyForQuery: the client hears what it still listens to.
    fn removals_known(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey, is_known: bool) {
        let listen = &mut self.servers[key].listen;
        let channels = std::mem::take(&mut listen.channels).into_iter().collect();
        if is_known && listen.is_restored {
            listen.is_removing = false;
            self.drop_removed(io, key, client_key, &channels);
        }
        self.end_wait(io, key);
    }

    /// A client's server listens to `channels`: the others are not the client's any more, if the server had been given all
    /// of them. Returns those that it had.
    fn drop_removed(
        &mut self,
        io: &mut I,
        key: ServerKey,
        client_key: ClientKey,
        channels: &BTreeSet<Channel>,
    ) -> BTreeSet<Channel> {
        let (id, is_exact) = (self.servers[key].pool, self.servers[key].listen.is_restored);
        let Some(listens) = &mut self.clients[client_key].listens else { return BTreeSet::new() };
        let taken = listens.taken.clone();
        if is_exact {
            let removed: Vec<_> = taken.difference(channels).cloned().collect();
            listens.remove(&removed);
            self.let_channels_go(io, id, Some(client_key), removed);
        }
        taken
    }

    fn begin_takeover(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey, added: Vec<Channel>) {
        let (now, id) = (self.now, self.servers[key].pool);
        let mut random = [0; 16];
        io.fill_random(&mut random);
        let mark = Mark::new(random);
        self.claim_channels(id, &added);
        self.listening.marks.insert(mark, client_key);
        let told = Told::Subscribe(self.pool_name(id), added.clone(), mark);
        let takeover = Takeover { mark, added, is_listener_past: false, is_server_past: false };
        self.clients[client_key].listens.get_or_insert_with(Box::default).takeover = Some(takeover);
        self.servers[key].enter(ServerState::Listening, now);
        self.arm_server(key);
        self.pools[id.0 as usize].stats.stats.takeovers.add(1);
        self.tell_owner(io, id, told);
        if planted(Bug::ServerUnlistensEarly) {
            let client = &mut self.clients[client_key];
            client.listens.iter_mut().filter_map(|l| l.takeover.as_mut()).for_each(|t| t.is_server_past = true);
            self.unlisten(io, key);
        }
    }

    /// The listener is past the cut: what it says from here on is the client's.
    pub(crate) fn cut_by_listener(&mut self, io: &mut I, id: PoolId, mark: Mark) {
        let Some(client_key) = self.listening.marks.remove(&mark) else { return };
        let Some(listens) = self.clients.get_mut(client_key).and_then(|c| c.listens.as_mut()) else { return };
        let Some(takeover) = &mut listens.takeover else { return };
        takeover.is_listener_past = true;
        let added = takeover.added.clone();
        listens.taken.extend(added.iter().cloned());
        self.hear_for(id, client_key, &added);
        self.cut(io, client_key);
    }

    /// The client's server is past a cut; is it ours?
    pub(crate) fn cut_by_server(&mut self, io: &mut I, key: ServerKey, payload: &[u8]) {
        let Some(client_key) = self.servers[key].client else { return };
        let listens = self.clients.get_mut(client_key).and_then(|c| c.listens.as_mut());
        let Some(takeover) = listens.and_then(|listens| listens.takeover.as_mut()) else { return };
        if Some(takeover.mark) == Mark::read(payload) {
            takeover.is_server_past = true;
            self.cut(io, client_key);
        }
    }

    /// Both are past the cut, or one of them.
    fn cut(&mut self, io: &mut I, client_key: ClientKey) {
        let client = &mut self.clients[client_key];
        let Some(listens) = &mut client.listens else { return };
        if listens.takeover.as_ref().is_some_and(|t| t.is_listener_past && t.is_server_past) {
            listens.takeover = None;
            let server = client.server;
            self.deliver(io, client_key);
            if let Some(key) = server.filter(|key| self.servers[*key].state == ServerState::Listening) {
                self.unlisten(io, key);
            }
        }
    }

    /// Has a server listen to nothing: what its client listens to is heard elsewhere.
    fn unlisten(&mut self, io: &mut I, key: ServerKey) {
        if planted(Bug::ServerGoesOnListening) {
            self.servers[key].left.dirt = self.servers[key].left.dirt.without(Traces::LISTEN);
            return self.unlistened(io, key, None);
        }
        self.send_own(io, key, Own::Unlisten, "UNLISTEN *");
    }

    pub(crate) fn unlistened(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        let server = &mut self.servers[key];
        if server.client.is_some() {
            server.listen.is_restored = false;
            match error {
                // What it says of them goes to nobody, and it is closed before it could go to others.
                Some(_) => server.is_close_needed = true,
                None => server.left.dirt = server.left.dirt.without(Traces::LISTEN),
            }
        }
        self.listens_settled(io, key, Traces::NONE);
    }

    /// A client's channels are not taken over: it goes on listening on its server.
    pub(crate) fn keep_listens(&mut self, io: &mut I, client_key: ClientKey) {
        if let Some(key) = self.clients.get(client_key).and_then(|client| client.server) {
            self.send_own(io, key, Own::Stay, &format!("UNLISTEN {CUT}"));
        }
    }

    /// The client keeps its server because of what it listens to.
    pub(crate) fn stayed(&mut self, io: &mut I, key: ServerKey) {
        self.listens_settled(io, key, Traces::LISTEN);
    }

    /// Where the client's channels are is settled; `pinning`: what of that keeps its server.
    fn listens_settled(&mut self, io: &mut I, key: ServerKey, pinning: Traces) {
        let now = self.now;
        let server = &mut self.servers[key];
        server.enter(ServerState::Leased, now);
        if server.client.is_none() {
            return;
        }
        server.left.fresh = server.left.fresh.without(Traces::LISTEN);
        server.listen.is_removing = false;
        self.pinned_by(io, key, Traces::LISTEN, pinning);
        self.go_on_settling(io, key);
    }

    /// The listener takes no more channels.
    pub(crate) fn takeover_refused(&mut self, io: &mut I, id: PoolId, mark: Mark) {
        let Some(client_key) = self.listening.marks.remove(&mark) else { return };
        self.abandon_takeover(io, id, client_key);
    }

    /// The client stays on its server.
    fn abandon_takeover(&mut self, io: &mut I, id: PoolId, client_key: ClientKey) {
        let Some(listens) = self.clients.get_mut(client_key).and_then(|c| c.listens.as_mut()) else { return };
        let Some(takeover) = listens.takeover.take() else { return };
        self.listening.marks.remove(&takeover.mark);
        self.let_channels_go(io, id, None, takeover.into_added());
        self.keep_listens(io, client_key);
    }

    /// A server has waited too long: for the cut, or for what its client has notified.
    pub(crate) fn listening_is_late(&mut self, io: &mut I, key: ServerKey) {
        let server = &self.servers[key];
        if server.listen.awaits.is_some() {
            return self.release_ready(io, key);
        }
        let (id, conn) = (server.pool, server.conn);
        let client = server.client.and_then(|key| Some((key, self.clients.get(key)?)));
        let takeover = client.and_then(|(key, client)| Some((key, client.listens.as_ref()?.takeover.as_ref()?)));
        match takeover {
            Some((client_key, takeover)) if !takeover.is_heard() => self.abandon_takeover(io, id, client_key),
            // The listener has heard the cut long ago.
            _ => {
                self.close_conn(io, conn, Close::Now);
                self.server_lost(io, key, "it did not answer in time");
            }
        }
    }
}

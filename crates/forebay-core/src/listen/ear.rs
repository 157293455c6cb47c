//! A worker's clients and their channels: what the listener heard is passed on to them, between their transactions.
//!
//! A client that is in a transaction, or takes no bytes, has its notifications kept, up to `notification_bytes_max`.

use std::sync::Arc;

use forebay_pgwire::backend::NotificationResponse;
use forebay_pgwire::frame::HEAD_BYTES;
use forebay_pgwire::write;
use forebay_spec::errors;
use rustc_hash::FxHashMap;

use super::{CUT, Channel, Told};
use crate::ids::WorkerId;
use crate::io::Io;
use crate::planted::{Bug, planted};
use crate::pool::PoolId;
use crate::session::IDLE;
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::expect::Expect;
use crate::session::server::{Server, ServerKey};
use crate::worker::{Message, PoolName, Worker};

/// What the clients of one pool listen to.
#[derive(Default)]
pub(crate) struct Ear {
    channels: FxHashMap<Channel, Hearers>,
}

#[derive(Default)]
struct Hearers {
    clients: Vec<ClientKey>,
    /// Takeovers under way that ask for it.
    claims: u32,
}

impl Ear {
    pub(crate) fn claim(&mut self, channel: &Channel) {
        self.channels.entry(channel.clone()).or_default().claims += 1;
    }

    /// Takes one claim, or one client, away. True: nobody wants the channel any more.
    fn let_go(&mut self, channel: &Channel, client: Option<ClientKey>) -> bool {
        let Some(hearers) = self.channels.get_mut(channel) else { return false };
        match client {
            Some(client) => hearers.clients.retain(|c| *c != client),
            None => hearers.claims -= 1,
        }
        let is_unwanted = hearers.clients.is_empty() && hearers.claims == 0;
        if is_unwanted {
            self.channels.remove(channel);
        }
        is_unwanted
    }

    /// A claim has come true.
    fn hear(&mut self, channel: &Channel, client: ClientKey) {
        let hearers = self.channels.entry(channel.clone()).or_default();
        hearers.claims -= 1;
        hearers.clients.push(client);
    }
}

impl<I: Io> Worker<I> {
    pub(crate) fn pool_name(&self, id: PoolId) -> PoolName {
        let pool = &self.pools[id.0 as usize];
        (pool.database.clone(), pool.user.clone())
    }

    /// Tells a worker, which may be this one, of listening.
    pub(crate) fn tell_of_listening(&mut self, io: &mut I, worker: WorkerId, told: Told) {
        if worker == self.id {
            self.listening.to_self.push_back(told);
        } else {
            io.tell(worker, Message::Listen(Box::new(told)));
        }
    }

    /// Tells the owner of a pool's listener.
    pub(crate) fn tell_owner(&mut self, io: &mut I, id: PoolId, told: Told) {
        let owner = self.shared.listener_owner(&self.pool_name(id), self.id);
        self.tell_of_listening(io, owner, told);
    }

    /// What another worker, or this one, tells of listening.
    pub(crate) fn told_of_listening(&mut self, io: &mut I, from: WorkerId, told: Told) {
        let (Told::Subscribe(name, ..)
        | Told::Unsubscribe(name, ..)
        | Told::Ask(name, ..)
        | Told::Heard(name, ..)
        | Told::Cut(name, ..)
        | Told::Passed(name, ..)
        | Told::Refused(name, ..)
        | Told::Lost(name, ..)) = &told;
        let is_asked = matches!(told, Told::Subscribe(..) | Told::Ask(..));
        let found = self.pool_ids.get(name).copied();
        // Who owns a listener may have forgotten the pool meanwhile.
        let Some(id) = found.or_else(|| is_asked.then(|| self.find_pool(&name.0, &name.1, false)).flatten()) else {
            return;
        };
        match told {
            Told::Subscribe(_, channels, mark) => self.subscribe(io, id, from, channels, mark),
            Told::Unsubscribe(_, channels) => self.unsubscribe(io, id, from, &channels),
            Told::Ask(_, mark) => self.asked_if_passed(io, id, from, mark),
            Told::Heard(_, channel, message) => self.heard(io, id, &channel, &message),
            Told::Cut(_, mark) => self.cut_by_listener(io, id, mark),
            Told::Passed(_, mark) => self.own_passed(io, mark),
            Told::Refused(_, mark) => self.takeover_refused(io, id, mark),
            Told::Lost(_, cause) => self.listener_is_lost(io, id, &cause),
        }
    }

    /// A notification for the clients of a channel.
    fn heard(&mut self, io: &mut I, id: PoolId, channel: &Channel, message: &Arc<[u8]>) {
        let Some(hearers) = self.listening.ears.get(&id).and_then(|ear| ear.channels.get(channel)) else { return };
        for key in hearers.clients.clone() {
            self.keep_notification(io, key, channel, message);
            if planted(Bug::NotificationTwice) {
                self.keep_notification(io, key, channel, message);
            }
        }
    }

    /// Keeps a notification until its client is between transactions; that may be now.
    fn keep_notification(&mut self, io: &mut I, key: ClientKey, channel: &Channel, message: &Arc<[u8]>) {
        let bytes_max = self.tables.config.limits.notification_bytes_max as usize;
        let Some(client) = self.clients.get_mut(key) else { return };
        let Some(listens) = &mut client.listens else { return };
        listens.pending_bytes += message.len();
        if listens.pending_bytes > bytes_max {
            return self.refuse_and_close(io, key, errors::notifications_overflow(bytes_max));
        }
        listens.pending.push_back((channel.clone(), message.clone()));
        self.count_notification(key);
        self.deliver(io, key);
    }

    /// Gives a client its notifications, if it is between transactions.
    pub(crate) fn deliver(&mut self, io: &mut I, key: ClientKey) {
        let relay_bytes_max = self.tables.config.limits.relay_bytes_max as usize;
        let Some(client) = self.clients.get_mut(key) else { return };
        let server = client.server.and_then(|server| self.servers.get(server));
        let is_able = client.unsent <= relay_bytes_max && is_between_transactions(client, server);
        let Some(listens) = client.listens.as_mut().filter(|l| is_able && !l.pending.is_empty()) else { return };
        if listens.takeover.as_ref().is_some_and(|takeover| takeover.is_server_behind()) {
            return;
        }
        let mut out = std::mem::take(&mut self.scratch);
        listens.drain_into(&mut out);
        self.send_to_client(io, key, &out);
        out.clear();
        self.scratch = out;
    }

    fn count_notification(&self, key: ClientKey) {
        if let Some(id) = self.clients[key].pool {
            self.pools[id.0 as usize].stats.stats.notifications.add(1);
        }
    }

    /// A server that serves a client, or listens for many, said that somebody notified.
    pub(crate) fn notified(&mut self, io: &mut I, key: ServerKey, message: &[u8]) {
        let Ok(said) = NotificationResponse::decode(&message[HEAD_BYTES..]) else { return };
        if self.servers[key].is_listener() {
            return self.listener_heard(io, key, said);
        }
        let Some(client_key) = self.servers[key].client else { return };
        if said.channel == CUT.as_bytes() {
            return self.cut_by_server(io, key, said.payload);
        }
        if self.clients[client_key].listens.as_ref().is_some_and(|listens| !listens.hears_from_server(said.channel)) {
            // The listener tells it.
            return;
        }
        let out = self.as_clients_know(self.servers[key].pool, said);
        self.count_notification(client_key);
        self.send_to_client(io, client_key, &out);
    }

    /// A notification names the process that sent it: clients know each other by the numbers that we told them.
    pub(crate) fn as_clients_know(&self, id: PoolId, said: NotificationResponse<'_>) -> Vec<u8> {
        let NotificationResponse { pid, channel, payload } = said;
        let known = self.pools[id.0 as usize].knowledge.notifier(pid);
        let here = || {
            let (_, server) = self.servers.iter().find(|(_, server)| server.remote_pid == pid)?;
            let client = server.client.and_then(|client| self.clients.get(client));
            Some(client.map_or(server.left.by_pid, |client| client.virtual_pid))
        };
        let pid = known.or_else(here).unwrap_or(pid);
        let mut out = Vec::with_capacity(channel.len() + payload.len() + 16);
        write::notification_response(&mut out, pid, channel, payload);
        out
    }

    /// The listener hears these channels for a client, whose takeover claimed them.
    pub(crate) fn hear_for(&mut self, id: PoolId, key: ClientKey, channels: &[Channel]) {
        let ear = self.listening.ears.entry(id).or_default();
        channels.iter().for_each(|channel| ear.hear(channel, key));
        self.measure_channels(id);
    }

    /// A takeover, or a client, wants these no more.
    pub(crate) fn let_channels_go(
        &mut self,
        io: &mut I,
        id: PoolId,
        client: Option<ClientKey>,
        channels: impl IntoIterator<Item = Channel>,
    ) {
        let Some(ear) = self.listening.ears.get_mut(&id) else { return };
        let unwanted: Vec<_> = channels.into_iter().filter(|channel| ear.let_go(channel, client)).collect();
        self.measure_channels(id);
        if !unwanted.is_empty() {
            let name = self.pool_name(id);
            self.tell_owner(io, id, Told::Unsubscribe(name, unwanted));
        }
    }

    pub(crate) fn claim_channels(&mut self, id: PoolId, channels: &[Channel]) {
        let ear = self.listening.ears.entry(id).or_default();
        channels.iter().for_each(|channel| ear.claim(channel));
    }

    fn measure_channels(&self, id: PoolId) {
        let count = self.listening.ears.get(&id).map_or(0, |ear| ear.channels.len());
        self.pools[id.0 as usize].stats.stats.channels.set(count as u64);
    }

    /// A client has left: nothing is heard for it any more.
    pub(crate) fn forget_listens(&mut self, io: &mut I, key: ClientKey, client: &mut Client) {
        let (Some(mut listens), Some(id)) = (client.listens.take(), client.pool) else { return };
        self.listening.marks.retain(|_, owner| *owner != key);
        if let Some(takeover) = listens.takeover.take().filter(|takeover| !takeover.is_heard()) {
            self.let_channels_go(io, id, None, takeover.into_added());
        }
        self.let_channels_go(io, id, Some(key), std::mem::take(&mut listens.taken));
    }

    /// Nobody of a pool listens, and it is forgotten.
    pub(crate) fn forget_listening(&mut self, id: PoolId) {
        self.listening.ears.remove(&id);
        self.listening.listeners.remove(&id);
    }

    /// The listener is lost. Whoever listened through it may have missed something: its session ends, as it would if
    /// its own server had been lost. Takeovers that were under way come to nothing.
    fn listener_is_lost(&mut self, io: &mut I, id: PoolId, cause: &str) {
        let Some(ear) = self.listening.ears.remove(&id) else { return };
        self.measure_channels(id);
        let (clients, servers) = (&self.clients, &self.servers);
        let of_pool = |key: &ClientKey| clients.get(*key).is_some_and(|client| client.pool == Some(id));
        let waiting: Vec<_> = self.listening.marks.values().copied().filter(of_pool).collect();
        let awaiting = waiting.iter().filter_map(|key| clients[*key].server);
        let awaiting: Vec<_> = awaiting.filter(|server| servers[*server].listen.awaits.is_some()).collect();
        self.listening.marks.retain(|_, key| !waiting.contains(key));
        for server in awaiting {
            self.release_ready(io, server);
        }
        let endpoint = self.pools[id.0 as usize].endpoints.get(0).place.name.clone();
        let mut hearing: Vec<ClientKey> = ear.channels.into_values().flat_map(|hearers| hearers.clients).collect();
        hearing.sort_unstable_by_key(|key| key.unique());
        hearing.dedup();
        for key in hearing {
            if let Some(listens) = self.clients.get_mut(key).and_then(|client| client.listens.as_mut()) {
                // The ear is gone, and what was in it with it.
                listens.taken.clear();
                listens.takeover = None;
            }
            self.refuse_and_close(io, key, errors::listener_lost(endpoint.clone(), cause));
        }
        for key in waiting {
            if let Some(listens) = self.clients.get_mut(key).and_then(|client| client.listens.as_mut())
                && listens.takeover.take().is_some()
            {
                self.keep_listens(io, key);
            }
        }
    }
}

/// Whether a notification may reach the client now: PostgreSQL sends none within a transaction.
fn is_between_transactions(client: &Client, server: Option<&Server>) -> bool {
    if client.is_skipping {
        return false;
    }
    match client.state {
        ClientState::Idle | ClientState::Waiting => true,
        ClientState::Active => server.is_none_or(|server| {
            let is_ours = |expect: &Expect| matches!(expect, Expect::Own(_));
            let is_quiet = server.status == IDLE && server.expect.iter().all(is_ours);
            let is_listening_known = server.listen.awaits.is_none() && !server.listen.is_removing;
            is_quiet && is_listening_known && !server.is_segment_open && server.body_left == 0
        }),
        _ => false,
    }
}

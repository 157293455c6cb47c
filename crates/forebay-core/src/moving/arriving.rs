//! The side that gets a group: it is read in, counted, and goes on where it was.

use std::sync::Arc;

use forebay_spec::errors;

use super::group::{About, Group};
use super::{Place, State};
use crate::cancel_key;
use crate::cluster::consistency::WRITING;
use crate::config::TlsMode;
use crate::deadline::NEVER;
use crate::event::{Field, Level};
use crate::io::{Close, Endpoint, Io};
use crate::planted::{Bug, planted};
use crate::pool::census::Of;
use crate::pool::{PoolId, Waiter, endpoints};
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::{Server, ServerKey, ServerState};
use crate::tables::is_of_replicas;
use crate::worker::{Message, Owner, Worker};

/// A group on its way.
#[derive(Debug)]
pub struct Arrival<H> {
    /// What was written of it.
    pub state: State,
    /// Its connections: a client's first.
    pub connections: Vec<H>,
    /// What it holds is counted in this engine: it has come back, under this number, or moved within it.
    pub counted: Option<u64>,
    /// The other process could not take it: it is not offered again.
    pub is_refused: bool,
}

impl<I: Io> Worker<I> {
    /// A group comes from another process, or back.
    pub(crate) fn group_arrives(&mut self, io: &mut I, arrival: Arrival<I::Handover>) {
        let Arrival { state, connections, counted, is_refused } = arrival;
        if let Some(number) = counted {
            self.group_is_back(number);
        }
        let (cache, registry) = (&mut self.cache, &self.shared.registry);
        let read = Group::read(&state, &mut self.images, registry, |raw| cache.shape(&raw.text, raw.backslash));
        let group = read.ok().filter(|group| group.connections() == connections.len());
        let Some(Group { about, client, server }) = group else {
            // Whoever passed it on has examined it; so this is a bug, and costs these connections.
            return self.log(io, Level::Error, "group_damaged", vec![("bytes", Field::Number(state.len() as u64))]);
        };
        let is_new = counted.is_none();
        let id = self.pool_of(&about, client.as_deref());
        let mut conns = connections.into_iter().map(|handover| io.adopt(handover));
        let mut server_key = None;
        let client_key = client.map(|mut client| {
            if is_refused {
                client.rare().is_refused_to_move = true;
            }
            client.conn = conns.next().expect("as many as the group has");
            client.pool = self.home_of(id, &client, &about);
            self.settle_client(*client, is_new)
        });
        if let Some(mut server) = server {
            server.conn = conns.next().expect("as many as the group has");
            drop(conns);
            // One that is idle, and can't move, only takes the room of one there.
            server.is_close_needed |= is_refused;
            // Nobody may have it, and nobody has it: it would only take room.
            let is_of_another = |id: PoolId| self.pools[id.0 as usize].user != about.user;
            match id {
                Some(id) if client_key.is_some() || !is_of_another(id) => {
                    server_key = Some(self.settle_server(io, *server, id, &about, is_new));
                }
                _ => self.turn_away_server(io, *server, &about, is_new),
            }
        } else {
            drop(conns);
        }
        self.stop_reading_where_it_was(io, client_key, server_key);
        match (client_key, server_key) {
            (Some(client_key), server_key) => self.client_has_arrived(io, client_key, server_key, id),
            (None, Some(server_key)) => {
                // As one that is given back: it is closed where it is not wanted, or goes to who waits.
                self.servers[server_key].state = ServerState::Leased;
                self.freed.push(server_key);
            }
            (None, None) => {}
        }
        if let Some(id) = id.filter(|_| server_key.is_some()) {
            self.cut_arrived(io, id);
        }
    }

    /// The pool that a group belongs to, as the configuration in force has it.
    fn pool_of(&mut self, about: &About, client: Option<&Client>) -> Option<PoolId> {
        let name = (about.database.clone(), about.user.clone());
        let id = match self.pool_ids.get(&name).copied() {
            Some(id) => id,
            None => self.find_pool(&about.database, client.map_or(&about.user, |client| &client.user), false)?,
        };
        self.pool(id).knowledge.catch_up(about.epoch);
        self.learn(id, about);
        Some(id)
    }

    /// What a pool's clients have given away at their logins goes with them.
    fn learn(&mut self, id: PoolId, about: &About) {
        let pool = self.pool(id);
        let is_learning = pool.target.forced_credential.is_none() && pool.target.config.forced_user.is_none();
        if let Some(secret) = about.secret.clone().filter(|_| is_learning) {
            pool.learn_secret(secret);
        }
    }

    /// A client's own pool, where its server is in `id`, which may be that of the replicas.
    fn home_of(&mut self, id: Option<PoolId>, client: &Client, about: &About) -> Option<PoolId> {
        let pool = &self.pools[id?.0 as usize];
        if pool.database == client.database {
            return id;
        }
        let home = self.find_pool(&client.database, &client.user, false)?;
        if is_of_replicas(&about.database) {
            self.pool(home).replicas = id;
            self.learn(home, about);
        }
        Some(home)
    }

    fn settle_client(&mut self, mut client: Client, is_new: bool) -> ClientKey {
        if planted(Bug::MovedBytesLost) {
            client.carry.clear();
        }
        if planted(Bug::MovedNamesLost) {
            client.statements = None;
        }
        if planted(Bug::MovedSettingsLost) {
            client.wanted = client.baseline.clone();
        }
        if is_new {
            // It was let in once: no limit turns it away now.
            if !client.is_uncounted {
                self.shared.clients.try_take(0);
            }
            if client.is_in_census {
                self.shared.census.try_count(Of::Database, &client.database, 0);
                self.shared.census.try_count(Of::User, &client.user, 0);
            }
        }
        let cluster = client.pool.and_then(|id| self.pools[id.0 as usize].target.config.cluster);
        client.is_split = cluster.is_some_and(|cluster| cluster.is_split) && client.usage.is_tracked();
        if client.is_split && matches!(client.state, ClientState::Active | ClientState::Waiting) {
            // What its request does is not known here.
            client.written_at = WRITING;
        }
        let (conn, pool) = (client.conn, client.pool);
        let key = self.clients.insert(client);
        self.set_owner(conn, Owner::Client(key));
        self.stats.clients.set(self.clients.len() as u64);
        if let Some(id) = pool {
            self.pool(id).stats.stats.clients.add(1);
        }
        self.note_place(key);
        key
    }

    fn settle_server(&mut self, io: &mut I, mut server: Server, id: PoolId, about: &About, is_new: bool) -> ServerKey {
        let place = self.place_of(id, &server);
        let pool = self.pool(id);
        server.is_close_needed |= place.is_none() || pool.user != about.user;
        server.place = place.unwrap_or(server.place);
        if is_new {
            // Orders are counted from the start of a process: it is older than those that this one got.
            server.generation = 0;
        }
        server.is_close_needed |= pool.shared.is_closing(server.generation);
        server.is_close_needed |= self.is_readdressed(&server);
        if planted(Bug::MovedRepliesLost) {
            server.expect.clear();
        }
        if planted(Bug::MovedTrialLost) {
            server.again = None;
        }
        (server.pool, server.stats) = (id, self.pool(id).stats.clone());
        server.state = ServerState::Leased;
        let is_at_home = self.pool(id).user == about.user && self.pool(id).database == about.database;
        let has_permits = is_new && is_at_home && self.shared.expected.arrived(&about.pool());
        if is_new && !has_permits {
            self.no_longer_expected(io, about);
            // It is there, with a client that holds it: no limit turns it away.
            let pool = self.pool(id);
            pool.shared.permits.try_take(0);
            pool.shared.of_database.try_take(0);
            pool.shared.of_user.try_take(0);
        }
        let empty = self.images.empty();
        if !server.is_close_needed && self.pool(id).greetings.get(&empty).is_none() {
            self.keep_greeting(io, id, empty, server.defaults.clone());
            self.greet_waiters(io, id);
        }
        let pool = self.pool(id);
        pool.servers += 1;
        pool.leased += u32::from(server.is_leased);
        pool.measure_servers();
        let conn = server.conn;
        let key = self.servers.insert(server);
        self.set_owner(conn, Owner::Server(key));
        self.publish(id);
        key
    }

    /// Where a server is, as the configuration in force says it. None: nowhere that it speaks of.
    ///
    /// One that is encrypted is as good as a new one where that is asked for with the same words; one that is not, where it
    /// needn't be.
    fn place_of(&self, id: PoolId, server: &Server) -> Option<Arc<endpoints::Place>> {
        let mut places = self.pools[id.0 as usize].endpoints.iter().map(|endpoint| &endpoint.place);
        if server.tls.is_some() {
            return places.find(|place| **place == server.place).cloned();
        }
        let found = places.find(|place| server.place.is_but_for_tls(place))?;
        let mode = found.tls.as_ref().map_or(TlsMode::Disable, |tls| tls.mode);
        let is_by_socket = server.is_local || matches!(found.endpoint, Endpoint::Unix(_));
        let may_be_plain = matches!(mode, TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer);
        (is_by_socket || may_be_plain).then(|| found.clone())
    }

    /// The configuration in force has no such database, or another user in it.
    fn turn_away_server(&mut self, io: &mut I, server: Server, about: &About, is_new: bool) {
        io.close(server.conn, Close::Now);
        if is_new {
            self.no_longer_expected(io, about);
        } else {
            self.give_back_permits_of(io, about);
        }
    }

    /// One that was expected has come, and is not of the pool that it was expected in.
    fn no_longer_expected(&mut self, io: &mut I, about: &About) {
        if self.shared.expected.arrived(&about.pool()) {
            self.give_back_permits_of(io, about);
        }
    }

    /// Of a pool that may not be there: whoever waits for its room, here or at another worker, is told.
    fn give_back_permits_of(&mut self, io: &mut I, about: &About) {
        let shared = self.shared.pool(&about.database, &about.user);
        shared.permits.give_back();
        shared.of_database.give_back();
        shared.of_user.give_back();
        self.tell_others(io, || Message::PermitFree(about.pool()));
        self.permit_free(io, &about.pool());
    }

    fn stop_reading_where_it_was(&mut self, io: &mut I, client: Option<ClientKey>, server: Option<ServerKey>) {
        let is_suspended = self.is_suspended;
        let client = client.map(|key| &self.clients[key]).filter(|client| client.is_paused || is_suspended);
        let server = server.map(|key| &self.servers[key]).filter(|server| server.is_paused || is_suspended);
        for conn in client.map(|client| client.conn).into_iter().chain(server.map(|server| server.conn)) {
            io.pause_read(conn);
        }
    }

    fn client_has_arrived(&mut self, io: &mut I, key: ClientKey, server: Option<ServerKey>, id: Option<PoolId>) {
        self.clients[key].server = server;
        if let Some(server) = server {
            self.servers[server].client = Some(key);
            self.servers[server].is_used = true;
            let is_pinned = self.clients[key].pin.is_some();
            self.servers[server].stats.stats.pinned.add(u64::from(is_pinned));
        }
        let client = &self.clients[key];
        let is_served = client.state == ClientState::Active && server.is_some();
        let is_pool_there = id.is_some_and(|id| !self.pools[id.0 as usize].is_removed);
        if !is_served && !is_pool_there {
            let database = client.database.clone();
            return self.refuse_and_close(io, key, errors::database_removed(database));
        }
        if self.is_draining && client.state == ClientState::Idle && client.has_sent_all() {
            return self.refuse_and_close(io, key, errors::draining());
        }
        self.goes_on(io, key);
    }

    /// A client goes on where it was, with what has come meanwhile.
    pub(super) fn goes_on(&mut self, io: &mut I, key: ClientKey) {
        let client = &self.clients[key];
        let server = client.server;
        if client.state == ClientState::Waiting {
            return self.waits_again(key);
        }
        self.clients[key].armed = NEVER;
        self.arm_client(key);
        self.ready.push_back(key);
        if let Some(server) = server {
            self.arm_server(server);
            self.reads_again(io, key, server);
            self.digest_what_came(io, server);
        }
    }

    /// What a client has taken while it moved may let its server be read.
    fn reads_again(&mut self, io: &mut I, client: ClientKey, server_key: ServerKey) {
        let half = self.tables.config.limits.relay_bytes_max as usize / 2;
        let (client, server) = (&self.clients[client], &mut self.servers[server_key]);
        if server.is_paused && client.unsent <= half {
            server.is_paused = false;
            self.read_server_again(io, server_key);
        }
    }

    /// What a server has said while it moved.
    pub(crate) fn digest_what_came(&mut self, io: &mut I, key: ServerKey) {
        let is_there = self.servers.get(key).is_some_and(|server| !server.carry.is_empty());
        if is_there {
            self.digest_kept(io, key);
            self.after_replies(io, key);
        }
    }

    /// A client that waited does so again, behind those who have waited longer. It is served at the end of this input: by
    /// what calls its move off, its pool may lose its servers.
    fn waits_again(&mut self, key: ClientKey) {
        let client = &self.clients[key];
        let (since, id) = (client.since, client.serving().expect("a waiting client has a pool"));
        let waiters = &mut self.pool(id).waiters;
        waiters.retain(|waiter| waiter.client != key);
        let at = waiters.partition_point(|waiter| waiter.since <= since);
        waiters.insert(at, Waiter { client: key, since });
        self.publish(id);
        self.vacated.push(id);
        self.clients[key].armed = NEVER;
        self.arm_client(key);
    }

    /// Its process id does not lead to it: where it is, is noted for those that cancel its requests.
    fn note_place(&mut self, key: ClientKey) {
        let client = &self.clients[key];
        let (pid, secret) = (client.virtual_pid, client.cancel.bytes().into());
        if pid != cancel_key::pid(key, self.id.0) && !self.note_pid(key, pid) {
            let place = Place { secret, worker: self.id, client: key };
            self.shared.moved.add(pid, place);
        }
    }

    /// A client leaves this worker.
    pub(crate) fn forget_place(&mut self, key: ClientKey, client: &Client) {
        let is_known = self.forget_pid(key, client);
        if !is_known && client.login.is_none() && client.virtual_pid != cancel_key::pid(key, self.id.0) {
            self.shared.moved.remove(client.virtual_pid, self.id, key);
        }
    }
}

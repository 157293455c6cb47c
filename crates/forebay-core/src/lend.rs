//! Servers that move between workers: the connection itself changes hands, with what is known of it by value.

use std::net::IpAddr;
use std::sync::Arc;

use crate::balance::EJECTED;
use crate::checkout::LEND_AFTER;
use crate::config::Usage;
use crate::ids::{ConnId, WorkerId};
use crate::io::{Close, Io, TlsInfo};
use crate::pool::PoolId;
use crate::pool::endpoints::Place;
use crate::pool::greetings::Values;
use crate::reach::READDRESSED;
use crate::session::server::{Server, ServerKey, ServerState};
use crate::statements::ServerStatements;
use crate::time::Instant;
use crate::tracking::Left;
use crate::worker::{Message, Owner, PoolName, Worker};

/// A server on its way between workers: idle, clean, without a client.
pub struct LentServer {
    pool: PoolName,
    id: u64,
    place: Arc<Place>,
    address: Option<IpAddr>,
    generation: u64,
    is_local: bool,
    statements: ServerStatements,
    set: Values,
    is_set_known: bool,
    usage: Option<Usage>,
    left: Left,
    reported: Values,
    defaults: Values,
    remote_pid: u32,
    remote_key: Box<[u8]>,
    opened_at: Instant,
    expires_at: Instant,
    segment: u32,
    tls: Option<Box<TlsInfo>>,
}

impl std::fmt::Debug for LentServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LentServer({} of {}/{})", self.id, self.pool.0, self.pool.1)
    }
}

impl<I: Io> Worker<I> {
    /// `worker` has a waiter: it gets our longest idle server, if there is one that nobody here waits for.
    pub(crate) fn lend_to(&mut self, io: &mut I, worker: WorkerId, name: PoolName) {
        let server = self.pool_ids.get(&name).copied().and_then(|id| {
            let is_wanted_here = self.oldest_waiter(id).is_some();
            if is_wanted_here {
                return None;
            }
            self.take_to_lend(id)
        });
        match server {
            Some(key) => {
                self.servers[key].asked_by = Some(worker);
                self.detach(io, key);
            }
            None => io.tell(worker, Message::NoneIdle(name)),
        }
    }

    /// The longest idle server at the endpoint whose turn it is: what it is borrowed for is a request as any. None leaves an
    /// endpoint that is on trial here, for which it is out at the other worker.
    fn take_to_lend(&mut self, id: PoolId) -> Option<ServerKey> {
        if self.pool(id).endpoints.is_single() {
            return self.pool(id).idle.pop_front();
        }
        let meant = self.endpoint_in_turn(id);
        let pool = &self.pools[id.0 as usize];
        let is_meant = |key: &ServerKey| self.servers[*key].at == meant;
        let may = |key: &ServerKey| !pool.endpoints.is_kept_here(self.servers[*key].at);
        let at = if meant == 0 { None } else { pool.idle.iter().position(|key| is_meant(key) && may(key)) };
        let found = at.or_else(|| pool.idle.iter().position(may))?;
        let pool = self.pool(id);
        let key = pool.idle.remove(found)?;
        if at.is_none() {
            let number = self.servers[key].at;
            self.pool(id).note_taken(number);
        }
        Some(key)
    }

    /// Takes an idle server out of this worker; it goes to whoever waits longest when it is free to go.
    pub(crate) fn detach(&mut self, io: &mut I, key: ServerKey) {
        let now = self.now;
        let server = &mut self.servers[key];
        server.enter(ServerState::Detaching, now);
        let (conn, id) = (server.conn, server.pool);
        self.publish(id);
        io.detach(conn);
    }

    /// A server that was to leave stays, or is gone: whoever asked for it asks again.
    pub(crate) fn not_lent(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        if let Some(asker) = server.asked_by.take() {
            let pool = &self.pools[server.pool.0 as usize];
            io.tell(asker, Message::NoneIdle((pool.database.clone(), pool.user.clone())));
        }
    }

    /// The connection is out: it goes to the worker whose waiter waits longest, or back to us.
    pub(crate) fn server_detached(&mut self, io: &mut I, key: ServerKey, handover: I::Handover) {
        let Some(handover) = self.moving_server_detached(io, key, handover) else { return };
        let me = self.id;
        let Some(server) = self.servers.remove(key) else { return };
        let id = server.pool;
        let pool = self.pool(id);
        pool.servers -= 1;
        pool.measure_servers();
        let name = (pool.database.clone(), pool.user.clone());
        let is_kept = server.is_close_needed || pool.is_paused || pool.is_removed;
        let to = pool.shared.worker_to_lend_to(me, LEND_AFTER).filter(|_| !is_kept).map_or(me, |(worker, _)| worker);
        pool.shared.sent_server(to);
        if let Some(asker) = server.asked_by.filter(|asker| *asker != to) {
            io.tell(asker, Message::NoneIdle(name.clone()));
        }
        let lent = lent(server, name);
        self.publish(id);
        if to == me {
            self.borrow(io, lent, handover);
        } else {
            self.stats.lent.add(1);
            io.tell(to, Message::Lend(Box::new(lent), handover));
        }
    }

    /// A server came from another worker: its permit comes with it.
    pub(crate) fn borrow(&mut self, io: &mut I, lent: LentServer, handover: I::Handover) {
        let conn = io.adopt(handover);
        if self.is_suspended {
            io.pause_read(conn);
        }
        let found = self.pool_ids.get(&lent.pool).copied();
        // A worker lends only to one that waits in the pool, which may have been forgotten since.
        let Some(id) = found.or_else(|| self.find_pool(&lent.pool.0, &lent.pool.1, false)) else {
            return self.refuse_lent(io, conn, &lent);
        };
        let me = self.id;
        let (set, reported) = (self.images.intern(&lent.set), self.images.intern(&lent.reported));
        let mut server = Server::new(conn, lent.id, (id, &self.pools[id.0 as usize].stats), lent.place, set, self.now);
        server.generation = lent.generation;
        server.address = lent.address;
        server.is_local = lent.is_local;
        server.is_set_known = lent.is_set_known;
        server.usage = lent.usage;
        server.left = lent.left;
        server.statements = lent.statements;
        server.reported = reported;
        server.defaults = self.images.intern(&lent.defaults);
        server.remote_pid = lent.remote_pid;
        server.remote_key = lent.remote_key;
        server.opened_at = lent.opened_at;
        server.expires_at = lent.expires_at;
        server.segment = lent.segment;
        server.tls = lent.tls;
        server.at = self.pools[id.0 as usize].number_of(&server.place);
        server.state = ServerState::Idle;
        let key = self.servers.insert(server);
        self.set_owner(conn, Owner::Server(key));
        let pool = self.pool(id);
        pool.servers += 1;
        pool.measure_servers();
        pool.is_asking = false;
        pool.shared.got_server(me);
        match self.why_closed(key) {
            Some(why) => self.retire(io, key, why),
            None => self.offer(io, key),
        }
        self.supply(io, id);
    }

    /// The database is gone, and with it the pool.
    #[cold]
    fn refuse_lent(&mut self, io: &mut I, conn: ConnId, lent: &LentServer) {
        io.close(conn, Close::Now);
        let shared = self.shared.pool(&lent.pool.0, &lent.pool.1);
        shared.got_server(self.id);
        for permits in [&*shared.permits, &**shared.of_database, &**shared.of_user] {
            permits.give_back();
        }
    }

    /// Why a server that has arrived is not wanted any more: it was on its way when the order reached us.
    fn why_closed(&self, key: ServerKey) -> Option<&'static str> {
        let server = &self.servers[key];
        let pool = &self.pools[server.pool.0 as usize];
        match () {
            () if pool.is_shut => Some("paused"),
            () if pool.is_removed => Some("the database was removed"),
            () if pool.shared.is_closing(server.generation) => Some("reconnect"),
            () if pool.endpoints.at(&server.place).is_none() => Some("the endpoint changed"),
            () if self.is_readdressed(server) => Some(READDRESSED),
            () if pool.endpoints.is_out(server.at) => Some(EJECTED),
            () => None,
        }
    }

    pub(crate) fn none_idle(&mut self, io: &mut I, name: &PoolName) {
        if let Some(id) = self.pool_ids.get(name).copied() {
            self.pool(id).is_asking = false;
            self.supply_without_asking(io, id);
        }
    }

    pub(crate) fn permit_free(&mut self, io: &mut I, name: &PoolName) {
        if let Some(id) = self.pool_ids.get(name).copied() {
            self.supply(io, id);
        }
    }
}

fn lent(server: Server, pool: PoolName) -> LentServer {
    LentServer {
        pool,
        id: server.id,
        place: server.place,
        address: server.address,
        generation: server.generation,
        is_local: server.is_local,
        set: server.set.values(),
        is_set_known: server.is_set_known,
        usage: server.usage,
        left: server.left,
        reported: server.reported.values(),
        defaults: server.defaults.values(),
        statements: server.statements,
        remote_pid: server.remote_pid,
        remote_key: server.remote_key,
        opened_at: server.opened_at,
        expires_at: server.expires_at,
        segment: server.segment,
        tls: server.tls,
    }
}

#[cfg(test)]
mod tests;

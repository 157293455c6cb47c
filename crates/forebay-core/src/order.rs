//! Commands from Python: reload, pause, resume, kill, reconnect, drain, snapshot.

use std::sync::Arc;
use std::time::Duration;

use forebay_spec::errors;

use crate::command::{Command, CommandId, Reply};
use crate::config::PoolMode;
use crate::event::Level;
use crate::io::Io;
use crate::pool::endpoints::{Endpoints, Place};
use crate::pool::{Pool, PoolId};
use crate::rows::socket_row;
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::{Apart, Server, ServerKey, ServerState};
use crate::tables::{Tables, database_of, is_of_replicas};
use crate::worker::Worker;

/// When to look again for a server that is on its way between workers.
const ARRIVES_WITHIN: Duration = Duration::from_millis(10);

impl<I: Io> Worker<I> {
    pub(crate) fn ordered(&mut self, io: &mut I, id: CommandId, command: Command) {
        match &command {
            Command::HandOn | Command::LetGo | Command::Stay => self.ordered_to_move(io, id, command),
            Command::Reload(tables) => {
                self.reload(io, tables.clone());
                io.reply(id, Reply::Done);
            }
            Command::Pause(database) => {
                self.set_paused(io, database.as_deref(), true);
                self.answer_later(io, id, command);
            }
            Command::Resume(database) => {
                if database.is_none() {
                    self.unsuspend(io);
                }
                self.set_paused(io, database.as_deref(), false);
                self.command_progress(io);
                io.reply(id, Reply::Done);
            }
            Command::Unpause(database) => {
                self.unpause(io, database.as_deref());
                self.command_progress(io);
                io.reply(id, Reply::Done);
            }
            Command::Kill(database) => {
                self.kill(io, database);
                io.reply(id, Reply::Done);
            }
            Command::KillClient(client_id) => {
                let key = self.clients.iter().find(|(_, c)| c.id == *client_id).map(|(key, _)| key);
                io.reply(id, key.map_or_else(|| Reply::Refused("no such client".into()), |_| Reply::Done));
                key.into_iter().for_each(|key| self.refuse_and_close(io, key, errors::killed_by_admin()));
            }
            Command::Reconnect(database) => {
                self.reconnect(io, database.as_deref());
                io.reply(id, Reply::Done);
            }
            Command::Suspend => {
                self.suspend(io);
                self.answer_later(io, id, command);
            }
            Command::DropUnflushed => self.drop_unflushed(io, id),
            Command::Drain | Command::Cut | Command::Close | Command::Shed => self.ordered_to_end(io, id, command),
            Command::Disable(database) | Command::Enable(database) => {
                self.disabled.retain(|name| *name != *database);
                if matches!(command, Command::Disable(_)) {
                    self.disabled.push(database.clone());
                }
                io.reply(id, Reply::Done);
            }
            Command::Roles(database, found, replayed) => {
                self.take_roles(io, database, found.clone(), replayed.clone());
                io.reply(id, Reply::Done);
            }
            Command::Share(database) => {
                self.share_has_changed(io, database);
                io.reply(id, Reply::Done);
            }
            Command::WaitClose(_) => self.answer_later(io, id, command),
            Command::Snapshot => {
                let snapshot = self.snapshot(&|_| None);
                io.reply(id, Reply::Snapshot(Box::new(snapshot)));
            }
            Command::Sockets => {
                let snapshot = self.snapshot(&|conn| io.socket(conn).map(socket_row));
                io.reply(id, Reply::Snapshot(Box::new(snapshot)));
            }
        }
    }

    /// Commands by which clients leave.
    fn ordered_to_end(&mut self, io: &mut I, id: CommandId, command: Command) {
        match &command {
            Command::Drain => {
                self.unsuspend(io);
                self.is_draining = true;
                if self.is_moving() {
                    // Who was about to wait elsewhere waits here.
                    (0..self.pools.len()).for_each(|index| self.supply(io, PoolId(index as u32)));
                }
                self.answer_later(io, id, command);
            }
            Command::Cut => {
                self.unsuspend(io);
                self.is_draining = true;
                let all: Vec<ClientKey> = self.clients.iter().map(|(key, _)| key).collect();
                for key in all {
                    self.refuse_and_close(io, key, errors::draining());
                }
                self.answer_later(io, id, command);
            }
            Command::Close => {
                self.unsuspend(io);
                self.is_closed = true;
                self.answer_later(io, id, command);
            }
            Command::Shed => {
                self.shed(io);
                io.reply(id, Reply::Done);
            }
            _ => unreachable!("the other commands are dealt with where this is called"),
        }
    }

    pub(crate) fn answer_later(&mut self, io: &mut I, id: CommandId, command: Command) {
        self.pending.push((id, command));
        self.command_progress(io);
    }

    /// Answers commands whose end has come, and lets go of clients while draining.
    pub(crate) fn command_progress(&mut self, io: &mut I) {
        if self.pending.is_empty() {
            return;
        }
        // Taken first: each client that is let go calls this again, and thousands would be as many calls deep.
        let mut pending = std::mem::take(&mut self.pending);
        if self.is_draining {
            self.let_idle_clients_go(io);
        }
        pending.retain(|(id, command)| {
            let is_done = match command {
                Command::Pause(database) if !self.paused.iter().any(|p| p.is_none() || p == database) => {
                    io.reply(*id, Reply::Refused("RESUME came before all servers were free".into()));
                    return false;
                }
                Command::Pause(database) => !self.is_in_use(database.as_deref()) && !self.has_sent_groups(),
                Command::Suspend if !self.is_suspended => {
                    io.reply(*id, Reply::Refused("RESUME came before all was written".into()));
                    return false;
                }
                Command::Suspend => self.is_flushed(),
                Command::WaitClose(database) => !self.is_closing(database.as_deref()),
                Command::Cut => self.servers.iter().all(|(_, s)| s.cancels == 0),
                Command::Drain | Command::Close => {
                    self.clients.iter().all(|(_, c)| c.state == ClientState::Console) && !self.has_sent_groups()
                }
                Command::LetGo => self.clients.is_empty() && !self.has_sent_groups(),
                _ => true,
            };
            if is_done {
                io.reply(*id, Reply::Done);
            }
            !is_done
        });
        if !pending.is_empty() && self.pools.iter().any(|pool| pool.shared.under_way() > 0) {
            // Its arrival is another worker's, and told to nobody.
            self.arm_orders(self.now + ARRIVES_WITHIN);
        }
        self.pending.append(&mut pending);
    }

    fn let_idle_clients_go(&mut self, io: &mut I) {
        let is_leaving = |c: &Client| match c.state {
            ClientState::Active if c.replication.is_some() => {
                c.server.is_some_and(|s| self.servers[s].is_parted_at_drain())
            }
            ClientState::Active => {
                let is_holding = c.pin.is_some() || c.usage.mode == PoolMode::Session;
                let is_between = |s: &Server| s.is_clean() && !s.is_segment_open;
                is_holding && c.has_sent_all() && c.server.is_some_and(|s| is_between(&self.servers[s]))
            }
            ClientState::Waiting | ClientState::Console | ClientState::Cancelling | ClientState::Moving => false,
            _ => true,
        };
        let leaving: Vec<ClientKey> = self.clients.iter().filter(|(_, c)| is_leaving(c)).map(|(key, _)| key).collect();
        for key in leaving {
            self.refuse_and_close(io, key, errors::draining());
        }
    }

    fn pools_of(&self, database: Option<&str>) -> Vec<PoolId> {
        let of = self.pools.iter().enumerate().filter(|(_, p)| database.is_none_or(|d| database_of(&p.database) == d));
        of.map(|(index, _)| PoolId(index as u32)).collect()
    }

    fn is_in_use(&self, database: Option<&str>) -> bool {
        self.is_under_way(database)
            || self.servers.iter().any(|(_, s)| {
                let pool = &self.pools[s.pool.0 as usize];
                // A replication connection lasts for as long as its client wants, and a listener as its clients do.
                let is_counted = !pool.is_replication && s.apart.is_none();
                database.is_none_or(|d| database_of(&pool.database) == d) && is_counted
            })
    }

    /// Whether a server is on its way between workers, so that neither of them has it.
    fn is_under_way(&self, database: Option<&str>) -> bool {
        self.pools_of(database).iter().any(|id| self.pools[id.0 as usize].shared.under_way() > 0)
    }

    /// Whether a server is left that shall be closed once it is released. Of a held pool, a listener
    /// stays until there is an endpoint for another one, and a replication connection for as long as its client wants.
    fn is_closing(&self, database: Option<&str>) -> bool {
        let of = |s: &Server| {
            let pool = &self.pools[s.pool.0 as usize];
            database.is_none_or(|d| database_of(&pool.database) == d)
                && !(pool.is_held && (s.is_listener() || pool.is_replication))
        };
        self.is_under_way(database) || self.servers.iter().any(|(_, s)| s.is_close_needed && of(s))
    }

    fn shed(&mut self, io: &mut I) {
        let is_waiting = |c: &Client| {
            matches!(c.state, ClientState::Waiting | ClientState::Greeting) && c.server.is_none() && c.pool.is_some()
        };
        let waiting: Vec<_> = self.clients.iter().filter(|(_, c)| is_waiting(c)).map(|(key, _)| key).collect();
        for key in waiting {
            self.refuse_and_close(io, key, errors::draining());
        }
    }

    /// Whether a pool of `database` that is made now has to wait.
    pub(crate) fn is_paused(&self, database: &str) -> bool {
        self.paused.iter().any(|paused| paused.as_deref().is_none_or(|d| d == database_of(database)))
    }

    fn set_paused(&mut self, io: &mut I, database: Option<&str>, is_paused: bool) {
        // RESUME without a name undoes every PAUSE; a PAUSE of all leaves those of one as they are.
        self.paused.retain(|paused| (is_paused || database.is_some()) && paused.as_deref() != database);
        if is_paused {
            self.paused.push(database.map(Arc::from));
        }
        for id in self.pools_of(database) {
            self.pool(id).set_paused(is_paused);
            if is_paused {
                self.close_idle(io, id, "paused");
            } else {
                self.supply(io, id);
            }
        }
    }

    fn unpause(&mut self, io: &mut I, database: Option<&str>) {
        self.paused.retain(|paused| paused.as_deref() != database);
        for id in self.pools_of(database) {
            if !self.is_paused(&self.pools[id.0 as usize].database) {
                self.pool(id).set_paused(false);
                self.supply(io, id);
            }
        }
    }

    /// Closes what serves nobody: idle servers, and what reads the catalogue.
    pub(crate) fn close_idle(&mut self, io: &mut I, id: PoolId, reason: &str) {
        let readers = self.servers.iter().filter(|(_, s)| s.pool == id && s.apart == Some(Apart::Reader));
        let idle: Vec<_> = readers.map(|(key, _)| key).chain(self.pools[id.0 as usize].idle.iter().copied()).collect();
        for key in idle {
            self.retire(io, key, reason);
        }
    }

    fn kill(&mut self, io: &mut I, database: &str) {
        self.set_paused(io, Some(database), true);
        let of = self.clients.iter().filter(|(_, c)| c.pool.is_some() && *c.database == *database);
        for key in of.map(|(key, _)| key).collect::<Vec<_>>() {
            self.refuse_and_close(io, key, errors::killed_by_admin());
        }
    }

    fn reconnect(&mut self, io: &mut I, database: Option<&str>) {
        self.generation += 1;
        self.shared.close_before(database, self.generation);
        // A worker to which the order came first may have lent us a server that it has opened since.
        let generation = self.generation;
        let is_of = |pool: &Pool| database.is_none_or(|database| database_of(&pool.database) == database);
        self.mark_for_closing(io, "reconnect", |server, pool| is_of(pool) && server.generation < generation);
    }

    /// Has servers closed that are of no use any more: now, or when they come free. Those that nobody is let in by yet
    /// make room for others at once.
    pub(crate) fn mark_for_closing(&mut self, io: &mut I, reason: &str, is_meant: impl Fn(&Server, &Pool) -> bool) {
        let meant = self.servers.iter().filter(|(_, s)| is_meant(s, &self.pools[s.pool.0 as usize]));
        for key in meant.map(|(key, _)| key).collect::<Vec<_>>() {
            let Some(server) = self.servers.get_mut(key) else { continue };
            let is_opening = server.state.is_opening() && server.client.is_none() && server.apart.is_none();
            let is_beside = server.apart.is_some_and(|apart| apart != Apart::Listener);
            if server.state == ServerState::Idle || is_opening || is_beside {
                self.retire(io, key, reason);
                continue;
            }
            server.is_close_needed = true;
            let server = &self.servers[key];
            let is_between = server.is_clean() && !server.is_segment_open && self.is_closed_fast(key);
            if let Some(client) = server.client.filter(|_| is_between) {
                self.close_fast(io, client);
            }
        }
    }

    /// Whether a server that shall be closed does not wait for its session's end: `server_fast_close`.
    pub(crate) fn is_closed_fast(&self, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let is_of_session = server.usage.is_some_and(|usage| usage.mode == PoolMode::Session);
        server.is_close_needed && is_of_session && self.pools[server.pool.0 as usize].settings.server_fast_close
    }

    /// Ends a session whose server shall be closed.
    pub(crate) fn close_fast(&mut self, io: &mut I, client: ClientKey) {
        let database = self.clients[client].database.clone();
        self.refuse_and_close(io, client, errors::database_removed(database));
    }

    /// Takes over a new configuration: what changed for a pool holds from its next decision on.
    fn reload(&mut self, io: &mut I, tables: Arc<Tables>) {
        self.tables = tables.clone();
        self.secrets.clear();
        self.forget_roles();
        self.shared.name_at_most(tables.config.limits.metric_pools_max);
        self.addresses.retain(|host, _| tables.has_host(host));
        self.cache.set_bytes_max(tables.config.limits.statement_bytes_max);
        for index in 0..self.pools.len() {
            let id = PoolId(index as u32);
            if self.pools[index].is_vacant {
                continue;
            }
            let (database, user) = (self.pools[index].database.clone(), self.pools[index].user.clone());
            let Some(target) = tables.pool_target(&database) else {
                self.remove_pool(io, id);
                continue;
            };
            let pool = self.pool(id);
            pool.is_removed = false;
            let forced = target.forced_credential.as_ref();
            let own = tables.user(&user).and_then(|u| u.credential.as_ref());
            if let Some(secret) = forced.or(own).and_then(crate::auth::Credential::server_secret) {
                pool.secret = Some(secret);
            }
            pool.target = target.clone();
            if let Some(settings) = tables.pool_settings(&database, &user) {
                pool.settings = if pool.is_replication { settings.for_replication() } else { settings };
            }
            self.follow_roles(io, id);
        }
        self.log(io, Level::Debug, "reloaded", Vec::new());
    }

    /// A pool has other endpoints. Servers at those that it has kept go on.
    pub(crate) fn move_pool(&mut self, io: &mut I, id: PoolId, places: Vec<Arc<Place>>) {
        let hosts = self.shared.clone();
        let pool = self.pool(id);
        let endpoints = Endpoints::new(places, &hosts.hosts, &pool.shared.here, pool.shared.turn.clone());
        let before = std::mem::replace(&mut pool.endpoints, endpoints);
        let first = before.get(0).place.clone();
        pool.endpoints.keep(before);
        if pool.endpoints.at(&first).is_none() {
            pool.greetings.clear();
            let (target, database) = (pool.target.clone(), pool.database.clone());
            let knowledge = self.knowledge_of(&target, &database);
            if !is_of_replicas(&database) || !Arc::ptr_eq(&knowledge, &self.pool(id).knowledge) {
                // What is known is known of the place that it was.
                self.pool(id).move_to(knowledge);
            }
        }
        let is_gone = |server: &Server, pool: &Pool| server.pool == id && pool.endpoints.at(&server.place).is_none();
        self.mark_for_closing(io, "the endpoint changed", is_gone);
        self.recount();
    }

    fn remove_pool(&mut self, io: &mut I, id: PoolId) {
        let database = self.pool(id).database.clone();
        self.pool(id).is_removed = true;
        self.close_idle(io, id, "the database was removed");
        self.send_home(io, id);
        // A pin alone is no work that could be waited for.
        let is_only_pinned = |c: &Client| {
            let server = c.pin.as_ref().and(c.server).and_then(|key| self.servers.get(key));
            server.is_some_and(|server| server.is_clean() && server.state == ServerState::Leased)
        };
        let is_idle = |c: &Client| c.pool == Some(id) && (c.state != ClientState::Active || is_only_pinned(c));
        let idle: Vec<_> = self.clients.iter().filter(|(_, c)| is_idle(c)).map(|(key, _)| key).collect();
        for key in idle {
            self.refuse_and_close(io, key, errors::database_removed(database.clone()));
        }
    }
}

//! The side that hands on: which groups may move, how they are taken out, and what is owed until they have arrived.

use forebay_spec::errors;

use super::group::{About, Group};
use super::{AGAIN, Leaving, Receipt, SETTLES, UNDER_WAY_MAX, UNDER_WAY_MIN};
use crate::command::{Command, CommandId, Reply};
use crate::ids::ConnId;
use crate::io::{ClosedBy, Io};
use crate::pool::PoolId;
use crate::session::IDLE;
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::expect::Expect;
use crate::session::server::{Server, ServerKey, ServerState};
use crate::worker::{Owner, Worker};

/// Whether a client can move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Now,
    /// Something of ours is under way.
    Later,
    /// What it holds can't be carried: channels that the pool's listener hears for it, replication, the console; or the
    /// other process has refused it.
    Never,
}

impl<I: Io> Worker<I> {
    /// The commands of an online restart.
    pub(crate) fn ordered_to_move(&mut self, io: &mut I, id: CommandId, command: Command) {
        match command {
            Command::LetGo => {
                self.let_go();
                self.answer_later(io, id, command);
            }
            Command::Stay => {
                self.end_moving(io);
                io.reply(id, Reply::Done);
            }
            _ => self.begin_moving(io, id),
        }
    }

    /// From here on all that may move is handed on; the command is answered when nothing is left that may.
    pub(crate) fn begin_moving(&mut self, io: &mut I, id: CommandId) {
        self.moving.is_on = true;
        self.moving.lets_go = false;
        self.moving.settles_until = self.now + SETTLES;
        if let Some(before) = self.moving.ordered.replace(id) {
            io.reply(before, Reply::Refused("begun anew".into()));
        }
        self.arm_round(self.now);
    }

    /// Those that can't move are let go as their transactions end. Answered when no client is left.
    pub(crate) fn let_go(&mut self) {
        self.moving.lets_go = true;
        self.arm_round(self.now);
    }

    /// Nothing moves from here on.
    pub(crate) fn end_moving(&mut self, io: &mut I) {
        self.moving.is_on = false;
        self.moving.lets_go = false;
        self.call_all_off(io);
        for index in 0..self.pools.len() {
            self.supply(io, PoolId(index as u32));
        }
        let let_go = self.pending.extract_if(.., |(_, command)| matches!(command, Command::LetGo));
        let ids: Vec<_> = self.moving.ordered.take().into_iter().chain(let_go.map(|(id, ..)| id)).collect();
        ids.into_iter().for_each(|id| io.reply(id, Reply::Refused("called off".into())));
    }

    /// Whether groups go to another process, or are on their way there.
    pub(crate) fn is_moving(&self) -> bool {
        self.moving.is_on || self.has_sent_groups()
    }

    /// Whether groups are on their way out, with what is counted of them.
    pub(crate) fn has_sent_groups(&self) -> bool {
        !self.moving.sent.is_empty()
    }

    /// Whether clients of this pool that wait for a server are about to wait elsewhere: none is opened for them.
    pub(crate) fn are_waiters_leaving(&self, id: PoolId) -> bool {
        // One that can't go at this moment may be logging in: it is in no session before it has been served.
        let leaves = |client: &Client| client.state == ClientState::Moving || self.may_move(client) == May::Now;
        let is_leaving = |key: ClientKey| self.clients.get(key).is_none_or(leaves);
        // Nothing moves in a drain.
        let moves = self.moving.is_on && !self.is_draining;
        moves && self.pools[id.0 as usize].waiters.iter().all(|waiter| is_leaving(waiter.client))
    }

    /// Takes out what may move, as much as may be on its way at a time.
    pub(crate) fn move_round(&mut self, io: &mut I) {
        if self.moving.next_round_at.take_if(|at| *at <= self.now).is_none() {
            // An earlier one has been armed meanwhile, and has run.
            return;
        }
        if !self.moving.is_on || self.is_draining {
            return;
        }
        self.take_out_servers(io);
        self.take_out_clients(io);
        if self.moving.lets_go {
            self.let_go_of_those_that_stay(io);
        }
        if self.moving.leaving.is_empty() && self.moving.sent.is_empty() {
            let is_settled = self.now >= self.moving.settles_until || !self.is_any_about_to_move();
            if let Some(id) = self.moving.ordered.take_if(|_| is_settled) {
                io.reply(id, Reply::Done);
            }
            self.command_progress(io);
        }
        self.arm_round(self.now + AGAIN);
    }

    /// Whether a client in session waits for something of ours that is under way, and goes when that is done.
    fn is_any_about_to_move(&self) -> bool {
        let is_about_to =
            |client: &Client| !client.is_gone && client.is_in_session() && self.may_move(client) != May::Never;
        self.clients.iter().any(|(_, client)| is_about_to(client))
    }

    /// How many groups more may be under way.
    fn room_to_move(&self) -> usize {
        let most = (UNDER_WAY_MAX / usize::from(self.shared.workers)).max(UNDER_WAY_MIN);
        most.saturating_sub(self.moving.leaving.len() + self.moving.sent.len())
    }

    /// Idle servers first: who comes without one is to find them.
    fn take_out_servers(&mut self, io: &mut I) {
        for index in 0..self.pools.len() {
            while self.room_to_move() > 0 {
                let (servers, pool) = (&self.servers, &mut self.pools[index]);
                let found = pool.idle.iter().position(|key| is_movable_alone(&servers[*key]));
                let Some(key) = found.and_then(|at| pool.idle.remove(at)) else { break };
                self.servers[key].state = ServerState::Moving;
                self.publish(PoolId(index as u32));
                self.take_out(io, None, Some(key));
            }
        }
    }

    fn take_out_clients(&mut self, io: &mut I) {
        let room = self.room_to_move();
        let ready = self.clients.iter().filter(|(_, client)| self.may_move(client) == May::Now).take(room);
        let ready: Vec<_> = ready.map(|(key, _)| key).collect();
        for key in ready {
            let server = self.clients[key].server;
            self.take_out(io, Some(key), server);
        }
    }

    fn take_out(&mut self, io: &mut I, client: Option<ClientKey>, server: Option<ServerKey>) {
        let mut state = ClientState::Idle;
        if let Some(key) = client {
            state = std::mem::replace(&mut self.clients[key].state, ClientState::Moving);
            io.detach(self.clients[key].conn);
        }
        if let Some(key) = server {
            self.servers[key].state = ServerState::Moving;
            io.detach(self.servers[key].conn);
        }
        self.moving.leaving.push(Leaving { client, state, server, client_out: None, server_out: None });
    }

    fn may_move(&self, client: &Client) -> May {
        let is_in_session = client.is_in_session();
        let is_bound = client.listens.is_some()
            || client.replication.is_some()
            || !client.resetting().is_empty()
            || client.state == ClientState::Console
            || client.rare.as_ref().is_some_and(|rare| rare.is_refused_to_move);
        let server = client.server.map(|key| &self.servers[key]);
        if is_bound {
            return May::Never;
        }
        let is_at_rest = is_in_session && !client.is_gone && !client.is_deferred && !client.is_unsure();
        if is_at_rest && server.is_none_or(is_movable_with_client) { May::Now } else { May::Later }
    }

    /// A client whose connection can't be carried goes between its transactions.
    fn let_go_of_those_that_stay(&mut self, io: &mut I) {
        for index in 0..self.pools.len() {
            // Those that could not move, and take room that the other process could use.
            self.close_idle(io, PoolId(index as u32), "another process serves");
        }
        let is_between = |client: &Client| match client.state {
            ClientState::Idle => client.has_sent_all(),
            ClientState::Console => true,
            ClientState::Active if client.replication.is_some() => true,
            ClientState::Active => {
                let server = client.server.and_then(|key| self.servers.get(key));
                server.is_some_and(|server| server.is_clean() && !server.is_segment_open) && client.has_sent_all()
            }
            _ => false,
        };
        let leaving = self.clients.iter().filter(|(_, c)| self.may_move(c) == May::Never && is_between(c));
        for key in leaving.map(|(key, _)| key).collect::<Vec<_>>() {
            self.refuse_and_close(io, key, errors::draining());
        }
    }

    /// A client's connection is out of the driver.
    pub(crate) fn client_detached(&mut self, io: &mut I, key: ClientKey, handover: I::Handover) {
        let found = self.moving.leaving.iter_mut().find(|leaving| leaving.client == Some(key));
        if let Some(leaving) = found {
            leaving.client_out = Some(handover);
            self.hand_on_if_out(io, Some(key), None);
        }
    }

    /// A server's connection is out of the driver. Gives it back where the server does not move.
    pub(crate) fn moving_server_detached(
        &mut self,
        io: &mut I,
        key: ServerKey,
        handover: I::Handover,
    ) -> Option<I::Handover> {
        let Some(leaving) = self.moving.leaving.iter_mut().find(|leaving| leaving.server == Some(key)) else {
            return Some(handover);
        };
        leaving.server_out = Some(handover);
        self.hand_on_if_out(io, None, Some(key));
        None
    }

    fn hand_on_if_out(&mut self, io: &mut I, client: Option<ClientKey>, server: Option<ServerKey>) {
        let is_it = |leaving: &Leaving<I::Handover>| match (client, server) {
            (Some(_), _) => leaving.client == client,
            (None, _) => leaving.server == server,
        };
        let Some(at) = self.moving.leaving.iter().position(is_it) else { return };
        let leaving = &self.moving.leaving[at];
        let is_client_out = leaving.client.is_none() || leaving.client_out.is_some();
        let is_server_out = leaving.server.is_none() || leaving.server_out.is_some();
        if is_client_out && is_server_out {
            let leaving = self.moving.leaving.swap_remove(at);
            self.hand_on(io, leaving);
        }
    }

    fn hand_on(&mut self, io: &mut I, leaving: Leaving<I::Handover>) {
        let client = leaving.client.and_then(|key| self.remove_moving_client(key, leaving.state));
        let server = leaving.server.and_then(|key| self.servers.remove(key));
        let id = server.as_ref().map(|server| server.pool).or(client.as_ref().and_then(|client| client.pool));
        let id = id.expect("a group is of a pool");
        let about = self.about(id);
        let state = Group::write(&self.shared.registry, &about, client.as_ref(), server.as_ref());
        if let Some(server) = &server {
            let pool = self.pool(id);
            pool.servers -= 1;
            pool.leased -= u32::from(server.is_leased);
            pool.left_by_choice(server);
            pool.measure_servers();
        }
        self.publish(id);
        self.moving.last_number += 1;
        let number = self.moving.last_number;
        let receipt = Receipt { client: client.map(Box::new), server_of: server.as_ref().map(|_| id) };
        self.moving.sent.insert(number, receipt);
        let connections = leaving.client_out.into_iter().chain(leaving.server_out).collect();
        io.hand_on(number, state, connections);
    }

    fn remove_moving_client(&mut self, key: ClientKey, state: ClientState) -> Option<Client> {
        let mut client = self.clients.remove(key)?;
        client.state = state;
        self.forget_place(key, &client);
        self.stats.clients.set(self.clients.len() as u64);
        if let Some(id) = client.pool {
            self.pool(id).stats.stats.clients.sub(1);
        }
        if let Some(server) = client.server.filter(|_| client.pin.is_some()) {
            let id = self.servers[server].pool;
            self.pool(id).stats.stats.pinned.sub(1);
        }
        Some(client)
    }

    fn about(&self, id: PoolId) -> About {
        let pool = &self.pools[id.0 as usize];
        About {
            database: pool.database.clone(),
            user: pool.user.clone(),
            secret: pool.secret.clone(),
            epoch: pool.knowledge.epoch(),
        }
    }

    /// A group has arrived in another process: nothing of it is counted here any more.
    pub(crate) fn group_arrived(&mut self, io: &mut I, number: u64) {
        let Some(receipt) = self.moving.sent.remove(&number) else { return };
        if let Some(client) = receipt.client {
            self.count_out(&client);
        }
        if let Some(id) = receipt.server_of {
            self.give_permit_back(io, id);
        }
        // Those of a batch arrive together: a round for all of them.
        self.arm_round(self.now);
    }

    /// A group is back, or has moved within the engine: what it holds is still counted.
    pub(crate) fn group_is_back(&mut self, number: u64) {
        self.moving.sent.remove(&number);
    }

    /// Bytes of a client that moves: they go along.
    pub(crate) fn keep_while_moving(&mut self, io: &mut I, key: ClientKey, data: &[u8]) {
        let client = &mut self.clients[key];
        client.carry.extend_from_slice(data);
        io.detach(client.conn);
    }

    /// Bytes of a server that moves. True: they go along. False: it stays, and they are dealt with.
    pub(crate) fn server_keeps_while_moving(&mut self, io: &mut I, key: ServerKey, data: &[u8]) -> bool {
        let server = &mut self.servers[key];
        if server.client.is_none() {
            self.call_server_off(key);
            return false;
        }
        server.carry.extend_from_slice(data);
        io.detach(server.conn);
        true
    }

    /// A server without a client has something to say: it stays until that is heard.
    pub(crate) fn call_server_off(&mut self, key: ServerKey) {
        self.moving.leaving.retain(|leaving| leaving.server != Some(key));
        self.servers[key].state = ServerState::Leased;
    }

    /// A client that moves has closed its connection.
    #[cold]
    pub(crate) fn client_closed_while_moving(&mut self, io: &mut I, key: ClientKey, by: ClosedBy) {
        let (conn, server) = (self.clients[key].conn, self.clients[key].server);
        self.call_off(io, key, Some(conn));
        self.client_closed(io, key, by);
        if let Some(server) = server {
            self.digest_what_came(io, server);
        }
        // One that said goodbye stays until what it sent before has been run.
        if self.clients.get(key).is_some() {
            self.goes_on(io, key);
        }
    }

    /// A server that moves has closed its connection. What it said meanwhile is lost with it, as if it had been under way.
    #[cold]
    pub(crate) fn server_closes_while_moving(&mut self, io: &mut I, key: ServerKey) {
        let (conn, client) = (self.servers[key].conn, self.servers[key].client);
        match client {
            Some(client) => self.call_off(io, client, Some(conn)),
            None => self.call_server_off(key),
        }
        // It goes on when the loss has been dealt with.
        self.ready.extend(client);
    }

    /// Stops the move of a client, which goes on here. `dead`: a connection that is gone by now.
    pub(crate) fn call_off(&mut self, io: &mut I, client: ClientKey, dead: Option<ConnId>) {
        if let Some(at) = self.moving.leaving.iter().position(|leaving| leaving.client == Some(client)) {
            self.call_off_at(io, at, dead);
        }
    }

    /// Stops all moves under way: what comes next does not look out for them.
    pub(crate) fn call_all_off(&mut self, io: &mut I) {
        while !self.moving.leaving.is_empty() {
            self.call_off_at(io, 0, None);
        }
    }

    fn call_off_at(&mut self, io: &mut I, at: usize, dead: Option<ConnId>) {
        let Leaving { client, state, server, client_out, server_out } = self.moving.leaving.swap_remove(at);
        if let Some(key) = client {
            let before = self.clients[key].conn;
            let conn = self.back_in(io, before, Owner::Client(key), client_out, dead);
            let client = &mut self.clients[key];
            (client.conn, client.state) = (conn, state);
            if client.is_paused && dead != Some(conn) {
                io.pause_read(conn);
            }
        }
        if let Some(key) = server {
            let before = self.servers[key].conn;
            let conn = self.back_in(io, before, Owner::Server(key), server_out, dead);
            let server = &mut self.servers[key];
            (server.conn, server.state) = (conn, ServerState::Leased);
            if server.is_paused && dead != Some(conn) {
                io.pause_read(conn);
            }
        }
        match client {
            Some(key) if dead.is_none() => self.goes_on(io, key),
            Some(_) => {}
            None => self.freed.extend(server),
        }
    }

    /// A connection stays, or comes back in. One that is dead belongs to nobody: its slot may be another's by now.
    fn back_in(
        &mut self,
        io: &mut I,
        conn: ConnId,
        owner: Owner,
        out: Option<I::Handover>,
        dead: Option<ConnId>,
    ) -> ConnId {
        match out {
            Some(handover) => {
                let conn = io.adopt(handover);
                self.set_owner(conn, owner);
                conn
            }
            None => {
                if dead != Some(conn) {
                    io.stay(conn);
                }
                conn
            }
        }
    }
}

/// Whether a client's server may go with it: nothing but the client's own is on its way.
fn is_movable_with_client(server: &Server) -> bool {
    let is_own = |expect: &Expect| matches!(expect, Expect::Own(_));
    let has_own = server.expect.iter().any(is_own);
    server.state == ServerState::Leased && is_movable(server) && !has_own
}

fn is_movable_alone(server: &Server) -> bool {
    let is_idle = server.state == ServerState::Idle && server.is_clean() && server.status == IDLE;
    is_idle && is_movable(server) && server.client.is_none()
}

fn is_movable(server: &Server) -> bool {
    let is_at_work = server.apart.is_none() && server.login.is_none();
    let is_unasked = server.cancels == 0
        && server.hand_over.is_none()
        && server.again.as_ref().is_none_or(|again| again.may_move())
        && server.probe.is_none()
        && server.endings.anchor.is_none()
        && server.reading.is_none()
        && server.ensuring.due.is_empty()
        && server.ensuring.error.is_none()
        && server.own_error.is_none()
        && server.set_before.is_none();
    let is_settled = !server.is_being_reset
        && !server.is_doomed
        && !server.is_finishing
        && !server.is_set_apart
        && server.reported_apart.is_none()
        && server.restoring.is_empty()
        && server.clearing.is_empty()
        && server.listen.awaits.is_none()
        && server.listen.channels.is_empty();
    is_at_work && is_unasked && is_settled
}

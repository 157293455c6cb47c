//! A client that listens has notified. PostgreSQL gives a session its own notification before the ReadyForQuery of the
//! transaction that sent it; here it comes through the listener. So the ReadyForQuery waits until the listener has told
//! all that was committed before: a question that it answers behind it. At most for [`super::OWN_MAX`]. If the transaction
//! may have ended listening to something, its server is asked what is left before the client hears anything.

use forebay_pgwire::frontend::tag;
use forebay_pgwire::write;

use super::takeover::CHANNELS;
use super::{Mark, Told};
use crate::io::Io;
use crate::reply::Relaying;
use crate::reported::report_parameters;
use crate::request::Forwarding;
use crate::session::IDLE;
use crate::session::expect::{Expect, Own};
use crate::session::server::{ServerKey, ServerState};
use crate::worker::Worker;

impl<I: Io> Worker<I> {
    /// The request is answered but for its ReadyForQuery, which waits for what the client is to hear first.
    pub(crate) fn await_own(&mut self, io: &mut I, key: ServerKey) {
        let (now, id) = (self.now, self.servers[key].pool);
        let Some(client_key) = self.servers[key].client else { return };
        let mut random = [0; 16];
        io.fill_random(&mut random);
        let mark = Mark::new(random);
        let server = &mut self.servers[key];
        server.listen.awaits = Some(mark);
        server.enter(ServerState::Listening, now);
        self.arm_server(key);
        self.listening.marks.insert(mark, client_key);
        let name = self.pool_name(id);
        self.tell_owner(io, id, Told::Ask(name, mark));
    }

    /// The listener has told what was committed before the question.
    pub(crate) fn own_passed(&mut self, io: &mut I, mark: Mark) {
        let Some(client_key) = self.listening.marks.get(&mark).copied() else { return };
        let Some(key) = self.clients.get(client_key).and_then(|client| client.server) else { return };
        if self.servers[key].listen.awaits == Some(mark) {
            self.release_ready(io, key);
        }
    }

    /// The wait for the listener is over.
    pub(crate) fn release_ready(&mut self, io: &mut I, key: ServerKey) {
        let server = &self.servers[key];
        if server.listen.is_removing && server.state == ServerState::Listening {
            // What the transaction has ended listening to is not heard any more, and only the server knows that.
            return self.ask_channels(io, key, CHANNELS);
        }
        self.end_wait(io, key);
    }

    /// Nothing is waited for any more: the request has ended.
    pub(crate) fn end_wait(&mut self, io: &mut I, key: ServerKey) {
        let now = self.now;
        if self.say_ready(io, key) {
            self.servers[key].enter(ServerState::Leased, now);
            self.request_ended(io, key);
            self.freed.push(key);
        }
    }

    /// The client gets what is there, and its ReadyForQuery. False: it waits for none.
    pub(crate) fn say_ready(&mut self, io: &mut I, key: ServerKey) -> bool {
        let server = &mut self.servers[key];
        let Some(mark) = server.listen.awaits.take() else { return false };
        self.listening.marks.remove(&mark);
        let Some(client_key) = server.client else { return false };
        let mut out = Vec::new();
        let is_removing = server.listen.is_removing;
        if let Some(listens) = self.clients[client_key].listens.as_mut().filter(|_| !is_removing) {
            listens.drain_into(&mut out);
        }
        if std::mem::take(&mut server.is_report_due) {
            report_parameters(&mut self.clients[client_key], server, &mut out);
        }
        write::ready_for_query(&mut out, IDLE);
        self.send_to_client(io, client_key, &out);
        true
    }
}

impl Forwarding<'_> {
    /// Whether nothing that was sent before is part of the same request.
    pub(crate) fn begins_request(&self, tag: u8) -> bool {
        let is_part = matches!(tag, tag::SYNC | tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL);
        let is_behind = is_part || self.server.is_segment_open || self.server.awaits_sync();
        tag != tag::TERMINATE && (self.server.expect.is_empty() || !is_behind)
    }

    /// Whether a message waits for the ReadyForQuery of a request that may have notified its own client.
    pub(crate) fn awaits_own(&self, tag: u8) -> bool {
        self.server.listen.notifies
            && self.client.listens.is_some()
            && !self.server.expect.is_empty()
            && self.begins_request(tag)
    }
}

impl Relaying<'_> {
    /// Whether a notification is for somebody. While a server is being made ready for its client, what it says is still
    /// for the last one.
    pub(crate) fn hears(&self) -> bool {
        let is_unready = matches!(
            self.server.expect.front(),
            Some(Expect::Own(Own::Clean | Own::Prepare | Own::Check | Own::Rollback | Own::Reset))
        );
        (self.client.is_some() && !is_unready) || self.server.is_listener()
    }

    /// Whether the client is to hear what it has notified before the ReadyForQuery at hand.
    pub(crate) fn must_await_own(&mut self) -> bool {
        // With more of a pipeline on its way, it is that which may notify: a request that did lets nothing go behind it.
        if self.server.status != IDLE || !self.server.expect.is_empty() {
            return false;
        }
        let notifies = std::mem::take(&mut self.server.listen.notifies);
        notifies && self.listens_to_any()
    }

    /// Whether the client hears anything through the listener.
    pub(crate) fn listens_to_any(&self) -> bool {
        self.client.as_ref().and_then(|client| client.listens.as_ref()).is_some_and(|listens| listens.len() > 0)
    }

    /// A transaction is over: what has been notified meanwhile comes before its ReadyForQuery. Not if a request behind it
    /// may have notified: the listener may have told of that already, and it comes before the ReadyForQuery of its own.
    pub(crate) fn give_notifications(&mut self) {
        let is_one_behind = self.server.listen.notifies && !self.server.expect.is_empty();
        if self.server.status == IDLE
            && !self.server.listen.is_removing
            && !is_one_behind
            && let Some(listens) = self.client.as_mut().and_then(|client| client.listens.as_mut())
        {
            listens.drain_into(self.batch.owned());
        }
    }
}

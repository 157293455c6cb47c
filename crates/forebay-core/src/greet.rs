//! The end of a login: what the client is told of the session that it gets.

use std::rc::Rc;

use forebay_pgwire::write;

use crate::cancel_key;
use crate::io::Io;
use crate::parameters::Image;
use crate::pool::PoolId;
use crate::pool::greetings::Greeting;
use crate::session::IDLE;
use crate::session::client::{CancelSecret, ClientKey, ClientState};
use crate::worker::{Message, PoolName, Worker};

impl<I: Io> Worker<I> {
    /// Greets a client as soon as it is known what servers report to clients with its parameters.
    pub(crate) fn greet_or_wait(&mut self, io: &mut I, key: ClientKey, id: PoolId) {
        if !self.greet(io, key) {
            self.enqueue(io, id, key);
        }
    }

    /// `image` without application_name, which differs from client to client and changes nothing else.
    pub(crate) fn without_name(&mut self, image: &Rc<Image>) -> Rc<Image> {
        self.images.with(image, "application_name", None)
    }

    /// Tells a client everything up to its first ReadyForQuery; false: that is not known yet.
    pub(crate) fn greet(&mut self, io: &mut I, key: ClientKey) -> bool {
        let Some(greeting) = self.greeting_for(key) else { return false };
        let mut out = std::mem::take(&mut self.scratch);
        out.extend_from_slice(&greeting.bytes);
        self.finish_greeting(io, key, &mut out);
        out.clear();
        self.scratch = out;
        let client = &mut self.clients[key];
        client.seen = greeting.reported;
        client.enter(ClientState::Idle, self.now);
        self.arm_client(key);
        self.ready.push_back(key);
        true
    }

    /// The greeting for a client's parameters: kept, or made from one that differs in application_name only, or from what
    /// another worker has heard.
    fn greeting_for(&mut self, key: ClientKey) -> Option<Greeting> {
        let wanted = self.clients[key].wanted.clone();
        let id = self.clients[key].pool?;
        if let Some(greeting) = self.pool(id).greetings.get(&wanted) {
            return Some(greeting);
        }
        let nameless = self.without_name(&wanted);
        let reported = match self.pool(id).greetings.get(&nameless) {
            Some(greeting) => greeting.reported,
            None => {
                let pool = self.pool(id);
                let values = pool.shared.heard.get(pool.endpoints.first_place()?, &nameless)?;
                let reported = self.images.intern(&values);
                self.pool(id).greetings.keep(nameless, reported.clone());
                reported
            }
        };
        let name = wanted.get("application_name").map_or("", |n| n);
        let reported = match reported.get("application_name") {
            Some(_) => self.images.with(&reported, "application_name", Some(name)),
            None => reported,
        };
        self.pool(id).greetings.keep(wanted.clone(), reported);
        self.pool(id).greetings.get(&wanted)
    }

    /// A server of ours has told what it reports with `wanted` set: no worker need ask one again.
    pub(crate) fn keep_greeting(&mut self, io: &mut I, id: PoolId, wanted: Rc<Image>, reported: Rc<Image>) {
        let pool = self.pool(id);
        let is_news =
            pool.endpoints.first_place().is_some_and(|place| pool.shared.heard.keep(place, &wanted, &reported));
        pool.greetings.keep(wanted, reported);
        if is_news && !pool.is_replication {
            let name = (pool.database.clone(), pool.user.clone());
            self.tell_others(io, || Message::Greeting(name.clone()));
        }
    }

    /// Another worker has heard what clients here may wait for.
    pub(crate) fn greeting_heard(&mut self, io: &mut I, name: &PoolName) {
        if let Some(id) = self.pool_ids.get(name).copied() {
            self.greet_waiters(io, id);
            self.supply(io, id);
        }
    }

    /// The cancel key and ReadyForQuery end every greeting.
    pub(crate) fn finish_greeting(&mut self, io: &mut I, key: ClientKey, out: &mut Vec<u8>) {
        let mut random = [0; 32];
        io.fill_random(&mut random);
        let pid = self.virtual_pid(key);
        let client = &mut self.clients[key];
        client.virtual_pid = pid;
        let login = client.login.take();
        let is_long = login.as_ref().is_some_and(|l| l.minor >= 2);
        if self.tables.config.peers.own > 0 {
            cancel_key::give_all_hops(&mut random);
        }
        client.cancel = CancelSecret::new(random, is_long);
        write::backend_key_data(out, pid, client.cancel.bytes());
        let message = &*self.tables.config.arrivals.login_notice;
        if !message.is_empty() && login.is_some_and(|l| !l.is_console) {
            write::notice(out, &write::Fields { severity: "NOTICE", sqlstate: "00000", message, ..Default::default() });
        }
        write::ready_for_query(out, IDLE);
        self.send_to_client(io, key, out);
    }

    /// Clients whose greeting needs no server of their own are greeted with what a server has reported.
    pub(crate) fn greet_waiters(&mut self, io: &mut I, id: PoolId) {
        let waiting: Vec<_> = self.pool(id).waiters.iter().map(|w| w.client).collect();
        for key in waiting {
            if self.clients.get(key).is_some_and(|c| c.state == ClientState::Greeting && c.server.is_none()) {
                self.greet(io, key);
            }
        }
    }
}

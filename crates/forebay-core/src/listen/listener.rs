//! A pool's listener, at the worker that owns it: one connection that listens to what the clients of all workers want.
//!
//! It is opened when somebody listens and closed when nobody has for [`CHECK_AFTER`]. What workers want of it goes out in batches:
//! while one is on its way, more is gathered. One that is too old, or is to be closed, is relieved: another listens to
//! the same, and takes its place at a cut, so that nothing is lost or heard twice. One that is lost may have missed
//! something, which nobody can know: all who listened through it are told.

use std::collections::BTreeSet;
use std::sync::Arc;

use forebay_pgwire::backend::NotificationResponse;
use rustc_hash::FxHashMap;

use super::{CHECK_AFTER, CUT, Channel, LISTENER_CHANNELS_MAX, Mark, RELIEF_MAX, Told, each};
use crate::event::Level;
use crate::ids::WorkerId;
use crate::io::Io;
use crate::pool::PoolId;
use crate::session::expect::Own;
use crate::session::server::{Apart, Server, ServerKey, ServerState};
use crate::time::Instant;
use crate::worker::Worker;

/// What a new listener does first: nobody waits for a disk because of its cuts.
const FIRST: &str = "SET synchronous_commit TO off;SET application_name TO 'forebay listener';";

/// Notifications of a new listener that are kept while the old one comes to where it is.
const KEPT_MAX: usize = 100_000;

/// A pool's listener.
#[derive(Default)]
pub(crate) struct Listener {
    /// Its connection.
    line: Option<ServerKey>,
    relief: Option<Relief>,
    /// What workers want.
    channels: FxHashMap<Channel, Vec<WorkerId>>,
    to_listen: BTreeSet<Channel>,
    to_unlisten: BTreeSet<Channel>,
    cuts: Vec<(Mark, WorkerId)>,
    asks: Vec<(Mark, WorkerId)>,
    /// Cuts that have been made and not been heard.
    cuts_sent: FxHashMap<Mark, WorkerId>,
    /// Questions that the batch under way answers.
    asks_sent: Vec<(Mark, WorkerId)>,
}

/// A connection that is to take the place of another.
struct Relief {
    line: ServerKey,
    /// Its cut, once that is made, and since when.
    cut: Option<(Mark, Instant)>,
    is_past: bool,
    is_old_past: bool,
    /// What it has heard behind the cut.
    kept: Vec<Kept>,
}

enum Kept {
    Said(Channel, Arc<[u8]>),
    Cut(Mark),
}

impl Listener {
    fn is_at_rest(&self) -> bool {
        let is_asked = !(self.cuts.is_empty() && self.asks.is_empty() && self.asks_sent.is_empty());
        self.line.is_none() && self.relief.is_none() && self.channels.is_empty() && !is_asked
    }

    fn want(&mut self, channel: Channel, worker: WorkerId) {
        let workers = self.channels.entry(channel.clone()).or_default();
        if workers.is_empty() && !self.to_unlisten.remove(&channel) {
            self.to_listen.insert(channel);
        }
        if !workers.contains(&worker) {
            workers.push(worker);
        }
    }

    fn want_no_more(&mut self, channel: &Channel, worker: WorkerId) {
        let Some(workers) = self.channels.get_mut(channel) else { return };
        workers.retain(|w| *w != worker);
        if workers.is_empty() {
            self.channels.remove(channel);
            if !self.to_listen.remove(channel) {
                self.to_unlisten.insert(channel.clone());
            }
        }
    }

    fn has_work(&self) -> bool {
        !(self.to_listen.is_empty() && self.to_unlisten.is_empty() && self.cuts.is_empty() && self.asks.is_empty())
    }

    /// The next batch.
    fn batch(&mut self) -> String {
        let mut sql = String::new();
        each(&mut sql, "LISTEN ", &std::mem::take(&mut self.to_listen));
        each(&mut sql, "UNLISTEN ", &std::mem::take(&mut self.to_unlisten));
        for (mark, worker) in self.cuts.drain(..) {
            sql.push_str(&cut(mark));
            self.cuts_sent.insert(mark, worker);
        }
        self.asks_sent.append(&mut self.asks);
        sql
    }

    /// What a connection that listens to nothing yet is sent.
    fn everything(&self) -> String {
        let mut sql = format!("{FIRST}LISTEN {CUT};");
        let channels: BTreeSet<_> = self.channels.keys().cloned().collect();
        each(&mut sql, "LISTEN ", &channels);
        sql
    }

    /// All workers that are to hear of its loss; nothing is wanted of it any more.
    fn end(&mut self) -> BTreeSet<WorkerId> {
        let marked = self.cuts.iter().chain(&self.asks).chain(&self.asks_sent).map(|(_, worker)| *worker);
        let mut workers: BTreeSet<_> = marked.chain(self.cuts_sent.values().copied()).collect();
        workers.extend(self.channels.values().flatten());
        *self = Listener::default();
        workers
    }
}

fn cut(mark: Mark) -> String {
    format!("NOTIFY {CUT},'{}';", mark.text())
}

impl<I: Io> Worker<I> {
    fn listener(&mut self, id: PoolId) -> &mut Listener {
        self.listening.listeners.entry(id).or_default()
    }

    /// Whether nobody wants anything of a pool's listener here.
    pub(crate) fn is_listener_at_rest(&self, id: PoolId) -> bool {
        self.listening.listeners.get(&id).is_none_or(Listener::is_at_rest)
    }

    /// How many channels a pool's listener, which this worker owns, listens to.
    pub(crate) fn channels_listened(&self, id: PoolId) -> u32 {
        self.listening.listeners.get(&id).map_or(0, |listener| listener.channels.len() as u32)
    }

    /// A worker's clients want to listen.
    pub(crate) fn subscribe(&mut self, io: &mut I, id: PoolId, from: WorkerId, channels: Vec<Channel>, mark: Mark) {
        let listener = self.listener(id);
        if listener.channels.len() + channels.len() > LISTENER_CHANNELS_MAX {
            let name = self.pool_name(id);
            return self.tell_of_listening(io, from, Told::Refused(name, mark));
        }
        channels.into_iter().for_each(|channel| listener.want(channel, from));
        listener.cuts.push((mark, from));
        self.drive_listener(io, id);
    }

    /// They want these no more.
    pub(crate) fn unsubscribe(&mut self, io: &mut I, id: PoolId, from: WorkerId, channels: &[Channel]) {
        let listener = self.listener(id);
        channels.iter().for_each(|channel| listener.want_no_more(channel, from));
        self.drive_listener(io, id);
    }

    /// A worker wants to know when all that has been committed by now has been told.
    pub(crate) fn asked_if_passed(&mut self, io: &mut I, id: PoolId, from: WorkerId, mark: Mark) {
        self.listener(id).asks.push((mark, from));
        self.drive_listener(io, id);
    }

    /// Sends the listener what is wanted of it, if it is free; opens it, if there is none.
    fn drive_listener(&mut self, io: &mut I, id: PoolId) {
        let listener = self.listener(id);
        let is_cutting = listener.relief.as_ref().is_some_and(|relief| relief.cut.is_some());
        match listener.line {
            None if listener.channels.is_empty() && listener.cuts.is_empty() => {
                (listener.to_listen, listener.to_unlisten) = Default::default();
                let asks = std::mem::take(&mut listener.asks);
                self.answer_asks(io, id, asks);
            }
            None => {
                let pool = &self.pools[id.0 as usize];
                if pool.is_removed || pool.is_held || pool.endpoints.next_try(self.now) > self.now {
                    let cause =
                        pool.endpoints.sickness().map_or_else(|| Arc::from("not tried"), |(_, sick)| sick.cause);
                    return self.lose_listener(io, id, &cause);
                }
                let line = self.open_apart(io, id, Apart::Listener);
                self.listener(id).line = Some(line);
            }
            Some(_) if is_cutting || !listener.has_work() => {}
            Some(line) => {
                if self.servers[line].state == ServerState::Listening {
                    let sql = self.listener(id).batch();
                    self.send_own(io, line, Own::Hear, &sql);
                }
            }
        }
    }

    fn answer_asks(&mut self, io: &mut I, id: PoolId, asks: Vec<(Mark, WorkerId)>) {
        for (mark, worker) in asks {
            let name = self.pool_name(id);
            self.tell_of_listening(io, worker, Told::Passed(name, mark));
        }
    }

    /// The connection is logged in.
    pub(crate) fn listener_opened(&mut self, io: &mut I, key: ServerKey) {
        let (now, id) = (self.now, self.servers[key].pool);
        self.endpoint_answers(io, key);
        let server = &self.servers[key];
        let fields = vec![("server", server.id.into()), ("pool", self.pools[id.0 as usize].label().into())];
        self.log(io, Level::Debug, "listener_opened", fields);
        let mut random = [0; 16];
        io.fill_random(&mut random);
        let listener = self.listener(id);
        let mut sql = listener.everything();
        match &mut listener.relief {
            Some(relief) if relief.line == key => {
                let mark = Mark::new(random);
                relief.cut = Some((mark, now));
                sql.push_str(&cut(mark));
            }
            _ => {
                listener.to_listen.clear();
                listener.to_unlisten.clear();
                sql.push_str(&listener.batch());
            }
        }
        self.send_own(io, key, Own::Hear, &sql);
    }

    /// A batch is answered.
    pub(crate) fn batch_heard(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        let (now, id) = (self.now, self.servers[key].pool);
        if let Some((sqlstate, message)) = error {
            return self.retire(io, key, &format!("it could not listen: {sqlstate} {message}"));
        }
        self.servers[key].enter(ServerState::Listening, now);
        let listener = self.listener(id);
        if listener.line == Some(key) {
            let asks = std::mem::take(&mut listener.asks_sent);
            self.answer_asks(io, id, asks);
            self.drive_listener(io, id);
        }
    }

    /// A listener heard that somebody notified.
    pub(crate) fn listener_heard(&mut self, io: &mut I, key: ServerKey, said: NotificationResponse<'_>) {
        let id = self.servers[key].pool;
        let mark = if said.channel == CUT.as_bytes() { Mark::read(said.payload) } else { None };
        let listener = self.listener(id);
        let is_line = listener.line == Some(key);
        let mut is_kept = false;
        if let Some(relief) = &mut listener.relief {
            if mark.is_some() && mark == relief.cut.map(|(mark, _)| mark) {
                *(if is_line { &mut relief.is_old_past } else { &mut relief.is_past }) = true;
                return self.relieve_if_past(io, id);
            }
            is_kept = !is_line && relief.line == key && relief.is_past;
            if !is_kept && (!is_line || relief.is_old_past) {
                return;
            }
        }
        let what = match mark {
            Some(mark) => Kept::Cut(mark),
            None => {
                let Some((channel, _)) = self.listener(id).channels.get_key_value(said.channel) else { return };
                let channel = channel.clone();
                Kept::Said(channel, self.as_clients_know(id, said).into())
            }
        };
        match &mut self.listener(id).relief {
            Some(relief) if is_kept => {
                relief.kept.push(what);
                if relief.kept.len() > KEPT_MAX {
                    self.relieve(io, id);
                }
            }
            _ => self.pass_on(io, id, what),
        }
    }

    fn pass_on(&mut self, io: &mut I, id: PoolId, what: Kept) {
        let name = self.pool_name(id);
        match what {
            Kept::Cut(mark) => {
                if let Some(worker) = self.listener(id).cuts_sent.remove(&mark) {
                    self.tell_of_listening(io, worker, Told::Cut(name, mark));
                }
            }
            Kept::Said(channel, message) => {
                let workers = self.listener(id).channels.get(&channel).cloned().unwrap_or_default();
                for worker in workers {
                    let told = Told::Heard(name.clone(), channel.clone(), message.clone());
                    self.tell_of_listening(io, worker, told);
                }
            }
        }
    }

    fn relieve_if_past(&mut self, io: &mut I, id: PoolId) {
        let relief = self.listener(id).relief.as_ref();
        if relief.is_some_and(|relief| relief.is_past && relief.is_old_past) {
            self.relieve(io, id);
        }
    }

    /// The new listener takes the old one's place.
    fn relieve(&mut self, io: &mut I, id: PoolId) {
        let listener = self.listener(id);
        let Some(relief) = listener.relief.take() else { return };
        let old = listener.line.replace(relief.line);
        let asks = std::mem::take(&mut listener.asks_sent);
        relief.kept.into_iter().for_each(|what| self.pass_on(io, id, what));
        self.answer_asks(io, id, asks);
        if let Some(old) = old {
            self.retire(io, old, "another listens in its place");
        }
        self.drive_listener(io, id);
    }

    /// A connection that listened, or was to, is gone.
    pub(crate) fn listener_gone(&mut self, io: &mut I, key: ServerKey, server: &Server, cause: &str) {
        let fields = vec![("server", server.id.into()), ("reason", cause.into())];
        self.log(io, Level::Debug, "listener_closed", fields);
        let listener = self.listener(server.pool);
        if listener.relief.as_ref().is_some_and(|relief| relief.line == key) {
            listener.relief = None;
            self.drive_listener(io, server.pool);
        } else if listener.line == Some(key) {
            self.lose_listener(io, server.pool, cause);
        }
    }

    /// Tells everyone who listened, or wanted to.
    fn lose_listener(&mut self, io: &mut I, id: PoolId, cause: &str) {
        let relief = self.listener(id).relief.take();
        let workers = self.listener(id).end();
        if let Some(relief) = relief {
            self.retire(io, relief.line, "the listener that it was to relieve is lost");
        }
        let cause: Arc<str> = cause.into();
        for worker in workers {
            let name = self.pool_name(id);
            self.tell_of_listening(io, worker, Told::Lost(name, cause.clone()));
        }
    }

    /// Once a second: listeners that are too old, or not needed, or silent.
    pub(crate) fn sweep_listeners(&mut self, io: &mut I) {
        let ids: Vec<_> = self.listening.listeners.keys().copied().collect();
        let mut open = 0;
        for id in ids {
            open += u64::from(self.listener(id).line.is_some());
            self.sweep_listener(io, id);
        }
        self.stats.listeners.set(open);
    }

    fn sweep_listener(&mut self, io: &mut I, id: PoolId) {
        let now = self.now;
        let pool = &self.pools[id.0 as usize];
        let is_over = !pool.is_held && pool.endpoints.next_try(now) <= now;
        let listener = self.listener(id);
        if let Some(relief) = &listener.relief {
            let is_late = relief.cut.is_some_and(|(_, since)| now.since(since) >= RELIEF_MAX);
            return if is_late {
                self.relieve(io, id)
            };
        }
        let Some(line) = listener.line else { return };
        let is_unused = listener.channels.is_empty() && !listener.has_work();
        let server = &self.servers[line];
        if server.state != ServerState::Listening {
            return;
        }
        let is_silent = now.since(server.since) >= CHECK_AFTER;
        let is_old = server.is_close_needed || server.expires_at <= now;
        if is_unused && (is_silent || is_old || self.is_cleared(id)) {
            self.listener(id).line = None;
            self.retire(io, line, "nobody listens");
        } else if is_old && is_over {
            let line = self.open_apart(io, id, Apart::Listener);
            let relief = Relief { line, cut: None, is_past: false, is_old_past: false, kept: Vec::new() };
            self.listener(id).relief = Some(relief);
        } else if is_silent {
            self.send_own(io, line, Own::Hear, "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> Channel {
        name.as_bytes().into()
    }

    /// A channel that one worker lets go of while another takes it up must not be lost in between.
    #[test]
    fn a_channel_is_listened_to_as_long_as_a_worker_wants_it() {
        let mut listener = Listener::default();
        listener.want(channel("a"), WorkerId(0));
        listener.want(channel("a"), WorkerId(1));
        assert_eq!(listener.batch(), "LISTEN \"a\";");
        listener.want_no_more(&channel("a"), WorkerId(0));
        assert!(!listener.has_work());
        listener.want_no_more(&channel("a"), WorkerId(1));
        listener.want(channel("a"), WorkerId(0));
        assert!(!listener.has_work(), "it was never let go");
        listener.want_no_more(&channel("a"), WorkerId(0));
        assert_eq!(listener.batch(), "UNLISTEN \"a\";");
    }

    #[test]
    fn a_cut_goes_out_behind_what_it_is_for() {
        let mut listener = Listener::default();
        let mark = Mark::new([7; 16]);
        listener.want(channel("a"), WorkerId(2));
        listener.cuts.push((mark, WorkerId(2)));
        assert_eq!(listener.batch(), format!("LISTEN \"a\";NOTIFY fb_cut,'{}';", mark.text()));
        assert_eq!(listener.end(), BTreeSet::from([WorkerId(2)]));
    }
}

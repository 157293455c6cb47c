//! One process of the fake PostgreSQL: a connection, its startup, and a session that takes time.

use std::collections::VecDeque;

use forebay_core::auth::ClientLogin;

use crate::net::LinkId;
use crate::server::session::Session;
use crate::wire::{Body, Frame, Front, Splitter};

/// A message being carried out.
#[derive(Debug)]
pub(crate) struct Busy {
    pub(crate) message: Front,
    pub(crate) until: u64,
    /// The statement that a cancel stopped.
    pub(crate) stop: Option<usize>,
}

/// A login of the pooler's under way.
#[derive(Debug)]
pub(crate) struct PoolerLogin {
    pub(crate) proof: ClientLogin,
    pub(crate) version: i32,
    pub(crate) params: Vec<(String, String)>,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) link: LinkId,
    /// Which database's server it belongs to.
    pub(crate) endpoint: usize,
    pub(crate) splitter: Splitter,
    /// From the end of the login on.
    pub(crate) session: Option<Session>,
    /// While the pooler logs in.
    pub(crate) login: Option<PoolerLogin>,
    /// Database and user that the pooler has asked for.
    pub(crate) logged_in_as: Option<(String, String)>,
    pub(crate) pid: i32,
    pub(crate) key: [u8; 4],
    pub(crate) inbox: VecDeque<Front>,
    pub(crate) busy: Option<Busy>,
    /// Replies not yet written: a server writes at Flush, at ReadyForQuery, with an error or notice, or when its buffer
    /// is full.
    pub(crate) held: Vec<u8>,
    /// Notifications to be told between transactions.
    pub(crate) heard: Vec<(String, Frame)>,
    pub(crate) is_dead: bool,
    /// The client of which it carried out a statement last.
    pub(crate) client: Option<u32>,
    /// What stands between two clients is under way, or the extended request that went ahead with it.
    pub(crate) is_handed_over: bool,
    /// A cancel, or what it was told to do, has stopped something in it.
    pub(crate) was_stopped: bool,
    /// It serves a cancel request, and is no back end that anybody could terminate.
    pub(crate) is_signaller: bool,
    /// Of a server that no client may reach.
    pub(crate) is_stranger: bool,
    /// Which start of its server it belongs to.
    pub(crate) start: u32,
}

/// PostgreSQL's output buffer.
const HELD_MAX: usize = 8192;

impl Process {
    pub(crate) fn new(link: LinkId, endpoint: usize, pid: i32, key: [u8; 4]) -> Process {
        Process {
            link,
            endpoint,
            splitter: Splitter::at_startup(),
            session: None,
            login: None,
            logged_in_as: None,
            pid,
            key,
            inbox: VecDeque::new(),
            busy: None,
            held: Vec::new(),
            heard: Vec::new(),
            is_dead: false,
            client: None,
            is_handed_over: false,
            was_stopped: false,
            is_signaller: false,
            is_stranger: false,
            start: 0,
        }
    }

    /// Whether nothing of a request is left in it: what a server must be like when its client changes.
    pub(crate) fn is_clean(&self) -> bool {
        self.inbox.is_empty() && self.busy.is_none() && self.splitter.is_empty() && self.is_idle_but_for_input()
    }

    /// The same, whatever it still has to read.
    pub(crate) fn is_idle_but_for_input(&self) -> bool {
        let is_copy = |busy: &Busy| matches!(busy.message, Front::CopyData(_) | Front::CopyDone | Front::CopyFail(_));
        self.busy.as_ref().is_none_or(is_copy)
            && self.held.is_empty()
            && self.session.as_ref().is_none_or(Session::is_clean)
    }

    /// A message of the extended protocol is stopped before it has done anything. Returns bytes to write.
    pub(crate) fn interrupt(&mut self) -> Vec<u8> {
        let replies = self.session.as_mut().map(Session::interrupt).unwrap_or_default();
        replies.iter().for_each(|reply| self.held.extend(reply.encode()));
        std::mem::take(&mut self.held)
    }

    /// Ends the message under way. Returns bytes to write, if it is time to, and what it has notified.
    pub(crate) fn finish(&mut self, message: &Front, stop: Option<usize>) -> (Vec<u8>, Vec<(String, String)>) {
        let Some(session) = &mut self.session else { return (vec![], vec![]) };
        let replies = session.execute(message, stop.map(|index| (index, "57014")));
        let told = std::mem::take(&mut session.told);
        for (channel, payload) in &told {
            self.hear(self.pid, channel, payload);
        }
        let is_due =
            *message == Front::Flush || replies.iter().any(|f: &Frame| matches!(f.kind, b'Z' | b'G' | b'E' | b'N'));
        for reply in replies {
            if reply.kind == b'Z' && reply.body == [b'I'] {
                let heard = self.take_heard();
                self.held.extend(heard);
            }
            self.held.extend(reply.encode());
        }
        let bytes = if is_due || self.held.len() > HELD_MAX { std::mem::take(&mut self.held) } else { vec![] };
        (bytes, told)
    }

    /// Somebody has notified: it is kept, if the session listens.
    pub(crate) fn hear(&mut self, pid: i32, channel: &str, payload: &str) {
        if self.session.as_ref().is_some_and(|session| session.hears(channel)) {
            let frame = Body::default().int32(pid).text(channel).text(payload).frame(b'A');
            self.heard.push((channel.to_owned(), frame));
        }
    }

    /// What a session that is between transactions is told: of channels that it listens to by then.
    pub(crate) fn take_heard(&mut self) -> Vec<u8> {
        let heard = std::mem::take(&mut self.heard);
        let session = self.session.as_ref();
        let is_wanted = |channel: &str| session.is_some_and(|session| session.hears(channel));
        heard.iter().filter(|(channel, _)| is_wanted(channel)).flat_map(|(_, frame)| frame.encode()).collect()
    }
}

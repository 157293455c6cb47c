//! One process of the fake PostgreSQL: a connection, its startup, and a session that takes time.

use std::collections::VecDeque;

use forebay_core::auth::ClientLogin;

use crate::net::LinkId;
use crate::server::session::Session;
use crate::wire::{Frame, Front, Splitter};

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
    pub(crate) pid: i32,
    pub(crate) key: [u8; 4],
    pub(crate) inbox: VecDeque<Front>,
    pub(crate) busy: Option<Busy>,
    /// Replies not yet written: a server writes at Flush, at ReadyForQuery, with an error or notice, or when its buffer
    /// is full.
    pub(crate) held: Vec<u8>,
    pub(crate) is_dead: bool,
    /// The client of which it carried out a statement last.
    pub(crate) client: Option<u32>,
    /// It serves a cancel request, and is no back end that anybody could terminate.
    pub(crate) is_signaller: bool,
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
            pid,
            key,
            inbox: VecDeque::new(),
            busy: None,
            held: Vec::new(),
            is_dead: false,
            client: None,
            is_signaller: false,
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

    /// Ends the message under way. Returns bytes to write, if it is time to.
    pub(crate) fn finish(&mut self, message: &Front, stop: Option<usize>) -> Vec<u8> {
        let Some(session) = &mut self.session else { return vec![] };
        let replies = session.execute(message, stop.map(|index| (index, "57014")));
        let is_due =
            *message == Front::Flush || replies.iter().any(|f: &Frame| matches!(f.kind, b'Z' | b'G' | b'E' | b'N'));
        for reply in replies {
            self.held.extend(reply.encode());
        }
        if is_due || self.held.len() > HELD_MAX { std::mem::take(&mut self.held) } else { vec![] }
    }
}

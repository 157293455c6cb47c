//! A transaction whose server is lost while its client has been told no more than that it has begun: it begins anew on
//! another server, and the client sees nothing but a pause (`retry_reads`).
//!
//! | the client was told, since its server was given to it | then |
//! |---|---|
//! | nothing | its request is made again ([`super::again`]) |
//! | that a transaction has begun, that SET LOCAL was done, how statements look | and sends nothing: it begins anew with its next request |
//! | the same | and reads: it begins anew, and the read is made again |
//! | anything else, or it has sent what may write or ends the transaction | as without any of this |
//!
//! What it was told is answered once more, and swallowed; one request at a time, so that nothing that is to be in the
//! transaction runs without it. If anything else is answered, the transaction is lost, as it would have been before.

use std::collections::VecDeque;

use forebay_pgwire::backend::tag as reply;
use forebay_pgwire::frame::{Frames, HEAD_BYTES, Head};
use forebay_pgwire::frontend::tag;
use forebay_spec::Report;
use forebay_sql::shape::{Shape, Verb};

use super::again::{Again, HEADS};
use crate::moving::part::{part_enum, part_struct};
use crate::planted::{Bug, planted};
use crate::reply::Relaying;
use crate::session::IDLE;
use crate::session::batch::Batch;
use crate::session::client::{Client, Extent, Refusal};
use crate::session::expect::{Change, Expect};
use crate::session::server::Server;

/// More is not looked at: it is not what begins a transaction.
const TOLD_BYTES_MAX: usize = 4096;

/// How the transaction of a client stands whose server was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replaying {
    /// It was not lost, or goes on already.
    #[default]
    No,
    /// It begins anew with the client's next request.
    SetBack,
    /// It begins anew: what the client was told before is answered once more, and swallowed.
    Runs,
}

/// What of a transaction is done once more.
#[derive(Debug)]
pub struct Replay {
    /// The requests.
    pub sent: Vec<u8>,
    /// What of their answers the client has been told: tags of messages.
    pub told: VecDeque<u8>,
    /// What it is told of if that fails.
    pub report: Report,
}

part_enum!(Replaying { 0 = No, 1 = SetBack, 2 = Runs });
part_struct!(Replay { sent: Vec<u8>, told: VecDeque<u8>, report: Report });

/// Why a server is closed on which a transaction could not begin anew.
pub(crate) const NOT_ANEW: &str = "a transaction that began anew was answered otherwise than before";

impl Again {
    /// Notes what the client is about to be told. False: that is more than how a transaction begins.
    fn note_told(&mut self, told: &[u8], owes_nothing: bool) -> bool {
        let (mut frames, mut tags, mut has_run) = (Frames::new(told, u32::MAX), Vec::new(), false);
        for (head, body) in frames.by_ref().map_while(Result::ok) {
            match head.tag {
                reply::PARAMETER_STATUS => continue,
                reply::READY_FOR_QUERY if body == b"T" => {}
                reply::COMMAND_COMPLETE if begins(body) => has_run = true,
                tag if HEADS.contains(&tag) => {}
                _ => return false,
            }
            tags.push(head.tag);
        }
        if !self.reads || !frames.rest().is_empty() || tags.last() != Some(&reply::READY_FOR_QUERY) {
            return false;
        }
        let is_preparation = !has_run && owes_nothing && self.told.len() == self.mark.1;
        if is_preparation {
            // A portal is of the transaction; and what the name that was given a new meaning meant may have been run in it. The
            // unnamed statement ends with the next Query, and that may be the BEGIN.
            let is_new = |change: &Change| change.before.is_none() && !change.name.is_empty();
            if tags.contains(&reply::BIND_COMPLETE) || !self.done.iter().all(is_new) {
                return false;
            }
            // Nothing of the transaction: it stands whatever becomes of that.
            self.kept.truncate(self.mark.0);
            self.done.clear();
            return true;
        }
        if !self.done.is_empty() {
            return false;
        }
        self.told.extend(tags);
        if owes_nothing {
            self.mark = (self.kept.len(), self.told.len());
        }
        true
    }
}

/// Whether a CommandComplete, with its NUL, is of what only begins a transaction.
fn begins(body: &[u8]) -> bool {
    matches!(body, b"BEGIN\0" | b"START TRANSACTION\0" | b"SET\0") || planted(Bug::CommitReplayed)
}

/// Whether a text does nothing but begin a transaction, or set something for it.
pub(super) fn is_beginning(shape: &Shape) -> bool {
    let is_of_beginning = |verb: Verb| matches!(verb, Verb::Begin | Verb::SetLocal);
    shape.is_parsed && matches!(&*shape.statements, [statement] if is_of_beginning(statement.verb))
}

impl Server {
    /// The client is told what is in the batch: what it has sent stands, and its request is no longer made anywhere else;
    /// unless that is only how a transaction begins. `data`: what was received.
    #[inline]
    pub(crate) fn tell(&mut self, client: &mut Client, batch: &mut Batch, data: &[u8]) {
        if self.status == IDLE || !self.is_tried() || !self.notes_told(client, batch, data) {
            self.end_trial(client);
        }
    }

    #[inline(never)]
    fn notes_told(&mut self, client: &Client, batch: &mut Batch, data: &[u8]) -> bool {
        let Some(again) = &mut self.again else { return false };
        if batch.bytes() > TOLD_BYTES_MAX || self.body_left > 0 || client.body_left > 0 {
            return false;
        }
        let mut told = Vec::new();
        batch.take(data, &mut told);
        let is_noted = again.note_told(&told, self.expect.is_empty());
        batch.owned().append(&mut told);
        is_noted
    }
}

impl Client {
    /// Its transaction, of which it was told no more than that it has begun, is lost with its server.
    pub(super) fn set_back(&mut self, replay: Replay) {
        self.replaying = Replaying::SetBack;
        self.rare().replay = Some(Box::new(replay));
    }

    /// It sends the next request of a transaction that was set back: that begins anew.
    #[cold]
    pub(crate) fn begin_replay(&mut self) {
        let leaves = self.carry.first() == Some(&tag::TERMINATE);
        let Some(replay) = self.rare().replay.as_mut().filter(|_| !leaves) else { return drop(self.end_replay()) };
        let sent = std::mem::take(&mut replay.sent);
        self.keep_again(sent);
        self.replaying = Replaying::Runs;
    }

    fn end_replay(&mut self) -> Option<Box<Replay>> {
        self.replaying = Replaying::No;
        self.rare().replay.take()
    }

    /// Whether a message is for it that comes while its transaction begins anew; None: it is not what was told before.
    fn passes_anew(&mut self, tag: u8, body: &[u8]) -> Option<bool> {
        let Some(replay) = self.rare().replay.as_mut() else { return Some(true) };
        match tag {
            reply::PARAMETER_STATUS => return Some(true),
            reply::NOTICE_RESPONSE => return Some(false),
            _ if replay.told.front() != Some(&tag) => return None,
            _ => {}
        }
        replay.told.pop_front();
        let is_as_told = match tag {
            reply::READY_FOR_QUERY => body == b"T",
            reply::COMMAND_COMPLETE => begins(body),
            _ => true,
        };
        if !is_as_told {
            return None;
        }
        if replay.told.is_empty() {
            self.end_replay();
        }
        Some(planted(Bug::BeginToldTwice))
    }

    /// The transaction does not begin anew: its server is lost as well. `expect`: what that owed.
    #[cold]
    pub(crate) fn replay_is_lost(&mut self, expect: &VecDeque<Expect>) {
        let Some(replay) = self.rare().replay.as_mut() else { return };
        let owed = expect.iter().filter(|e| matches!(e, Expect::Query { .. } | Expect::Function | Expect::Sync));
        for _ in owed {
            // As far as the answer to this request went, and the rest of it.
            while replay.told.pop_front().is_some_and(|tag| tag != reply::READY_FOR_QUERY) {}
        }
        self.refusal = self.loss().map(Box::new);
    }

    /// The wait for a server is over: a transaction that was to begin anew is lost, and that is what there is to say.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        let lost = if self.replaying == Replaying::Runs { self.loss() } else { None };
        self.refusal = Some(Box::new(lost.unwrap_or(refusal)));
    }

    /// What it is told of the loss of its transaction, and which requests that answers: all that have come, or the next one. Any
    /// of them is of that.
    fn loss(&self) -> Option<Refusal> {
        let replay = self.rare.as_ref()?.replay.as_ref()?;
        let is_answered =
            |head: Head| !matches!(head.tag, tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL);
        let behind = self.carry.get(replay.bytes_told(&self.carry)..).unwrap_or_default();
        let is_behind = Frames::new(behind, u32::MAX).map_while(Result::ok).any(|(head, _)| is_answered(head));
        let extent = if is_behind { Extent::AllKept } else { Extent::NextRequest };
        Some(Refusal { report: replay.report.clone(), extent })
    }

    /// The transaction does not begin anew, and its next request is refused: returns of how many bytes of `data` the client has
    /// been told the answer.
    #[cold]
    pub(crate) fn abandon_replay(&mut self, data: &[u8]) -> usize {
        self.end_replay().map_or(0, |replay| replay.bytes_told(data))
    }
}

impl Replay {
    /// How much of what a client has sent are requests of which it was told the answer.
    fn bytes_told(&self, data: &[u8]) -> usize {
        let ends = |head: &Head| matches!(head.tag, tag::QUERY | tag::SYNC | tag::FUNCTION_CALL);
        let mut left = self.told.iter().filter(|tag| **tag == reply::READY_FOR_QUERY).count();
        let frames = Frames::new(data, u32::MAX).map_while(Result::ok);
        let told = frames.take_while(|(head, _)| {
            let is_told = left > 0;
            left -= usize::from(is_told && ends(head));
            is_told
        });
        told.map(|(head, _)| head.bytes as usize).sum()
    }
}

impl Relaying<'_> {
    /// Whether the client's transaction begins anew.
    #[inline]
    pub(crate) fn is_replaying(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.replaying == Replaying::Runs)
    }

    /// Gives an answer of our own to the client.
    pub(crate) fn give_answer(&mut self, tag: u8) {
        let answer = [tag, 0, 0, 0, 4];
        let is_told = self.is_replaying() && self.passes_anew(&answer) == Some(false);
        if self.client.is_some() && !is_told {
            self.batch.owned().extend_from_slice(&answer);
        }
    }

    /// See [`Client::passes_anew`]. `message`: as far as it is there.
    #[cold]
    pub(crate) fn passes_anew(&mut self, message: &[u8]) -> Option<bool> {
        let client = self.client.as_mut()?;
        client.passes_anew(*message.first()?, message.get(HEAD_BYTES..)?)
    }
}

//! A server's messages on their way to its client: each is paired with what asked for it.
//!
//! Rows and copied data are decided on their heads and streamed; the few short messages that change what we
//! know are looked at whole.

use forebay_pgwire::backend::{TransactionStatus, tag};
use forebay_pgwire::frame::{self, FrameError, HEAD_BYTES, Head};
use forebay_sql::traces::Traces;

use crate::cluster::replay::NOT_ANEW;
use crate::parameters::Images;
use crate::planted::{Bug, planted};
use crate::session::Body;
use crate::session::batch::Batch;
use crate::session::client::Client;
use crate::session::expect::{Change, Does, Expect, Naming, Own};
use crate::session::server::Server;
use crate::stats::WorkerStats;

/// Larger errors are streamed unread.
pub(crate) const READ_BYTES_MAX: u32 = 65_536;

/// Why relaying stops.
pub(crate) enum Next {
    /// More bytes are needed to go on.
    More,
    /// A request is answered: ReadyForQuery went to the client.
    Ready,
    /// A query of our own is answered; its error, if any, is in [`Server::own_error`].
    OwnDone(Own),
    /// A request is answered but for its ReadyForQuery, which waits until what it reset is set again.
    Restore,
    /// The server, a replica, does not do what the client asks for: the primary is to.
    TurnedAway {
        /// For it writes.
        writes: bool,
    },
    /// The server has refused what is refused in recovery alone, by an error of this length.
    RecoveryMet(usize),
    /// What stands between two clients of a server has failed.
    HandOverFailed,
    /// A request is answered but for its ReadyForQuery, which waits for what its client has notified itself.
    AwaitOwn,
    /// The client has broken the protocol so that its server ends the session: it has been told.
    ClientAtFault,
    /// A notification of this length ends here, for the client to be told.
    Notification(usize),
    /// The server waits for data to copy, and nobody is there to send it.
    CopyWithoutClient,
    /// The stream can't be trusted any more.
    Violation(&'static str),
    /// The same, for a length that can't be believed.
    Fault(FrameError),
}

/// A server with the client that it serves, and what is needed to pass messages from one to the other.
pub(crate) struct Relaying<'a> {
    /// Who sends.
    pub(crate) server: &'a mut Server,
    /// Who receives; `None`: nobody, the replies are dropped.
    pub(crate) client: Option<&'a mut Client>,
    /// Known images.
    pub(crate) images: &'a mut Images,
    /// What goes out.
    pub(crate) batch: &'a mut Batch,
    /// What names of statements begin with on servers.
    pub(crate) prefix: &'a [u8],
    /// Counters.
    pub(crate) stats: &'a WorkerStats,
}

impl Relaying<'_> {
    /// Relays what `data` holds from `at` on. Returns why it stopped, and where.
    pub(crate) fn run(&mut self, data: &[u8], mut at: usize, bytes_max: u32) -> (Next, usize) {
        if self.server.body_left > 0 {
            at = self.stream(data, at);
        }
        while at < data.len() {
            let turn = self.turn();
            let was_for_client = self.client.is_some() && !matches!(turn, Turn::Ours(_));
            if data[at] == tag::DATA_ROW && was_for_client && matches!(turn, Turn::Rows) && !self.is_replaying() {
                at = self.pass_rows(data, at, bytes_max);
            }
            let head = match frame::head(&data[at..], bytes_max) {
                Ok(Some(head)) => head,
                Ok(None) => break,
                Err(error) => return (Next::Fault(error), at),
            };
            let (verdict, next) = self.step(turn, &data[at..], head);
            if matches!(next, Some(Next::More)) {
                break;
            }
            let end = data.len().min(at + head.bytes as usize);
            let mut is_passed = matches!(verdict, Verdict::Pass) && self.is_theirs(head, was_for_client);
            if is_passed && self.is_replaying() {
                let Some(passes) = self.passes_anew(&data[at..end]) else { return (Next::Violation(NOT_ANEW), at) };
                is_passed = passes;
            }
            if is_passed {
                self.batch.received(at, end);
            }
            if end - at < head.bytes as usize {
                self.server.body_left = head.bytes - (end - at) as u32;
                self.server.body = if is_passed { Body::Forward } else { Body::Drop };
            }
            at = end;
            if let Some(next) = next {
                return (next, at);
            }
        }
        (Next::More, at)
    }

    /// Whether a message that is not to be dropped goes to the client: it answered what the client had sent, though what
    /// is answered next may be of ours.
    #[inline]
    fn is_theirs(&self, head: Head, was_for_client: bool) -> bool {
        was_for_client || self.is_for_client() || (head.tag == tag::READY_FOR_QUERY && self.client.is_some())
    }

    /// What the next message answers. What needs no answer has had its turn.
    #[inline]
    fn turn(&mut self) -> Turn {
        loop {
            return match self.server.expect.front() {
                Some(Expect::Query { .. } | Expect::Execute { .. }) => Turn::Rows,
                Some(Expect::Own(own)) => Turn::Ours(*own),
                Some(Expect::CopyEnd | Expect::Answer { .. }) => {
                    self.settle();
                    continue;
                }
                _ => Turn::Theirs,
            };
        }
    }

    /// Passes on the rows that are there whole. Returns where the last of them ends.
    #[inline]
    fn pass_rows(&mut self, data: &[u8], start: usize, bytes_max: u32) -> usize {
        let mut at = start;
        while let Ok(Some(head)) = frame::head(&data[at..], bytes_max)
            && head.tag == tag::DATA_ROW
            && head.bytes as usize <= data.len() - at
        {
            at += head.bytes as usize;
        }
        self.batch.received(start, at);
        at
    }

    /// The rest of a message whose head came earlier. Returns where it ends, or the data does.
    fn stream(&mut self, data: &[u8], at: usize) -> usize {
        let end = data.len().min(at + self.server.body_left as usize);
        self.server.body_left -= (end - at) as u32;
        if self.server.body == Body::Forward && self.client.is_some() {
            self.batch.received(at, end);
        }
        end
    }

    /// Decides what becomes of the message that begins `data`, of which there is what `data` holds.
    #[inline]
    fn step(&mut self, turn: Turn, data: &[u8], head: Head) -> (Verdict, Option<Next>) {
        if let Turn::Ours(own) = turn {
            match own {
                own @ (Own::HandOver | Own::Skipped) => return self.step_of_hand_over(own, data, head),
                own if head.tag == tag::DATA_ROW => return self.own_row(own, data, head),
                _ => {}
            }
        }
        match head.tag {
            tag::NOTICE_RESPONSE if self.places().is_some() && head.bytes <= READ_BYTES_MAX => {}
            tag::DATA_ROW
            | tag::COPY_DATA
            | tag::NOTICE_RESPONSE
            | tag::COPY_DONE
            | tag::COPY_OUT_RESPONSE
            | tag::FUNCTION_CALL_RESPONSE => return (Verdict::Pass, None),
            tag::PARAMETER_DESCRIPTION if head.bytes > READ_BYTES_MAX => return (self.for_describer(), None),
            tag::ROW_DESCRIPTION if !self.is_told_columns() || head.bytes > READ_BYTES_MAX => {
                let verdict = self.for_describer();
                self.pop(|e| matches!(e, Expect::Describe { .. }));
                return (verdict, None);
            }
            _ => {}
        }
        let end = data.len().min(head.bytes as usize);
        if end < head.bytes as usize && head.bytes <= READ_BYTES_MAX {
            return (Verdict::Pass, Some(Next::More));
        }
        self.decide(head, &data[HEAD_BYTES..end])
    }

    /// Gives the answers whose turn has come, and forgets marks that have been passed.
    #[inline(never)]
    pub(crate) fn settle(&mut self) {
        loop {
            match self.server.expect.front() {
                Some(Expect::CopyEnd) => drop(self.server.expect.pop_front()),
                Some(Expect::Answer { .. }) => {
                    let Some(Expect::Answer { tag, change }) = self.server.expect.pop_front() else { return };
                    self.give_answer(tag);
                    if let Some(client) = &mut self.client {
                        confirm(client, &change);
                        self.server.note_done(change);
                    }
                }
                _ => return,
            }
        }
    }

    pub(crate) fn is_for_client(&self) -> bool {
        self.client.is_some() && !matches!(self.server.expect.front(), Some(Expect::Own(_)))
    }

    fn pop(&mut self, is_it: impl Fn(&Expect) -> bool) -> Option<Expect> {
        if self.server.expect.front().is_some_and(is_it) { self.server.expect.pop_front() } else { None }
    }

    fn decide(&mut self, head: Head, body: &[u8]) -> (Verdict, Option<Next>) {
        match head.tag {
            tag::READY_FOR_QUERY => self.ready(body),
            tag::COMMAND_COMPLETE
                if matches!(self.server.expect.front(), Some(Expect::Query { refusal: Some(_), .. })) =>
            {
                // Unless what it was to fail by could not be made: a cancel has met that.
                let next = (!self.tell_kept_error()).then_some(Next::Violation("what was to fail was done"));
                (Verdict::Drop, next)
            }
            tag::COMMAND_COMPLETE => {
                self.command_complete(body);
                (Verdict::Pass, None)
            }
            tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED => {
                self.names_are_left(|e| matches!(e, Expect::Execute { .. }));
                self.execute_is_answered();
                (Verdict::Pass, None)
            }
            tag::BIND_COMPLETE => self.must_pop(|e| matches!(e, Expect::Bind { .. })),
            tag::PARAMETER_DESCRIPTION => self.told_parameters(body),
            tag::ROW_DESCRIPTION => self.told_columns(Some(body)),
            tag::NO_DATA if self.is_told_columns() => self.told_columns(None),
            tag::NO_DATA => self.must_pop(|e| matches!(e, Expect::Describe { .. })),
            tag::PARSE_COMPLETE => self.parse_complete(),
            tag::CLOSE_COMPLETE => self.close_complete(),
            tag::ERROR_RESPONSE => self.error(head, body),
            tag::NOTICE_RESPONSE => (Verdict::relay_if(!self.tell_notice(body)), None),
            tag::NOTIFICATION_RESPONSE if body.len() + HEAD_BYTES < head.bytes as usize => (Verdict::Pass, None),
            tag::NOTIFICATION_RESPONSE => {
                (Verdict::Drop, self.hears().then_some(Next::Notification(head.bytes as usize)))
            }
            tag::PARAMETER_STATUS => self.parameter_status(body),
            tag::COPY_IN_RESPONSE | tag::COPY_BOTH_RESPONSE => {
                self.server.is_copying = true;
                let next = (!self.is_for_client()).then_some(Next::CopyWithoutClient);
                (Verdict::Pass, next)
            }
            _ => (Verdict::Drop, Some(Next::Violation("a message of unknown type"))),
        }
    }

    fn must_pop(&mut self, is_it: impl Fn(&Expect) -> bool) -> (Verdict, Option<Next>) {
        match self.pop(is_it) {
            Some(_) => (Verdict::Pass, None),
            None => (Verdict::Drop, Some(Next::Violation("an answer that nothing asked for"))),
        }
    }

    fn parse_complete(&mut self) -> (Verdict, Option<Next>) {
        let Some(Expect::Parse { statement, relay, change }) = self.pop(|e| matches!(e, Expect::Parse { .. })) else {
            return (Verdict::Drop, Some(Next::Violation("ParseComplete that nothing asked for")));
        };
        statement.iter().for_each(|s| self.server.statements.is_there(s));
        if let (Some(client), Some(change)) = (&mut self.client, change) {
            confirm(client, &change);
            self.server.note_done(change);
        }
        (Verdict::relay_if(relay), None)
    }

    fn close_complete(&mut self) -> (Verdict, Option<Next>) {
        let Some(Expect::Close { evicted, relay }) = self.pop(|e| matches!(e, Expect::Close { .. })) else {
            return (Verdict::Drop, Some(Next::Violation("CloseComplete that nothing asked for")));
        };
        match evicted {
            Some(statement) => self.server.statements.is_gone(&statement),
            None if !relay => self.server.unnamed_is_dropped(),
            None => {}
        }
        (Verdict::relay_if(relay), None)
    }

    fn command_complete(&mut self, body: &[u8]) {
        if self.server.is_copying {
            self.server.is_copying = false;
            self.server.forget_syncs_before_copy_end();
        }
        let (is_own, names) = match self.server.expect.front() {
            Some(Expect::Own(_)) => (true, false),
            Some(Expect::Query { naming, .. } | Expect::Execute { naming, .. }) => (false, naming.is_some()),
            _ => (false, false),
        };
        if !is_own {
            self.server.endings.anchor = None;
            match body {
                b"DISCARD ALL\0" => {
                    self.all_names_end(body);
                    self.server.left.note_set();
                }
                b"DEALLOCATE ALL\0" => self.all_names_end(body),
                b"SET\0" | b"RESET\0" => self.server.left.note_set(),
                // In session mode nobody reads texts.
                b"LOAD\0" => self.server.left.dirt |= Traces::LIBRARY,
                tag if self.server.left.fresh.has(Traces::OPAQUE) && is_of_schema(tag) => {
                    // Its text could not be read.
                    self.server.left.fresh |= Traces::SCHEMA;
                }
                _ => {}
            }
        }
        if names {
            self.name_is_done(body);
            self.names_are_left(|e| matches!(e, Expect::Execute { .. }));
        }
        self.execute_is_answered();
    }

    /// A PREPARE or DEALLOCATE that this tag may be of was done.
    #[inline(never)]
    fn name_is_done(&mut self, tag: &[u8]) {
        if let Some(Expect::Query { naming, .. } | Expect::Execute { naming, .. }) = self.server.expect.front_mut()
            && let Some(mut done) = naming.take_if(|naming| naming.what.is_told_by(tag))
        {
            *naming = done.next.take();
            self.naming_settles(&done, true);
        }
    }

    /// What is at the head of the queue ends: what it was to do to names and has not done is not done any more, as the
    /// portal was another by then.
    #[inline]
    fn names_are_left(&mut self, ends: impl Fn(&Expect) -> bool) {
        let front = self.server.expect.front();
        let has_left =
            |e: &Expect| matches!(e, Expect::Query { naming: Some(_), .. } | Expect::Execute { naming: Some(_), .. });
        if front.is_some_and(|e| has_left(e) && ends(e)) {
            self.names_are_undone();
        }
    }

    /// What is left of them failed, or was not run.
    pub(crate) fn names_are_undone(&mut self) {
        if let Some(Expect::Query { naming, .. } | Expect::Execute { naming, .. }) = self.server.expect.front_mut()
            && let Some(naming) = naming.take()
        {
            let all: Vec<_> = naming.all().collect();
            all.into_iter().rev().for_each(|naming| self.naming_settles(naming, false));
        }
    }

    #[inline(never)]
    fn naming_settles(&mut self, naming: &Naming, is_done: bool) {
        let is_there = (naming.what == Does::Makes) == is_done;
        for statement in &naming.statements {
            if is_there {
                self.server.statements.is_there(statement);
            } else {
                self.server.statements.is_gone(statement);
            }
        }
        let Some(client) = &mut self.client else { return };
        for change in naming.changes.iter().rev() {
            if is_done || planted(Bug::NameOfFailedPrepare) {
                confirm(client, change);
            } else if let Some(names) = &mut client.statements {
                names.undo(change);
            }
        }
    }

    /// DEALLOCATE ALL or DISCARD ALL was done: of a text that was not read, nothing has been noted of that.
    #[cold]
    fn all_names_end(&mut self, tag: &[u8]) {
        if let Some(Expect::Query { naming, .. } | Expect::Execute { naming, .. }) = self.server.expect.front()
            && naming.as_ref().is_some_and(|naming| naming.what.is_told_by(tag))
        {
            return;
        }
        self.server.statements.forget_named();
        if let Some(names) = self.client.as_mut().and_then(|c| c.statements.as_mut()) {
            names.forget_named();
        }
    }

    fn ready(&mut self, body: &[u8]) -> (Verdict, Option<Next>) {
        let Ok(status) = TransactionStatus::decode(body) else {
            return (Verdict::Drop, Some(Next::Violation("a malformed ReadyForQuery")));
        };
        self.server.status = status;
        self.server.late = None;
        self.server.is_copying = false;
        self.names_are_left(|e| matches!(e, Expect::Query { .. }));
        let ended = self.server.expect.pop_front();
        self.request_is_answered(&ended);
        if let Some(Expect::Query { .. } | Expect::Own(_)) = ended {
            self.server.unnamed_is_dropped();
        }
        match ended {
            Some(Expect::Query { .. } | Expect::Function | Expect::Sync) if self.must_restore() => {
                (Verdict::Drop, Some(Next::Restore))
            }
            Some(Expect::Query { .. } | Expect::Function | Expect::Sync) if self.must_await_own() => {
                (Verdict::Drop, Some(Next::AwaitOwn))
            }
            Some(Expect::Own(Own::Restore)) if self.is_restore_cancelled() => (Verdict::Drop, Some(Next::Restore)),
            Some(Expect::Own(Own::Restore)) => {
                (self.server.own_error, _) = (None, self.server.restoring.clear());
                self.report_hand_over();
                (Verdict::relay_if(self.client.is_some()), Some(Next::Ready))
            }
            Some(Expect::Query { .. } | Expect::Function | Expect::Sync) => {
                // Marks behind the request that this ends: nothing will answer them.
                while matches!(self.server.expect.front(), Some(Expect::CopyEnd)) {
                    self.server.expect.pop_front();
                }
                self.give_notifications();
                if self.server.is_report_due {
                    self.report_hand_over();
                }
                let verdict = Verdict::relay_if(self.client.is_some());
                (verdict, Some(Next::Ready))
            }
            Some(Expect::Own(own)) => (Verdict::Drop, Some(Next::OwnDone(own))),
            _ => (Verdict::Drop, Some(Next::Violation("ReadyForQuery that nothing asked for"))),
        }
    }
}

/// Whether a command's tag is of one that changes objects.
fn is_of_schema(tag: &[u8]) -> bool {
    [b"CREATE ".as_slice(), b"ALTER ", b"DROP "].iter().any(|word| tag.starts_with(word))
}

/// What a message answers.
#[derive(Clone, Copy)]
enum Turn {
    /// A query of our own.
    Ours(Own),
    /// What gives rows.
    Rows,
    /// Anything else that a client has sent, or nothing.
    Theirs,
}

/// What becomes of a message.
pub(crate) enum Verdict {
    /// It goes to the client.
    Pass,
    /// Nothing.
    Drop,
}

impl Verdict {
    /// Passes it if `relay`.
    pub(crate) fn relay_if(relay: bool) -> Verdict {
        if relay { Verdict::Pass } else { Verdict::Drop }
    }
}

fn confirm(client: &mut Client, change: &Change) {
    if let Some(names) = &mut client.statements {
        names.confirm(&change.name);
    }
}

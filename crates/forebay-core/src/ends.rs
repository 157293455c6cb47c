//! What ends a transaction among all that is on its way, and what the loss of a server leaves open by that.
//!
//! What stands behind the end of a block is outside of it and commits by itself, though the last ReadyForQuery still says
//! that there is a block: "not committed" is said only of what can't have been.

use std::collections::VecDeque;

use forebay_pgwire::write;
use forebay_spec::{Report, Severity};
use forebay_sql::shape::{Shape, Verb};

use crate::frame::At;
use crate::leave::encode;
use crate::reply::Relaying;
use crate::request::{Forwarding, Stop};
use crate::session::IDLE;
use crate::session::expect::{Ends, Expect, Own};
use crate::session::server::Server;
use crate::statements::{ends, ends_cut};
use crate::stats::WorkerStats;
use crate::tracking::access::AccessMode;

/// Statements with an end that are remembered where nobody keeps account; with more of them, each may commit.
const UNSHARED_MAX: usize = 64;

/// So much of a Parse is waited for, to see what its statement ends.
const PARSE_BYTES_MIN: usize = 512;

impl Ends {
    /// What a text of this shape ends.
    pub(crate) fn of(shape: &Shape) -> Ends {
        let of_verb = |verb: Verb| match verb {
            Verb::Other => Ends::Commit,
            verb if verb.commits() => Ends::Commit,
            Verb::Rollback => Ends::Block,
            Verb::Call | Verb::Do | Verb::Maintenance | Verb::Database | Verb::Schema => Ends::Itself,
            _ => Ends::Nothing,
        };
        match &*shape.statements {
            [] => Ends::Nothing,
            [statement] => of_verb(statement.verb),
            _ => Ends::Commit,
        }
    }
}

impl Forwarding<'_> {
    /// A Bind goes out, of a statement that ends this.
    #[inline]
    pub(crate) fn bind_ends(&mut self, at: At<'_>, ends: Ends) {
        if at.body().first() == Some(&0) {
            self.server.endings.bound = ends;
        } else {
            self.server.endings.portals = self.server.endings.portals.max(ends);
        }
    }

    /// A Parse goes out of which nobody keeps account but for what its statement ends. One that is long is read as far as it
    /// is there: what ends something is short.
    pub(crate) fn note_unshared_ends(&mut self, at: At<'_>) -> Result<(), Stop> {
        if !at.is_whole() && at.there() < PARSE_BYTES_MIN {
            return Err(Stop::More);
        }
        let Some((name, rest)) = split_at_nul(at.body()) else {
            // For the server to refuse.
            return if at.is_whole() { Ok(()) } else { Err(Stop::More) };
        };
        let ends = split_at_nul(rest).map_or_else(|| ends_cut(rest), |(text, _)| ends(text));
        let all = &mut self.server.endings.unshared;
        let has_room = all.len() < UNSHARED_MAX;
        match all.iter_mut().find(|(known, _)| **known == *name) {
            // Of one that has a name this may fail, and it is what it was.
            Some((_, known)) => *known = if name.is_empty() { ends } else { ends.max(*known) },
            None if ends != Ends::Nothing && has_room => all.push((name.into(), ends)),
            None => {}
        }
        Ok(())
    }

    /// What a statement ends of which nobody keeps account.
    pub(crate) fn unshared_ends(&self, name: &[u8]) -> Ends {
        let all = &self.server.endings.unshared;
        let otherwise = if all.len() < UNSHARED_MAX { Ends::Nothing } else { Ends::Commit };
        all.iter().find(|(known, _)| **known == *name).map_or(otherwise, |(_, ends)| *ends)
    }

    /// What an Execute ends.
    #[inline]
    pub(crate) fn executed_ends(&self, at: At<'_>) -> Result<Ends, Stop> {
        match at.body().first() {
            None if !at.is_whole() => Err(Stop::More),
            Some(0) => Ok(self.server.endings.bound),
            _ => Ok(self.server.endings.portals),
        }
    }
}

impl Relaying<'_> {
    /// The Execute at the head of the queue is answered, if it is one; its Sync is not.
    #[inline]
    pub(crate) fn execute_is_answered(&mut self) {
        if let Some(Expect::Execute { ends, .. }) = self.server.expect.front() {
            // What has run behind the end of a block waits for its Sync to commit.
            let is_outside = self.server.endings.answered >= Ends::Block;
            self.server.endings.answered =
                self.server.endings.answered.max(if is_outside { Ends::Commit } else { *ends });
            self.server.expect.pop_front();
        }
    }

    /// ReadyForQuery has come for what `ended`.
    #[inline]
    pub(crate) fn request_is_answered(&mut self, ended: &Option<Expect>) {
        self.server.endings.answered = Ends::Nothing;
        if self.server.status == IDLE && self.server.expect.is_empty() {
            // Portals go with their transaction.
            self.server.endings.portals = Ends::Nothing;
            self.server.endings.access = AccessMode::default();
        }
        if !matches!(ended, Some(Expect::Own(_))) {
            // It was not the last word.
            self.server.own_error = None;
            self.server.endings.anchor = None;
        }
    }
}

/// What stands before the next NUL, and behind it.
fn split_at_nul(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(0, data)?;
    Some((&data[..at], &data[at + 1..]))
}

/// Whether something that was on its way to a server when it was lost may have been committed. `has_reported`: it said
/// itself why it ends.
pub(crate) fn may_have_committed(server: &Server, has_reported: bool, is_replication: bool) -> bool {
    // Outside a block every statement commits when it ends; only an error of the server's own says that it did not.
    let is_streaming = server.is_copying && is_replication;
    let is_implicit = server.status == IDLE && !server.expect.is_empty() && !is_streaming;
    // What is set again stands behind a request that is done.
    let is_done = matches!(server.expect.front(), Some(Expect::Own(Own::Restore)));
    let mut is_outside = server.endings.answered >= Ends::Block;
    let is_in_block = server.status != IDLE;
    let mut commits_behind = |entry: &Expect| {
        let (ends, runs) = match entry {
            Expect::Query { ends, .. } | Expect::Execute { ends, .. } => (*ends, true),
            Expect::Function => (Ends::Nothing, true),
            _ => (Ends::Nothing, false),
        };
        let commits_itself = ends == Ends::Itself && (is_outside || !is_in_block);
        let commits = ends == Ends::Commit || commits_itself || runs && is_outside && !has_reported;
        is_outside |= ends >= Ends::Block;
        commits
    };
    server.endings.answered == Ends::Commit
        || server.endings.answered == Ends::Itself && !is_in_block
        || is_implicit && (is_done || !has_reported)
        || server.expect.iter().any(&mut commits_behind)
}

/// One error and one ReadyForQuery for every request that a lost server owed. Returns whether the client still
/// has to send the Sync that ends the last of them.
pub(crate) fn answer_lost(out: &mut Vec<u8>, expect: &VecDeque<Expect>, report: &Report, stats: &WorkerStats) -> bool {
    let mut has_error = false;
    for entry in expect {
        if matches!(entry, Expect::CopyEnd) {
            continue;
        }
        if !has_error {
            encode(out, report, Severity::Error, stats);
            has_error = true;
        }
        // What is set again stands before the ReadyForQuery of the request that reset it.
        if matches!(entry, Expect::Query { .. } | Expect::Function | Expect::Sync | Expect::Own(Own::Restore)) {
            write::ready_for_query(out, IDLE);
            has_error = false;
        }
    }
    has_error
}

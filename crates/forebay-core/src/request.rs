//! A client's messages on their way to its server: framed, classified, renamed in place, and entered
//! into the queue of what the server owes.
//!
//! A pipeline goes out as it came: what is not renamed is sent from the buffer it arrived in, and nothing
//! inserts Flush or Sync.

use std::sync::Arc;

use forebay_pgwire::backend::{TransactionStatus, tag as reply};
use forebay_pgwire::frame::{self, FrameError};
use forebay_pgwire::frontend::{BindHead, Parse, Target, tag};
use forebay_pgwire::{rename, write};
use forebay_spec::{Report, errors};

use crate::frame::At;
use crate::planted::{Bug, planted};
use crate::query::TEXT_BYTES_MAX;
use crate::renamed::{Places, name_mark};
use crate::session::batch::Batch;
use crate::session::client::Client;
use crate::session::expect::{Change, Ends, Expect};
use crate::session::server::{Server, ServerState};
use crate::session::{Body, IDLE};
use crate::statements::{ClientStatements, Content, Lookup, Presence, Statement, StatementCache};
use crate::stats::PoolStats;
use crate::time::Instant;
use crate::tracking::mark::Judging;

/// Replies that one server may owe. PostgreSQL gives out replies by 8 KB at the latest, 1,600 of the shortest, so that
/// a pipeline of any length goes on while this many are on their way.
const EXPECT_MAX: usize = 16_384;

/// What no server runs: it is wrong by its grammar, so that nothing a client has prepared can make it right.
pub(crate) const REFUSED: &str = "fb_refused";

/// Writes a Parse that fails, and leaves the unnamed statement as it is.
pub(crate) fn write_failing(out: &mut Vec<u8>) {
    write::parse(out, REFUSED, REFUSED, &[]);
}

/// Stands before a client's own name that begins as ours do, on its way to a server: what is ours is not the client's,
/// not even where it has read the name in `pg_prepared_statements`. Code that a function runs is not read.
pub(crate) const NOT_OURS: &[u8] = b"?";

/// Such a name in a text, as one that no server has: [`crate::renamed`] puts it back into the error.
pub(crate) fn not_ours(name: &str) -> Vec<u8> {
    [b"\"", NOT_OURS, name.replace('"', "\"\"").as_bytes(), b"\""].concat()
}

/// Why forwarding stops.
pub(crate) enum Stop {
    /// More bytes are needed to go on.
    More,
    /// A reply to an earlier message is needed to decide.
    Hold,
    /// What the client listens to is to be set on its server first.
    Listens,
    /// It is a COMMIT, and by what that is found again is to be asked first.
    Anchor,
    /// The client leaves.
    Leave,
    /// It has had its part of this turn: the rest is for the next one.
    Later,
    /// The client is told, and closed.
    Fault(Box<Report>),
    /// The same, for a length that can't be believed.
    BadLength(FrameError),
}

/// What a message that uses a statement is answered with: of the statement if its columns have not been told, of the places
/// in its text and of the client's name for it.
type Expected = fn(Option<Arc<Statement>>, Option<Box<Places>>, &[u8]) -> Expect;

/// How many of the bytes at hand are dealt with; the rest of the frame, if any, is streamed.
pub(crate) type Taken = Result<usize, Stop>;

/// A client with its server, and what is needed to pass messages from one to the other.
pub(crate) struct Forwarding<'a> {
    /// Who sends.
    pub(crate) client: &'a mut Client,
    /// Who receives.
    pub(crate) server: &'a mut Server,
    /// Known statements.
    pub(crate) cache: &'a mut StatementCache,
    /// How statements are judged.
    pub(crate) judging: Judging<'a>,
    /// The number of the schema's state.
    pub(crate) epoch: u32,
    /// What goes out.
    pub(crate) batch: &'a mut Batch,
    /// Counters.
    pub(crate) stats: &'a PoolStats,
    /// Named statements on a server; 0: they pass through unshared.
    pub(crate) server_statements_max: u32,
    /// Names of a client.
    pub(crate) client_statements_max: u32,
    /// What becomes of its COMMITs is to be known.
    pub(crate) checks_commits: bool,
    /// Time of this turn.
    pub(crate) now: Instant,
    /// How many more messages may go on in this turn.
    pub(crate) messages_left: u32,
}

impl Forwarding<'_> {
    /// Forwards what `data` holds from `start` on. Returns why it stopped, and where.
    pub(crate) fn run(&mut self, data: &[u8], mut start: usize, bytes_max: u32) -> (Stop, usize) {
        while start < data.len() {
            if self.client.body_left > 0 {
                start = self.stream(data, start);
                continue;
            }
            let head = match frame::head(&data[start..], bytes_max) {
                Ok(Some(head)) => head,
                Ok(None) => break,
                Err(error) => return (Stop::BadLength(error), start),
            };
            if self.server.expect.is_empty() {
                self.client.request_at = self.now;
                if self.server.status == IDLE {
                    self.client.transaction_at = self.now;
                }
            }
            let at = At::new(data, start, head);
            let taken = if self.server.hand_over.is_some() { self.go_ahead(at) } else { self.step(at) };
            match taken {
                Ok(taken) => start += taken,
                Err(stop) => return (stop, start),
            }
            // Data of a copy is passed on unread: it is cheap, and there may be a lot of it.
            self.messages_left -= u32::from(head.tag != tag::COPY_DATA);
            if self.messages_left == 0 && start < data.len() {
                return (Stop::Later, start);
            }
        }
        (Stop::More, start)
    }

    /// The rest of a message whose head came earlier. Returns where it ends, or the data does.
    fn stream(&mut self, data: &[u8], start: usize) -> usize {
        let end = data.len().min(start + self.client.body_left as usize);
        self.client.body_left -= (end - start) as u32;
        if self.client.body == Body::Forward {
            self.batch.received(start, end);
        }
        end
    }

    /// As [`Self::step`], behind a hand-over.
    #[inline(never)]
    pub(crate) fn step_behind(&mut self, at: At<'_>) -> Taken {
        self.step(at)
    }

    /// Deals with the frame at `at`.
    #[inline(always)]
    fn step(&mut self, at: At<'_>) -> Taken {
        if self.server.is_skipping && at.head.tag != tag::SYNC && at.head.tag != tag::TERMINATE {
            return self.drop_frame(at);
        }
        let is_restoring = !self.server.restoring.is_empty() && self.begins_request(at.head.tag);
        let is_busy = matches!(self.server.state, ServerState::Busy | ServerState::Listening);
        if is_busy || is_restoring || self.awaits_own(at.head.tag) {
            // A question of our own comes first, or what the request before has reset, or has notified.
            return Err(Stop::Hold);
        }
        let is_cancelled = self.server.cancels > 0 && !planted(Bug::CancelToWrongClient);
        if is_cancelled && self.begins_request(at.head.tag) {
            // A cancel of the request before is still on its way; it must not hit this one.
            return Err(Stop::Hold);
        }
        if self.server.expect.len() >= EXPECT_MAX && !matches!(at.head.tag, tag::TERMINATE | tag::SYNC) {
            return Err(Stop::Hold);
        }
        if self.checks_commits
            && let Some(taken) = self.before_commit(at)?
        {
            return Ok(taken);
        }
        match at.head.tag {
            tag::QUERY => self.query(at),
            tag::BIND => {
                let taken = self.bind(at)?;
                self.server.is_segment_open = true;
                Ok(taken)
            }
            tag::EXECUTE => {
                let has_deallocates = !self.server.bound_deallocates.is_empty();
                let naming = if has_deallocates { self.deallocates(at)? } else { None };
                let places = self.server.bound_places.clone();
                let ends = self.executed_ends(at)?;
                self.server.expect.push_back(Expect::Execute { ends, naming, places });
                self.forward(at, 0)
            }
            tag::SYNC => {
                self.server.is_skipping = false;
                self.server.is_segment_open = false;
                self.server.expect.push_back(Expect::Sync);
                self.server.segment = self.server.segment.wrapping_add(1);
                self.forward(at, 0)
            }
            tag::PARSE => {
                self.parse_needs_listens(at)?;
                let taken = self.parse(at)?;
                self.server.is_segment_open = true;
                Ok(taken)
            }
            tag::DESCRIBE => self.describe(at),
            tag::CLOSE => self.close(at),
            tag::FLUSH | tag::COPY_DATA => self.forward(at, 0),
            tag::COPY_DONE | tag::COPY_FAIL => {
                if !self.server.expect.is_empty() {
                    self.server.expect.push_back(Expect::CopyEnd);
                }
                self.forward(at, 0)
            }
            tag::FUNCTION_CALL => self.function_call(at),
            tag::TERMINATE => Err(Stop::Leave),
            other => {
                let report = errors::unexpected_message(char::from(other).escape_default(), "in a session");
                Err(Stop::Fault(Box::new(report)))
            }
        }
    }

    fn function_call(&mut self, at: At<'_>) -> Taken {
        if self.server.left.is_on && at.head.bytes <= TEXT_BYTES_MAX && !at.is_whole() {
            return Err(Stop::More);
        }
        self.mark_function_call(at);
        self.server.expect.push_back(Expect::Function);
        self.forward(at, 0)
    }

    pub(crate) fn is_sharing(&self) -> bool {
        self.server_statements_max > 0
    }

    pub(crate) fn names(&mut self) -> &mut ClientStatements {
        self.client.statements.get_or_insert_with(Box::default)
    }

    /// Passes the frame on, its first `skip` bytes replaced by what `batch` has been given.
    #[inline]
    pub(crate) fn forward(&mut self, at: At<'_>, skip: usize) -> Taken {
        let taken = at.there();
        if skip <= taken {
            self.batch.received(at.start + skip, at.end);
        }
        self.client.body_left = at.head.bytes - taken as u32;
        self.client.body = Body::Forward;
        Ok(taken)
    }

    pub(crate) fn drop_frame(&mut self, at: At<'_>) -> Taken {
        let taken = at.there();
        self.client.body_left = at.head.bytes - taken as u32;
        self.client.body = Body::Drop;
        Ok(taken)
    }

    #[inline(never)]
    fn parse(&mut self, at: At<'_>) -> Taken {
        if !self.is_sharing() {
            return self.parse_unshared(at);
        }
        if !at.is_whole() {
            return Err(Stop::More);
        }
        self.stats.client_parses.add(1);
        let Ok(parse) = Parse::decode(at.body()) else { return malformed("Parse") };
        let segment = self.server.segment;
        let found = self.client.statements.as_ref().map_or(Lookup::Unknown, |names| names.find(parse.name, segment));
        match found {
            // A later unnamed Parse replaces an earlier one whatever became of it.
            Lookup::Unconfirmed if !parse.name.is_empty() => return Err(Stop::Hold),
            Lookup::Known(existing) if !parse.name.is_empty() => {
                return self.parse_duplicate(at, parse.name, &existing);
            }
            Lookup::Unknown if self.is_raw(parse.name) => return self.pass_raw(at, parse.name),
            _ => {}
        }
        if !parse.name.is_empty() && self.names().len() >= self.client_statements_max as usize {
            return Err(Stop::Fault(Box::new(errors::too_many_statements(self.client_statements_max))));
        }
        let wanted = self.client.wanted.clone();
        let nothing = Arc::default();
        let environment = if planted(Bug::StatementWithoutEnvironment) { &nothing } else { wanted.environment() };
        let backslash = self.backslash_in(parse.query);
        let epoch = self.epoch;
        let content = Content { text: parse.query, types: parse.types.as_bytes(), environment, epoch, backslash };
        let is_named = !parse.name.is_empty();
        if let Some(statement) = self.naming_statement(content, is_named)? {
            return self.parse_naming(at, parse.name, statement);
        }
        let statement = match (is_named, self.is_private()) {
            (true, true) => self.cache.private(content),
            (false, true) => self.cache.once(content),
            (true, false) => self.cache.share(content),
            (false, false) => self.cache.share_if_seen(content),
        };
        match self.presence(&statement) {
            Presence::Unconfirmed => Err(Stop::Hold),
            // What is on its way may fail the transaction, and then the answer is another.
            Presence::Present if self.server.status != IDLE && self.server.owes_ready() => Err(Stop::Hold),
            Presence::Present if self.server.status == TransactionStatus::Failed && !statement.ends_transaction() => {
                // The server says that the transaction has failed; the statement stays as it is.
                let change = self.change(parse.name, Some(statement.clone()), segment);
                let taken = self.rename(at, rename::parse, parse.name, statement.name())?;
                let expect = Expect::Parse { statement: None, relay: true, change: Some(change) };
                self.server.expect.push_back(expect);
                Ok(taken)
            }
            Presence::Present => {
                let change = self.change(parse.name, Some(statement), segment);
                self.server.expect.push_back(Expect::Answer { tag: reply::PARSE_COMPLETE, change });
                Ok(at.head.bytes as usize)
            }
            Presence::Absent => {
                self.make_room(&statement);
                let change = self.change(parse.name, Some(statement.clone()), segment);
                self.stats.server_parses.add(1);
                self.server.statements.parse_sent(&statement, segment);
                let taken = self.rename(at, rename::parse, parse.name, statement.name())?;
                let expect = Expect::Parse { statement: Some(statement), relay: true, change: Some(change) };
                self.server.expect.push_back(expect);
                Ok(taken)
            }
        }
    }

    /// As [`Self::parse`], for a text in which another statement's name was replaced.
    fn parse_naming(&mut self, at: At<'_>, name: &[u8], statement: Arc<Statement>) -> Taken {
        let segment = self.server.segment;
        self.ensure_needed(&statement)?;
        self.make_room(&statement);
        let change = self.change(name, Some(statement.clone()), segment);
        self.server.statements.parse_sent(&statement, segment);
        write::parse(self.batch.owned(), statement.name(), statement.text(), statement.types());
        let expect = Expect::Parse { statement: Some(statement), relay: true, change: Some(change) };
        self.server.expect.push_back(expect);
        self.drop_frame(at)
    }

    /// The server itself is made to say that the name exists; the reply is then given the client's name.
    fn parse_duplicate(&mut self, at: At<'_>, name: &[u8], existing: &Arc<Statement>) -> Taken {
        let existing = self.present_or_stand_in(existing, false)?;
        self.server.expect.push_back(Expect::DuplicateParse { name: name.into() });
        self.rename(at, rename::parse, name, existing.name())
    }

    pub(crate) fn change(&mut self, name: &[u8], to: Option<Arc<Statement>>, segment: u32) -> Change {
        let before = self.names().change(name, to, segment);
        Change { name: name.into(), before, segment }
    }

    /// Gives the frame another name, or passes it on where that is the same.
    pub(crate) fn rename(&mut self, at: At<'_>, with: Rename, from: &[u8], to: &[u8]) -> Taken {
        if from == to {
            return self.forward(at, 0);
        }
        match with(self.batch.owned(), at.bytes(), to) {
            Ok(Some(renamed)) => self.forward(at, renamed.skip),
            Ok(None) => Err(Stop::More),
            Err(_) => malformed("statement name"),
        }
    }

    fn bind(&mut self, at: At<'_>) -> Taken {
        self.stats.binds.add(1);
        if !self.is_sharing() {
            self.needs_listens(None)?;
            self.mark_unknown(b"", true);
            match BindHead::decode(at.body()) {
                Some(bind) => {
                    self.note_bind_resets(bind.statement);
                    self.bind_ends(at, self.unshared_ends(bind.statement));
                }
                None if !at.is_whole() => return Err(Stop::More),
                // For the server to refuse.
                None => {}
            }
            self.server.expect.push_back(Expect::Bind { name: 0 });
            return self.forward(at, 0);
        }
        let Some(bind) = BindHead::decode(at.body()) else {
            return if at.is_whole() { malformed("Bind") } else { Err(Stop::More) };
        };
        if !self.server.bound_deallocates.is_empty() {
            self.forget_portal(bind.portal);
        }
        self.with_statement(at, bind.statement, rename::bind, |_, _, name| Expect::Bind { name: name_mark(name) })
    }

    /// Passes on a message that uses a statement by the client's name for it.
    pub(crate) fn with_statement(&mut self, at: At<'_>, name: &[u8], with: Rename, expect: Expected) -> Taken {
        let segment = self.server.segment;
        let (mut undescribed, mut places) = (None, None);
        let found = self.client.statements.as_ref().map_or(Lookup::Unknown, |names| names.find(name, segment));
        let taken = match found {
            Lookup::Unconfirmed => return Err(Stop::Hold),
            Lookup::Known(statement) => {
                let statement = if at.head.tag == tag::BIND { self.meant(name, statement)? } else { statement };
                self.hold_back(&statement)?;
                self.bind_needs_listens(at, &statement)?;
                self.ensure(&statement)?;
                if self.is_outdated(&statement) {
                    return self.refuse_outdated(at, &statement);
                }
                undescribed = (!statement.is_described()).then(|| statement.clone());
                places = Places::of(&statement);
                if at.head.tag == tag::BIND {
                    if let Some(taken) = self.bind_taken(at, name, &statement)? {
                        self.server.expect.push_back(Expect::Bind { name: name_mark(name) });
                        return Ok(taken);
                    }
                    if let Err(report) = self.mark_statement(&statement) {
                        write_failing(self.batch.owned());
                        self.server.expect.push_back(Expect::Refused(report));
                        return self.drop_frame(at);
                    }
                    if at.is_whole() {
                        self.mark_values(statement.shape(), at.body());
                    }
                    self.bind_ends(at, statement.ends());
                    self.server.bound_places = places.take();
                    self.server.bound_undescribed = undescribed.take();
                    if statement.takes_away() {
                        self.note_deallocate(at, &statement);
                    }
                }
                self.rename(at, with, name, statement.name())
            }
            Lookup::Unknown => self.with_unknown_statement(at, name, with),
        }?;
        self.server.expect.push_back(expect(undescribed, places, name));
        Ok(taken)
    }

    /// The server says that it does not exist, in its own words, or it was prepared by a statement.
    #[inline(never)]
    fn with_unknown_statement(&mut self, at: At<'_>, name: &[u8], with: Rename) -> Taken {
        self.mark_unknown(b"", true);
        if at.head.tag == tag::BIND {
            // Nobody has read the text of what it may have prepared itself under a name like that.
            self.bind_ends(at, if self.is_raw(name) { Ends::Commit } else { Ends::Nothing });
            self.server.bound_places = None;
            self.server.bound_undescribed = None;
        }
        if name.is_empty() && self.server.statements.may_have_unnamed() {
            // Another client's unnamed statement must not answer to this one.
            write::close(self.batch.owned(), Target::STATEMENT, b"");
            self.server.statements.forget_unnamed();
            self.server.expect.push_back(Expect::Close { evicted: None, relay: false });
        }
        if self.is_ours(name) {
            return self.rename(at, with, name, &[NOT_OURS, name].concat());
        }
        self.forward(at, 0)
    }

    #[inline(never)]
    fn close(&mut self, at: At<'_>) -> Taken {
        if !at.is_whole() {
            return Err(Stop::More);
        }
        let Ok(target) = Target::decode(at.body()) else { return malformed("Close") };
        if !self.is_sharing() || !target.is_statement() {
            if !self.server.bound_deallocates.is_empty() {
                self.forget_portal(target.name);
            }
            self.server.expect.push_back(Expect::Close { evicted: None, relay: true });
            return self.forward(at, 0);
        }
        let segment = self.server.segment;
        match self.names().find(target.name, segment) {
            Lookup::Unconfirmed => return Err(Stop::Hold),
            Lookup::Unknown if self.is_raw(target.name) => return self.pass_raw(at, target.name),
            _ => {}
        }
        // The server keeps the statement for others.
        let change = self.change(target.name, None, segment);
        self.server.expect.push_back(Expect::Answer { tag: reply::CLOSE_COMPLETE, change });
        Ok(at.head.bytes as usize)
    }
}

pub(crate) type Rename = fn(&mut Vec<u8>, &[u8], &[u8]) -> Result<Option<rename::Rename>, forebay_pgwire::DecodeError>;

#[cold]
pub(crate) fn malformed(message: &str) -> Taken {
    Err(Stop::Fault(Box::new(errors::malformed_message(message))))
}

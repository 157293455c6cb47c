//! A Query on its way to its server: what its text does, whether it may go, and which statements it names.
//!
//! PREPARE, EXECUTE and DEALLOCATE share their names with the extended protocol: on servers such a statement has a name
//! of ours, which is put in the place of the client's, and it is prepared where it is needed.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::frontend::tag;
use forebay_pgwire::{rename, write};
use forebay_spec::{Report, Severity, errors};
use forebay_sql::lexer::Backslash;
use forebay_sql::shape::{Shape, StatementShape, Verb};
use forebay_sql::traces::Traces;

use crate::frame::At;
use crate::named::Named;
use crate::renamed::Places;
use crate::request::{Forwarding, NOT_OURS, REFUSED, Rename, Stop, Taken, not_ours};
use crate::session::IDLE;
use crate::session::expect::{Does, Ends, Expect, Naming, Refusal};
use crate::statements::{Lookup, Statement, ends, takes_all};

/// Texts up to this length are looked at; a longer one may do anything.
pub(crate) const TEXT_BYTES_MAX: u32 = forebay_sql::shorten::LONG_BYTES_MAX as u32;

/// Bytes of a Query's text that tell whether it commits.
const COMMIT_PREFIX_BYTES: usize = 64;

impl Forwarding<'_> {
    pub(crate) fn query(&mut self, at: At<'_>) -> Taken {
        if self.client.usage.is_extended_only {
            return self.refuse_query(at, errors::simple_query_refused());
        }
        let text = at.body();
        let is_tracked = self.server.left.is_on;
        let is_read = is_tracked || self.has_start_untracked();
        let is_awaited = if is_read { at.head.bytes <= TEXT_BYTES_MAX } else { text.len() < COMMIT_PREFIX_BYTES };
        if is_awaited && !at.is_whole() {
            return Err(Stop::More);
        }
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        if !is_tracked || !at.is_whole() {
            self.needs_listens(None)?;
            self.mark_unknown(text, at.is_whole());
            let takes_all = at.is_whole() && self.takes_all_unread(text)?;
            if at.is_whole() {
                self.note_query_resets(text);
                self.note_clearing_in(text);
            }
            let ends = if at.is_whole() { ends_unread(text) } else { Ends::Commit };
            let naming = takes_all.then(|| self.take_all());
            return self.pass_query(at, ends, naming);
        }
        let backslash = self.backslash_in(text);
        let shape = self.cache.shape(text, backslash);
        self.needs_listens(Some(&shape))?;
        if let Some(named) = Named::find(text, &shape, backslash)
            && self.is_sharing()
            && !self.server.is_segment_open
            && let Some(taken) = self.named_query(at, &named, &shape, backslash)?
        {
            return Ok(taken);
        }
        if !self.server.is_segment_open
            && let Some(taken) = self.several_query(at, text, &shape, backslash)?
        {
            return Ok(taken);
        }
        if takes_all(&shape) {
            self.await_all()?;
        }
        let marked = match self.has_name_of(&shape) {
            Some((_, name)) => Err(Box::new(already_exists(name))),
            None => self.mark(&shape, text),
        };
        match marked {
            Ok(()) => {
                let naming = takes_all(&shape).then(|| self.take_all());
                self.pass_query(at, Ends::of(&shape), naming)
            }
            Err(report) => self.refuse_query(at, *report),
        }
    }

    /// What has the name that a text which begins with a PREPARE gives, and that name.
    pub(crate) fn has_name_of<'s>(&self, shape: &'s Shape) -> Option<(Arc<Statement>, &'s str)> {
        let StatementShape { verb: Verb::Prepare, name: Some(name), .. } = shape.statements.first()? else {
            return None;
        };
        let names = self.client.statements.as_ref().filter(|_| self.server.status != TransactionStatus::Failed)?;
        match names.find(name.as_bytes(), self.server.segment) {
            Lookup::Known(statement) => Some((statement, name)),
            _ => None,
        }
    }

    /// Whether a text that is not tracked, of which the first letters are looked at, takes all statements away.
    fn takes_all_unread(&mut self, text: &[u8]) -> Result<bool, Stop> {
        if !self.is_sharing() || !matches!(text, [b'd' | b'D', b'e' | b'E' | b'i' | b'I', ..]) {
            return Ok(false);
        }
        let shape = self.cache.shape(text, self.backslash_in(text));
        let takes_all = takes_all(&shape);
        if takes_all {
            self.await_all()?;
        }
        Ok(takes_all)
    }

    fn pass_query(&mut self, at: At<'_>, ends: Ends, naming: Option<Box<Naming>>) -> Taken {
        if naming.is_some() {
            // What comes behind waits until it is known whether this was done.
            self.server.segment = self.server.segment.wrapping_add(1);
        }
        self.server.expect.push_back(Expect::Query { ends, refusal: None, naming, places: None });
        self.unnamed_ends();
        self.forward(at, 0)
    }

    /// Makes the server say that the Query fails, and the client hear why.
    #[cold]
    pub(crate) fn refuse_query(&mut self, at: At<'_>, report: Report) -> Taken {
        write::query(self.batch.owned(), REFUSED);
        let refusal = Refusal::Instead(report);
        let refusal = Some(Box::new(refusal));
        self.server.expect.push_back(Expect::Query { ends: Ends::Nothing, refusal, naming: None, places: None });
        self.unnamed_ends();
        self.drop_frame(at)
    }

    /// A Query drops the unnamed statement.
    pub(crate) fn unnamed_ends(&mut self) {
        if self.server.is_segment_open {
            // PostgreSQL 18 is left in a state that refuses its next statement; that must not be another client's.
            self.server.is_close_needed = true;
            self.server.is_segment_open = false;
        }
        self.server.statements.forget_unnamed();
        if let Some(names) = &mut self.client.statements {
            names.clear_unnamed();
        }
    }

    /// A Query about a statement by its name. `None`: the name is none that is known here.
    #[inline(never)]
    fn named_query(
        &mut self,
        at: At<'_>,
        named: &Named<'_>,
        shape: &Shape,
        backslash: Backslash,
    ) -> Result<Option<usize>, Stop> {
        if self.server.status != IDLE && self.server.owes_ready() {
            // What is on its way may fail the transaction, and then nothing of this is done.
            return Err(Stop::Hold);
        }
        if self.server.status == TransactionStatus::Failed {
            // The server refuses it whatever its name means.
            return Ok(None);
        }
        let name = named.name.as_bytes();
        let segment = self.server.segment;
        let found = self.client.statements.as_ref().map_or(Lookup::Unknown, |names| names.find(name, segment));
        let known = match found {
            Lookup::Unconfirmed => return Err(Stop::Hold),
            Lookup::Known(statement) => Some(statement),
            Lookup::Unknown if !self.is_raw(name) => None,
            Lookup::Unknown if self.is_ours(name) => return self.send_not_ours(at, named).map(Some),
            Lookup::Unknown => return Ok(None),
        };
        match (named.verb, known) {
            (Verb::Prepare, Some(existing)) => self.prepare_taken(at, named, &existing).map(Some),
            (Verb::Prepare, None) => self.prepare(at, named, backslash),
            (Verb::Execute, Some(statement)) => {
                let marked = if is_plain_execute(shape) { Ok(()) } else { self.mark(shape, named.text) };
                if let Err(report) = marked.and_then(|()| self.mark(statement.shape(), statement.text())) {
                    return self.refuse_query(at, *report).map(Some);
                }
                self.ensure_apart(&statement)?;
                // The protocol may have prepared a DEALLOCATE.
                let naming = if statement.takes_away() { Some(self.takes(&statement)?) } else { None };
                self.may_take_away(statement.needs());
                self.send_named(at, named, &statement, naming).map(Some)
            }
            (Verb::Deallocate, Some(statement)) => {
                let statement = self.present_or_stand_in(&statement, true)?;
                let change = self.change(name, None, segment);
                self.server.statements.close_sent(&statement, segment);
                let naming = Naming::of(Does::Takes, vec![change], vec![statement.clone()]);
                self.send_named(at, named, &statement, Some(Box::new(naming))).map(Some)
            }
            (Verb::Execute | Verb::Deallocate, None) if self.is_ours(name) => self.send_not_ours(at, named).map(Some),
            _ => Ok(None),
        }
    }

    /// An EXECUTE, within what is executed, of a DEALLOCATE that the protocol prepared: nobody keeps account of what that takes
    /// away, so that the server is nobody else's.
    pub(crate) fn may_take_away(&mut self, executed: Option<&Arc<Statement>>) {
        let mut chain = std::iter::successors(executed, |statement| statement.needs());
        self.server.is_close_needed |= chain.any(|statement| statement.takes_away());
    }

    /// What is ours under this name is not the client's.
    #[cold]
    fn send_not_ours(&mut self, at: At<'_>, named: &Named<'_>) -> Taken {
        let text = named.with(&not_ours(&named.name));
        write::query(self.batch.owned(), &text);
        self.server.left.fresh |= Traces::PREPARED;
        self.server.expect.push_back(Expect::Query { ends: Ends::Nothing, refusal: None, naming: None, places: None });
        self.unnamed_ends();
        self.drop_frame(at)
    }

    /// The server itself is made to say what is wrong: with the statement first, then that its name is taken.
    #[cold]
    fn prepare_taken(&mut self, at: At<'_>, named: &Named<'_>, existing: &Arc<Statement>) -> Taken {
        let existing = self.present_or_stand_in(existing, true)?;
        let text = named.with(existing.name());
        write::query(self.batch.owned(), &text);
        let refusal = Some(Box::new(Refusal::AsItIs));
        let places = Places::new(named.name.as_bytes(), named.moved(existing.name()), &text, &existing).taken();
        let places = Some(Box::new(places));
        self.server.expect.push_back(Expect::Query { ends: Ends::Nothing, refusal, naming: None, places });
        self.unnamed_ends();
        self.drop_frame(at)
    }

    fn prepare(&mut self, at: At<'_>, named: &Named<'_>, backslash: Backslash) -> Result<Option<usize>, Stop> {
        let Some(body) = named.body else { return Ok(None) };
        let names = self.client.statements.as_ref().map_or(0, |names| names.len());
        if names >= self.client_statements_max as usize {
            return Ok(None);
        }
        let environment = self.client.wanted.environment().clone();
        let statement =
            self.cache.by_query(body, backslash, &environment, |name| (named.with(name), named.moved(name)));
        self.make_room(&statement);
        let segment = self.server.segment;
        let change = self.change(named.name.as_bytes(), Some(statement.clone()), segment);
        self.server.statements.parse_sent(&statement, segment);
        let naming = Naming::of(Does::Makes, vec![change], vec![statement.clone()]);
        self.send_named(at, named, &statement, Some(Box::new(naming))).map(Some)
    }

    /// Sends the text with the server's name for the statement.
    fn send_named(
        &mut self,
        at: At<'_>,
        named: &Named<'_>,
        statement: &Arc<Statement>,
        naming: Option<Box<Naming>>,
    ) -> Taken {
        let text = named.with(statement.name());
        write::query(self.batch.owned(), &text);
        let places = Places::new(named.name.as_bytes(), named.moved(statement.name()), &text, statement);
        let places = Some(Box::new(places));
        // The protocol may have prepared a COMMIT.
        let ends = if named.verb == Verb::Execute { statement.ends() } else { Ends::Nothing };
        self.server.expect.push_back(Expect::Query { ends, refusal: None, naming, places });
        // What comes behind waits until it is known whether this was done.
        self.server.segment = self.server.segment.wrapping_add(1);
        self.unnamed_ends();
        self.drop_frame(at)
    }

    /// Whether a client's own name could be one of ours on a server.
    pub(crate) fn is_ours(&self, name: &[u8]) -> bool {
        name.starts_with(self.cache.prefix())
    }

    /// Whether the client has prepared a statement of this name in a text of which nobody keeps account.
    pub(crate) fn is_raw(&self, name: &[u8]) -> bool {
        self.client.raw_names().iter().any(|raw| raw.as_bytes() == name)
    }

    /// Passes on a Parse or Close of such a name: the server knows whether it has the statement.
    pub(crate) fn pass_raw(&mut self, at: At<'_>, name: &[u8]) -> Taken {
        self.server.left.fresh |= Traces::PREPARED;
        self.server.expect.push_back(match at.head.tag {
            tag::PARSE => Expect::Parse { statement: None, relay: true, change: None },
            _ => Expect::Close { evicted: None, relay: true },
        });
        let with: Rename = if at.head.tag == tag::PARSE { rename::parse } else { rename::close };
        // What is ours under this name is not the client's.
        if self.is_ours(name) { self.rename(at, with, name, &[NOT_OURS, name].concat()) } else { self.forward(at, 0) }
    }

    /// Notes what an execution of `statement` may leave behind.
    pub(crate) fn mark_statement(&mut self, statement: &Statement) -> Result<(), Box<Report>> {
        let shape = statement.shape();
        self.doubt_access_of(shape);
        self.may_take_away(statement.needs());
        match statement.needs() {
            Some(needs) if is_plain_execute(shape) => self.mark(needs.shape(), needs.text()),
            Some(needs) => {
                self.mark(shape, statement.text())?;
                self.mark(needs.shape(), needs.text())
            }
            None => self.mark(shape, statement.text()),
        }
    }
}

/// An EXECUTE that leaves nothing behind by itself: its arguments call nothing.
fn is_plain_execute(shape: &Shape) -> bool {
    matches!(&*shape.statements, [statement] if statement.verb == Verb::Execute)
        && shape.functions.is_empty()
        && shape.maybe_functions.is_empty()
        && shape.relations.is_empty()
        && shape.types.is_empty()
}

/// As PostgreSQL says it.
fn already_exists(name: &str) -> Report {
    Report {
        severity: Severity::Error,
        code: "",
        sqlstate: "42P05",
        message: format!("prepared statement \"{name}\" already exists"),
        detail: None,
        hint: None,
        pgbouncer: None,
    }
}

/// What a text ends that is not looked at any closer: one that holds several statements may commit, anywhere.
fn ends_unread(text: &[u8]) -> Ends {
    let statement = text.trim_ascii_end();
    let statement = statement.strip_suffix(b";").unwrap_or(statement);
    if memchr::memchr(b';', statement).is_some() { Ends::Commit } else { ends(statement) }
}

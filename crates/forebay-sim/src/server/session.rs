//! One session of the fake PostgreSQL: messages in, messages out; no time, no network.
//!
//! The same type serves as the server behind the pooler and, fed directly, as the oracle of what a client must see.
//!
//! | state | set by | left by |
//! |---|---|---|
//! | block none / open / failed | BEGIN, error, COMMIT, ROLLBACK | |
//! | skipping | an error in the extended protocol | Sync |
//! | copy | COPY in | CopyDone, CopyFail, an error |

use std::collections::BTreeMap;

use crate::server::belongings::Belongings;
use crate::server::commits::Trail;
use crate::server::language::{Question, Statement, statements};
use crate::server::replies::{parameter_status, report, row_description};
use crate::server::settings::Settings;
use crate::wire::{Body, Frame, Front, Tag};

/// A transaction block, as ReadyForQuery names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    None,
    Open,
    Failed,
}

#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) text: String,
    pub(super) statement: Statement,
    pub(super) oids: Vec<i32>,
    pub(super) frozen: String,
}

#[derive(Clone, Debug)]
pub(super) struct Portal {
    pub(super) text: String,
    pub(super) statement: Statement,
    pub(super) params: Vec<Option<Vec<u8>>>,
    pub(super) frozen: String,
    pub(super) sent: u32,
    pub(super) is_done: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) mark: String,
    pub(super) lines: u32,
    pub(super) is_extended: bool,
    /// What follows in the same Query.
    pub(super) rest: Vec<Statement>,
}

/// An SQLSTATE and words.
pub(super) struct Failure(pub(super) String, pub(super) String);

/// What a statement or message came to.
pub(super) type Run<T> = Result<T, Failure>;

pub(super) fn failure<T>(code: &str, words: impl Into<String>) -> Run<T> {
    Err(Failure(code.to_owned(), words.into()))
}

/// A session, from ReadyForQuery on.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) settings: Settings,
    pub(super) block: Block,
    /// Something ran since the last Sync or Query, outside a block.
    is_implicit: bool,
    pub(super) is_skipping: bool,
    pub(super) copy: Option<Copy>,
    pub(super) prepared: BTreeMap<String, Prepared>,
    pub(super) portals: BTreeMap<String, Portal>,
    pub(crate) inserted: Vec<String>,
    pub(super) own: Belongings,
    /// Names of the savepoints, and how many effects there were at each.
    savepoints: Vec<(String, usize)>,
    /// Effects that became permanent; the owner of the session takes them.
    pub(crate) committed: Vec<String>,
    /// Channels and payloads to be told; the owner of the session takes them.
    pub(crate) told: Vec<(String, String)>,
    /// It is on a replica, which takes no mark.
    pub(crate) is_standby: bool,
    /// Its client has been told so.
    pub(crate) says_standby: bool,
    /// Its transaction takes none either.
    pub(crate) is_read_only: bool,
    /// The marks that are there, whoever has left them.
    pub(crate) ledger: Vec<Tag>,
    /// The number of the last record that is there; 0: of a log nothing is known.
    pub(crate) horizon: u64,
    /// Marks of its own that no text tells of.
    pub(crate) hidden: Vec<String>,
    pub(crate) trail: Trail,
    pub(super) out: Vec<Frame>,
}

/// Whether it is a name of forebay's for a statement: what was drawn at start, and a number.
pub(crate) fn is_of_pooler(name: &str) -> bool {
    let mut parts = name.split('_');
    let (start, drawn, number) = (parts.next(), parts.next(), parts.next());
    let is_drawn = drawn.is_some_and(|part| part.len() == 8 && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    let is_number = number.is_some_and(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    start == Some("fb") && is_drawn && is_number && parts.next().is_none()
}

impl Session {
    /// A session with these startup parameters; `Err` with the name of an unknown one.
    pub(crate) fn new(params: &[(String, String)]) -> Result<Session, String> {
        Ok(Session {
            settings: Settings::new(params)?,
            block: Block::None,
            is_implicit: false,
            is_skipping: false,
            copy: None,
            prepared: BTreeMap::new(),
            portals: BTreeMap::new(),
            inserted: Vec::new(),
            own: Belongings::default(),
            savepoints: Vec::new(),
            committed: Vec::new(),
            told: Vec::new(),
            is_standby: false,
            says_standby: false,
            is_read_only: false,
            ledger: Vec::new(),
            horizon: 0,
            hidden: Vec::new(),
            trail: Trail::default(),
            out: Vec::new(),
        })
    }

    /// Carries out a message. `stop`: the statement with that index within it fails with that SQLSTATE (a cancel).
    pub(crate) fn execute(&mut self, message: &Front, stop: Option<(usize, &str)>) -> Vec<Frame> {
        if self.copy.is_some() {
            self.copy_message(message);
        } else if self.is_skipping {
            if *message == Front::Sync {
                self.is_skipping = false;
                self.finish_request();
            }
        } else {
            match message {
                Front::Query(text) => {
                    self.prepared.remove("");
                    self.query(statements(text), stop);
                }
                Front::Sync => self.finish_request(),
                Front::Function { argument } => self.function(argument),
                _ => {
                    if let Err(failed) = self.extended(message, stop) {
                        self.fail(&failed);
                        self.is_skipping = true;
                    }
                }
            }
        }
        std::mem::take(&mut self.out)
    }

    /// The status that ReadyForQuery carries.
    pub(crate) fn status(&self) -> u8 {
        match self.block {
            Block::None => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        }
    }

    /// Whether another client may use the session: nothing open, nothing half done.
    pub(crate) fn is_clean(&self) -> bool {
        self.block == Block::None && !self.is_implicit && !self.is_skipping && self.copy.is_none()
    }

    /// Whether COPY data is expected.
    pub(crate) fn is_copying(&self) -> bool {
        self.copy.is_some()
    }

    /// How long the statements of a message sleep.
    pub(crate) fn sleep_in(&self, message: &Front) -> u64 {
        let sleep = |statement: &Statement| match statement {
            Statement::Sleep { millis, .. } | Statement::Pause { millis } => *millis,
            _ => 0,
        };
        match message {
            _ if self.is_skipping || self.copy.is_some() => 0,
            Front::Query(text) if !text.contains("sleep") => 0,
            Front::Query(text) => statements(text).iter().map(sleep).sum(),
            Front::Execute { portal, .. } => self.portals.get(portal).map_or(0, |p| sleep(&p.statement)),
            _ => 0,
        }
    }

    /// Where a cancel would stop a message: the index of the statement, and the tag of its request.
    pub(crate) fn stop_of(&self, message: &Front) -> Option<(usize, Option<Tag>)> {
        if self.is_skipping || self.copy.is_some() {
            return None;
        }
        match message {
            Front::Query(text) => {
                let list = statements(text);
                let sleeper = list.iter().position(|s| matches!(s, Statement::Sleep { .. }));
                (list != [Statement::Empty]).then(|| (sleeper.unwrap_or(0), Tag::first_in(text.as_bytes())))
            }
            Front::Execute { portal, .. } => {
                let portal = self.portals.get(portal)?;
                let params = portal.params.iter().flatten().flat_map(|p| Tag::all_in(p));
                Some((0, params.chain(Tag::all_in(portal.text.as_bytes())).next()))
            }
            _ => None,
        }
    }

    /// The text of a prepared statement.
    pub(crate) fn text_of_statement(&self, name: &str) -> Option<&str> {
        self.prepared.get(name).map(|prepared| &*prepared.text)
    }

    /// Tags in that text.
    pub(crate) fn tags_of_statement(&self, name: &str) -> Vec<Tag> {
        self.text_of_statement(name).map_or_else(Vec::new, |text| Tag::all_in(text.as_bytes()))
    }

    /// The session lost its server: as if the transaction had never been, and the batch skipped to its Sync.
    pub(crate) fn lose(&mut self, message: &Front) -> Vec<Frame> {
        let copy = self.copy.as_ref().map(|copy| copy.is_extended);
        self.abandon();
        match (message, copy) {
            (_, Some(false)) => self.finish_request(),
            // A Sync that fell into the copy counts for nothing.
            (_, Some(true)) => self.is_skipping = true,
            (Front::Sync | Front::Query(_) | Front::Function { .. }, None) => {
                self.is_skipping = false;
                self.finish_request();
            }
            _ => self.is_skipping = true,
        }
        std::mem::take(&mut self.out)
    }

    /// Whether it is told what others notify on a channel.
    pub(crate) fn hears(&self, channel: &str) -> bool {
        self.own.hears(channel)
    }

    /// What it listens to, by what its transaction has done so far.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &String> {
        self.own.channels()
    }

    /// Whether it listens, by what its transaction has done so far.
    pub(crate) fn listens(&self, channel: &str) -> bool {
        self.own.channels().any(|name| name == channel)
    }

    /// The open transaction is gone, and what it did with it.
    pub(crate) fn abandon(&mut self) {
        self.end_transaction(false);
        self.copy = None;
    }

    /// The pooler refuses what a message would do: the server is made to fail in its place.
    pub(crate) fn refuse(&mut self, message: &Front) -> Vec<Frame> {
        if matches!(message, Front::Query(_)) {
            self.fail(&Failure("42601".into(), "refused".into()));
            self.finish_request();
        } else {
            self.fail(&Failure("26000".into(), "refused".into()));
            self.is_skipping = true;
        }
        std::mem::take(&mut self.out)
    }

    /// What the session knows of the sequences that a text names is lost.
    pub(crate) fn forget_sequences_in(&mut self, text: &str) {
        self.own.forget_sequences_in(text);
    }

    /// A message of the extended protocol is stopped before it has done anything.
    pub(crate) fn interrupt(&mut self) -> Vec<Frame> {
        self.fail(&Failure("57014".into(), "canceling statement due to statement timeout".into()));
        self.is_skipping = true;
        std::mem::take(&mut self.out)
    }

    /// Whether it skips up to a Sync.
    pub(crate) fn is_skipping(&self) -> bool {
        self.is_skipping
    }

    /// What must not reach another client, in words; settings may be the other's own.
    pub(crate) fn held(&self) -> Option<String> {
        let prepared = self.prepared.iter().find(|(name, _)| !name.is_empty() && !is_of_pooler(name));
        let other = (!self.settings.is_self()).then(|| "session authorization".to_owned());
        self.own.held().or(other).or_else(|| prepared.map(|(name, _)| format!("prepared statement {name}")))
    }

    /// Whose role it has; each client takes on one of its own.
    pub(crate) fn role_owner(&self) -> Option<u32> {
        self.settings.get("role")?.strip_prefix("clerk")?.parse().ok()
    }

    /// Whether something is there that keeps a server with its client.
    pub(crate) fn has(&self, question: Question) -> bool {
        match question {
            Question::Prepared => self.prepared.keys().any(|name| !name.is_empty() && !is_of_pooler(name)),
            Question::Authorization => !self.settings.is_self(),
            _ => self.own.has(question),
        }
    }

    pub(super) fn query(&mut self, list: Vec<Statement>, stop: Option<(usize, &str)>) {
        for (i, statement) in list.iter().enumerate() {
            let run = match stop {
                Some((at, code)) if at == i => failure(code, "canceling statement due to user request"),
                _ => self.simple(statement),
            };
            if let Err(failed) = run {
                self.copy = None;
                self.fail(&failed);
                break;
            }
            if let Some(copy) = &mut self.copy {
                copy.rest = list[i + 1..].to_vec();
                return;
            }
        }
        self.finish_request();
    }

    fn simple(&mut self, statement: &Statement) -> Run<()> {
        if *statement == Statement::Empty {
            self.out.push(Frame::new(b'I', vec![]));
            return Ok(());
        }
        self.refuse_if_failed(statement.ends_transaction())?;
        if *statement == Statement::Unknown {
            return failure("42601", "syntax error");
        }
        let (statement, params, frozen) = match statement {
            Statement::Execute { name, values } => self.prepared_with(name, values)?,
            _ => (statement.clone(), vec![], self.frozen()),
        };
        if statement.params() > params.len() {
            return failure("42P02", "there is no parameter $1");
        }
        if let Some(columns) = statement.columns() {
            self.out.push(row_description(columns));
        }
        let mut portal = Portal { text: String::new(), statement, params, frozen, sent: 0, is_done: false };
        self.run(&mut portal, 0, false)
    }

    /// What EXECUTE runs.
    #[expect(clippy::type_complexity, reason = "the parts of a portal to be")]
    fn prepared_with(&self, name: &str, values: &[String]) -> Run<(Statement, Vec<Option<Vec<u8>>>, String)> {
        let Some(prepared) = self.prepared.get(name) else {
            return failure("26000", format!("prepared statement \"{name}\" does not exist"));
        };
        if prepared.statement.params() != values.len() {
            return failure("42601", format!("wrong number of parameters for prepared statement \"{name}\""));
        }
        let params = values.iter().map(|value| Some(value.clone().into_bytes())).collect();
        Ok((prepared.statement.clone(), params, prepared.frozen.clone()))
    }

    fn function(&mut self, argument: &[u8]) {
        match self.refuse_if_failed(false) {
            Err(failed) => self.fail(&failed),
            Ok(()) => {
                let body = Body::default().int32(argument.len() as i32).bytes(argument);
                self.out.push(body.frame(b'V'));
            }
        }
        self.finish_request();
    }

    pub(super) fn begin(&mut self, is_read_only: bool) {
        self.is_read_only = is_read_only;
        if self.block == Block::Open {
            self.out.push(report(b'N', "WARNING", "25001", "there is already a transaction in progress"));
        }
        self.block = Block::Open;
        self.complete("BEGIN");
    }

    pub(super) fn end(&mut self, is_commit: bool) {
        if self.block == Block::None {
            self.out.push(report(b'N', "WARNING", "25P01", "there is no transaction in progress"));
        }
        let is_kept = is_commit && self.block != Block::Failed;
        self.end_transaction(is_kept);
        self.complete(if is_kept { "COMMIT" } else { "ROLLBACK" });
    }

    fn end_transaction(&mut self, is_kept: bool) {
        if is_kept {
            self.settings.commit();
            let told = self.own.commit();
            self.told.extend(told);
            self.committed.append(&mut self.inserted);
        } else {
            self.settings.rollback();
            self.own.rollback();
            self.inserted.clear();
        }
        self.trail.ends(is_kept);
        self.savepoints.clear();
        self.portals.clear();
        (self.block, self.is_read_only) = (Block::None, false);
        self.is_implicit = false;
    }

    pub(super) fn savepoint(&mut self, name: &str) -> Run<()> {
        if self.block == Block::None {
            return failure("25P01", "SAVEPOINT can only be used in transaction blocks");
        }
        self.savepoints.push((name.to_owned(), self.inserted.len()));
        self.settings.savepoint();
        self.own.savepoint();
        self.complete("SAVEPOINT");
        Ok(())
    }

    pub(super) fn release(&mut self, name: &str) -> Run<()> {
        let at = self.find_savepoint(name)?;
        self.savepoints.truncate(at);
        self.settings.release(at);
        self.own.release(at);
        self.complete("RELEASE");
        Ok(())
    }

    pub(super) fn rollback_to(&mut self, name: &str) -> Run<()> {
        let at = self.find_savepoint(name)?;
        self.savepoints.truncate(at + 1);
        self.settings.release(at + 1);
        self.own.release(at + 1);
        self.restore();
        self.block = Block::Open;
        self.complete("ROLLBACK");
        Ok(())
    }

    fn find_savepoint(&self, name: &str) -> Run<usize> {
        if self.block == Block::None {
            return failure("25P01", "savepoints can only be used in transaction blocks");
        }
        let found = self.savepoints.iter().rposition(|(known, _)| known == name);
        found.map_or_else(|| failure("3B001", format!("savepoint \"{name}\" does not exist")), Ok)
    }

    /// Back to the innermost savepoint, or to where the transaction began.
    fn restore(&mut self) {
        self.settings.restore();
        self.own.restore();
        self.inserted.truncate(self.savepoints.last().map_or(0, |(_, count)| *count));
    }

    pub(super) fn start_implicit(&mut self) {
        self.settings.begin();
        self.own.begin();
        self.is_implicit = self.block == Block::None;
    }

    pub(super) fn refuse_if_failed(&self, is_exit: bool) -> Run<()> {
        if self.block == Block::Failed && !is_exit {
            return failure("25P02", "current transaction is aborted, commands ignored until end of transaction block");
        }
        Ok(())
    }

    pub(super) fn fail(&mut self, Failure(code, words): &Failure) {
        self.out.push(report(b'E', "ERROR", code, words));
        if self.block == Block::None {
            self.end_transaction(false);
        } else {
            self.restore();
            self.block = Block::Failed;
        }
    }

    /// Ends the implicit transaction, reports changed settings, and is ready for the next request.
    pub(super) fn finish_request(&mut self) {
        if self.block == Block::None {
            self.end_transaction(true);
        }
        for (name, value) in self.settings.changes() {
            self.out.push(parameter_status(name, &value));
        }
        self.say_promoted();
        self.out.push(Frame::new(b'Z', vec![self.status()]));
    }
}

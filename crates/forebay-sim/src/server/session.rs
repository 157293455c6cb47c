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

use crate::server::language::{Statement, Value, statements};
use crate::server::settings::Settings;
use crate::wire::{Body, Frame, Front, Tag};

/// The routine that errors of the fake server name, which tells them from errors that the pooler made.
pub(crate) const ROUTINE: &str = "fake";

/// A transaction block, as ReadyForQuery names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    None,
    Open,
    Failed,
}

#[derive(Clone, Debug)]
struct Prepared {
    text: String,
    statement: Statement,
    oids: Vec<i32>,
    frozen: String,
}

#[derive(Clone, Debug)]
struct Portal {
    text: String,
    statement: Statement,
    params: Vec<Option<Vec<u8>>>,
    frozen: String,
    sent: u32,
    is_done: bool,
}

#[derive(Clone, Debug)]
struct Copy {
    mark: String,
    lines: u32,
    is_extended: bool,
    /// What follows in the same Query.
    rest: Vec<Statement>,
}

/// An SQLSTATE and words.
struct Failure(String, String);

type Run<T> = Result<T, Failure>;

fn failure<T>(code: &str, words: impl Into<String>) -> Run<T> {
    Err(Failure(code.to_owned(), words.into()))
}

/// A session, from ReadyForQuery on.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) settings: Settings,
    block: Block,
    /// Something ran since the last Sync or Query, outside a block.
    is_implicit: bool,
    is_skipping: bool,
    copy: Option<Copy>,
    prepared: BTreeMap<String, Prepared>,
    portals: BTreeMap<String, Portal>,
    inserted: Vec<String>,
    /// Effects that became permanent; the owner of the session takes them.
    pub(crate) committed: Vec<String>,
    out: Vec<Frame>,
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
            committed: Vec::new(),
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
        let sleep = |statement: &Statement| if let Statement::Sleep { millis, .. } = statement { *millis } else { 0 };
        match message {
            _ if self.is_skipping || self.copy.is_some() => 0,
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
                (list != [Statement::Empty])
                    .then(|| (sleeper.unwrap_or(0), Tag::all_in(text.as_bytes()).first().copied()))
            }
            Front::Execute { portal, .. } => {
                let portal = self.portals.get(portal)?;
                let params = portal.params.iter().flatten().flat_map(|p| Tag::all_in(p));
                Some((0, params.chain(Tag::all_in(portal.text.as_bytes())).next()))
            }
            _ => None,
        }
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

    /// The open transaction is gone, and what it did with it.
    pub(crate) fn abandon(&mut self) {
        self.settings.rollback();
        self.inserted.clear();
        self.portals.clear();
        self.block = Block::None;
        self.is_implicit = false;
        self.copy = None;
    }

    fn query(&mut self, list: Vec<Statement>, stop: Option<(usize, &str)>) {
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
        if statement.params() > 0 {
            return failure("42P02", "there is no parameter $1");
        }
        if let Some(columns) = statement.columns() {
            self.out.push(row_description(columns));
        }
        let frozen = self.frozen();
        let mut portal = Portal {
            text: String::new(),
            statement: statement.clone(),
            params: vec![],
            frozen,
            sent: 0,
            is_done: false,
        };
        self.run(&mut portal, 0, false)
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

    fn extended(&mut self, message: &Front, stop: Option<(usize, &str)>) -> Run<()> {
        match message {
            Front::Parse { name, text, oids } => self.parse(name, text, oids),
            Front::Bind { portal, statement, params } => self.bind(portal, statement, params),
            Front::Describe { kind, name } => self.describe(*kind, name),
            Front::Execute { portal, rows } => match stop {
                Some((_, code)) => failure(code, "canceling statement due to user request"),
                None => self.run_portal(portal, *rows),
            },
            Front::Close { kind, name } => {
                if *kind == b'S' {
                    self.prepared.remove(name);
                } else {
                    self.portals.remove(name);
                }
                self.out.push(Frame::new(b'3', vec![]));
                Ok(())
            }
            // Flush has no reply of its own; copy messages outside a copy are ignored; Terminate is the owner's.
            _ => Ok(()),
        }
    }

    fn parse(&mut self, name: &str, text: &str, oids: &[i32]) -> Run<()> {
        if name.is_empty() {
            self.prepared.remove("");
        }
        let mut list = statements(text);
        if list.len() > 1 {
            return failure("42601", "cannot insert multiple commands into a prepared statement");
        }
        let statement = list.pop().unwrap_or(Statement::Empty);
        if statement == Statement::Unknown {
            return failure("42601", format!("syntax error in {text}"));
        }
        if statement != Statement::Empty {
            self.refuse_if_failed(statement.ends_transaction())?;
        }
        if self.prepared.contains_key(name) {
            return failure("42P05", format!("prepared statement \"{name}\" already exists"));
        }
        self.start_implicit();
        let frozen = self.frozen();
        self.prepared
            .insert(name.to_owned(), Prepared { text: text.to_owned(), statement, oids: oids.to_vec(), frozen });
        self.out.push(Frame::new(b'1', vec![]));
        Ok(())
    }

    fn bind(&mut self, portal: &str, name: &str, params: &[Option<Vec<u8>>]) -> Run<()> {
        let Some(prepared) = self.prepared.get(name).cloned() else {
            return failure("26000", format!("prepared statement \"{name}\" does not exist"));
        };
        if params.len() != prepared.statement.params() {
            let wanted = prepared.statement.params();
            return failure(
                "08P01",
                format!("bind message supplies {} parameters, but it requires {wanted}", params.len()),
            );
        }
        if prepared.statement != Statement::Empty {
            self.refuse_if_failed(prepared.statement.ends_transaction())?;
        }
        if !portal.is_empty() && self.portals.contains_key(portal) {
            return failure("42P03", format!("cursor \"{portal}\" already exists"));
        }
        self.start_implicit();
        let Prepared { text, statement, frozen, .. } = prepared;
        let open = Portal { text, statement, params: params.to_vec(), frozen, sent: 0, is_done: false };
        self.portals.insert(portal.to_owned(), open);
        self.out.push(Frame::new(b'2', vec![]));
        Ok(())
    }

    fn describe(&mut self, kind: u8, name: &str) -> Run<()> {
        let statement = if kind == b'S' {
            let Some(prepared) = self.prepared.get(name).cloned() else {
                return failure("26000", format!("prepared statement \"{name}\" does not exist"));
            };
            let count = prepared.statement.params();
            let body = Body::default().int16(count as i16);
            let oids = (0..count).map(|i| prepared.oids.get(i).copied().filter(|&o| o != 0).unwrap_or(25));
            let parameters = oids.fold(body, Body::int32).frame(b't');
            if prepared.statement.columns().is_some() {
                self.refuse_if_failed(false)?;
            }
            self.out.push(parameters);
            prepared.statement
        } else {
            let Some(portal) = self.portals.get(name).cloned() else {
                return failure("34000", format!("portal \"{name}\" does not exist"));
            };
            portal.statement
        };
        if statement.columns().is_some() {
            self.refuse_if_failed(false)?;
        }
        self.out.push(statement.columns().map_or_else(|| Frame::new(b'n', vec![]), row_description));
        Ok(())
    }

    fn run_portal(&mut self, name: &str, rows: i32) -> Run<()> {
        let Some(mut portal) = self.portals.get(name).cloned() else {
            return failure("34000", format!("portal \"{name}\" does not exist"));
        };
        if portal.statement == Statement::Empty {
            self.out.push(Frame::new(b'I', vec![]));
            return Ok(());
        }
        self.refuse_if_failed(portal.statement.ends_transaction())?;
        if portal.is_done && portal.statement.columns().is_none() {
            return failure("55000", format!("portal \"{name}\" cannot be run"));
        }
        self.run(&mut portal, rows.max(0) as u32, true)?;
        if let Some(slot) = self.portals.get_mut(name) {
            *slot = portal;
        }
        Ok(())
    }

    /// Runs a statement. `limit`: rows at most; 0: all.
    fn run(&mut self, portal: &mut Portal, limit: u32, is_extended: bool) -> Run<()> {
        self.start_implicit();
        let statement = portal.statement.clone();
        match &statement {
            Statement::Begin => self.begin(),
            Statement::Commit => self.end(true),
            Statement::Rollback => self.end(false),
            Statement::Select { value, rows, pad } => self.select(portal, value, *rows, *pad, limit)?,
            Statement::Frozen(value) => {
                let text = format!("{} {}", read(portal, value)?, portal.frozen);
                self.one_row(portal, &[text], "SELECT 1");
            }
            Statement::Insert(value) => {
                let mark = read(portal, value)?;
                self.inserted.push(mark);
                self.complete("INSERT 0 1");
            }
            Statement::Set { name, value, is_local } => {
                self.set(name, value, *is_local)?;
                self.complete("SET");
            }
            Statement::SetConfig(list) => {
                let mut row = Vec::new();
                for (name, value, is_local) in list {
                    let (name, value) = (read(portal, name)?, read(portal, value)?);
                    self.set(&name, &value, *is_local)?;
                    row.push(value);
                }
                self.one_row(portal, &row, "SELECT 1");
            }
            Statement::Reset(name) => {
                let known = self.settings.reset(name.as_deref());
                known.or_else(|name| failure("42704", format!("unrecognized parameter \"{name}\"")))?;
                self.complete("RESET");
            }
            Statement::Show(name) => {
                let Some(value) = self.settings.get(name).map(str::to_owned) else {
                    return failure("42704", format!("unrecognized parameter \"{name}\""));
                };
                self.one_row(portal, &[value], "SHOW");
            }
            Statement::Fail { code, value } => {
                let mark = read(portal, value)?;
                return failure(code, format!("{mark} fails as asked"));
            }
            Statement::CopyIn(value) => {
                let mark = read(portal, value)?;
                self.copy = Some(Copy { mark, lines: 0, is_extended, rest: vec![] });
                self.out.push(Body::default().byte(0).int16(1).int16(0).frame(b'G'));
            }
            Statement::CopyOut { value, rows } => self.copy_out(&read(portal, value)?, *rows),
            Statement::Sleep { value, .. } => {
                let text = read(portal, value)?;
                self.one_row(portal, &[text], "SELECT 1");
            }
            Statement::Notice(value) => {
                let mark = read(portal, value)?;
                self.out.push(report(b'N', "NOTICE", "00000", &mark));
                self.complete("DO");
            }
            Statement::Discard { is_all } => self.discard(*is_all)?,
            Statement::Clean(tag) => self.complete(tag),
            Statement::Empty | Statement::Unknown => return failure("42601", "syntax error"),
        }
        portal.is_done = portal.is_done || portal.statement.columns().is_none();
        Ok(())
    }

    fn select(&mut self, portal: &mut Portal, value: &Value, rows: u32, pad: usize, limit: u32) -> Run<()> {
        let text = read(portal, value)?;
        let left = rows - portal.sent.min(rows);
        let count = if limit == 0 { left } else { left.min(limit) };
        for i in 0..count {
            let row = format!("{text} #{}{}", portal.sent + i, "x".repeat(pad));
            self.out.push(data_row(&[row]));
        }
        portal.sent += count;
        if limit > 0 && count == limit {
            self.out.push(Frame::new(b's', vec![]));
        } else {
            portal.is_done = true;
            self.complete(&format!("SELECT {count}"));
        }
        Ok(())
    }

    fn one_row(&mut self, portal: &mut Portal, columns: &[String], tag: &str) {
        if portal.sent == 0 {
            self.out.push(data_row(columns));
            portal.sent = 1;
        }
        portal.is_done = true;
        self.complete(tag);
    }

    fn copy_out(&mut self, mark: &str, rows: u32) {
        self.out.push(Body::default().byte(0).int16(1).int16(0).frame(b'H'));
        for i in 0..rows {
            self.out.push(Frame::new(b'd', format!("{mark} line {i}\n").into_bytes()));
        }
        self.out.push(Frame::new(b'c', vec![]));
        self.complete(&format!("COPY {rows}"));
    }

    fn copy_message(&mut self, message: &Front) {
        let Some(mut copy) = self.copy.take() else { return };
        let failed = match message {
            Front::CopyData(bytes) if bytes.starts_with(b"bad") => {
                Failure("22P04".into(), format!("{}: bad copy data", copy.mark))
            }
            Front::CopyData(_) => {
                copy.lines += 1;
                self.copy = Some(copy);
                return;
            }
            Front::CopyDone => {
                self.complete(&format!("COPY {}", copy.lines));
                if !copy.is_extended {
                    self.query(copy.rest, None);
                }
                return;
            }
            Front::CopyFail(words) => Failure("57014".into(), format!("COPY from stdin failed: {words}")),
            // The protocol ignores both while data is expected.
            Front::Flush | Front::Sync => {
                self.copy = Some(copy);
                return;
            }
            _ => Failure("08P01".into(), format!("{}: unexpected message during COPY from stdin", copy.mark)),
        };
        self.fail(&failed);
        if copy.is_extended {
            self.is_skipping = true;
        } else {
            self.finish_request();
        }
    }

    fn set(&mut self, name: &str, value: &str, is_local: bool) -> Run<()> {
        let known = self.settings.set(name, value, is_local);
        known.or_else(|name| failure("42704", format!("unrecognized configuration parameter \"{name}\"")))
    }

    fn discard(&mut self, is_all: bool) -> Run<()> {
        if is_all && self.block != Block::None {
            return failure("25001", "DISCARD ALL cannot run inside a transaction block");
        }
        self.prepared.clear();
        if is_all {
            self.portals.clear();
            let _ = self.settings.reset(None);
        }
        self.complete(if is_all { "DISCARD ALL" } else { "DEALLOCATE ALL" });
        Ok(())
    }

    fn begin(&mut self) {
        if self.block == Block::Open {
            self.out.push(report(b'N', "WARNING", "25001", "there is already a transaction in progress"));
        }
        self.block = Block::Open;
        self.complete("BEGIN");
    }

    fn end(&mut self, is_commit: bool) {
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
            self.committed.append(&mut self.inserted);
        } else {
            self.settings.rollback();
            self.inserted.clear();
        }
        self.portals.clear();
        self.block = Block::None;
        self.is_implicit = false;
    }

    fn start_implicit(&mut self) {
        self.settings.begin();
        self.is_implicit = self.block == Block::None;
    }

    fn refuse_if_failed(&self, is_exit: bool) -> Run<()> {
        if self.block == Block::Failed && !is_exit {
            return failure("25P02", "current transaction is aborted, commands ignored until end of transaction block");
        }
        Ok(())
    }

    fn fail(&mut self, Failure(code, words): &Failure) {
        self.out.push(report(b'E', "ERROR", code, words));
        self.settings.rollback();
        self.inserted.clear();
        if self.block == Block::None {
            self.portals.clear();
        } else {
            self.block = Block::Failed;
        }
        self.is_implicit = false;
    }

    /// Ends the implicit transaction, reports changed settings, and is ready for the next request.
    fn finish_request(&mut self) {
        if self.block == Block::None {
            self.end_transaction(true);
        }
        for (name, value) in self.settings.changes() {
            self.out.push(parameter_status(name, &value));
        }
        self.out.push(Frame::new(b'Z', vec![self.status()]));
    }

    fn frozen(&self) -> String {
        let of = |name| self.settings.get(name).unwrap_or_default();
        format!("{}|{}", of("DateStyle"), of("TimeZone"))
    }

    fn complete(&mut self, tag: &str) {
        self.out.push(Body::default().text(tag).frame(b'C'));
    }
}

fn read(portal: &Portal, value: &Value) -> Run<String> {
    match value {
        Value::Literal(text) => Ok(text.clone()),
        Value::Param(n) => match portal.params.get(n.wrapping_sub(1)) {
            Some(Some(bytes)) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            Some(None) => Ok("NULL".into()),
            None => failure("42P02", format!("there is no parameter ${n}")),
        },
    }
}

pub(crate) fn parameter_status(name: &str, value: &str) -> Frame {
    Body::default().text(name).text(value).frame(b'S')
}

/// An ErrorResponse or NoticeResponse.
pub(crate) fn report(kind: u8, severity: &str, code: &str, words: &str) -> Frame {
    let fields = [(b'S', severity), (b'V', severity), (b'C', code), (b'M', words), (b'R', ROUTINE)];
    let body = fields.iter().fold(Body::default(), |body, (c, text)| body.byte(*c).text(text));
    body.byte(0).frame(kind)
}

fn data_row(columns: &[String]) -> Frame {
    let body = Body::default().int16(columns.len() as i16);
    columns.iter().fold(body, |body, text| body.int32(text.len() as i32).bytes(text.as_bytes())).frame(b'D')
}

fn row_description(columns: usize) -> Frame {
    let body = Body::default().int16(columns as i16);
    let column = |body: Body| body.text("value").int32(0).int16(0).int32(25).int16(-1).int32(-1).int16(0);
    (0..columns).fold(body, |body, _| column(body)).frame(b'T')
}

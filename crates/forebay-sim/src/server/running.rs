//! Statements at work in the fake server: the rows and tags they return. Those that are about the session itself are in
//! [`crate::server::owning`].

use crate::server::language::{CATALOGUE, Statement, Value};
use crate::server::replies::{data_row, parameter_status, report};
use crate::server::session::{Copy, Failure, Portal, Run, Session, failure};
use crate::wire::{Body, Frame, Front, Tag};

/// Stands between an asker's tag and what it has left.
pub(crate) const SEES: &str = " sees ";
/// Before the number of the last record of the log.
pub(crate) const HORIZON: &str = " of ";

impl Session {
    /// Runs a statement. `limit`: rows at most; 0: all.
    pub(super) fn run(&mut self, portal: &mut Portal, limit: u32, is_extended: bool) -> Run<()> {
        self.start_implicit();
        let statement = portal.statement.clone();
        match &statement {
            Statement::Begin { is_read_only } => self.begin(*is_read_only),
            Statement::SetMode { is_read_only } => self.set_mode(*is_read_only),
            Statement::Commit => self.end(true),
            Statement::Rollback => self.end(false),
            Statement::Savepoint(name) => self.savepoint(name)?,
            Statement::Release(name) => self.release(name)?,
            Statement::RollbackTo(name) => self.rollback_to(name)?,
            Statement::Select { value, rows, pad } => self.select(portal, value, *rows, *pad, limit)?,
            Statement::Exprs(list) => {
                if portal.sent == 0 {
                    let row = list.iter().map(|expr| self.evaluate(expr)).collect::<Run<Vec<_>>>()?;
                    self.out.push(data_row(&row));
                }
                self.one_row_done(portal, "SELECT 1");
            }
            Statement::Frozen(value) => {
                let text = format!("{} {}", read(portal, value)?, portal.frozen);
                self.one_row(portal, text, "SELECT 1");
            }
            Statement::Insert(value) => {
                self.mark(read(portal, value)?)?;
                self.complete("INSERT 0 1");
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
                self.one_row(portal, text, "SELECT 1");
            }
            Statement::Notice(value) => {
                let mark = read(portal, value)?;
                self.out.push(report(b'N', "NOTICE", "00000", &mark));
                self.one_row(portal, mark, "SELECT 1");
            }
            Statement::Hidden(value) => {
                let mark = read(portal, value)?;
                self.mark(mark.clone())?;
                self.hidden.push(mark.clone());
                self.one_row(portal, mark, "SELECT 1");
            }
            Statement::Ledger(value) => {
                let text = self.seen_by(&read(portal, value)?);
                self.one_row(portal, text, "SELECT 1");
            }
            Statement::Conflict(value) => {
                let text = self.undisturbed(read(portal, value)?)?;
                self.one_row(portal, text, "SELECT 1");
            }
            Statement::Catalogue => self.catalogue(portal),
            Statement::Stamp => self.one_row(portal, "1".into(), "SELECT 1"),
            Statement::Recovery => self.one_row(portal, boolean(self.is_standby).into(), "SELECT 1"),
            _ if statement.is_of_commits() => self.asked_of_commit(portal)?,
            Statement::Empty | Statement::Unknown => return failure("42601", "syntax error"),
            _ => self.run_on_session(portal, &statement)?,
        }
        portal.is_done = portal.is_done || portal.statement.columns().is_none();
        Ok(())
    }

    fn set_mode(&mut self, is_read_only: bool) {
        self.is_read_only = is_read_only;
        self.complete("SET");
    }

    fn mark(&mut self, mark: String) -> Run<()> {
        if self.is_standby || self.is_read_only {
            return failure("25006", "cannot execute INSERT in a read-only transaction");
        }
        self.trail.id();
        self.inserted.push(mark);
        Ok(())
    }

    fn undisturbed(&self, text: String) -> Run<String> {
        if self.is_standby {
            return failure("40001", "canceling statement due to conflict with recovery");
        }
        Ok(text)
    }

    /// What the asker has left, as far as it is there: the numbers of its requests. Behind it, how far the log is.
    fn seen_by(&self, tag: &str) -> String {
        let asker = Tag::first_in(tag.as_bytes()).map(|tag| tag.client);
        let own = self.ledger.iter().filter(|mark| Some(mark.client) == asker);
        let numbers: Vec<String> = own.map(|mark| mark.request.to_string()).collect();
        let horizon = if self.horizon > 0 { format!("{HORIZON}{}", self.horizon) } else { String::new() };
        format!("{tag}{SEES}{}{horizon}", numbers.join(","))
    }

    fn select(&mut self, portal: &mut Portal, value: &Value, rows: u32, pad: usize, limit: u32) -> Run<()> {
        let text = read(portal, value)?;
        let left = rows - portal.sent.min(rows);
        let count = if limit == 0 { left } else { left.min(limit) };
        for i in 0..count {
            let row = format!("{text} #{}{}", portal.sent + i, "x".repeat(pad));
            self.out.push(data_row(&[Some(row)]));
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

    fn catalogue(&mut self, portal: &mut Portal) {
        self.out.push(data_row(&CATALOGUE.map(|column| column.map(str::to_owned))));
        self.one_row_done(portal, "SELECT 1");
    }

    fn one_row(&mut self, portal: &mut Portal, text: String, tag: &str) {
        if portal.sent == 0 {
            self.out.push(data_row(&[Some(text)]));
        }
        self.one_row_done(portal, tag);
    }

    pub(super) fn one_row_done(&mut self, portal: &mut Portal, tag: &str) {
        portal.sent = 1;
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

    /// Carries out a message that came while COPY data is expected.
    pub(super) fn copy_message(&mut self, message: &Front) {
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

    pub(super) fn complete(&mut self, tag: &str) {
        self.out.push(Body::default().text(tag).frame(b'C'));
    }

    /// Who was a standby at the login, and is none any more, says so.
    pub(super) fn say_promoted(&mut self) {
        if self.says_standby && !self.is_standby {
            self.says_standby = false;
            self.out.push(parameter_status("in_hot_standby", "off"));
        }
    }

    pub(super) fn frozen(&self) -> String {
        let of = |name| self.settings.get(name).unwrap_or_default();
        format!("{}|{}", of("DateStyle"), of("TimeZone"))
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

/// As PostgreSQL writes it.
fn boolean(value: bool) -> &'static str {
    if value { "t" } else { "f" }
}

//! Statements about the session itself: what they set, make and drop there, and what they tell of it.

use crate::server::language::{Discard, Expr, Statement};
use crate::server::replies::data_row;
use crate::server::session::{Block, Portal, Prepared, Run, Session, failure};
use crate::server::settings::{AUTHORIZATION, ROLE};

impl Session {
    pub(super) fn run_on_session(&mut self, portal: &mut Portal, statement: &Statement) -> Run<()> {
        match statement {
            Statement::Set { name, value, is_local } => self.set(name, value, *is_local)?,
            Statement::SetAuthorization(user) => self.set_authorization(user.as_deref())?,
            Statement::Reset(name) => {
                let known = self.settings.reset(name.as_deref());
                known.or_else(|name| failure("42704", format!("unrecognized parameter \"{name}\"")))?;
            }
            Statement::Show(name) => {
                let Some(value) = self.settings.get(name).map(str::to_owned) else {
                    return failure("42704", format!("unrecognized parameter \"{name}\""));
                };
                self.out.push(data_row(&[Some(value)]));
            }
            Statement::SessionSettings => {
                for (name, value) in self.settings.set_in_session() {
                    self.out.push(data_row(&[Some(name), Some(value)]));
                }
            }
            Statement::CreateTemp { name, content, drops } if !self.own.create(name, content, *drops) => {
                return failure("42P07", format!("relation \"{name}\" already exists"));
            }
            Statement::ReadTable(name) => {
                let content = self.own.content(name);
                let content = content.map_or_else(|| absent("42P01", "relation", name), Ok)?;
                self.out.push(data_row(&[Some(content)]));
            }
            Statement::DropTable(name) if !self.own.drop_table(name) => return absent("42P01", "table", name),
            Statement::Declare { name, content } if !self.own.declare(name, content) => {
                return failure("42P03", format!("cursor \"{name}\" already exists"));
            }
            Statement::Fetch(name) => {
                let content = self.own.fetch(name).map_or_else(|| absent("34000", "cursor", name), Ok)?;
                self.out.push(data_row(&[Some(content)]));
            }
            Statement::CloseCursor(name) if !self.own.close(name.as_deref()) => {
                return absent("34000", "cursor", name.as_deref().unwrap_or_default());
            }
            Statement::Listen(channel) => self.own.listen(channel),
            Statement::Unlisten(channel) => self.own.unlisten(channel.as_deref()),
            Statement::Notify { channel, payload } => self.own.notify(channel, payload),
            Statement::Channels => {
                self.out.extend(self.own.channels().map(|name| data_row(&[Some(name.clone())])));
            }
            Statement::Prepare { name, statement } => self.prepare(name, statement)?,
            Statement::Deallocate(Some(name)) if self.prepared.remove(name).is_none() => {
                return absent("26000", "prepared statement", name);
            }
            Statement::Deallocate(None) => self.prepared.retain(|name, _| name.is_empty()),
            Statement::Discard(what) => self.discard(*what)?,
            Statement::Load(library) => self.own.load(library),
            Statement::Do(settings) => {
                for (name, value) in settings {
                    self.set(name, value, false)?;
                }
            }
            _ => {}
        }
        portal.is_done = true;
        self.complete(tag(statement));
        Ok(())
    }

    /// The value of an expression; `None`: NULL.
    pub(super) fn evaluate(&mut self, expr: &Expr) -> Run<Option<String>> {
        let truth = |is_true: bool| Ok(Some(if is_true { "t" } else { "f" }.to_owned()));
        match expr {
            Expr::Setting { name, or_empty } => {
                let value = self.settings.get(name).map(str::to_owned);
                Ok(if *or_empty { Some(value.unwrap_or_default()) } else { value })
            }
            Expr::SetConfig { name, is_kept: true, .. }
                if self.settings.set_in_session().iter().any(|(set, _)| set.eq_ignore_ascii_case(name)) =>
            {
                Ok(None)
            }
            Expr::SetConfig { name, value, is_local, .. } => {
                self.set(name, value, *is_local)?;
                Ok(Some(value.clone()))
            }
            Expr::SetUnseen { name, value } => {
                self.set(name, value, false)?;
                Ok(Some(String::new()))
            }
            Expr::Exists(question) => truth(self.has(*question)),
            Expr::IsOtherUser => truth(!self.settings.is_self()),
            Expr::CurrentUser => Ok(Some(self.settings.current_user().to_owned())),
            Expr::TryLock(key) => {
                self.own.lock(key);
                truth(true)
            }
            Expr::Unlock(key) => truth(self.own.unlock(key)),
            Expr::UnlockAll => {
                self.own.unlock_all();
                Ok(Some(String::new()))
            }
            Expr::SetSeed(seed) => {
                self.own.set_seed(seed);
                Ok(Some(String::new()))
            }
            Expr::Notify { channel, payload } => {
                self.own.notify(channel, payload);
                Ok(Some(String::new()))
            }
            Expr::Random => Ok(Some(self.own.random())),
            Expr::SetVal { name, value } => {
                self.own.set_sequence(name, value);
                Ok(Some(value.clone()))
            }
            // Sequences are set here, never advanced.
            Expr::LastVal => failure("55000", "lastval is not yet defined in this session"),
            Expr::CurrVal(name) => match self.own.sequence(name) {
                Some(value) => Ok(Some(value)),
                None => failure("55000", format!("currval of sequence \"{name}\" is not yet defined in this session")),
            },
        }
    }

    fn set(&mut self, name: &str, value: &str, is_local: bool) -> Run<()> {
        let known = self.settings.set(name, value, is_local);
        known.or_else(|name| failure("42704", format!("unrecognized configuration parameter \"{name}\"")))
    }

    /// With another user one loses the role that one had.
    fn set_authorization(&mut self, user: Option<&str>) -> Run<()> {
        let _ = self.settings.reset(Some(ROLE));
        match user {
            Some(user) => self.set(AUTHORIZATION, user, false),
            None => self.settings.reset(Some(AUTHORIZATION)).or_else(|name| failure("42704", name)),
        }
    }

    /// A statement can be made, and bound, only while what it reads is there.
    pub(super) fn check_table_of(&self, statement: &Statement) -> Run<()> {
        match statement {
            Statement::ReadTable(table) if self.own.content(table).is_none() => absent("42P01", "relation", table),
            _ => Ok(()),
        }
    }

    fn prepare(&mut self, name: &str, statement: &Statement) -> Run<()> {
        if self.prepared.contains_key(name) {
            return failure("42P05", format!("prepared statement \"{name}\" already exists"));
        }
        self.check_table_of(statement)?;
        let (statement, frozen) = (statement.clone(), self.frozen());
        let prepared = Prepared { text: String::new(), statement, oids: vec![], frozen };
        self.prepared.insert(name.to_owned(), prepared);
        Ok(())
    }

    fn discard(&mut self, what: Discard) -> Run<()> {
        match what {
            Discard::Plans => {}
            Discard::Temp => self.own.drop_all_tables(),
            Discard::Sequences => self.own.forget_sequences(),
            Discard::All => {
                if self.block != Block::None {
                    return failure("25001", "DISCARD ALL cannot run inside a transaction block");
                }
                self.set_authorization(None)?;
                let _ = self.settings.reset(None);
                self.prepared.retain(|name, _| name.is_empty());
                self.portals.clear();
                self.own.close(None);
                self.own.unlisten(None);
                self.own.unlock_all();
                self.own.forget_sequences();
                self.own.drop_all_tables();
            }
        }
        Ok(())
    }
}

fn absent<T>(code: &str, kind: &str, name: &str) -> Run<T> {
    failure(code, format!("{kind} \"{name}\" does not exist"))
}

fn tag(statement: &Statement) -> &'static str {
    match statement {
        Statement::Set { .. } | Statement::SetAuthorization(_) => "SET",
        Statement::Reset(_) => "RESET",
        Statement::Show(_) => "SHOW",
        Statement::SessionSettings => "SELECT 0",
        Statement::CreateTemp { .. } | Statement::ReadTable(_) => "SELECT 1",
        Statement::DropTable(_) => "DROP TABLE",
        Statement::Declare { .. } => "DECLARE CURSOR",
        Statement::Fetch(_) => "FETCH 1",
        Statement::CloseCursor(None) => "CLOSE CURSOR ALL",
        Statement::CloseCursor(_) => "CLOSE CURSOR",
        Statement::Listen(_) => "LISTEN",
        Statement::Unlisten(_) => "UNLISTEN",
        Statement::Notify { .. } => "NOTIFY",
        Statement::Channels => "SELECT 0",
        Statement::Prepare { .. } => "PREPARE",
        Statement::Deallocate(None) => "DEALLOCATE ALL",
        Statement::Deallocate(_) => "DEALLOCATE",
        Statement::Discard(Discard::All) => "DISCARD ALL",
        Statement::Discard(Discard::Temp) => "DISCARD TEMP",
        Statement::Discard(Discard::Sequences) => "DISCARD SEQUENCES",
        Statement::Discard(Discard::Plans) => "DISCARD PLANS",
        Statement::Load(_) => "LOAD",
        _ => "DO",
    }
}

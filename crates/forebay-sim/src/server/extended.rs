//! The extended protocol of the fake server: statements, portals, and what is told of them.

use crate::server::language::{Statement, statements};
use crate::server::replies::row_description;
use crate::server::session::{Portal, Prepared, Run, Session, failure};
use crate::wire::{Body, Frame, Front};

impl Session {
    /// Carries out a message of the extended protocol.
    pub(super) fn extended(&mut self, message: &Front, stop: Option<(usize, &str)>) -> Run<()> {
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

    /// What a portal runs.
    pub(crate) fn text_of_portal(&self, name: &str) -> Option<&str> {
        self.portals.get(name).map(|portal| &*portal.text)
    }

    /// Whether a message is to commit a transaction.
    pub(crate) fn commits_by(&self, message: &Front) -> bool {
        match message {
            _ if self.is_skipping() => false,
            Front::Query(text) => statements(text) == [Statement::Commit],
            Front::Execute { portal, .. } => {
                self.portals.get(portal).is_some_and(|it| it.statement == Statement::Commit)
            }
            _ => false,
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
        self.check_table_of(&statement)?;
        if self.prepared.contains_key(name) {
            return failure("42P05", format!("prepared statement \"{name}\" already exists"));
        }
        self.start_implicit();
        let frozen = self.frozen();
        let prepared = Prepared { text: text.to_owned(), statement, oids: oids.to_vec(), frozen };
        self.prepared.insert(name.to_owned(), prepared);
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
        self.check_table_of(&prepared.statement)?;
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
}

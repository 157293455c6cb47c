//! Columns and parameters of prepared statements: what clients were told of them still holds on a server that parses
//! them anew.
//!
//! Most drivers ask once and read all rows by that answer. PostgreSQL refuses a statement whose columns DDL has changed;
//! on a server that lacks it, it would be parsed with the new ones and run, and the client would read one type's bytes
//! as another's. So where objects have changed since, the columns are asked for before it is used.
//!
//! With parameters it is the other way round: PostgreSQL keeps to their types, and so must who parses the statement anew.
//!
//! It owns what is noted of both, and the comparison. What was never described can't be compared: it runs.

use std::sync::Arc;

use forebay_pgwire::backend::{RowDescription, TransactionStatus, field, parameter_description};
use forebay_pgwire::frontend::Target;
use forebay_pgwire::{rename, write};
use forebay_sql::traces::Traces;

use crate::frame::At;
use crate::reply::{Next, Relaying, Verdict};
use crate::request::{Forwarding, Stop, Taken, malformed, write_failing};
use crate::session::expect::Expect;
use crate::statements::Statement;

/// What PostgreSQL says of a prepared statement whose result DDL has changed. Drivers know it by its routine.
const OUTDATED: [(u8, &[u8]); 5] = [
    (field::SEVERITY, b"ERROR"),
    (field::SEVERITY_PLAIN, b"ERROR"),
    (field::SQLSTATE, b"0A000"),
    (field::MESSAGE, b"cached plan must not change result type"),
    (field::ROUTINE, b"RevalidateCachedQuery"),
];

impl Forwarding<'_> {
    /// A Describe, of a statement or a portal.
    #[inline(never)]
    pub(crate) fn describe(&mut self, at: At<'_>) -> Taken {
        if !at.is_whole() {
            return Err(Stop::More);
        }
        let Ok(target) = Target::decode(at.body()) else { return malformed("Describe") };
        if self.is_sharing() && target.is_statement() {
            let expect = |statement, places, _: &[u8]| Expect::Describe { statement, relay: true, places };
            return self.with_statement(at, target.name, rename::describe, expect);
        }
        let statement = if target.name.is_empty() { self.server.bound_undescribed.take() } else { None };
        let places = self.server.bound_places.clone();
        self.server.expect.push_back(Expect::Describe { statement, relay: true, places });
        self.forward(at, 0)
    }

    /// Whether clients know columns of `statement`, which the server lacks, that may have changed since: by another
    /// transaction, or by what has run of this one.
    pub(crate) fn may_be_outdated(&self, statement: &Statement) -> bool {
        let may_differ = statement.epoch() != self.epoch || self.server.left.fresh.has(Traces::SCHEMA);
        may_differ && statement.is_described()
    }

    /// Asks for the columns of a statement just parsed; nothing of it may run before the answer.
    pub(crate) fn compare_columns(&mut self, statement: &Arc<Statement>) -> Stop {
        write::describe(self.batch.owned(), Target::STATEMENT, statement.name());
        write::flush(self.batch.owned());
        self.server.expect.push_back(Expect::Describe {
            statement: Some(statement.clone()),
            relay: false,
            places: None,
        });
        self.server.is_segment_open = true;
        Stop::Hold
    }

    /// Whether `statement` is outdated on this server. A failed transaction says of itself that it has failed.
    pub(crate) fn is_outdated(&self, statement: &Arc<Statement>) -> bool {
        self.server.statements.is_outdated(statement) && self.server.status != TransactionStatus::Failed
    }

    /// Has the server fail in place of a message that uses an outdated statement. The statement is closed there: what
    /// the transaction has changed may be undone, and the statement with it.
    pub(crate) fn refuse_outdated(&mut self, at: At<'_>, statement: &Arc<Statement>) -> Taken {
        write::close(self.batch.owned(), Target::STATEMENT, statement.name());
        let evicted = statement.is_shared().then(|| statement.clone());
        match &evicted {
            Some(statement) => self.server.statements.close_sent(statement, self.server.segment),
            None => self.server.statements.forget_unnamed(),
        }
        self.server.expect.push_back(Expect::Close { evicted, relay: false });
        write_failing(self.batch.owned());
        self.server.expect.push_back(Expect::Outdated);
        self.drop_frame(at)
    }
}

impl Relaying<'_> {
    /// Whether the next description is of a statement of which note is taken.
    pub(crate) fn is_told_columns(&self) -> bool {
        matches!(self.server.expect.front(), Some(Expect::Describe { statement: Some(_), .. }))
    }

    /// An answer to Describe goes to the client unless we asked.
    pub(crate) fn for_describer(&self) -> Verdict {
        Verdict::relay_if(!matches!(self.server.expect.front(), Some(Expect::Describe { relay: false, .. })))
    }

    /// The types of a statement's parameters have come. PostgreSQL keeps to them whatever DDL changes; a server that
    /// parses the statement anew has to be given them, or it reads the bytes that a client writes for one as another's.
    pub(crate) fn told_parameters(&mut self, body: &[u8]) -> (Verdict, Option<Next>) {
        let Ok(types) = parameter_description(body) else {
            return (Verdict::Drop, Some(Next::Violation("a malformed ParameterDescription")));
        };
        if let Some(Expect::Describe { statement: Some(statement), relay: true, .. }) = self.server.expect.front() {
            statement.note_parameters(types.as_bytes());
        }
        (self.for_describer(), None)
    }

    /// A description has come: `body`, or none for a statement without a result.
    pub(crate) fn told_columns(&mut self, body: Option<&[u8]>) -> (Verdict, Option<Next>) {
        let front = self.server.expect.pop_front();
        let Some(Expect::Describe { statement, relay, .. }) = front else {
            return (Verdict::Drop, Some(Next::Violation("a description that nothing asked for")));
        };
        let Some(columns) = body.map_or(Some(Box::default()), columns) else {
            return (Verdict::Drop, Some(Next::Violation("a malformed RowDescription")));
        };
        if let Some(statement) = statement.filter(|s| !s.is_as_described(columns) && !relay) {
            self.server.statements.note_outdated(&statement);
        }
        (Verdict::relay_if(relay), None)
    }

    /// The error that stands for [`Expect::Outdated`].
    pub(crate) fn say_outdated(&mut self) {
        write::error_response(self.batch.owned(), &OUTDATED);
    }
}

/// Names, types and type modifiers: what must be the same for PostgreSQL to go on. Formats differ between a statement
/// and its portals.
fn columns(body: &[u8]) -> Option<Box<[u8]>> {
    let mut told = Vec::with_capacity(body.len());
    for column in RowDescription::decode(body).ok()?.iter() {
        told.extend_from_slice(column.name);
        told.push(0);
        told.extend_from_slice(&column.type_oid.to_be_bytes());
        told.extend_from_slice(&column.type_modifier.to_be_bytes());
    }
    Some(told.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A RowDescription of one column.
    fn description(name: &str, table: u32, type_oid: u32, modifier: i32, format: u16) -> Vec<u8> {
        let mut body = 1u16.to_be_bytes().to_vec();
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(&table.to_be_bytes());
        body.extend_from_slice(&1u16.to_be_bytes());
        body.extend_from_slice(&type_oid.to_be_bytes());
        body.extend_from_slice(&4u16.to_be_bytes());
        body.extend_from_slice(&modifier.to_be_bytes());
        body.extend_from_slice(&format.to_be_bytes());
        body
    }

    /// PostgreSQL goes on with a table that was made anew, and a portal has formats that its statement has not.
    #[test]
    fn columns_are_the_same_by_name_type_and_modifier() {
        let known = columns(&description("n", 16384, 23, -1, 0)).expect("it is well formed");
        assert_eq!(columns(&description("n", 16999, 23, -1, 1)).as_ref(), Some(&known));
        for other in [("m", 23, -1), ("n", 25, -1), ("n", 23, 8)] {
            assert_ne!(columns(&description(other.0, 16384, other.1, other.2, 0)).as_ref(), Some(&known));
        }
        assert_eq!(columns(&known), None, "no RowDescription");
    }
}

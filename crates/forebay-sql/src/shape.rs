//! Shapes: what a text does, statement by statement, as far as the text alone tells.

use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::builtin;
use crate::traces::Traces;

/// What kind of statement it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Verb {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Copy,
    /// EXPLAIN of anything.
    Explain,
    Begin,
    Commit,
    /// ROLLBACK or ABORT of the whole transaction.
    Rollback,
    Savepoint,
    Release,
    RollbackTo,
    PrepareTransaction,
    /// COMMIT PREPARED, ROLLBACK PREPARED.
    FinishPrepared,
    /// SET of a session's setting to a value, in every spelling (TIME ZONE, ROLE, SESSION CHARACTERISTICS …).
    Set,
    /// SET LOCAL, SET TRANSACTION, SET CONSTRAINTS.
    SetLocal,
    /// RESET, or SET … TO DEFAULT; without a name: RESET ALL.
    Reset,
    Show,
    Discard,
    DiscardAll,
    Prepare,
    Execute,
    /// With the name; without one: DEALLOCATE ALL.
    Deallocate,
    Declare,
    Fetch,
    /// CLOSE of a cursor.
    Close,
    Listen,
    /// Without a name: UNLISTEN *.
    Unlisten,
    Notify,
    Lock,
    Load,
    Do,
    Call,
    /// Makes, changes or drops objects.
    Schema,
    /// Makes a database out of another, renames, moves or drops one: nobody may be connected to the one of that name.
    Database,
    /// VACUUM, ANALYZE, CHECKPOINT, CLUSTER, REINDEX and the like.
    Maintenance,
    /// Anything else, or what the grammar refuses.
    Other,
}

impl Verb {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Select => "SELECT",
            Verb::Insert => "INSERT",
            Verb::Update => "UPDATE",
            Verb::Delete => "DELETE",
            Verb::Merge => "MERGE",
            Verb::Copy => "COPY",
            Verb::Explain => "EXPLAIN",
            Verb::Begin => "BEGIN",
            Verb::Commit => "COMMIT",
            Verb::Rollback => "ROLLBACK",
            Verb::Savepoint => "SAVEPOINT",
            Verb::Release => "RELEASE",
            Verb::RollbackTo => "ROLLBACK TO",
            Verb::PrepareTransaction => "PREPARE TRANSACTION",
            Verb::FinishPrepared => "COMMIT or ROLLBACK PREPARED",
            Verb::Set => "SET",
            Verb::SetLocal => "SET for the transaction",
            Verb::Reset => "RESET",
            Verb::Show => "SHOW",
            Verb::Discard => "DISCARD",
            Verb::DiscardAll => "DISCARD ALL",
            Verb::Prepare => "PREPARE",
            Verb::Execute => "EXECUTE",
            Verb::Deallocate => "DEALLOCATE",
            Verb::Declare => "DECLARE",
            Verb::Fetch => "FETCH or MOVE",
            Verb::Close => "CLOSE",
            Verb::Listen => "LISTEN",
            Verb::Unlisten => "UNLISTEN",
            Verb::Notify => "NOTIFY",
            Verb::Lock => "LOCK",
            Verb::Load => "LOAD",
            Verb::Do => "DO",
            Verb::Call => "CALL",
            Verb::Schema => "a change of objects",
            Verb::Database => "a change of databases",
            Verb::Maintenance => "maintenance",
            Verb::Other => "another statement",
        }
    }

    /// Whether it can end a transaction block.
    pub fn ends_transaction(self) -> bool {
        matches!(self, Verb::Commit | Verb::Rollback | Verb::PrepareTransaction | Verb::Other)
    }

    /// Whether it may begin a transaction, or say of one whether it can write.
    pub fn is_of_mode(self) -> bool {
        matches!(self, Verb::Begin | Verb::SetLocal | Verb::Other)
    }

    /// Whether its loss in flight leaves the outcome of a transaction unknown.
    pub fn commits(self) -> bool {
        matches!(self, Verb::Commit | Verb::PrepareTransaction | Verb::FinishPrepared)
    }
}

/// What BEGIN, START TRANSACTION and SET TRANSACTION say of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// READ ONLY, or READ WRITE and any SET or RESET of `transaction_read_only`; None: neither is said.
    pub read_only: Option<bool>,
    /// ISOLATION LEVEL SERIALIZABLE, which a replica refuses.
    pub is_serializable: bool,
}

/// One statement of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementShape {
    /// What kind it is.
    pub verb: Verb,
    /// What it may leave behind, functions and relations that only a catalogue knows left out.
    pub traces: Traces,
    /// Names of the settings that it sets or resets, in lower case.
    pub settings: Box<[Box<str>]>,
    /// The name that PREPARE, EXECUTE, DEALLOCATE, LISTEN, UNLISTEN, NOTIFY, DECLARE, CLOSE, FETCH or a change of
    /// databases is about, folded as PostgreSQL folds it.
    pub name: Option<Box<str>>,
    /// Of the transaction that it begins, or sets.
    pub modes: Modes,
}

/// What a text does.
#[derive(Debug, Default)]
pub struct Shape {
    /// Statement by statement; empty for a text without any.
    pub statements: Box<[StatementShape]>,
    /// Any of them may begin a transaction, or say of one whether it can write.
    pub is_of_mode: bool,
    /// The grammar took it. If not, `statements` holds one [`Verb::Other`] that is opaque.
    pub is_parsed: bool,
    /// The traces of all statements.
    pub traces: Traces,
    /// Those of them that the text makes for sure, and that outlast the transaction: what pins. A `CREATE TABLE` may be a
    /// temporary one by search_path, and `DISCARD` has to do with much, but neither is meant to pin.
    pub pins: Traces,
    /// Functions called, operators' names (as `~+`) among them: last name part, folded; each once.
    pub functions: Box<[Box<str>]>,
    /// Names that call a function only if the database has one of that name: `f` of `t.f`, which is f(t) if t has no such
    /// column, and syntax that an older server reads as a call. Folded; each once.
    pub maybe_functions: Box<[Box<str>]>,
    /// Relations named, CTEs left out: last name part, folded; each once.
    pub relations: Box<[Box<str>]>,
    /// Types cast to or from by name, other than PostgreSQL's own: last name part, folded; each once.
    pub types: Box<[Box<str>]>,
    /// The answer of the catalogue that was asked last: its id above, the traces below.
    pub(crate) judged: AtomicU64,
    /// The id of the catalogue in force when a replica last refused it; 0: none has.
    pub(crate) refused: AtomicU32,
}

/// Names that are not PostgreSQL's own, so that only a database's catalogue tells what they do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ForeignNames<'s> {
    /// Functions and operators.
    pub functions: Vec<&'s str>,
    /// Relations.
    pub relations: Vec<&'s str>,
    /// Types.
    pub types: Vec<&'s str>,
}

impl Shape {
    /// Those of its names that are not PostgreSQL's own.
    pub fn foreign_names(&self) -> ForeignNames<'_> {
        fn others(names: &[Box<str>], is_own: impl Fn(&str) -> bool) -> Vec<&str> {
            names.iter().map(|name| &**name).filter(|name| !is_own(name)).collect()
        }
        ForeignNames {
            functions: others(&self.functions, |name| builtin::function(name).is_some()),
            relations: others(&self.relations, |name| builtin::relation(name, false).is_some()),
            types: others(&self.types, builtin::is_type),
        }
    }

    /// Whether it names anything that is not PostgreSQL's own.
    pub fn is_of_database(&self) -> bool {
        self.foreign_names() != ForeignNames::default()
    }

    /// The names of all settings that its statements set or reset.
    pub fn settings(&self) -> impl Iterator<Item = &str> {
        self.statements.iter().flat_map(|s| s.settings.iter()).map(|name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use crate::grammar::parse;
    use crate::lexer::Backslash;

    use super::*;

    #[test]
    fn only_names_that_postgresql_lacks_are_foreign() {
        let shape = parse(b"select lower(a) ~~~ take(b)::job_id + 1 from jobs, pg_class", Backslash::Plain);
        let expected = ForeignNames { functions: vec!["take", "~~~"], relations: vec!["jobs"], types: vec!["job_id"] };
        assert_eq!(shape.foreign_names(), expected);
    }
}

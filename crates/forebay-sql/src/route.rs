//! Where a text may run: on the primary alone, or on a replica as well.
//!
//! A text is for the primary unless it is known to read and nothing else. What is known is what the text says, and what a
//! catalogue says of the functions, relations and types in it ([`crate::catalogue::Catalogue::judge`]).

use crate::shape::{Modes, Shape, StatementShape, Verb};
use crate::traces::Traces;

/// Why a text goes where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It reads.
    Reads,
    /// It begins a transaction that can't write.
    BeginsReadOnly,
    /// There is no statement in it.
    Empty,
    /// The grammar does not know it.
    Unknown,
    /// It, or what it runs, writes data.
    Writes,
    /// It makes, changes or drops objects.
    ChangesObjects,
    /// It uses a sequence.
    UsesSequence,
    /// It takes a lock that others are to see.
    Locks,
    /// It leaves something in its session, or asks for what is there.
    OfSession,
    /// It tells other sessions.
    Notifies,
    /// It begins a transaction that may write.
    Begins,
    /// It is about the transaction under way.
    OfTransaction,
    /// What it runs can't be told.
    Opaque,
    /// A replica would refuse it, or answer otherwise.
    OfPrimary,
    /// Maintenance of the database.
    Maintains,
}

impl Reason {
    /// Whether a replica may be asked.
    pub const fn allows_replica(self) -> bool {
        matches!(self, Reason::Reads | Reason::BeginsReadOnly | Reason::Empty)
    }

    /// For people; completes "it …".
    pub const fn text(self) -> &'static str {
        match self {
            Reason::Reads => "only reads",
            Reason::BeginsReadOnly => "begins a read-only transaction",
            Reason::Empty => "asks nothing",
            Reason::Unknown => "is not known to the grammar",
            Reason::Writes => "writes",
            Reason::ChangesObjects => "makes, changes or drops objects",
            Reason::UsesSequence => "uses a sequence",
            Reason::Locks => "takes a lock",
            Reason::OfSession => "belongs to its session",
            Reason::Notifies => "notifies others",
            Reason::Begins => "begins a transaction that may write",
            Reason::OfTransaction => "belongs to its transaction",
            Reason::Opaque => "may do anything: what it runs can't be told",
            Reason::OfPrimary => "asks for what a replica refuses or answers otherwise",
            Reason::Maintains => "is maintenance",
        }
    }
}

/// What of a statement's traces keeps it on the primary, the clearest reason first.
const KEEPING: [(Traces, Reason); 7] = [
    (Traces::SCHEMA.with(Traces::TEMP), Reason::ChangesObjects),
    (Traces::SEQUENCE.with(Traces::READS_SEQUENCE), Reason::UsesSequence),
    (Traces::WRITES, Reason::Writes),
    (Traces::LOCK, Reason::Locks),
    (Traces::NOTIFY, Reason::Notifies),
    (
        Traces::SETTING
            .with(Traces::ANY_SETTING)
            .with(Traces::LOCAL_SETTING)
            .with(Traces::AUTHORIZATION)
            .with(Traces::LISTEN)
            .with(Traces::CURSOR)
            .with(Traces::PREPARED)
            .with(Traces::SEED)
            .with(Traces::LIBRARY),
        Reason::OfSession,
    ),
    (Traces::PRIMARY, Reason::OfPrimary),
];

/// Where a text outside of a transaction block may run. `traces`: those of the text, the objects that it names counted in.
///
/// Of several statements, the first that is for the primary keeps all of them there: they are one transaction.
pub fn route(shape: &Shape, traces: Traces) -> Reason {
    if !shape.is_parsed {
        return Reason::Unknown;
    }
    let Some(first) = shape.statements.first() else { return Reason::Empty };
    if let Some(kept) = shape.statements.iter().map(of_verb).find(|reason| !reason.allows_replica()) {
        return kept;
    }
    // What can't be told may do any of the others.
    if traces.has(Traces::OPAQUE) {
        return Reason::Opaque;
    }
    let kept = KEEPING.iter().find(|(keeping, _)| traces.has_any(*keeping));
    kept.map_or_else(|| of_verb(first), |(_, reason)| *reason)
}

/// What a statement's kind says.
fn of_verb(statement: &StatementShape) -> Reason {
    match statement.verb {
        Verb::Select | Verb::Copy | Verb::Explain => Reason::Reads,
        Verb::Begin if is_read_only(statement.modes) => Reason::BeginsReadOnly,
        Verb::Begin => Reason::Begins,
        Verb::Insert | Verb::Update | Verb::Delete | Verb::Merge => Reason::Writes,
        Verb::Schema | Verb::Database => Reason::ChangesObjects,
        Verb::Lock => Reason::Locks,
        Verb::Notify => Reason::Notifies,
        Verb::Maintenance => Reason::Maintains,
        Verb::Do | Verb::Call => Reason::Opaque,
        // `SHOW transaction_read_only` is how clients look for the primary.
        Verb::Show => Reason::OfPrimary,
        Verb::Set
        | Verb::Reset
        | Verb::Discard
        | Verb::DiscardAll
        | Verb::Prepare
        | Verb::Execute
        | Verb::Deallocate
        | Verb::Listen
        | Verb::Unlisten
        | Verb::Load => Reason::OfSession,
        Verb::Commit
        | Verb::Rollback
        | Verb::Savepoint
        | Verb::Release
        | Verb::RollbackTo
        | Verb::SetLocal
        | Verb::Declare
        | Verb::Fetch
        | Verb::Close => Reason::OfTransaction,
        // They end what another session has begun.
        Verb::PrepareTransaction | Verb::FinishPrepared => Reason::Writes,
        Verb::Other => Reason::Unknown,
    }
}

/// Whether a replica runs such a transaction.
fn is_read_only(modes: Modes) -> bool {
    modes.read_only == Some(true) && !modes.is_serializable
}

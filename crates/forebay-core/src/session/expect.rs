//! What a server still owes us, in order: the queue that pairs each reply with what asked for it.

use std::sync::Arc;

use forebay_spec::Report;

use crate::outcome::{Anchor, Asking};
use crate::renamed::Places;
use crate::statements::Statement;
use crate::tracking::access::AccessMode;

/// A change to a client's names, to be confirmed by an answer or undone when the server skips the message.
#[derive(Debug)]
pub struct Change {
    /// The client's name; empty: unnamed.
    pub name: Box<[u8]>,
    /// What it meant before.
    pub before: Option<Arc<Statement>>,
    /// The segment that the message belongs to.
    pub segment: u32,
}

/// What a PREPARE or DEALLOCATE does, to be confirmed by its CommandComplete or undone by its error.
#[derive(Debug)]
pub struct Naming {
    /// What it is.
    pub what: Does,
    /// To the client's names; none where the name stands for another statement by now.
    pub changes: Vec<Change>,
    /// The statements.
    pub statements: Vec<Arc<Statement>>,
    /// What another statement of the same text does.
    pub next: Option<Box<Naming>>,
}

/// Those behind it may be thousands: they go one after the other, not each within the one before.
impl Drop for Naming {
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut naming) = next {
            next = naming.next.take();
        }
    }
}

impl Naming {
    /// What one statement does.
    pub fn of(what: Does, changes: Vec<Change>, statements: Vec<Arc<Statement>>) -> Naming {
        Naming { what, changes, statements, next: None }
    }

    /// Itself, and what comes behind it in the text.
    pub fn all(&self) -> impl Iterator<Item = &Naming> {
        std::iter::successors(Some(self), |naming| naming.next.as_deref())
    }
}

/// What is done to prepared statements, and how its CommandComplete says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// PREPARE.
    Makes,
    /// DEALLOCATE of one.
    Takes,
    /// DEALLOCATE ALL, DISCARD ALL.
    TakesAll,
}

impl Does {
    /// Whether a CommandComplete's tag, with its NUL, is of this.
    pub fn is_told_by(self, tag: &[u8]) -> bool {
        match self {
            Does::Makes => tag == b"PREPARE\0",
            Does::Takes => tag == b"DEALLOCATE\0",
            Does::TakesAll => matches!(tag, b"DEALLOCATE ALL\0" | b"DISCARD ALL\0"),
        }
    }
}

/// What the client is told of the error that the server is made to answer with.
#[derive(Debug)]
pub enum Refusal {
    /// This error in its place.
    Instead(Report),
    /// What the server says.
    AsItIs,
}

/// What a text ends of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ends {
    /// Nothing.
    #[default]
    Nothing,
    /// Transactions of its own, where it is in no block: a part of it may be committed before it ends.
    Itself,
    /// A block, of which nothing is done then.
    Block,
    /// It may commit: if the server is lost, the outcome is unknown.
    Commit,
}

/// What statements end that a server has been sent, and what is known of what they end.
#[derive(Debug, Default)]
pub struct Endings {
    /// The one that was bound last, without a name for its portal.
    pub bound: Ends,
    /// The most that any of those ends that wait in portals with names.
    pub portals: Ends,
    /// Those that nobody keeps account of, by name, if they end something.
    pub unshared: Vec<(Box<[u8]>, Ends)>,
    /// What is answered of the request at the head of the queue, whose ReadyForQuery is to come.
    pub answered: Ends,
    /// Whether the transaction at hand can write.
    pub access: AccessMode,
    /// By what its client's transaction is found again, if its COMMIT is looked for.
    pub anchor: Option<Box<Anchor>>,
    /// What it is asked about a client's COMMIT.
    pub asking: Option<Box<Asking>>,
}

/// Why we sent a query of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Set the parameters of the client that comes next.
    Prepare,
    /// The same and more, with the client's request behind it: a pipeline, answered when its COMMIT is.
    HandOver,
    /// Nothing but ReadyForQuery: all else was skipped.
    Skipped,
    /// See that an idle server is alive.
    Check,
    /// End the transaction of a client that left.
    Rollback,
    /// `server_reset_query`, in session mode.
    Reset,
    /// Ask by what a client's transaction is found again, before its COMMIT goes out.
    Anchor,
    /// Ask what became of a COMMIT.
    Outcome,
    /// Look at what a client's transaction has left.
    Probe,
    /// See whether a sequence was advanced unseen.
    Sequence,
    /// Bring the server back to its start.
    Clean,
    /// The database's `connect_query`, once more.
    Connect,
    /// Set again what a client asked for at its start and has reset.
    Restore,
    /// Ask whether the catalogue has changed.
    Stamp,
    /// Read the catalogue.
    Catalogue,
    /// Prepare a statement that the Query behind it names.
    Ensure,
    /// Set, for that, what the statement was made with, and undo it.
    Settings,
    /// Set the channels of a client that listens elsewhere.
    Listens,
    /// Ask what it listens to.
    Channels,
    /// Listen to nothing any more.
    Unlisten,
    /// Go on listening, but for the channel of cuts.
    Stay,
    /// What a listener is to do next.
    Hear,
}

/// One thing that a server owes.
#[derive(Debug)]
pub enum Expect {
    /// Everything up to ReadyForQuery.
    Query {
        /// What its text ends.
        ends: Ends,
        /// What the server was sent in its place fails.
        refusal: Option<Box<Refusal>>,
        /// What it does to the names of statements.
        naming: Option<Box<Naming>>,
        /// Where names were replaced in it.
        places: Option<Box<Places>>,
    },
    /// As `Query`, for FunctionCall.
    Function,
    /// ReadyForQuery.
    Sync,
    /// ParseComplete.
    Parse {
        /// What it prepares; `None` where statements pass through unshared.
        statement: Option<Arc<Statement>>,
        /// The answer goes to the client.
        relay: bool,
        /// What it does to the client's names.
        change: Option<Change>,
    },
    /// CloseComplete.
    Close {
        /// The statement that we close to make room; `None`: the client's own Close, which is relayed.
        evicted: Option<Arc<Statement>>,
        /// The answer goes to the client.
        relay: bool,
    },
    /// BindComplete.
    Bind {
        /// The name of the statement that is bound, as [`name_mark`] has it.
        ///
        /// [`name_mark`]: crate::renamed::name_mark
        name: u32,
    },
    /// RowDescription or NoData (after ParameterDescription for a statement).
    Describe {
        /// The statement whose columns are told; `None`: nobody needs to know.
        statement: Option<Arc<Statement>>,
        /// The answer goes to the client.
        relay: bool,
        /// As in `Query`: what the statement executes is planned to be described.
        places: Option<Box<Places>>,
    },
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute {
        /// As in `Query`.
        ends: Ends,
        /// As in `Query`, of a DEALLOCATE.
        naming: Option<Box<Naming>>,
        /// As in `Query`.
        places: Option<Box<Places>>,
    },
    /// Nothing: the place where a CopyDone or CopyFail went out.
    CopyEnd,
    /// Nothing: an answer that we give ourselves when its turn comes.
    Answer {
        /// ParseComplete or CloseComplete.
        tag: u8,
        /// What the message did to the client's names.
        change: Change,
    },
    /// An error that says "already exists" of our name and must say it of the client's.
    DuplicateParse {
        /// The client's name.
        name: Box<[u8]>,
    },
    /// An error in place of a message that uses a statement whose result is no longer what its clients were told.
    Outdated,
    /// As [`Expect::Query`]'s refusal, for a message of the extended protocol.
    Refused(Box<Report>),
    /// Everything up to ReadyForQuery, and none of it for a client.
    Own(Own),
}

impl Expect {
    /// What it does to the client's names, in order.
    pub fn changes(&self) -> Vec<&Change> {
        match self {
            Expect::Parse { change, .. } => change.iter().collect(),
            Expect::Answer { change, .. } => vec![change],
            Expect::Query { naming: Some(naming), .. } | Expect::Execute { naming: Some(naming), .. } => {
                naming.all().flat_map(|naming| &naming.changes).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the server skips this after an error up to the next Sync.
    pub fn is_skipped_after_error(&self) -> bool {
        !matches!(self, Expect::Sync | Expect::Own(_))
    }

    /// Whether a reply to it ends the server's silence: something runs that a cancel could stop.
    pub fn is_running(&self) -> bool {
        matches!(self, Expect::Query { .. } | Expect::Function | Expect::Execute { .. } | Expect::Bind { .. })
    }
}

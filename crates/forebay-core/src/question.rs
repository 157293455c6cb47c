//! Questions that core can't decide alone, and their answers. The asking client is parked; nobody else waits.

use std::sync::Arc;

use crate::auth::Secret;
use crate::config::AuthMethod;
use crate::ids::QuestionId;
use crate::misses::Source;

/// What core wants to know.
#[derive(Clone, Debug)]
pub enum Question {
    /// The secret of a user that the tables don't hold: auth_query or a `secret_source` of Python.
    Secret {
        /// The database the client asked for.
        database: Arc<str>,
        /// The user the client claims to be.
        user: Arc<str>,
    },
    /// Whether a password is right, judged by a directory or by the system.
    Verdict {
        /// `Ldap` or `Pam`.
        method: AuthMethod,
        /// Which of the directories or services of the configuration.
        service: u32,
        /// The database the client asked for.
        database: Arc<str>,
        /// The user the client claims to be.
        user: Arc<str>,
        /// What it gave; not empty.
        password: Secret,
        /// Where it comes from.
        address: Arc<str>,
    },
    /// The name of a user of this system, looked up by the driver's side thread: that may take a directory's time.
    OsUser {
        /// The user's number.
        uid: u32,
    },
    /// A statement of a console session, answered by Python as encoded messages up to, not with, ReadyForQuery.
    Console {
        /// Who asks: authenticated, one of `console.admins` or `console.viewers`.
        user: Arc<str>,
        /// It is a process of the user that forebay runs as, and may do everything.
        is_own: bool,
        /// The statement's text.
        text: Arc<str>,
        /// What of its answer is wanted.
        step: ConsoleStep,
    },
    /// A salted password (PBKDF2), derived by the driver's side thread so that no loop pays for it.
    SaltPassword {
        /// The plain password, normalized.
        password: Secret,
        /// At most 1,024 bytes.
        salt: Arc<[u8]>,
        /// 1 to 100,000.
        iterations: u32,
        /// For whom.
        turn: Turn,
    },
    /// No question: a server of a cluster was lost, and its endpoints are to be looked at at once. Nobody waits for an answer.
    Suspect {
        /// The cluster's database.
        database: Arc<str>,
    },
    /// No question: the user of a console session has cancelled the statement that is being answered. That ends soon, if it
    /// is one that waits; nobody waits for an answer to this.
    CallOff {
        /// The statement's.
        asked: QuestionId,
    },
}

impl Question {
    /// Whether nobody waits for an answer.
    pub fn is_news(&self) -> bool {
        matches!(self, Question::Suspect { .. } | Question::CallOff { .. })
    }
}

/// For whom something dear is done: each has its turn, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// Our own login to a server.
    Own,
    /// The login of a client of this source.
    Of(Source),
    /// The same, of a source from which many logins have failed lately.
    OfSuspect(Source),
}

/// What of a console statement's answer is wanted.
#[derive(Clone, Debug)]
pub enum ConsoleStep {
    /// All of it, values as text.
    Query,
    /// RowDescription or NoData, with these formats of columns; nothing is run.
    Describe(Arc<[i16]>),
    /// All but RowDescription, values in these formats.
    Execute(Arc<[i16]>),
}

/// What came back.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A user's secret; `None`: no such user, or one that may not log in.
    Secret(Option<crate::auth::Credential>),
    /// Whether the password is right.
    Verdict(bool),
    /// The user's name; `None`: there is no such user.
    OsUser(Option<Arc<str>>),
    /// Encoded backend messages for the console session, without the final ReadyForQuery.
    Console(Arc<[u8]>),
    /// Messages that come before those: how far it is. The question stays open.
    ConsolePart(Arc<[u8]>),
    /// The salted password, 32 bytes.
    SaltedPassword([u8; 32]),
    /// Nobody answered in time, or the answer was an error: words for the log, no secret in them.
    Failed(Arc<str>),
}

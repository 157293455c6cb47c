//! What is run on both sides: clients, and steps in one order.
//!
//! A program stands by itself: a file with one in it is all that a run needs. `{u}` in a text is replaced by a word that
//! no other run has, so that what one run creates is never what another one finds.

use serde::{Deserialize, Serialize};

use crate::feature::Feature;

/// Sizes of pools that programs run through; the last one has a server for every client.
pub(crate) const POOLS: [usize; 3] = [1, 2, CLIENTS_MAX];

/// Most clients of a program.
pub(crate) const CLIENTS_MAX: usize = 6;

/// Stands in texts for a word that no other run has.
pub(crate) const UNIQUE: &str = "{u}";

/// Startup parameters beside user and database.
pub(crate) type Startup = Vec<(String, String)>;

/// Clients and what they do, in one order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// The level it runs at; empty where the configuration has none.
    pub(crate) level: String,
    /// Servers of its pool. A run takes a larger pool when so many clients hold servers.
    pub(crate) pool: usize,
    /// Whether its clients are superusers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) superuser: bool,
    /// Whether its clients speak TLS with forebay.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) tls: bool,
    /// Startup parameters of each client; all are connected when the program begins.
    pub(crate) clients: Vec<Startup>,
    /// In the order in which they are run, each to its end.
    pub(crate) steps: Vec<Step>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Something that one client does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Its number. Clients that make noise have numbers of their own.
    pub(crate) client: usize,
    /// Why it is there.
    pub(crate) feature: Feature,
    /// What it does.
    pub(crate) action: Action,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Sends messages in one write and reads to the end of what they are answered.
    Send(Vec<Message>),
    /// Connects again after it left.
    Connect(Startup),
    /// Ends its connection.
    Leave(Leave),
    /// Asks that what it runs be cancelled.
    Cancel(Cancel),
    /// Waits for what its channels tell.
    Listen,
    /// Something that must not be seen by anybody else; through forebay alone, in a session that may go on.
    Noise {
        /// What is sent.
        messages: Vec<Message>,
        /// Whether the connection ends then.
        leave: Option<Leave>,
    },
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Leave {
    /// With a Terminate.
    Terminate,
    /// Without a word.
    Cut,
}

/// When a cancel request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cancel {
    /// While a statement runs.
    Now,
    /// After the statement ended.
    Late,
    /// About when the statement ends.
    Racing,
}

/// A message of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// Query.
    Query(String),
    /// Parse.
    Parse {
        /// The statement's name; may be empty.
        name: String,
        /// Its text.
        sql: String,
    },
    /// Bind.
    Bind {
        /// The portal's name; may be empty.
        portal: String,
        /// The statement's name.
        statement: String,
        /// Its parameters; one in binary is written in hexadecimal digits.
        values: Vec<Option<String>>,
        /// 0 for text, 1 for binary: none, one for all parameters, or one for each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        formats: Vec<i16>,
        /// The same of the results' columns.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        results: Vec<i16>,
    },
    /// FunctionCall.
    Call {
        /// Name and types of arguments, as PostgreSQL shows a regprocedure: each side has an oid of its own for it.
        function: String,
        /// The arguments; in hexadecimal digits where they are in binary.
        arguments: Vec<Option<String>>,
        /// Whether arguments and result are in binary.
        binary: bool,
    },
    /// Describe of a statement.
    DescribeStatement(String),
    /// Describe of a portal.
    DescribePortal(String),
    /// Execute.
    Execute {
        /// The portal's name.
        portal: String,
        /// Limit; 0 for all.
        rows: i32,
    },
    /// Close of a statement.
    CloseStatement(String),
    /// Close of a portal.
    ClosePortal(String),
    /// Flush.
    Flush,
    /// Sync.
    Sync,
    /// CopyData.
    CopyData(String),
    /// CopyData in hexadecimal digits.
    CopyBytes(String),
    /// CopyDone.
    CopyDone,
    /// CopyFail.
    CopyFail(String),
}

impl Message {
    /// Its text, if it has one that a server would run.
    pub(crate) fn sql(&self) -> Option<&str> {
        match self {
            Message::Query(sql) | Message::Parse { sql, .. } => Some(sql),
            _ => None,
        }
    }
}

impl Step {
    /// What it sends.
    pub(crate) fn messages(&self) -> &[Message] {
        match &self.action {
            Action::Send(messages) | Action::Noise { messages, .. } => messages,
            _ => &[],
        }
    }

    /// Whether it belongs to the noise.
    pub(crate) fn is_noise(&self) -> bool {
        matches!(self.action, Action::Noise { .. })
    }

    /// Whether one of its texts contains `word`, in any case of letters, or the name of a function that it calls, or one
    /// of that function's arguments.
    pub(crate) fn mentions(&self, word: &str) -> bool {
        let is_in = |text: &str| text.to_ascii_lowercase().contains(word);
        self.messages().iter().any(|message| match message {
            Message::Call { function, arguments, .. } => {
                is_in(function) || arguments.iter().flatten().any(|argument| is_in(argument))
            }
            _ => message.sql().is_some_and(is_in),
        })
    }
}

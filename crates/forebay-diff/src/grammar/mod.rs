//! What a client may do next, by feature: [`act`] does something, [`look`] shows what is there.

mod objects;
mod protocol;
mod rare;
mod settings;
mod sharing;

use std::collections::VecDeque;

use fastrand::Rng;

use crate::feature::Feature;
use crate::program::{Action, Leave, Message, Startup};

/// Actions of one client in their order, each with what it is there for.
pub(crate) type Done = Vec<(Feature, Action)>;

/// What is foreseen of a client's session.
pub(crate) struct Session {
    /// The client's number.
    pub(crate) client: usize,
    /// Whether it has not left.
    pub(crate) is_connected: bool,
    /// Whether a transaction is open.
    pub(crate) is_in_transaction: bool,
    /// Whether it has something that only its server has.
    pub(crate) is_pinned: bool,
    /// Whether setseed() was called.
    pub(crate) is_seeded: bool,
    /// Whether it has something that no DISCARD takes out of it: a seed, a library.
    pub(crate) is_lasting: bool,
    /// Whether it ever listened.
    pub(crate) is_listening: bool,
    /// Whether the program is about settings; if not, plain features change none that outlive a transaction.
    pub(crate) may_set: bool,
    /// Whether only what texts say is looked for: what functions and triggers leave unseen is not to be compared.
    pub(crate) is_fast: bool,
    /// What it has begun and goes on with.
    pub(crate) pending: VecDeque<(Feature, Action)>,
    /// For names of what it creates.
    pub(crate) created: usize,
}

impl Session {
    /// Connected, and nothing else.
    pub(crate) fn new(client: usize, may_set: bool, is_fast: bool) -> Session {
        Session {
            client,
            is_connected: true,
            is_in_transaction: false,
            is_pinned: false,
            is_seeded: false,
            is_lasting: false,
            is_listening: false,
            may_set,
            is_fast,
            pending: VecDeque::new(),
            created: 0,
        }
    }

    /// Whether a server is its own for longer than a step.
    pub(crate) fn is_holding(&self) -> bool {
        self.is_in_transaction || self.is_pinned || !self.pending.is_empty()
    }

    fn leave(&mut self) {
        self.is_connected = false;
        self.is_seeded = false;
        self.is_lasting = false;
        self.forget();
    }

    /// After DISCARD ALL, which leaves the seed of random() and libraries as they are.
    fn forget(&mut self) {
        self.is_in_transaction = false;
        self.is_pinned = self.is_lasting;
        self.is_listening = false;
    }
}

fn pick<'a, T: ?Sized>(rng: &mut Rng, from: &[&'a T]) -> &'a T {
    from[rng.usize(..from.len())]
}

fn one_in(rng: &mut Rng, n: usize) -> bool {
    rng.usize(..n) == 0
}

fn query(sql: impl Into<String>) -> Action {
    Action::Send(vec![Message::Query(sql.into())])
}

/// A statement as a Query or as a batch of the extended protocol.
fn statement(rng: &mut Rng, sql: impl Into<String>) -> Action {
    let sql = sql.into();
    if rng.usize(..100) < 65 { query(sql) } else { Action::Send(extended("", &sql, &[])) }
}

/// Parse to Sync for one statement.
fn extended(name: &str, sql: &str, values: &[&str]) -> Vec<Message> {
    vec![
        Message::Parse { name: name.to_owned(), sql: sql.to_owned() },
        bind("", name, values),
        Message::DescribePortal(String::new()),
        Message::Execute { portal: String::new(), rows: 0 },
        Message::Sync,
    ]
}

/// Bind of values in text.
fn bind(portal: &str, statement: &str, values: &[&str]) -> Message {
    Message::Bind {
        portal: portal.to_owned(),
        statement: statement.to_owned(),
        values: values.iter().map(|value| Some((*value).to_owned())).collect(),
        formats: Vec::new(),
        results: Vec::new(),
    }
}

/// Statements one after another, or at times in one Query.
fn statements(rng: &mut Rng, feature: Feature, list: &[String]) -> Done {
    if list.len() > 1 && one_in(rng, 3) {
        return vec![(feature, query(list.join("; ")))];
    }
    list.iter().map(|sql| (feature, statement(rng, sql.as_str()))).collect()
}

/// A transaction around statements, if none is open. It may stay open, and may be rolled back.
fn in_transaction(rng: &mut Rng, session: &mut Session, feature: Feature, list: &[String]) -> Done {
    let mut all = Vec::new();
    if !session.is_in_transaction {
        all.push("BEGIN".to_owned());
        session.is_in_transaction = true;
    }
    all.extend_from_slice(list);
    if rng.bool() {
        all.push(if one_in(rng, 3) { "ROLLBACK" } else { "COMMIT" }.to_owned());
        session.is_in_transaction = false;
    }
    statements(rng, feature, &all)
}

/// Features that change what a session keeps: settings, or what a text is prepared under.
pub(crate) const SETTERS: &[Feature] = &[
    Feature::Set,
    Feature::SetStack,
    Feature::Characteristics,
    Feature::SetConfig,
    Feature::Custom,
    Feature::Opaque,
    Feature::Trigger,
    Feature::Call,
];

/// Gives up what the client holds.
pub(crate) fn release(rng: &mut Rng, session: &mut Session) -> Done {
    if session.is_in_transaction {
        session.is_in_transaction = false;
        let sql = pick(rng, &["COMMIT", "COMMIT", "ROLLBACK", "END", "ABORT"]);
        return vec![(Feature::Transaction, statement(rng, sql))];
    }
    if session.is_lasting || one_in(rng, 3) {
        session.leave();
        return vec![(Feature::Leave, Action::Leave(Leave::Terminate))];
    }
    session.forget();
    vec![(Feature::Discard, query("DISCARD ALL"))]
}

/// Startup parameters that a client may ask for.
pub(crate) fn startup(rng: &mut Rng) -> Startup {
    let list: &[(&str, &str)] = &[
        ("TimeZone", "Asia/Tokyo"),
        ("DateStyle", "German, DMY"),
        ("application_name", "program"),
        ("client_encoding", "LATIN1"),
        ("search_path", "north, public"),
        ("options", "-c work_mem=3MB"),
        ("options", "-c app.a=started -c IntervalStyle=iso_8601"),
        ("extra_float_digits", "3"),
        ("default_transaction_isolation", "repeatable read"),
        ("statement_timeout", "30s"),
    ];
    let mut startup: Startup = Vec::new();
    for _ in 0..rng.usize(..3) {
        let (name, value) = list[rng.usize(..list.len())];
        if startup.iter().all(|(known, _)| known != name) {
            startup.push((name.to_owned(), value.to_owned()));
        }
    }
    startup
}

/// Does something of a feature.
pub(crate) fn act(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    match feature {
        Feature::Dml
        | Feature::Transaction
        | Feature::Savepoint
        | Feature::Error
        | Feature::Multi
        | Feature::Notice => protocol::plain(rng, session, feature),
        Feature::Prepare | Feature::Pipeline | Feature::Portal => protocol::batches(rng, session, feature),
        Feature::Copy | Feature::CopyFail => protocol::copy(rng, session, feature),
        Feature::Leave | Feature::Startup | Feature::Cancel => protocol::connection(rng, session, feature),
        Feature::Set
        | Feature::SetStack
        | Feature::SetLocal
        | Feature::Characteristics
        | Feature::SetConfig
        | Feature::Custom
        | Feature::SearchPath
        | Feature::Encoding
        | Feature::Role
        | Feature::RowSecurity
        | Feature::Discard
        | Feature::Opaque
        | Feature::Trigger
        | Feature::Literal => settings::act(rng, session, feature),
        Feature::SqlPrepare
        | Feature::Temp
        | Feature::Shadow
        | Feature::TempOnCommit
        | Feature::Ddl
        | Feature::Replan
        | Feature::Cursor
        | Feature::Hold => objects::act(rng, session, feature),
        Feature::Sequence | Feature::Seed | Feature::Lock | Feature::LockXact | Feature::Notify | Feature::Noise => {
            sharing::act(rng, session, feature)
        }
        Feature::Load | Feature::Authorization | Feature::TwoPhase | Feature::Call | Feature::Binary => {
            rare::act(rng, session, feature)
        }
    }
}

/// Shows what there is of a feature.
pub(crate) fn look(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    let sql = match feature {
        Feature::Set | Feature::SetLocal | Feature::SetConfig | Feature::Opaque | Feature::Startup => {
            settings::show(rng)
        }
        Feature::Custom | Feature::Trigger => {
            "SELECT current_setting('app.a', true), current_setting('app.b', true)".into()
        }
        Feature::SearchPath => "SELECT * FROM place".into(),
        Feature::Encoding => "SELECT 'é', current_setting('client_encoding')".into(),
        Feature::Role => "SELECT current_user, session_user, current_setting('role')".into(),
        Feature::RowSecurity => "SELECT id, owner FROM secrets ORDER BY id".into(),
        Feature::Characteristics => "SELECT current_setting('transaction_isolation'), \
             current_setting('transaction_read_only'), current_setting('default_transaction_deferrable')"
            .into(),
        Feature::Literal => settings::literal(rng),
        Feature::SetStack | Feature::Noise | Feature::Discard => settings::everything(),
        Feature::SqlPrepare => format!("EXECUTE {}", pick(rng, &["s1", "s2", "dup", "inner2"])),
        Feature::Temp | Feature::TempOnCommit => {
            "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind IN ('r', 'v', 'S') \
             ORDER BY relname"
                .into()
        }
        Feature::Shadow => "SELECT v FROM real1 ORDER BY v".into(),
        Feature::Lock | Feature::LockXact => sharing::own_locks(),
        Feature::Notify => return vec![(feature, listen_or_show(session))],
        Feature::Cursor | Feature::Hold => "SELECT name, is_holdable FROM pg_cursors ORDER BY name".into(),
        Feature::Prepare => return protocol::unknown_statement(rng, feature),
        Feature::Load | Feature::Authorization | Feature::TwoPhase | Feature::Call | Feature::Binary => {
            return rare::look(rng, feature);
        }
        _ => "SELECT id, name, amount FROM items ORDER BY id LIMIT 3".into(),
    };
    vec![(feature, statement(rng, sql))]
}

fn listen_or_show(session: &Session) -> Action {
    if session.is_listening && !session.is_in_transaction {
        Action::Listen
    } else {
        query("SELECT pg_listening_channels() ORDER BY 1")
    }
}

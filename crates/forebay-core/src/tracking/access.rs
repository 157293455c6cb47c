//! Whether the transaction at hand is known to be READ ONLY, so that its loss is told as what programs run again by
//! themselves (40001).
//!
//! | the transaction | is known to read |
//! |---|---|
//! | begins by BEGIN READ ONLY | from there on |
//! | begins by BEGIN, and SET TRANSACTION READ ONLY comes before anything else is run | from there on |
//! | begins by BEGIN where `default_transaction_read_only` is on, set by the client or of its role | from there on |
//! | is on a server that says that it is in recovery | as long as that says so |
//! | sets `transaction_read_only` or READ WRITE, begins once more, or has a text that can't be read | no more |
//!
//! PostgreSQL itself keeps the rest: once its first query has begun, nothing makes a READ ONLY transaction READ WRITE; what a
//! function or code sets comes later than that (check_transaction_read_only). So only a SET or BEGIN of the transaction's own
//! could still do it, and those are read here. ROLLBACK TO and RELEASE bring back what was before their SAVEPOINT, so that
//! READ ONLY counts only where nothing was run before it.
//!
//! What outlives a ROLLBACK and is gone with the server, as a session's advisory lock, keeps a transaction from being told
//! so, and so does what may have had effects anywhere, as a function of which nothing is known, or what READ ONLY permits though
//! it acts on the server or beside it: COPY to a program or file, pg_switch_wal(), lo_export(). (At level `fast` nobody looks
//! for what functions do, here as elsewhere.)

use forebay_pgwire::backend::TransactionStatus;
use forebay_spec::{Report, errors};
use forebay_sql::shape::{Shape, StatementShape, Verb};
use forebay_sql::traces::Traces;

use crate::config::Role;
use crate::io::Io;
use crate::moving::part::part_struct;
use crate::planted::{Bug, planted};
use crate::request::Forwarding;
use crate::session::IDLE;
use crate::session::client::Client;
use crate::session::expect::{Ends, Expect};
use crate::session::server::{Server, ServerKey};
use crate::worker::Worker;

/// What a session's transactions are by themselves.
pub(crate) const DEFAULT: &str = "default_transaction_read_only";

/// By which a server says that it is in recovery (PostgreSQL >= 14), at each ReadyForQuery.
const IN_RECOVERY: &str = "in_hot_standby";

/// What a transaction may have done that its ROLLBACK would have left, and that is gone with its server; or anything.
const LASTING: Traces = Traces::LOCK
    .with(Traces::PREPARED)
    .with(Traces::SEED)
    .with(Traces::LIBRARY)
    .with(Traces::TEMP)
    .with(Traces::OPAQUE);

/// What is known of the transaction at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessMode {
    bits: u8,
}

part_struct!(AccessMode { bits: u8 });

impl AccessMode {
    /// Something was run in it.
    const RUNS: u8 = 1;
    /// It was begun, by a statement that came first.
    const BEGUN: u8 = 2;
    /// It is READ ONLY: it says so.
    const READS: u8 = 4;
    /// It is READ ONLY as its session's are.
    const READS_BY_DEFAULT: u8 = 8;
    /// It may be anything.
    const UNKNOWN: u8 = 16;

    /// Something is run that says nothing of it.
    #[inline]
    pub(crate) fn run(&mut self) {
        self.bits |= AccessMode::RUNS;
    }

    /// What is run can't be told.
    pub(crate) fn doubt(&mut self) {
        self.bits |= AccessMode::UNKNOWN;
    }

    /// What a session's transactions are by themselves is something else than READ ONLY.
    pub(crate) fn default_is_off(&mut self) {
        self.bits &= !AccessMode::READS_BY_DEFAULT;
    }

    /// A BEGIN. `read_only`: what it says. `is_idle`: its server has nothing open. `is_default`: it is READ ONLY if it says
    /// nothing.
    fn begin(&mut self, read_only: Option<bool>, is_idle: bool, is_default: bool) {
        let is_first = self.bits == 0 && is_idle;
        self.bits |= match read_only {
            _ if !is_first => AccessMode::UNKNOWN,
            Some(true) => AccessMode::BEGUN | AccessMode::READS,
            None if is_default => AccessMode::BEGUN | AccessMode::READS_BY_DEFAULT,
            _ => AccessMode::BEGUN,
        };
    }

    /// SET for the transaction, of its access mode or of something else.
    fn set(&mut self, read_only: Option<bool>) {
        self.bits |= match read_only {
            None => 0,
            Some(true) if self.bits & !AccessMode::READS_BY_DEFAULT == AccessMode::BEGUN => AccessMode::READS,
            Some(true) if self.is_read_only() => 0,
            Some(_) => AccessMode::UNKNOWN,
        };
    }

    fn is_read_only(self) -> bool {
        self.is_known() && self.bits & (AccessMode::READS | AccessMode::READS_BY_DEFAULT) != 0
    }

    /// Whether nothing of it was beyond reading.
    fn is_known(self) -> bool {
        self.bits & AccessMode::UNKNOWN == 0
    }

    fn note(&mut self, statement: &StatementShape, is_idle: bool, is_default: bool) {
        match statement.verb {
            Verb::Begin => self.begin(statement.modes.read_only, is_idle, is_default),
            Verb::SetLocal => self.set(statement.modes.read_only),
            verb if verb.ends_transaction() => self.doubt(),
            _ => self.run(),
        }
    }
}

impl Forwarding<'_> {
    /// A text goes out that may say whether the transaction can write.
    #[inline(never)]
    pub(crate) fn note_access(&mut self, shape: &Shape) {
        let (is_idle, is_default) = (self.server.status == IDLE, reads_by_default(self.server, self.client));
        shape.statements.iter().for_each(|statement| self.server.endings.access.note(statement, is_idle, is_default));
    }

    /// This may be run later than it is noted, or never.
    #[inline]
    pub(crate) fn doubt_access_of(&mut self, shape: &Shape) {
        let says = |statement: &StatementShape| statement.verb == Verb::SetLocal && statement.modes.read_only.is_some();
        if shape.is_of_mode && shape.statements.iter().any(says) {
            self.server.endings.access.doubt();
        }
    }
}

/// Whether the transactions of a client's session are READ ONLY that say nothing of it.
fn reads_by_default(server: &Server, client: &Client) -> bool {
    let is_on = |value: &str| ["on", "true", "yes", "1"].iter().any(|on| value.eq_ignore_ascii_case(on));
    if server.left.fresh.has_any(Traces::SETTING | Traces::ANY_SETTING | Traces::OPAQUE) {
        // It is not known yet what that has changed.
        return false;
    }
    match client.wanted.get(DEFAULT) {
        // What a hand-over sets is reported with its answer.
        Some(value) => {
            let is_told = server.hand_over.is_none() && server.reported.get(DEFAULT).is_some_and(|value| !is_on(value));
            is_on(value) && !is_told
        }
        None => [&server.defaults, &server.reported].iter().all(|image| image.get(DEFAULT).is_some_and(|v| is_on(v))),
    }
}

impl<I: Io> Worker<I> {
    /// What a client hears of the loss of its transaction with a server; None: it may have written, and hears what anybody
    /// does.
    ///
    /// Not of a COMMIT on its way, which may have sent a notification; nor while the answer to BEGIN is awaited, as nothing
    /// tells by what default that began.
    pub(crate) fn interrupted(&self, key: ServerKey, endpoint: &str, cause: &str) -> Option<Report> {
        let server = &self.servers[key];
        if server.status != TransactionStatus::InTransaction {
            return None;
        }
        let has_ended = server.endings.answered >= Ends::Block || server.expect.iter().any(ends_block);
        let is_lasting = server.left.fresh.has_any(LASTING);
        let reads =
            server.endings.access.is_read_only() || server.endings.access.is_known() && self.is_in_recovery(key);
        let is_sure = reads && !has_ended && !is_lasting;
        (is_sure || planted(Bug::WritesToldAsReads)).then(|| errors::read_interrupted(endpoint, cause))
    }

    /// Whether a server has said last that it is in recovery, and is of a pool that expects that. It has been so since its
    /// transaction began: nothing brings recovery back. (A pooler in between may say so of what was there before.)
    fn is_in_recovery(&self, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let cluster = self.pools[server.pool.0 as usize].target.config.cluster;
        let may_be = cluster.is_some_and(|cluster| cluster.role != Role::Primary);
        may_be && server.reported.get(IN_RECOVERY).is_some_and(|value| **value == *"on")
    }
}

/// Whether it may end the block that it stands in.
fn ends_block(entry: &Expect) -> bool {
    matches!(entry, Expect::Query { ends, .. } | Expect::Execute { ends, .. } if *ends >= Ends::Block)
}

#[cfg(test)]
mod tests {
    use forebay_sql::grammar::parse;
    use forebay_sql::lexer::Backslash;

    use super::*;

    /// Whether a transaction of these texts is known to be READ ONLY.
    fn reads(texts: &[&str], is_default: bool) -> bool {
        let mut mode = AccessMode::default();
        for (at, text) in texts.iter().enumerate() {
            let shape = parse(text.as_bytes(), Backslash::Plain);
            if shape.is_of_mode {
                shape.statements.iter().for_each(|statement| mode.note(statement, at == 0, is_default));
            } else {
                mode.run();
            }
        }
        mode.is_read_only()
    }

    /// Whoever is told that a transaction has only read, and has written in it, may think that it was a retry too many.
    #[test]
    fn a_transaction_reads_that_was_read_only_before_anything_was_run_and_is_so_still() {
        let reading: [&[&str]; 9] = [
            &["begin read only", "select 1"],
            &["start transaction isolation level repeatable read, read only", "select 1", "fetch c"],
            &["begin", "set transaction read only", "select 1"],
            &["begin", "set local work_mem = '5MB'", "set transaction isolation level repeatable read, read only"],
            &["begin read only", "savepoint a", "select 1", "rollback to a", "select 1"],
            &["begin read only", "select 1", "set transaction read only"],
            &["begin read only; set local work_mem = '5MB'; select 1"],
            &["begin read only", "select set_config('transaction_read_only', 'off', true)"],
            &["begin read only", "set session characteristics as transaction read write"],
        ];
        for texts in reading {
            assert!(reads(texts, false), "{texts:?}");
        }
        let others: [&[&str]; 16] = [
            &["begin", "select 1"],
            &["begin read write", "select 1"],
            &["begin", "select 1", "set transaction read only"],
            &["begin", "insert into t values (1)", "set transaction read only"],
            &["begin", "savepoint a", "set transaction read only", "rollback to a"],
            &["insert into t values (1); begin read only; select 1"],
            &["insert into t values (1)", "begin read only"],
            &["begin read only", "set transaction read write"],
            &["begin read only", "set transaction_read_only = off"],
            &["begin read only", "set local \"Transaction_Read_Only\" to off"],
            &["begin read only", "reset transaction_read_only"],
            &["begin read only", "begin read write"],
            &["begin read only; commit; insert into t values (1)"],
            &["begin read only", "rollback; begin; insert into t values (1)"],
            &["begin read only", "what the grammar refuses"],
            &["select 1; set transaction read only"],
        ];
        for texts in others {
            assert!(!reads(texts, false), "{texts:?}");
        }
    }

    #[test]
    fn a_transaction_that_says_nothing_is_as_those_of_its_session() {
        assert!(reads(&["begin", "select 1"], true));
        assert!(reads(&["begin", "set transaction read only", "select 1"], true));
        assert!(!reads(&["begin read write", "select 1"], true));
        assert!(!reads(&["begin", "set transaction read write"], true));
        assert!(!reads(&["select 1", "begin"], true));
        let mut mode = AccessMode::default();
        mode.begin(None, true, true);
        mode.default_is_off();
        assert!(!mode.is_read_only());
        mode = AccessMode::default();
        mode.begin(Some(true), true, true);
        mode.default_is_off();
        assert!(mode.is_read_only());
        // In the middle of something that came from elsewhere.
        mode = AccessMode::default();
        mode.begin(Some(true), false, false);
        assert!(!mode.is_read_only());
    }
}

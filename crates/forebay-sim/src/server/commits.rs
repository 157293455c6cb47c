//! What `commit_check` asks a server: ids of transactions, where the log is, and what became of an id.
//!
//! A session has an id from its first mark on. The server gives ids out in turn, and forgets those of which its log has no
//! record: after a crash or a promotion they are given out again.

use crate::server::language::Statement;
use crate::server::replies::data_row;
use crate::server::session::{Portal, Run, Session, failure};

/// The id that a server gives out first.
pub(crate) const XID_FIRST: u64 = 731;

/// What a server says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) system: u64,
    pub(crate) timeline: u32,
    pub(crate) is_in_recovery: bool,
    /// How far it has written, or replayed.
    pub(crate) lsn: u64,
    /// Where the next record will end.
    pub(crate) next_lsn: u64,
    /// Where its last recovery ended.
    pub(crate) replayed: Option<u64>,
    /// It has replayed transactions of a primary since it was started.
    pub(crate) was_standby: bool,
    /// What became of the id that is asked about.
    pub(crate) status: &'static str,
}

/// A record that is no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Emitted {
    pub(crate) xid: u64,
    pub(crate) is_flushed: bool,
    /// Of a transaction that is committed by it.
    pub(crate) is_commit: bool,
}

/// What a session knows of its server's log, and leaves there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail {
    /// Of its transaction, from the first mark on.
    pub(crate) xid: Option<u64>,
    /// The id that its server gives out next; the owner of the session tells it, and takes it back.
    pub(crate) next_xid: u64,
    /// Told where it is asked for.
    pub(crate) place: Option<Place>,
    /// Of the transaction that was committed last; the owner takes it.
    pub(crate) committed: Option<u64>,
    /// The owner takes it.
    pub(crate) emitted: Option<Emitted>,
}

impl Trail {
    /// The transaction's id.
    pub(super) fn id(&mut self) -> u64 {
        let next = &mut self.next_xid;
        *self.xid.get_or_insert_with(|| {
            *next += 1;
            *next - 1
        })
    }

    pub(super) fn ends(&mut self, is_kept: bool) {
        let xid = self.xid.take();
        if is_kept && xid.is_some() {
            self.committed = xid;
        }
    }
}

/// The statements of a question; None: it is none.
pub(super) fn question(text: &str) -> Option<Vec<Statement>> {
    if text.ends_with(" FROM pg_catalog.pg_current_xact_id_if_assigned() AS x") {
        let is_flushed = text.contains("pg_logical_emit_message(false, 'forebay', ''::pg_catalog.text, true)");
        return Some(vec![Statement::Anchor { is_flushed }]);
    }
    asked_xid(text)?;
    let writes = text.contains("pg_logical_emit_message(true, 'forebay', ''::pg_catalog.text)");
    let pause = text.starts_with("SELECT pg_catalog.pg_sleep(0.1);").then_some(Statement::Pause { millis: 100 });
    Some(pause.into_iter().chain([Statement::Outcome { writes }]).collect())
}

/// The id that a text asks about.
pub(crate) fn asked_xid(text: &str) -> Option<u64> {
    let question = text.strip_suffix(" OFFSET 0) AS q")?;
    let (_, rest) = question.split_once("pg_xact_status('")?;
    rest.split_once('\'')?.0.parse().ok()
}

/// As PostgreSQL writes it.
fn lsn(at: u64) -> String {
    format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff)
}

impl Place {
    /// The WAL file at hand.
    fn file(&self) -> String {
        format!("{:08X}{:08X}{:08X}", self.timeline, self.lsn >> 32, (self.lsn & 0xffff_ffff) >> 24)
    }
}

impl Statement {
    /// Whether it is a part of a question.
    pub(super) fn is_of_commits(&self) -> bool {
        matches!(self, Statement::Anchor { .. } | Statement::Outcome { .. } | Statement::Pause { .. })
    }
}

impl Session {
    /// Runs a part of a question.
    pub(super) fn asked_of_commit(&mut self, portal: &mut Portal) -> Run<()> {
        match portal.statement {
            Statement::Anchor { is_flushed } => self.anchor(is_flushed)?,
            Statement::Outcome { writes } => self.outcome(writes)?,
            _ => self.out.push(data_row(&[Some(String::new())])),
        }
        self.one_row_done(portal, "SELECT 1");
        Ok(())
    }

    /// By what its transaction is found again.
    pub(super) fn anchor(&mut self, is_flushed: bool) -> Run<()> {
        let waits_for = self.settings.get("synchronous_commit").map(str::to_owned);
        let Some(xid) = self.trail.xid else {
            self.out.push(data_row(&[None, None, None, None, waits_for]));
            return Ok(());
        };
        let Some(place) = &self.trail.place else { return failure("XX000", "nobody has told of the log") };
        let (system, file) = (place.system.to_string(), place.file());
        let row = [Some(xid.to_string()), Some(lsn(place.next_lsn)), Some(system), Some(file), waits_for];
        self.trail.emitted = Some(Emitted { xid, is_flushed, is_commit: false });
        self.out.push(data_row(&row));
        Ok(())
    }

    /// What became of a transaction.
    pub(super) fn outcome(&mut self, writes: bool) -> Run<()> {
        let Some(place) = self.trail.place.clone() else { return failure("XX000", "nobody has told of the log") };
        let is_primary = !place.is_in_recovery;
        let of_primary = |text: String| is_primary.then_some(text);
        let replayed = if is_primary { place.replayed } else { Some(place.lsn) };
        let emits = is_primary && writes && place.status == "committed";
        let row = [
            Some(place.system.to_string()),
            of_primary(place.file()),
            of_primary(lsn(place.lsn)),
            replayed.map(lsn),
            Some(if place.was_standby { "t" } else { "f" }.to_owned()),
            of_primary(place.status.to_owned()),
            emits.then(|| lsn(place.next_lsn)),
            Some("on".to_owned()),
        ];
        if emits {
            self.trail.emitted = Some(Emitted { xid: self.trail.id(), is_flushed: true, is_commit: true });
        }
        self.out.push(data_row(&row));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::language::statements;

    /// A question that is taken for something else would be answered with something else.
    #[test]
    fn only_the_questions_are_questions() {
        let before = "SELECT x, CASE WHEN x IS NOT NULL THEN pg_catalog.pg_logical_emit_message(false, 'forebay', \
                      ''::pg_catalog.text, true) END FROM pg_catalog.pg_current_xact_id_if_assigned() AS x";
        assert_eq!(statements(before), [Statement::Anchor { is_flushed: true }]);
        assert_eq!(statements(&before.replace(", true)", ")")), [Statement::Anchor { is_flushed: false }]);
        let after = "SELECT pg_catalog.pg_sleep(0.1);SELECT 1 FROM (SELECT pg_catalog.pg_xact_status('734'::xid8) \
                     AS s OFFSET 0) AS q";
        assert_eq!(statements(after), [Statement::Pause { millis: 100 }, Statement::Outcome { writes: false }]);
        assert_eq!(asked_xid(after), Some(734));
        assert_eq!(asked_xid("select 'pg_xact_status('"), None);
    }

    #[test]
    fn an_id_is_taken_once_and_told_where_it_is_committed() {
        let mut trail = Trail { next_xid: 7, ..Trail::default() };
        assert_eq!((trail.id(), trail.id(), trail.next_xid), (7, 7, 8));
        trail.ends(true);
        assert_eq!((trail.committed.take(), trail.xid), (Some(7), None));
        assert_eq!(trail.id(), 8);
        trail.ends(false);
        assert_eq!(trail.committed, None);
    }
}

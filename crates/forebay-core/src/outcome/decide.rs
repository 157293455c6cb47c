//! What became of a COMMIT whose answer was lost, from what was known before it went out and what a server says later.
//! No state, no effects.
//!
//! Before its COMMIT goes out, a transaction writes a record of its own to the WAL, and has it flushed. So its id is in
//! every history of the server that holds this record, and in such a history it is never given to another transaction.
//! (PostgreSQL: an id that was given out is not logged by itself, and one of a lost tail is given out again.)
//!
//! | the server that is asked | its history holds the record | the outcome |
//! |---|---|---|
//! | is of another system | that is not known | unknown |
//! | is in recovery | | not yet known |
//! | is on the same timeline, as far as the record or further | yes, whatever restarts lie between | the id's status |
//! | the same, at another endpoint | it may be another one that was promoted to this timeline | unknown |
//! | is on the same timeline and not as far | it is a copy from before | unknown |
//! | came out of standby onto the next timeline, having replayed the record | yes | the id's status |
//! | the same, not having replayed it | no, nor the commit, which stands behind it | aborted |
//! | is on any other timeline, or has been restarted since it came out of standby | that is not known | unknown |
//!
//! Where a primary came out of standby, the end of what it has replayed is where its timeline begins, but only until it is
//! started anew: that it has replayed transactions under somebody else's timeline tells the one from the other
//! (`pg_last_xact_replay_timestamp()`, which no recovery from a crash sets).

use std::sync::Arc;

use crate::planted::{Bug, planted};

/// By what a transaction is found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The server's system identifier.
    pub system: u64,
    /// The timeline that it wrote on.
    pub timeline: u32,
    /// The transaction's id, of 64 bits.
    pub xid: u64,
    /// Where the transaction's record ends in the WAL.
    pub lsn: u64,
    /// The transaction's `synchronous_commit`: what a commit waits for.
    pub waits_for: Box<str>,
    /// Where the server was reached.
    pub endpoint: Arc<str>,
}

/// What a server says of a transaction, and of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its system identifier.
    pub system: u64,
    /// Its timeline, and how far it has written; None: it is in recovery.
    pub writes: Option<(u32, u64)>,
    /// How far it had replayed when it came out of recovery; None: it needed none.
    pub replayed: Option<u64>,
    /// It has replayed transactions of a primary since it was started.
    pub was_standby: bool,
    /// What it says that became of the transaction.
    pub status: Option<Status>,
    /// It is reached at another endpoint than the one whose answer was lost.
    pub is_elsewhere: bool,
}

/// What a server says that became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Status {
    Committed,
    Aborted,
    InProgress,
}

impl Status {
    /// By PostgreSQL's word.
    pub fn of(word: &[u8]) -> Option<Status> {
        match word {
            b"committed" => Some(Status::Committed),
            b"aborted" => Some(Status::Aborted),
            b"in progress" => Some(Status::InProgress),
            _ => None,
        }
    }
}

/// What became of a COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Committed,
    /// It was not, and never will be.
    Aborted,
    /// Nobody can tell.
    Unknown,
    /// It may be told later.
    NotYet,
}

/// What became of the transaction.
pub fn decide(known: &Known, told: &Told) -> Outcome {
    if told.system != known.system {
        return Outcome::Unknown;
    }
    let Some((timeline, written)) = told.writes else { return Outcome::NotYet };
    let is_next = known.timeline.checked_add(1) == Some(timeline);
    let holds_record = if planted(Bug::OutcomeByIdAlone) {
        Some(true)
    } else if timeline == known.timeline {
        (written >= known.lsn && !told.is_elsewhere).then_some(true)
    } else if is_next && told.was_standby {
        told.replayed.map(|replayed| replayed >= known.lsn)
    } else {
        None
    };
    match (holds_record, told.status) {
        (Some(true), Some(Status::Committed)) => Outcome::Committed,
        (Some(true), Some(Status::InProgress)) if planted(Bug::RunningToldAsUndone) => Outcome::Aborted,
        (Some(true), Some(Status::Aborted)) | (Some(false), _) => Outcome::Aborted,
        // Its process has not seen the end of its connection, or waits for replicas.
        (Some(true), Some(Status::InProgress)) => Outcome::NotYet,
        (Some(true) | None, None) | (None, Some(_)) => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the transaction's record ends.
    const LSN: u64 = 1000;

    fn known() -> Known {
        Known { system: 7, timeline: 4, xid: 900, lsn: LSN, waits_for: "on".into(), endpoint: "10.0.0.1:5432".into() }
    }

    /// The table in the module's head, over again and without its words.
    fn expected(told: &Told) -> Outcome {
        let by_status = match told.status {
            Some(Status::Committed) => Outcome::Committed,
            Some(Status::Aborted) => Outcome::Aborted,
            Some(Status::InProgress) => Outcome::NotYet,
            None => Outcome::Unknown,
        };
        match (told.system, told.writes) {
            (7, None) => Outcome::NotYet,
            (7, Some((4, 1000..))) if !told.is_elsewhere => by_status,
            (7, Some((5, _))) if told.was_standby => match told.replayed {
                Some(1000..) => by_status,
                Some(_) => Outcome::Aborted,
                None => Outcome::Unknown,
            },
            _ => Outcome::Unknown,
        }
    }

    /// A commit that is acknowledged and is not there is the worst that can be told.
    #[test]
    fn every_case_is_decided_as_the_table_has_it() {
        let statuses = [None, Some(Status::Committed), Some(Status::Aborted), Some(Status::InProgress)];
        let at = [0, LSN - 1, LSN, LSN + 1, u64::MAX];
        let mut seen = [0; 4];
        for system in [7, 8] {
            for timeline in [None, Some(0), Some(3), Some(4), Some(5), Some(6), Some(u32::MAX)] {
                for written in at {
                    for replayed in at.map(Some).into_iter().chain([None]) {
                        for was_standby in [false, true] {
                            for status in statuses {
                                let writes = timeline.map(|timeline| (timeline, written));
                                for is_elsewhere in [false, true] {
                                    let told = Told { system, writes, replayed, was_standby, status, is_elsewhere };
                                    let outcome = decide(&known(), &told);
                                    assert_eq!(outcome, expected(&told), "{told:?}");
                                    seen[outcome as usize] += 1;
                                }
                            }
                        }
                    }
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }

    /// After a fork the same id may be another client's, and it is on every branch that does not hold the record.
    #[test]
    fn a_commit_is_told_only_by_a_history_that_holds_its_record() {
        let committed = |timeline, replayed, was_standby| Told {
            system: 7,
            writes: Some((timeline, 5000)),
            replayed,
            was_standby,
            status: Some(Status::Committed),
            is_elsewhere: false,
        };
        assert_eq!(decide(&known(), &committed(4, Some(10), false)), Outcome::Committed, "restarted, however often");
        assert_eq!(decide(&known(), &committed(5, Some(LSN), true)), Outcome::Committed);
        assert_eq!(decide(&known(), &committed(5, Some(LSN - 1), true)), Outcome::Aborted);
        assert_eq!(decide(&known(), &committed(5, Some(4000), false)), Outcome::Unknown, "restarted since");
        assert_eq!(decide(&known(), &committed(6, Some(4000), true)), Outcome::Unknown, "a fork of a fork");
        assert_eq!(decide(&known(), &committed(3, Some(4000), true)), Outcome::Unknown, "the branch before");
        let twin = Told { is_elsewhere: true, ..committed(4, Some(LSN), true) };
        assert_eq!(decide(&known(), &twin), Outcome::Unknown, "two were promoted to one timeline");
        let promoted = Told { is_elsewhere: true, ..committed(5, Some(LSN), true) };
        assert_eq!(decide(&known(), &promoted), Outcome::Committed);
    }

    #[test]
    fn a_timeline_without_a_next_one_is_no_reason_to_fail() {
        let known = Known { timeline: u32::MAX, ..known() };
        let told = Told {
            system: 7,
            writes: Some((0, LSN)),
            replayed: None,
            was_standby: true,
            status: None,
            is_elsewhere: false,
        };
        assert_eq!(decide(&known, &told), Outcome::Unknown);
    }
}

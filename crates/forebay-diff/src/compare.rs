//! Where two runs differ, and which differences are allowed.
//!
//! The list of what is allowed is closed: [`Allowance`]. Each use of it is counted, so that one which grows is seen.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::{Event, Report};
use crate::program::{Action, Message, Program, Step};
use crate::run::{NOT_CLEANED, Run};

/// A difference that a pool can't avoid, or that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// A setting with a dot that is not set is '' where the session, or another on the same server, has once set it, and
    /// else NULL: '' instead of NULL, or NULL instead of '' behind a setting for one transaction; at `strict` neither.
    UnsetCustom,
    /// When a notification of another session comes.
    NotificationOrder,
    /// Which client sent a notification, where several have notified through the same server: the one that did last.
    NotificationSender,
    /// Oids of tables: each side has its own database.
    TableOid,
    /// A cancel request that came while the statement waited for a server: the same SQLSTATE in other words.
    CancelledInQueue,
    /// A prepared statement whose result DDL has changed runs, being parsed anew, where PostgreSQL refuses it.
    ReplannedStatement,
    /// What is not found in the schema pg_temp: a server that has once had a temporary object keeps that schema, empty, and
    /// says that the object is missing; another says that the schema is.
    TemporarySchema,
    /// The order in which one statement's changes of settings are told: it is that of a list in the server's memory.
    SettingOrder,
    /// A Bind that fails for two reasons, as the transaction has failed and its values are not those that the statement
    /// wants: a server that lacks the statement can only tell of the first.
    FailedBind,
    /// Whether the context of an error names a function with its schema: as the search path was when that server compiled it.
    FunctionSchema,
    /// Statements behind a RESET in the same text see the server's own value, not the one of the client's start.
    ResetOfStart,
}

impl Allowance {
    /// All of them.
    pub(crate) const ALL: [Allowance; 11] = [
        Allowance::UnsetCustom,
        Allowance::NotificationOrder,
        Allowance::NotificationSender,
        Allowance::TableOid,
        Allowance::CancelledInQueue,
        Allowance::ReplannedStatement,
        Allowance::TemporarySchema,
        Allowance::SettingOrder,
        Allowance::FailedBind,
        Allowance::FunctionSchema,
        Allowance::ResetOfStart,
    ];
}

/// How often each allowance was used.
#[derive(Debug, Default)]
pub(crate) struct Uses([AtomicU64; Allowance::ALL.len()]);

impl Uses {
    fn note(&self, allowance: Allowance) {
        self.0[allowance as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often one was used.
    pub(crate) fn count(&self, allowance: Allowance) -> u64 {
        self.0[allowance as usize].load(Ordering::Relaxed)
    }
}

/// Where in a program two runs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the login of a client.
    Login(usize),
    /// In a step.
    Step(usize),
    /// In what a table holds at the end.
    Contents(usize),
}

/// The first difference of two runs.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Where it is.
    pub(crate) place: Place,
    /// What tells it from others: the step's feature, and what kind of event came instead of which.
    pub(crate) signature: String,
    /// What PostgreSQL said.
    pub(crate) direct: String,
    /// What forebay said.
    pub(crate) pooled: String,
}

/// The first difference that is not allowed.
pub(crate) fn first_difference(program: &Program, direct: &Run, pooled: &Run, uses: &Uses) -> Option<Difference> {
    let judge = Judge { program, uses };
    for (client, (left, right)) in direct.logins.iter().zip(&pooled.logins).enumerate() {
        if let Some(at) = judge.differs(left, right) {
            return Some(difference(Place::Login(client), "login", left.get(at), right.get(at)));
        }
    }
    for (at, (left, right)) in direct.outcomes.iter().zip(&pooled.outcomes).enumerate() {
        let step = &program.steps[at];
        if let Some(event) = judge.differs(&left.events, &right.events) {
            let (left, right) = (left.events.get(event), right.events.get(event));
            let is_replanned = left.is_some_and(is_stale_plan) && !matches!(right, None | Some(Event::Report(_)));
            let allowance = match () {
                () if is_replanned => Allowance::ReplannedStatement,
                () if is_reset_of_start(program, at) => Allowance::ResetOfStart,
                () => return Some(difference(Place::Step(at), step.feature.name(), left, right)),
            };
            uses.note(allowance);
            if !leaves_the_same(step, allowance, &direct.outcomes[at].events, &pooled.outcomes[at].events) {
                // From here on the sessions may differ, for one transaction has failed and the other has not; what no
                // session may do is looked for all the same.
                return first_loss(program, at, direct, pooled);
            }
        }
    }
    let at = direct.contents.iter().zip(&pooled.contents).position(|(left, right)| left != right);
    let at = at.or_else(|| {
        let lengths = (direct.contents.len(), pooled.contents.len());
        (lengths.0 != lengths.1).then_some(lengths.0.min(lengths.1))
    })?;
    let line = |run: &Run| run.contents.get(at).cloned().unwrap_or_else(|| "no such table".to_owned());
    let (left, right) = (line(direct), line(pooled));
    let table = left.split(':').next().unwrap_or_default().to_owned();
    let table = if table.starts_with("work.") { "work".to_owned() } else { table };
    let signature = format!("contents of {table}");
    Some(Difference { place: Place::Contents(at), signature, direct: left, pooled: right })
}

/// Beginnings of statements that change nothing but settings, which are the same on both sides when their text ends.
const READING: &[&str] = &[
    "set ",
    "reset ",
    "show ",
    "begin",
    "commit",
    "rollback",
    "savepoint",
    "release",
    "select * from place",
    "select current_setting(",
];

/// Whether both sessions, and what others see, are the same behind a step that was told otherwise on each side: all that
/// it does is read, and both transactions go on, or the one refused was the step's only statement and outside of one.
fn leaves_the_same(step: &Step, allowance: Allowance, direct: &[Event], pooled: &[Event]) -> bool {
    let (Some(Event::Ready(status)), Some(Event::Ready(other))) = (direct.last(), pooled.last()) else { return false };
    if status != other {
        return false;
    }
    if allowance == Allowance::ReplannedStatement {
        // Only what returns rows is refused so, and in the programs that is a SELECT.
        let is_run = |message: &&Message| matches!(message, Message::Query(_) | Message::Execute { .. });
        let is_one = step.messages().iter().filter(is_run).count() == 1;
        return is_one
            && *status == 'I'
            && step.messages().iter().filter_map(Message::sql).all(|sql| !sql.contains(';'));
    }
    let has_failed = |events: &[Event]| events.iter().any(|event| event.class().starts_with("ERROR"));
    let reads = |sql: &str| {
        let is_reading = |one: &str| READING.iter().any(|word| one.trim().to_ascii_lowercase().starts_with(word));
        sql.split(';').all(|one| one.trim().is_empty() || is_reading(one))
    };
    !has_failed(direct) && !has_failed(pooled) && step.messages().iter().filter_map(Message::sql).all(reads)
}

/// The first step from `from` on in which forebay gave no answer or closed the connection, and PostgreSQL did not; or what
/// was not given back. No allowance covers that.
fn first_loss(program: &Program, from: usize, direct: &Run, pooled: &Run) -> Option<Difference> {
    let loss = |events: &[Event]| events.iter().find(|event| event.is_loss()).cloned();
    for (at, step) in program.steps.iter().enumerate().skip(from) {
        let (left, right) = (direct.outcomes.get(at)?, pooled.outcomes.get(at)?);
        if let (None, Some(lost)) = (loss(&left.events), loss(&right.events)) {
            return Some(difference(Place::Step(at), step.feature.name(), None, Some(&lost)));
        }
    }
    let at = pooled.contents.iter().position(|line| line == NOT_CLEANED)?;
    let (direct, pooled) = ("nothing more".to_owned(), NOT_CLEANED.to_owned());
    Some(Difference { place: Place::Contents(at), signature: "cleaning".to_owned(), direct, pooled })
}

fn difference(place: Place, subject: &str, direct: Option<&Event>, pooled: Option<&Event>) -> Difference {
    let class = |event: Option<&Event>| event.map_or_else(|| "nothing".to_owned(), Event::class);
    let (left, right) = (class(direct), class(pooled));
    let text = |event: Option<&Event>| event.map_or_else(|| "nothing more".to_owned(), Event::to_string);
    let kind = if left == right { format!("other {left}") } else { format!("{right} for {left}") };
    Difference { place, signature: format!("{subject}: {kind}"), direct: text(direct), pooled: text(pooled) }
}

/// Whether a step resets, in a text of several statements, what its client has asked for in its startup message.
fn is_reset_of_start(program: &Program, at: usize) -> bool {
    let step = &program.steps[at];
    let connected = program.steps[..at].iter().rev().find_map(|earlier| match &earlier.action {
        Action::Connect(startup) if earlier.client == step.client => Some(startup),
        _ => None,
    });
    let Some(startup) = connected.or_else(|| program.clients.get(step.client)) else { return false };
    let resets = |sql: &str, name: &str| {
        let (sql, name) = (sql.to_ascii_lowercase(), name.to_ascii_lowercase());
        let ways = [format!("reset {name};"), format!("{name} to default;"), "reset all;".to_owned()];
        ways.iter().any(|way| sql.contains(way))
    };
    let texts = || step.messages().iter().filter_map(Message::sql);
    startup.iter().flat_map(names_of).any(|name| texts().any(|sql| resets(sql, name)))
}

/// Names of the settings that a startup parameter gives values.
fn names_of((name, value): &(String, String)) -> Vec<&str> {
    if name != "options" {
        return vec![name];
    }
    value.split("-c ").filter_map(|option| option.trim().split_once('=')).map(|(name, _)| name).collect()
}

/// PostgreSQL's refusal of a prepared statement whose result has changed.
fn is_stale_plan(event: &Event) -> bool {
    matches!(event, Event::Report(report) if report.sqlstate == "0A000" && report.message.starts_with("cached plan"))
}

/// A context in which functions of PL/pgSQL go without the schema that every search path of the programs may lack.
fn unqualified(context: &str) -> String {
    context.replace("PL/pgSQL function public.", "PL/pgSQL function ")
}

struct Judge<'a> {
    program: &'a Program,
    uses: &'a Uses,
}

impl Judge<'_> {
    /// Index of the first event that differs.
    fn differs(&self, direct: &[Event], pooled: &[Event]) -> Option<usize> {
        let (shorter, mut at) = (direct.len().min(pooled.len()), 0);
        while at < shorter {
            if self.is_same(&direct[at], &pooled[at]) {
                at += 1;
                continue;
            }
            match self.in_other_order(&direct[at..], &pooled[at..]) {
                0 => return Some(at),
                count => at += count,
            }
        }
        (direct.len() != pooled.len()).then_some(shorter)
    }

    fn is_same(&self, direct: &Event, pooled: &Event) -> bool {
        if direct == pooled {
            match direct {
                Event::Told(text) if !text.ends_with("itself") => self.uses.note(Allowance::NotificationOrder),
                Event::Columns(text) if text.contains('*') => self.uses.note(Allowance::TableOid),
                _ => {}
            }
            return true;
        }
        match (direct, pooled) {
            (Event::Row(left), Event::Row(right)) => self.is_unset_custom(left, right),
            (Event::Value(left), Event::Value(right)) => {
                self.is_unset_custom(std::slice::from_ref(left), std::slice::from_ref(right))
            }
            (Event::Told(left), Event::Told(right)) => self.is_other_sender(left, right),
            (Event::Report(left), Event::Report(right)) => {
                self.is_cancelled_in_queue(left, right)
                    || self.is_temporary_schema(left, right)
                    || self.is_failed_bind(left, right)
                    || self.is_function_schema(left, right)
            }
            _ => false,
        }
    }

    /// How many settings both sides tell next, if they are the same but for their order; else 0.
    fn in_other_order(&self, direct: &[Event], pooled: &[Event]) -> usize {
        let told = |events: &[Event]| {
            let mut told: Vec<_> =
                events.iter().take_while(|event| matches!(event, Event::Setting { .. })).cloned().collect();
            told.sort();
            told
        };
        let (left, right) = (told(direct), told(pooled));
        if left != right {
            return 0;
        }
        if !left.is_empty() {
            self.uses.note(Allowance::SettingOrder);
        }
        left.len()
    }

    fn is_unset_custom(&self, direct: &[Option<String>], pooled: &[Option<String>]) -> bool {
        let may_be_empty = self.program.level != "strict";
        let named = ["app.", "visible", "pg_trgm."];
        let is_custom = || self.program.steps.iter().any(|step| named.iter().any(|name| step.mentions(name)));
        let is_same = |(left, right): (&Option<String>, &Option<String>)| {
            let is_empty = |value: &Option<String>| value.as_deref() == Some("");
            let is_either = left.is_none() && is_empty(right) || is_empty(left) && right.is_none();
            left == right || (may_be_empty && is_either)
        };
        let is_used = direct.len() == pooled.len() && direct.iter().zip(pooled).all(is_same) && is_custom();
        if is_used {
            self.uses.note(Allowance::UnsetCustom);
        }
        is_used
    }

    fn is_cancelled_in_queue(&self, direct: &Report, pooled: &Report) -> bool {
        let is_used = direct.sqlstate == "57014" && pooled.sqlstate == "57014" && pooled.hint.ends_with("(FB705)");
        if is_used {
            self.uses.note(Allowance::CancelledInQueue);
        }
        is_used
    }

    fn is_temporary_schema(&self, direct: &Report, pooled: &Report) -> bool {
        let lacks_schema = |report: &Report| report.message == "schema \"pg_temp\" does not exist";
        let lacks_object = |report: &Report| {
            let is_missing = matches!(report.sqlstate.as_str(), "42883" | "42P01" | "42704");
            is_missing && report.message.contains("pg_temp.") && report.message.ends_with("does not exist")
        };
        let is_used = lacks_schema(direct) && lacks_object(pooled) || lacks_object(direct) && lacks_schema(pooled);
        if is_used {
            self.uses.note(Allowance::TemporarySchema);
        }
        is_used
    }

    fn is_other_sender(&self, direct: &str, pooled: &str) -> bool {
        let parts = (direct.rsplit_once(" from client "), pooled.rsplit_once(" from client "));
        let is_used = matches!(parts, (Some((left, _)), Some((right, _))) if left == right);
        if is_used {
            self.uses.note(Allowance::NotificationSender);
        }
        is_used
    }

    fn is_function_schema(&self, direct: &Report, pooled: &Report) -> bool {
        let bare = |report: &Report| {
            let more = unqualified(&report.more);
            Report { more, ..report.clone() }
        };
        let is_used = bare(direct) == bare(pooled);
        if is_used {
            self.uses.note(Allowance::FunctionSchema);
        }
        is_used
    }

    fn is_failed_bind(&self, direct: &Report, pooled: &Report) -> bool {
        let is_bind = direct.sqlstate == "08P01" && direct.message.starts_with("bind message ");
        let is_used = is_bind && pooled.sqlstate == "25P02";
        if is_used {
            self.uses.note(Allowance::FailedBind);
        }
        is_used
    }
}

#[cfg(test)]
mod tests;

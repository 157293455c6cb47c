//! Where two runs differ, and which differences are allowed.
//!
//! The list of what is allowed is closed: [`Allowance`]. Each use of it is counted, so that one which grows is seen.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::{Event, Report};
use crate::feature::Feature;
use crate::program::{Action, Message, Program};
use crate::run::{NOT_CLEANED, Run};

/// A difference that a pool can't avoid, or that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// A setting with a dot that is not set is '' where the session, or another on the same server, has once set it, and
    /// else NULL: '' instead of NULL, but not at `strict`; NULL instead of '' behind a setting for one transaction.
    UnsetCustom,
    /// Where in a text an error is, when names in that text were replaced.
    Position,
    /// When a notification of another session comes.
    NotificationOrder,
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
    /// Statements behind a RESET in the same text see the server's own value, not the one of the client's start.
    ResetOfStart,
}

impl Allowance {
    /// All of them.
    pub(crate) const ALL: [Allowance; 10] = [
        Allowance::UnsetCustom,
        Allowance::Position,
        Allowance::NotificationOrder,
        Allowance::TableOid,
        Allowance::CancelledInQueue,
        Allowance::ReplannedStatement,
        Allowance::TemporarySchema,
        Allowance::SettingOrder,
        Allowance::FailedBind,
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
        if let Some(at) = judge.differs(left, right, None) {
            return Some(difference(Place::Login(client), "login", left.get(at), right.get(at)));
        }
    }
    for (at, (left, right)) in direct.outcomes.iter().zip(&pooled.outcomes).enumerate() {
        let step = &program.steps[at];
        if let Some(event) = judge.differs(&left.events, &right.events, Some(at)) {
            let (left, right) = (left.events.get(event), right.events.get(event));
            // From here on the sessions may differ, for one transaction has failed and the other has not; what no session
            // may do is looked for all the same.
            if left.is_some_and(is_stale_plan) && !matches!(right, None | Some(Event::Report(_))) {
                uses.note(Allowance::ReplannedStatement);
                return first_loss(program, at, direct, pooled);
            }
            if is_reset_of_start(program, at) {
                uses.note(Allowance::ResetOfStart);
                return first_loss(program, at, direct, pooled);
            }
            return Some(difference(Place::Step(at), step.feature.name(), left, right));
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

struct Judge<'a> {
    program: &'a Program,
    uses: &'a Uses,
}

impl Judge<'_> {
    /// Index of the first event that differs.
    fn differs(&self, direct: &[Event], pooled: &[Event], step: Option<usize>) -> Option<usize> {
        let (shorter, mut at) = (direct.len().min(pooled.len()), 0);
        while at < shorter {
            if self.is_same(&direct[at], &pooled[at], step) {
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

    fn is_same(&self, direct: &Event, pooled: &Event, step: Option<usize>) -> bool {
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
            (Event::Report(left), Event::Report(right)) => {
                self.is_only_position(left, right, step)
                    || self.is_cancelled_in_queue(left, right)
                    || self.is_temporary_schema(left, right)
                    || self.is_failed_bind(left, right)
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
        let is_custom = || self.program.steps.iter().any(|step| step.mentions("app.") || step.mentions("visible"));
        let is_same = |(left, right): (&Option<String>, &Option<String>)| {
            let is_empty = |value: &Option<String>| value.as_deref() == Some("");
            left == right || (may_be_empty && left.is_none() && is_empty(right)) || (is_empty(left) && right.is_none())
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

    fn is_failed_bind(&self, direct: &Report, pooled: &Report) -> bool {
        let is_bind = direct.sqlstate == "08P01" && direct.message.starts_with("bind message supplies");
        let is_used = is_bind && pooled.sqlstate == "25P02";
        if is_used {
            self.uses.note(Allowance::FailedBind);
        }
        is_used
    }

    fn is_only_position(&self, direct: &Report, pooled: &Report, step: Option<usize>) -> bool {
        let without = |report: &Report| Report { position: String::new(), ..report.clone() };
        let is_renamed = step.is_some_and(|at| {
            let step = &self.program.steps[at];
            step.feature == Feature::SqlPrepare || step.mentions("prepare") || step.mentions("execute")
        });
        let is_used = is_renamed && without(direct) == without(pooled);
        if is_used {
            self.uses.note(Allowance::Position);
        }
        is_used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NO_ANSWER;
    use crate::program::{Action, Message, Step};
    use crate::run::Outcome;

    /// A program of one step, at a level.
    fn program(level: &str, sql: &str) -> Program {
        let action = Action::Send(vec![Message::Query(sql.to_owned())]);
        let steps = vec![Step { client: 0, feature: Feature::Dml, action }];
        Program { level: level.to_owned(), pool: 1, clients: vec![Vec::new()], steps }
    }

    fn run(events: Vec<Event>) -> Run {
        Run { outcomes: vec![Outcome { events, ..Outcome::default() }], ..Run::default() }
    }

    fn row(value: Option<&str>) -> Event {
        Event::Row(vec![value.map(str::to_owned)])
    }

    fn report(message: &str, position: &str, hint: &str) -> Event {
        Event::Report(Box::new(Report {
            message: message.to_owned(),
            position: position.to_owned(),
            hint: hint.to_owned(),
            ..Report::default()
        }))
    }

    /// The signature of the difference, and how often an allowance was used.
    fn judged(program: &Program, direct: Event, pooled: Event, allowance: Allowance) -> (Option<String>, u64) {
        let uses = Uses::default();
        let found = first_difference(program, &run(vec![direct]), &run(vec![pooled]), &uses);
        (found.map(|difference| difference.signature), uses.count(allowance))
    }

    const OTHER_ROW: Option<&str> = Some("dml: other D");

    #[test]
    fn an_unset_custom_setting_may_be_empty_but_not_at_strict() {
        let custom = "SELECT current_setting('app.a', true)";
        let allowance = Allowance::UnsetCustom;
        let judge = |level, sql, direct, pooled| judged(&program(level, sql), row(direct), row(pooled), allowance);
        assert_eq!(judge("safe", custom, None, Some("")), (None, 1));
        assert_eq!(judge("strict", custom, None, Some("")), (OTHER_ROW.map(str::to_owned), 0));
        assert_eq!(judge("safe", custom, None, Some("leak")), (OTHER_ROW.map(str::to_owned), 0));
        assert_eq!(judge("safe", custom, Some(""), None), (None, 1));
        assert_eq!(judge("safe", custom, Some("set"), None), (OTHER_ROW.map(str::to_owned), 0));
        assert_eq!(judge("safe", "SELECT NULL", None, Some("")), (OTHER_ROW.map(str::to_owned), 0));
    }

    #[test]
    fn a_place_in_a_text_may_differ_only_where_names_were_replaced() {
        let judge = |sql, message| {
            let (direct, pooled) = (report("m", "9", ""), report(message, "12", ""));
            judged(&program("safe", sql), direct, pooled, Allowance::Position)
        };
        assert_eq!(judge("EXECUTE s1(x)", "m"), (None, 1));
        assert_eq!(judge("SELECT x", "m").1, 0);
        assert!(judge("SELECT x", "m").0.is_some());
        assert!(judge("EXECUTE s1(x)", "fb_1").0.is_some());
    }

    #[test]
    fn a_bind_in_a_failed_transaction_may_fail_for_either_reason() {
        let told = |sqlstate: &str, message: &str| {
            let words = Report { sqlstate: sqlstate.into(), message: message.into(), ..Report::default() };
            Event::Report(Box::new(words))
        };
        let values = || told("08P01", "bind message supplies 0 parameters, but prepared statement \"s\" requires 1");
        let judge = |direct, pooled| judged(&program("", "x"), direct, pooled, Allowance::FailedBind);
        assert_eq!(judge(values(), told("25P02", "aborted")), (None, 1));
        assert_eq!(judge(values(), told("26000", "no such statement")).1, 0);
        assert_eq!(judge(told("25P02", "aborted"), values()).1, 0);
    }

    #[test]
    fn a_statement_may_outlive_a_change_of_its_result() {
        let stale = |message: &str| {
            let words = Report { sqlstate: "0A000".into(), message: message.to_owned(), ..Report::default() };
            Event::Report(Box::new(words))
        };
        let judge = |direct, pooled| judged(&program("", "EXECUTE p"), direct, pooled, Allowance::ReplannedStatement);
        assert_eq!(judge(stale("cached plan must not change result type"), row(Some("1"))), (None, 1));
        assert_eq!(judge(stale("something else"), row(Some("1"))).1, 0);
        let hung = Some("dml: no for nothing".to_owned());
        assert_eq!(judge(stale("cached plan must not change result type"), Event::Other(NO_ANSWER.into())).0, hung);
        assert_eq!(judge(row(Some("1")), stale("cached plan must not change result type")).1, 0);
    }

    #[test]
    fn a_statement_may_be_cancelled_before_it_has_a_server() {
        let judge = |sqlstate: &str, hint: &str| {
            let told = |hint: &str| {
                let words = Report { sqlstate: sqlstate.to_owned(), hint: hint.to_owned(), ..Report::default() };
                Event::Report(Box::new(words))
            };
            judged(&program("", "SELECT 1"), told(""), told(hint), Allowance::CancelledInQueue)
        };
        assert_eq!(judge("57014", "No part of it was run. (FB705)"), (None, 1));
        assert_eq!(judge("57014", "(FB701)").1, 0);
        assert_eq!(judge("42601", "(FB705)").1, 0);
        assert!(judge("57014", "(FB701)").0.is_some());
    }

    /// PostgreSQL keeps the schema for the life of a connection, also when all that was in it is dropped.
    #[test]
    fn an_object_that_is_missing_may_be_missed_with_its_schema() {
        let judge = |direct: (&str, &str), pooled: (&str, &str)| {
            let told = |(sqlstate, message): (&str, &str)| {
                let words = Report { sqlstate: sqlstate.into(), message: message.into(), ..Report::default() };
                Event::Report(Box::new(words))
            };
            let program = program("", "SELECT pg_temp.f()");
            judged(&program, told(direct), told(pooled), Allowance::TemporarySchema)
        };
        let schema = ("3F000", "schema \"pg_temp\" does not exist");
        let function = ("42883", "function pg_temp.f() does not exist");
        assert_eq!(judge(schema, function), (None, 1));
        assert_eq!(judge(function, schema), (None, 1));
        assert_eq!(judge(schema, ("42P01", "relation \"f\" does not exist")).1, 0);
        assert!(judge(("3F000", "schema \"s\" does not exist"), function).0.is_some());
    }

    #[test]
    fn settings_may_be_told_in_another_order_but_no_others() {
        let told = |names: &[&str]| {
            run(names.iter().map(|name| Event::Setting { name: (*name).to_owned(), value: "on".to_owned() }).collect())
        };
        let judge = |direct, pooled| {
            let uses = Uses::default();
            let found = first_difference(&program("", "RESET ALL"), &told(direct), &told(pooled), &uses);
            (found.map(|difference| difference.signature), uses.count(Allowance::SettingOrder))
        };
        assert_eq!(judge(&["a", "b", "c"], &["a", "c", "b"]), (None, 1));
        assert_eq!(judge(&["a", "b"], &["a", "b"]), (None, 0));
        assert_eq!(judge(&["a", "b"], &["b", "c"]), (Some("dml: S b for S a".to_owned()), 0));
        assert_eq!(judge(&["a", "b"], &["b"]), (Some("dml: S b for S a".to_owned()), 0));
    }

    #[test]
    fn what_stands_behind_a_reset_may_differ_only_for_what_was_asked_for_at_the_start() {
        let judge = |startup: &[(&str, &str)], sql: &str| {
            let mut program = program("", sql);
            program.clients[0] =
                startup.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let uses = Uses::default();
            let found = first_difference(&program, &run(vec![row(Some("1"))]), &run(vec![row(None)]), &uses);
            (found.is_none(), uses.count(Allowance::ResetOfStart))
        };
        let (path, options) = (("search_path", "north"), ("options", "-c work_mem=3MB -c app.a=x"));
        assert_eq!(judge(&[path], "SET search_path TO DEFAULT; SELECT * FROM place"), (true, 1));
        assert_eq!(judge(&[options], "RESET app.a; SHOW app.a"), (true, 1));
        assert_eq!(judge(&[path], "RESET ALL; SHOW search_path"), (true, 1));
        assert_eq!(judge(&[path], "RESET work_mem; SHOW search_path"), (false, 0));
        assert_eq!(judge(&[path], "RESET search_path"), (false, 0));
        assert_eq!(judge(&[], "RESET ALL; SHOW search_path"), (false, 0));
    }

    #[test]
    fn what_others_notify_is_compared_apart_from_its_time() {
        let told = |text: &str| Event::Told(text.to_owned());
        let judge = |direct, pooled| {
            judged(&program("safe", "SELECT 1"), told(direct), told(pooled), Allowance::NotificationOrder)
        };
        assert_eq!(judge("ch1 \"\" from client 1", "ch1 \"\" from client 1"), (None, 1));
        assert_eq!(judge("ch1 \"\" from itself", "ch1 \"\" from itself"), (None, 0));
        assert!(judge("ch1 \"\" from client 1", "ch1 \"\" from an unknown process").0.is_some());
    }

    #[test]
    fn oids_of_tables_are_not_compared_but_their_columns_are() {
        let columns = |text: &str| Event::Columns(text.to_owned());
        let judge = |pooled| {
            judged(&program("safe", "SELECT 1"), columns("id*1:23:-1:0"), columns(pooled), Allowance::TableOid)
        };
        assert_eq!(judge("id*1:23:-1:0"), (None, 1));
        assert_eq!(judge("id0:23:-1:0"), (Some("dml: other T".to_owned()), 0));
    }

    #[test]
    fn a_table_that_holds_something_else_at_the_end_is_a_difference() {
        let side = |held: &str| Run { contents: vec![held.to_owned()], ..Run::default() };
        let found = first_difference(&program("", ""), &side("items: (1)"), &side("items: "), &Uses::default());
        assert_eq!(found.map(|difference| difference.signature), Some("contents of items".to_owned()));
    }
}

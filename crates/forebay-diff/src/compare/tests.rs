//! What may differ, and what may not.

use super::*;
use crate::event::NO_ANSWER;
use crate::feature::Feature;
use crate::program::{Action, Message, Step};
use crate::run::Outcome;

/// A program of one step, at a level.
fn program(level: &str, sql: &str) -> Program {
    let action = Action::Send(vec![Message::Query(sql.to_owned())]);
    let steps = vec![Step { client: 0, feature: Feature::Dml, action }];
    Program { level: level.to_owned(), pool: 1, clients: vec![Vec::new()], steps, ..Program::default() }
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
    assert_eq!(judge("strict", custom, Some(""), None), (OTHER_ROW.map(str::to_owned), 0));
    assert_eq!(judge("safe", custom, Some("set"), None), (OTHER_ROW.map(str::to_owned), 0));
    assert_eq!(judge("safe", "SELECT NULL", None, Some("")), (OTHER_ROW.map(str::to_owned), 0));
}

#[test]
fn a_place_in_a_text_may_not_differ() {
    let (direct, pooled) = (report("m", "9", ""), report("m", "12", ""));
    let judged = judged(&program("safe", "EXECUTE s1(x)"), direct, pooled, Allowance::FailedBind);
    assert_eq!(judged.0.as_deref(), Some("dml: other  "));
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
    let formats = told("08P01", "bind message has 2 parameter formats but 1 parameters");
    assert_eq!(judge(formats, told("25P02", "aborted")), (None, 1));
    assert_eq!(judge(values(), told("26000", "no such statement")).1, 0);
    assert_eq!(judge(told("25P02", "aborted"), values()).1, 0);
}

#[test]
fn the_context_of_an_error_may_lack_the_functions_schema_and_nothing_else() {
    let told = |more: String| Event::Report(Box::new(Report { more, ..Report::default() }));
    let context = |name: &str| told(format!(" W=PL/pgSQL function {name}(text) line 3 at RAISE"));
    let judge = |direct, pooled| judged(&program("", "x"), direct, pooled, Allowance::FunctionSchema);
    assert_eq!(judge(context("fail"), context("public.fail")), (None, 1));
    assert_eq!(judge(context("public.fail"), context("fail")), (None, 1));
    assert_eq!(judge(context("fail"), context("other.fail")).1, 0);
    assert_eq!(judge(context("fail"), context("public.fall")).1, 0);
    assert_eq!(judge(told(" D=public.fail".into()), told(" D=fail".into())).1, 0);
}

#[test]
fn a_notification_may_name_another_client_and_nothing_else() {
    let judge = |direct: &str, pooled: &str| {
        let (direct, pooled) = (Event::Told(direct.to_owned()), Event::Told(pooled.to_owned()));
        judged(&program("", "x"), direct, pooled, Allowance::NotificationSender)
    };
    assert_eq!(judge("ch \"x\" from client 1", "ch \"x\" from client 3"), (None, 1));
    assert_eq!(judge("ch \"x\" from client 1", "ch \"y\" from client 3").1, 0);
    assert_eq!(judge("ch \"x\" from client 1", "ch \"x\" from an unknown process").1, 0);
    assert_eq!(judge("ch \"x\" from itself", "ch \"x\" from client 3").1, 0);
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
        program.clients[0] = startup.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
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

/// What a reset of what was asked for at the start shows differs; what stands behind that step may not.
#[test]
fn a_program_goes_on_behind_a_reset_of_what_was_asked_for_at_the_start() {
    let judge = |sql: &str, statuses: (char, char)| {
        let mut program = program("", sql);
        program.clients[0] = vec![("search_path".to_owned(), "north".to_owned())];
        program.steps.push(program.steps[0].clone());
        let side = |value: &str, status: char| {
            let outcome = |events| Outcome { events, ..Outcome::default() };
            let first = outcome(vec![row(Some(value)), Event::Ready(status)]);
            Run { outcomes: vec![first, outcome(vec![Event::Done(value.to_owned())])], ..Run::default() }
        };
        let (direct, pooled) = (side("1", statuses.0), side("2", statuses.1));
        let mut texts = program.clone();
        texts.steps[1].action = Action::Send(vec![Message::Query("SELECT 2".to_owned())]);
        first_difference(&texts, &direct, &pooled, &Uses::default()).map(|found| found.place)
    };
    let later = Some(Place::Step(1));
    assert_eq!(judge("RESET search_path; SELECT * FROM place", ('I', 'I')), later);
    assert_eq!(judge("BEGIN; RESET ALL; SELECT * FROM place", ('T', 'T')), later);
    assert_eq!(judge("RESET search_path; SELECT * FROM place", ('E', 'T')), None);
    assert_eq!(judge("RESET search_path; INSERT INTO place VALUES ('x')", ('I', 'I')), None);
}

#[test]
fn a_program_goes_on_behind_a_statement_that_was_refused_by_itself() {
    let judge = |messages: Vec<Message>, status: char| {
        let mut program = program("", "");
        program.steps[0].action = Action::Send(messages);
        program.steps.push(program.steps[0].clone());
        let words = Report {
            severity: "ERROR".into(),
            sqlstate: "0A000".into(),
            message: "cached plan must not change result type".into(),
            ..Report::default()
        };
        let outcome = |events| Outcome { events, ..Outcome::default() };
        let direct = [Event::Report(Box::new(words)), Event::Ready(status)].to_vec();
        let pooled = [row(Some("1")), Event::Ready('I')].to_vec();
        let side =
            |events, last| Run { outcomes: vec![outcome(events), outcome(vec![Event::Done(last)])], ..Run::default() };
        let (direct, pooled) = (side(direct, "C".to_owned()), side(pooled, "D".to_owned()));
        first_difference(&program, &direct, &pooled, &Uses::default()).map(|found| found.place)
    };
    let execute = || Message::Execute { portal: String::new(), rows: 0 };
    assert_eq!(judge(vec![execute(), Message::Sync], 'I'), Some(Place::Step(1)));
    assert_eq!(judge(vec![Message::Query("EXECUTE s1".to_owned())], 'I'), Some(Place::Step(1)));
    assert_eq!(judge(vec![execute(), execute(), Message::Sync], 'I'), None);
    assert_eq!(judge(vec![execute(), Message::Sync], 'E'), None);
    assert_eq!(judge(vec![Message::Query("EXECUTE s1; DELETE FROM items".to_owned())], 'I'), None);
}

/// NULL is a value that a function returns, too.
#[test]
fn a_call_may_return_an_unset_custom_setting_as_empty() {
    let program = {
        let mut program = program("safe", "");
        let arguments = vec![Some("app.a".to_owned()), Some("true".to_owned())];
        let call = Message::Call { function: "current_setting(text,boolean)".to_owned(), arguments, binary: false };
        program.steps[0].action = Action::Send(vec![call]);
        program
    };
    let value = |value: Option<&str>| Event::Value(value.map(str::to_owned));
    let judge = |direct, pooled| judged(&program, value(direct), value(pooled), Allowance::UnsetCustom);
    assert_eq!(judge(None, Some("")), (None, 1));
    assert_eq!(judge(None, Some("leak")), (Some("dml: other V".to_owned()), 0));
}

#[test]
fn what_others_notify_is_compared_apart_from_its_time() {
    let told = |text: &str| Event::Told(text.to_owned());
    let judge =
        |direct, pooled| judged(&program("safe", "SELECT 1"), told(direct), told(pooled), Allowance::NotificationOrder);
    assert_eq!(judge("ch1 \"\" from client 1", "ch1 \"\" from client 1"), (None, 1));
    assert_eq!(judge("ch1 \"\" from itself", "ch1 \"\" from itself"), (None, 0));
    assert!(judge("ch1 \"\" from client 1", "ch1 \"\" from an unknown process").0.is_some());
}

#[test]
fn oids_of_tables_are_not_compared_but_their_columns_are() {
    let columns = |text: &str| Event::Columns(text.to_owned());
    let judge =
        |pooled| judged(&program("safe", "SELECT 1"), columns("id*1:23:-1:0"), columns(pooled), Allowance::TableOid);
    assert_eq!(judge("id*1:23:-1:0"), (None, 1));
    assert_eq!(judge("id0:23:-1:0"), (Some("dml: other T".to_owned()), 0));
}

#[test]
fn a_table_that_holds_something_else_at_the_end_is_a_difference() {
    let side = |held: &str| Run { contents: vec![held.to_owned()], ..Run::default() };
    let found = first_difference(&program("", ""), &side("items: (1)"), &side("items: "), &Uses::default());
    assert_eq!(found.map(|difference| difference.signature), Some("contents of items".to_owned()));
}

//! Settings: ways to change them, and what shows them.

use fastrand::Rng;

use super::{Done, Session, in_transaction, one_in, pick, query, statement, statements};
use crate::feature::Feature;

/// Settings and values for them.
const SETTINGS: &[(&str, &[&str])] = &[
    ("TimeZone", &["Asia/Tokyo", "America/New_York", "UTC", "+03"]),
    ("DateStyle", &["German", "SQL, DMY", "ISO, MDY", "Postgres, YMD"]),
    ("IntervalStyle", &["iso_8601", "postgres", "sql_standard"]),
    ("standard_conforming_strings", &["off", "on"]),
    ("statement_timeout", &["21s", "0", "22s"]),
    ("work_mem", &["1MB", "2MB", "5MB"]),
    ("bytea_output", &["escape", "hex"]),
    ("extra_float_digits", &["0", "3", "-2"]),
    ("application_name", &["first", "second name", "it''s", ""]),
    ("search_path", &["south, public", "north, public", "public"]),
    ("client_encoding", &["LATIN1", "UTF8"]),
    ("row_security", &["off", "on"]),
    ("default_transaction_read_only", &["on", "off"]),
    ("default_transaction_isolation", &["repeatable read", "read committed"]),
    ("escape_string_warning", &["off", "on"]),
    ("app.a", &["one", "two", ""]),
    ("app.b", &["x", "longer text", "''quoted''"]),
];

/// Texts whose meaning or look depends on settings.
const LITERALS: &[&str] = &[
    "SELECT '02/03/2024'::date",
    "SELECT '2024-02-03 04:05:06'::timestamptz",
    "SELECT timestamptz '2024-07-01 00:00+00', date '2024-07-01'",
    "SELECT interval '1 year 2 days 03:04:05'",
    "SELECT '\\x4142ff'::bytea",
    "SELECT 'a\\\\b' AS text",
    "SELECT E'\\\\x41', 'é', length('é')",
    "SELECT 0.1::float8 / 3, 1e15::float8",
    "SELECT at FROM items WHERE id = 1",
    "SELECT name FROM items WHERE at = '06.05.2024 07:08:09'::timestamptz ORDER BY id",
    "SELECT to_char(timestamptz '2024-07-01 00:00+00', 'HH24 TZ')",
    "SELECT id, b, who FROM visible ORDER BY id LIMIT 2",
];

fn draw(rng: &mut Rng) -> (&'static str, &'static str) {
    let (name, values) = SETTINGS[rng.usize(..SETTINGS.len())];
    (name, pick(rng, values))
}

/// A SET as programs write it: the value in quotes, except where it is a list.
fn set(name: &str, value: &str, how: &str) -> String {
    if name == "search_path" || name == "DateStyle" {
        format!("SET {how}{name} = {value}")
    } else {
        format!("SET {how}{name} = '{value}'")
    }
}

/// Shows one setting.
pub(super) fn show(rng: &mut Rng) -> String {
    let (name, _) = draw(rng);
    if name.contains('.') { format!("SELECT current_setting('{name}', true)") } else { format!("SHOW {name}") }
}

/// Shows all that a session before could have left behind.
pub(super) fn everything() -> String {
    let names: Vec<_> = SETTINGS.iter().map(|(name, _)| format!("current_setting('{name}', true)")).collect();
    format!(
        "SELECT {}, current_user, pg_my_temp_schema() = 0 OR NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = \
         pg_my_temp_schema()), (SELECT count(*) FROM pg_cursors WHERE is_holdable), (SELECT count(*) FROM \
         pg_listening_channels()), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = \
         pg_backend_pid())",
        names.join(", ")
    )
}

/// A text whose meaning depends on settings.
pub(super) fn literal(rng: &mut Rng) -> String {
    pick(rng, LITERALS).to_owned()
}

pub(super) fn act(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    let one = |action| vec![(feature, action)];
    match feature {
        Feature::Set => one(plain_set(rng)),
        Feature::SetStack => stack(rng, session),
        Feature::SetLocal => {
            let (name, value) = draw(rng);
            let list = [set(name, value, "LOCAL "), show(rng)];
            in_transaction(rng, session, feature, &list)
        }
        Feature::Characteristics => one({
            let mode = pick(rng, &["READ ONLY", "READ WRITE", "ISOLATION LEVEL REPEATABLE READ", "DEFERRABLE"]);
            statement(rng, format!("SET SESSION CHARACTERISTICS AS TRANSACTION {mode}"))
        }),
        Feature::SetConfig => {
            let (name, value) = draw(rng);
            let is_local = pick(rng, &["false", "false", "true"]);
            let sql = if one_in(rng, 4) {
                format!("SELECT set_config(lower('{name}'), v, {is_local}) FROM (VALUES ('{value}')) t (v)")
            } else {
                format!("SELECT set_config('{name}', '{value}', {is_local})")
            };
            one(statement(rng, sql))
        }
        Feature::Custom => {
            let name = pick(rng, &["app.a", "app.b"]);
            let value = pick(rng, &["one", "two", "three"]);
            let sql = pick_text(rng, &[set(name, value, ""), format!("RESET {name}"), set(name, value, "SESSION ")]);
            one(statement(rng, sql))
        }
        Feature::SearchPath => {
            let path = pick(rng, &["north, public", "south, public", "public", "\"$user\", south", "DEFAULT"]);
            statements(rng, feature, &[format!("SET search_path TO {path}"), "SELECT * FROM place".into()])
        }
        Feature::Encoding => {
            let name = pick(rng, &["LATIN1", "UTF8", "WIN1252"]);
            let (set, look) = (format!("SET client_encoding = '{name}'"), "SELECT 'é', length('é')");
            if session.is_fast {
                // Where letters of two bytes stand in a text of another encoding, it may be any text.
                return vec![(feature, statement(rng, set)), (feature, statement(rng, look))];
            }
            statements(rng, feature, &[set, look.into()])
        }
        Feature::Role => {
            let sql =
                pick(rng, &["SET ROLE alpha", "SET ROLE beta", "RESET ROLE", "SET ROLE NONE", "SET LOCAL ROLE alpha"]);
            one(statement(rng, sql))
        }
        Feature::RowSecurity => {
            let first =
                pick(rng, &["SET app.a = 'one'", "SET app.a = 'two'", "SET ROLE alpha", "SET row_security = off"]);
            statements(rng, feature, &[first.into(), "SELECT id, owner FROM secrets ORDER BY id".into()])
        }
        Feature::Discard => one(discard(rng, session)),
        Feature::Opaque => one(opaque(rng)),
        Feature::Trigger => one(trigger(rng, session)),
        _ => one({
            let sql = literal(rng);
            statement(rng, sql)
        }),
    }
}

fn pick_text(rng: &mut Rng, list: &[String]) -> String {
    list[rng.usize(..list.len())].clone()
}

fn plain_set(rng: &mut Rng) -> crate::program::Action {
    let (name, value) = draw(rng);
    let list = [
        set(name, value, ""),
        set(name, value, ""),
        set(name, value, "SESSION "),
        format!("RESET {name}"),
        format!("SET {name} TO DEFAULT"),
        "RESET ALL".to_owned(),
        "SET TIME ZONE 'Europe/Berlin'".to_owned(),
        "SET NAMES 'LATIN1'".to_owned(),
        "UPDATE pg_settings SET setting = '7MB' WHERE name = 'work_mem'".to_owned(),
    ];
    let sql = pick_text(rng, &list);
    statement(rng, sql)
}

/// Settings within transactions and savepoints: what of them stays is a matter of how those end.
fn stack(rng: &mut Rng, session: &mut Session) -> Done {
    let (name, value) = draw(rng);
    let (other, second) = draw(rng);
    if one_in(rng, 3) && !session.is_in_transaction {
        // What was set before the savepoint stays.
        let [begin, savepoint, back, commit] = ["BEGIN", "SAVEPOINT a", "ROLLBACK TO a", "COMMIT"].map(str::to_owned);
        let list = [begin, set(name, value, ""), savepoint, set(other, second, ""), back, commit];
        return statements(rng, Feature::SetStack, &list);
    }
    let mut list = vec![set(name, value, "")];
    for _ in 0..rng.usize(1..4) {
        let (_, values) = SETTINGS.iter().find(|(known, _)| *known == name).expect("it was drawn from there");
        let again = pick(rng, values);
        let how = pick(rng, &["", "", "LOCAL "]);
        list.push("SAVEPOINT a".to_owned());
        list.push(set(name, again, how));
        list.push(pick(rng, &["ROLLBACK TO a", "RELEASE a", "ROLLBACK TO a; RELEASE a"]).to_owned());
    }
    if rng.bool() {
        list.push(set(other, second, pick(rng, &["", "LOCAL "])));
    }
    in_transaction(rng, session, Feature::SetStack, &list)
}

fn discard(rng: &mut Rng, session: &mut Session) -> crate::program::Action {
    let what = pick(rng, &["ALL", "TEMP", "SEQUENCES", "PLANS", "ALL"]);
    if what == "ALL" && !session.is_in_transaction {
        session.forget();
    }
    query(format!("DISCARD {what}"))
}

/// A change of a setting that the statement's text does not show.
fn opaque(rng: &mut Rng) -> crate::program::Action {
    let (name, value) = draw(rng);
    let list = [
        format!("SELECT put('{name}', '{value}')"),
        format!("SELECT put_stable('{name}', '{value}')"),
        format!("SELECT put_definer('{name}', '{value}')"),
        format!("SELECT put_local('{name}', '{value}')"),
        format!("DO $$BEGIN PERFORM set_config('{name}', '{value}', false); END$$"),
        "DO $$BEGIN SET app.b = 'done'; END$$".to_owned(),
        "SELECT put_by_set('by set')".to_owned(),
        "SELECT role_inside()".to_owned(),
        format!("CALL put_and_commit('{name}', '{value}')"),
        "SELECT fail('opaque')".to_owned(),
    ];
    let sql = pick_text(rng, &list);
    statement(rng, sql)
}

fn trigger(rng: &mut Rng, session: &Session) -> crate::program::Action {
    let (name, value) = draw(rng);
    let id = session.client;
    statement(
        rng,
        format!(
            "INSERT INTO knobs VALUES ({id}, '{name}', '{value}') ON CONFLICT (id) DO UPDATE SET name = excluded.name, \
             value = excluded.value"
        ),
    )
}

//! What sessions share: sequences, locks, channels, and the noise of others.

use fastrand::Rng;

use super::{Done, Session, in_transaction, one_in, pick, statement, statements};
use crate::feature::Feature;
use crate::program::{Action, Leave, Message};

/// Shows what session locks the asking session has.
pub(super) fn own_locks() -> String {
    "SELECT objid, mode, count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() \
     GROUP BY 1, 2 ORDER BY 1, 2"
        .to_owned()
}

pub(super) fn act(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    match feature {
        Feature::Sequence => {
            session.is_pinned = true;
            let list: &[&str] = match rng.usize(..if session.is_fast { 6 } else { 7 }) {
                0 => &["SELECT nextval('numbers')", "SELECT currval('numbers')"],
                1 => &["SELECT nextval('others')", "SELECT lastval()"],
                2 => &["SELECT currval('numbers')"],
                3 => &["SELECT lastval()"],
                4 => &["SELECT setval('numbers', 100)", "SELECT nextval('numbers'), lastval()"],
                5 => &["SELECT nextval('numbers')", "DISCARD SEQUENCES", "SELECT lastval()"],
                _ => &["SELECT next_inside()", "SELECT currval('others')"],
            };
            texts(rng, feature, list)
        }
        Feature::Seed => {
            let was_seeded = std::mem::replace(&mut session.is_seeded, true);
            (session.is_pinned, session.is_lasting) = (true, true);
            if was_seeded {
                return vec![(feature, statement(rng, "SELECT random(), random()"))];
            }
            let seed = pick(rng, &["0.5", "0.25", "-1"]);
            statements(rng, feature, &[format!("SELECT setseed({seed})"), "SELECT random()".to_owned()])
        }
        Feature::Lock => lock(rng, session),
        Feature::LockXact => {
            let key = rng.usize(1..4);
            let lock = format!("SELECT pg_try_advisory_xact_lock({key})");
            if one_in(rng, 3) {
                return vec![(feature, statement(rng, lock))];
            }
            in_transaction(rng, session, feature, &[lock, own_locks()])
        }
        Feature::Notify => notify(rng, session),
        _ => vec![(feature, noise(rng, session.is_fast))],
    }
}

fn texts(rng: &mut Rng, feature: Feature, list: &[&str]) -> Done {
    let list: Vec<_> = list.iter().map(|sql| (*sql).to_owned()).collect();
    statements(rng, feature, &list)
}

fn lock(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Lock;
    let key = rng.usize(1..4);
    let take = format!("SELECT pg_try_advisory_lock({key})");
    let unlock = format!("SELECT pg_advisory_unlock({key})");
    let list = match rng.usize(..if session.is_fast { 6 } else { 7 }) {
        0 => vec![take],
        1 => vec![take.clone(), take, own_locks()],
        2 => vec![take, unlock],
        3 => vec![unlock],
        4 => vec!["SELECT pg_advisory_unlock_all()".to_owned()],
        5 => vec![
            format!("SELECT pg_try_advisory_lock_shared({key})"),
            format!("SELECT pg_advisory_unlock_shared({key})"),
        ],
        _ => vec![format!("SELECT lock_inside({key})")],
    };
    session.is_pinned = !list.last().is_some_and(|sql| sql.contains("unlock_all"));
    statements(rng, feature, &list)
}

fn notify(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Notify;
    let channel = pick(rng, &["ch1", "ch2"]);
    let one = |sql: String, rng: &mut Rng| vec![(feature, statement(rng, sql))];
    match rng.usize(..if session.is_fast { 8 } else { 9 }) {
        0..=2 => {
            session.is_listening = true;
            session.is_pinned = true;
            one(format!("LISTEN {channel}"), rng)
        }
        3 | 4 => {
            let payload = session.created;
            session.created += 1;
            one(format!("NOTIFY {channel}, 'from {} number {payload}'", session.client), rng)
        }
        5 => one(format!("SELECT pg_notify('{channel}', 'by function')"), rng),
        6 => one(format!("UNLISTEN {}", pick(rng, &["ch1", "ch2", "*"])), rng),
        7 => {
            session.is_listening = true;
            session.is_pinned = true;
            let listen = format!("LISTEN {channel}");
            in_transaction(rng, session, feature, &[listen, format!("NOTIFY {channel}, 'in transaction'")])
        }
        _ => {
            session.is_listening = true;
            session.is_pinned = true;
            one(format!("SELECT listen_inside('{channel}')"), rng)
        }
    }
}

/// What of noise leaves something unseen.
const UNSEEN: &[&str] = &["put", "DO ", "_inside"];

/// What a session leaves behind. One that would keep a server for itself ends.
fn noise(rng: &mut Rng, is_fast: bool) -> Action {
    let stays: &[&str] = &[
        "SET TimeZone = 'Pacific/Chatham'; SET DateStyle = 'Postgres, DMY'; SET search_path = south; SET work_mem = '64kB'",
        "SET ROLE beta",
        "SET app.a = 'noise'; SET app.b = 'noise'",
        "SET statement_timeout = '1ms'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET default_transaction_isolation = 'serializable'",
        "SET client_encoding = 'LATIN1'; SET standard_conforming_strings = off; SET bytea_output = 'escape'",
        "SELECT put('app.a', 'noise by function'), put_stable('TimeZone', 'Asia/Kolkata')",
        "DO $$BEGIN PERFORM set_config('search_path', 'south', false); END$$",
        "BEGIN; SET work_mem = '1MB'; SELECT 1/0",
        "SELECT role_inside()",
        "BEGIN; SET work_mem = '1MB'; PREPARE TRANSACTION 'noise_{u}'",
    ];
    let goes: &[&str] = &[
        "CREATE TEMP TABLE real1 AS SELECT 'noise'::text AS v",
        "CREATE TEMP TABLE place AS SELECT 'noise'::text AS v",
        "SELECT pg_advisory_lock(901), temp_inside()",
        "PREPARE s1 AS SELECT 'noise'; PREPARE dup AS SELECT 'noise'",
        "DECLARE held CURSOR WITH HOLD FOR SELECT 'noise'",
        "SELECT setseed(0.1)",
        "BEGIN; SET app.a = 'noise'; CREATE TEMP TABLE own_0_1 (noise int)",
        "LISTEN ch1; LISTEN noise1",
        "SELECT nextval('pg_temp.n') FROM (SELECT temp_inside()) t",
        "LOAD '$libdir/plugins/pg_trgm'",
        "SET SESSION AUTHORIZATION beta",
    ];
    let seen = |list: &[&'static str]| -> Vec<_> {
        let is_seen = |sql: &&str| !is_fast || UNSEEN.iter().all(|word| !sql.contains(word));
        list.iter().copied().filter(is_seen).collect()
    };
    let (stays, goes) = (seen(stays), seen(goes));
    let leave = if rng.bool() { Leave::Cut } else { Leave::Terminate };
    match rng.usize(..if is_fast { 10 } else { 11 }) {
        0..=4 => {
            let sql = pick(rng, &stays);
            let mut messages = vec![Message::Query(sql.to_owned())];
            if sql.starts_with("BEGIN") {
                let end = if sql.contains("PREPARE") { "ROLLBACK PREPARED 'noise_{u}'" } else { "ROLLBACK" };
                messages.push(Message::Query(end.to_owned()));
            }
            Action::Noise { messages, leave: one_in(rng, 3).then_some(leave) }
        }
        5 => Action::Noise {
            messages: vec![
                Message::Parse { name: "s1".into(), sql: "SELECT 'noise'".into() },
                Message::Parse { name: "dup".into(), sql: "SELECT 'noise'".into() },
                Message::Sync,
            ],
            leave: one_in(rng, 3).then_some(leave),
        },
        6 => {
            let copy = vec![Message::Query("COPY stream FROM STDIN".into()), Message::CopyData("9\tnoise\n".into())];
            Action::Noise { messages: copy, leave: Some(leave) }
        }
        10 => {
            let arguments = ["app.a", "noise by call"].map(|text| Some(text.to_owned())).to_vec();
            let call = Message::Call { function: "put(text,text)".to_owned(), arguments, binary: false };
            Action::Noise { messages: vec![call], leave: one_in(rng, 3).then_some(leave) }
        }
        _ => Action::Noise { messages: vec![Message::Query(pick(rng, &goes).to_owned())], leave: Some(leave) },
    }
}

//! Plain statements, transactions, batches, copies and the life of a connection.

use fastrand::Rng;

use super::{Done, Session, bind, extended, in_transaction, one_in, pick, query, startup, statement, statements};
use crate::feature::Feature;
use crate::program::{Action, Cancel, Leave, Message};

/// Names that statements of the protocol have; programs with PREPARE use the same.
const NAMES: &[&str] = &["", "s1", "s2", "dup"];

/// Texts for protocol statements, with values for their parameters.
const PREPARED: &[(&str, &[&str])] = &[
    ("SELECT id, name FROM items WHERE id = $1", &["1"]),
    ("SELECT $1::int + $2::int", &["3", "4"]),
    ("SELECT $1::date, $2::timestamptz", &["02/03/2024", "2024-01-02 03:04:05"]),
    ("SELECT count(*) FROM items WHERE owner < $1", &["4"]),
    ("SELECT generate_series(1, $1::int)", &["5"]),
    ("SELECT v FROM place", &[]),
    ("SELECT v FROM real1 WHERE v <> $1", &["none"]),
    ("SELECT 1 / $1::int", &["0"]),
    ("SHOW TimeZone", &[]),
    ("SELECT set_config('app.a', $1, false)", &["by bind"]),
    ("", &[]),
];

pub(super) fn plain(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    match feature {
        Feature::Transaction => transaction(rng, session),
        Feature::Savepoint => {
            let change = change(rng, session);
            let end = pick(rng, &["ROLLBACK TO SAVEPOINT p", "RELEASE p", "ROLLBACK TO q"]);
            in_transaction(rng, session, feature, &["SAVEPOINT p".into(), change, end.into(), first_items()])
        }
        Feature::Error => {
            let sql = error(rng);
            vec![(feature, statement(rng, sql))]
        }
        Feature::Multi => multi(rng, session),
        Feature::Notice => {
            let sql =
                pick(rng, &["SELECT complain('t')", "DROP TABLE IF EXISTS none", "DO $$BEGIN RAISE NOTICE 'n'; END$$"]);
            vec![(feature, statement(rng, sql))]
        }
        _ if one_in(rng, 20) => vec![(feature, query(""))],
        _ => {
            let sql = if rng.bool() { change(rng, session) } else { read(rng) };
            vec![(feature, statement(rng, sql))]
        }
    }
}

fn first_items() -> String {
    "SELECT id, name FROM items ORDER BY id LIMIT 4".to_owned()
}

fn read(rng: &mut Rng) -> String {
    let list = [
        "SELECT 1",
        "/* nothing but 1 */ SELECT 1",
        "SELECT count(*), sum(amount) FROM items",
        "SELECT id, name, amount FROM items WHERE owner = 2 ORDER BY id",
        "SELECT generate_series(1, 40)",
        "TABLE knobs ORDER BY id",
        "SELECT repeat('x', 3000)",
        "WITH w AS (SELECT id FROM items WHERE id < 12) SELECT count(*) FROM w",
    ];
    pick(rng, &list).to_owned()
}

/// A change of rows that only this client changes, so that nobody waits for a row.
fn change(rng: &mut Rng, session: &Session) -> String {
    let row = session.client * 10 + rng.usize(..10);
    let owner = session.client;
    match rng.usize(..6) {
        0 => format!("INSERT INTO items VALUES ({row}, {owner}, 'new', NULL, 1.5) RETURNING id, amount"),
        1 => format!("DELETE FROM items WHERE id = {row} RETURNING name"),
        2 => format!("UPDATE items SET amount = amount + 1 WHERE id = {row} RETURNING amount"),
        3 => format!("INSERT INTO items VALUES ({row}, {owner}) ON CONFLICT (id) DO UPDATE SET name = 'again'"),
        4 => format!("UPDATE items SET name = name || '!' WHERE owner = {owner}"),
        _ => format!("MERGE INTO items USING (SELECT {row} AS k) s ON id = k WHEN MATCHED THEN UPDATE SET amount = 0"),
    }
}

fn transaction(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Transaction;
    if session.is_in_transaction {
        let sql = pick(
            rng,
            &[
                "COMMIT AND CHAIN",
                "ROLLBACK AND CHAIN",
                "BEGIN",
                "SET TRANSACTION READ ONLY",
                "COMMIT",
                "ROLLBACK",
                "SHOW transaction_read_only",
            ],
        );
        if matches!(sql, "COMMIT" | "ROLLBACK") {
            session.is_in_transaction = false;
        }
        return vec![(feature, statement(rng, sql))];
    }
    let begin = pick(
        rng,
        &[
            "BEGIN",
            "START TRANSACTION",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "BEGIN READ ONLY",
            "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
            "COMMIT",
            "ROLLBACK",
        ],
    );
    session.is_in_transaction = !matches!(begin, "COMMIT" | "ROLLBACK");
    let change = change(rng, session);
    statements(rng, feature, &[begin.to_owned(), change])
}

fn error(rng: &mut Rng) -> String {
    let list = [
        "SELECT 1/0",
        "SELECT nothing FROM items",
        "SELEC 1",
        "INSERT INTO items VALUES (90, 9)",
        "SELECT * FROM absent",
        "SELECT 'x'::int",
        "SELECT fail('here')",
        "INSERT INTO stream VALUES (1, 'bad')",
        "DO $$BEGIN RAISE EXCEPTION 'stop' USING ERRCODE = 'FA002'; END$$",
        "SET work_mem = 'much'",
        "SET none_such = 1",
        "SELECT set_config('work_mem', '9MB', false), 1/0",
    ];
    pick(rng, &list).to_owned()
}

/// Several statements in one Query: one transaction unless they say otherwise.
fn multi(rng: &mut Rng, session: &mut Session) -> Done {
    let change = change(rng, session);
    let kinds = if session.may_set { 8 } else { 7 };
    let sql = match rng.usize(..kinds) {
        0 => format!("{change}; SELECT 1; SELECT 2"),
        1 => format!("{change}; SELECT 1/0; SELECT 2"),
        2 => format!("BEGIN; {change}; COMMIT; SELECT 3"),
        3 => "SET TimeZone = 'Asia/Tokyo'; SELECT 1/0".to_owned(),
        4 => format!("BEGIN; SET DateStyle = German; {change}; ROLLBACK; SHOW DateStyle"),
        5 => "SET LOCAL work_mem = '8MB'; SHOW work_mem".to_owned(),
        6 => {
            session.is_in_transaction = true;
            format!("{change}; BEGIN; {change}")
        }
        _ => format!("SET work_mem = '6MB'; {change}; SHOW work_mem"),
    };
    vec![(Feature::Multi, query(sql))]
}

pub(super) fn batches(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    match feature {
        Feature::Prepare => prepare(rng, session),
        Feature::Portal => portal(rng, session),
        _ => vec![(feature, Action::Send(pipeline(rng, session)))],
    }
}

fn execute(portal: &str, rows: i32) -> Message {
    Message::Execute { portal: portal.to_owned(), rows }
}

/// Parse in one step, and use in later ones; names are met again by chance.
fn prepare(rng: &mut Rng, session: &Session) -> Done {
    let feature = Feature::Prepare;
    let name = pick(rng, NAMES).to_owned();
    let (sql, values) = loop {
        let found = PREPARED[rng.usize(..PREPARED.len())];
        if session.may_set || !found.0.contains("set_config") {
            break found;
        }
    };
    let parse = Message::Parse { name: name.clone(), sql: sql.to_owned() };
    let bound = bind("", &name, values);
    let shown = Message::DescribeStatement(name.clone());
    let close = Message::CloseStatement(name);
    match rng.usize(..7) {
        0 => vec![(feature, Action::Send(vec![parse, Message::Sync]))],
        1 => vec![
            (feature, Action::Send(vec![parse, shown, Message::Sync])),
            (feature, Action::Send(vec![bound.clone(), execute("", 0), Message::Sync])),
            (feature, Action::Send(vec![bound, execute("", 0), Message::Sync])),
        ],
        2 => vec![(feature, Action::Send(vec![close, Message::Sync]))],
        3 => vec![(feature, Action::Send(vec![close, parse, bound, execute("", 0), Message::Sync]))],
        4 => vec![(
            feature,
            Action::Send(vec![bound, Message::DescribePortal(String::new()), execute("", 0), Message::Sync]),
        )],
        5 => vec![(feature, Action::Send(vec![shown, Message::Sync]))],
        _ => vec![(feature, Action::Send(vec![parse.clone(), parse, Message::Sync]))],
    }
}

/// What asks for a statement that may not be there.
pub(super) fn unknown_statement(rng: &mut Rng, feature: Feature) -> Done {
    let name = pick(rng, NAMES);
    vec![(feature, Action::Send(vec![Message::DescribeStatement(name.to_owned()), Message::Sync]))]
}

/// Several batches in one write; errors skip to the next Sync.
fn pipeline(rng: &mut Rng, session: &mut Session) -> Vec<Message> {
    let mut messages = Vec::new();
    for _ in 0..rng.usize(1..4) {
        for _ in 0..rng.usize(1..4) {
            let sql = match rng.usize(..6) {
                0 => error(rng),
                1 => read(rng),
                2 => "SELECT count(*) FROM items".to_owned(),
                3 if session.may_set => {
                    pick(rng, &["SET work_mem = '4MB'", "SHOW work_mem", "SET app.b = 'in batch'"]).to_owned()
                }
                _ => change(rng, session),
            };
            let mut batch = extended("", &sql, &[]);
            batch.pop();
            messages.extend(batch);
            if one_in(rng, 6) {
                messages.push(Message::Flush);
            }
        }
        messages.push(Message::Sync);
        if one_in(rng, 5) {
            messages.push(Message::Query(read(rng)));
        }
    }
    messages
}

/// Portals that are read in parts, in a transaction across Syncs, and outside one where they end with it.
fn portal(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Portal;
    let name = pick(rng, &["", "c1", "c2"]);
    let parse = Message::Parse { name: String::new(), sql: "SELECT generate_series(1, $1::int)".to_owned() };
    let start = vec![parse, bind(name, "", &["5"]), execute(name, 2), Message::Sync];
    let more = vec![execute(name, 2), Message::DescribePortal(name.to_owned()), Message::Sync];
    let end = vec![Message::ClosePortal(name.to_owned()), Message::Sync];
    let mut done: Done = Vec::new();
    if !session.is_in_transaction && rng.bool() {
        session.is_in_transaction = true;
        done.push((feature, query("BEGIN")));
    }
    done.push((feature, Action::Send(start)));
    if !name.is_empty() {
        // The unnamed portal of a failed transaction may be the last Query's, about which nothing is promised.
        done.push((feature, Action::Send(more)));
    }
    if rng.bool() {
        done.push((feature, Action::Send(end)));
    }
    if one_in(rng, 4) {
        // The answer of a Flush comes without a Sync; the Sync comes later.
        done.push((
            feature,
            Action::Send(vec![Message::Parse { name: String::new(), sql: "SELECT 5".into() }, Message::Flush]),
        ));
        done.push((feature, Action::Send(vec![bind("", "", &[]), execute("", 0), Message::Sync])));
    }
    done
}

pub(super) fn copy(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    let start = Message::Query("COPY stream FROM STDIN".to_owned());
    let client = session.client;
    let line = |text: &str| Message::CopyData(format!("{client}\t{text}\n"));
    if feature == Feature::Copy {
        let whole = vec![start.clone(), line("first"), line("second"), Message::CopyDone];
        let mut batch = extended("", "COPY stream FROM STDIN", &[]);
        batch.splice(4..4, [line("extended"), Message::CopyDone]);
        return match rng.usize(..6) {
            0 => vec![(feature, Action::Send(whole))],
            1 => vec![(feature, Action::Send(batch))],
            5 => {
                // As libpq does it: the server ignores the first Sync, which it reads in the middle of the copy.
                let start = extended("", "COPY stream FROM STDIN", &[]);
                let rest = vec![line("behind a Sync"), Message::CopyDone, Message::Sync];
                vec![(feature, Action::Send(start)), (feature, Action::Send(rest))]
            }
            2 => vec![
                (feature, Action::Send(vec![start, line("halves")])),
                (feature, Action::Send(vec![line("other half"), Message::CopyDone])),
            ],
            3 => vec![(
                feature,
                statement(rng, "COPY (SELECT id, name, at FROM items WHERE id < 4 ORDER BY id) TO STDOUT"),
            )],
            _ => vec![(feature, query("COPY (SELECT generate_series(1, 200)) TO STDOUT WITH CSV"))],
        };
    }
    match rng.usize(..4) {
        0 => vec![(feature, Action::Send(vec![start, line("lost"), Message::CopyFail("changed my mind".into())]))],
        1 => vec![(feature, Action::Send(vec![start, line("bad"), line("later"), Message::CopyDone]))],
        2 => vec![(feature, Action::Send(vec![start, Message::CopyData("x\ty\n".into()), Message::CopyDone]))],
        _ => {
            session.leave();
            vec![(feature, Action::Send(vec![start, line("cut")])), (feature, Action::Leave(Leave::Cut))]
        }
    }
}

/// What no rollback undoes: only the end of the session.
fn outlasting(rng: &mut Rng) -> String {
    match rng.usize(..3) {
        0 => "SELECT nextval('numbers')".to_owned(),
        1 => format!("SELECT pg_try_advisory_lock_shared({})", rng.usize(1..4)),
        _ => format!("SELECT pg_try_advisory_lock({})", rng.usize(1..4)),
    }
}

pub(super) fn connection(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    match feature {
        Feature::Leave => {
            let how = if rng.bool() { Leave::Cut } else { Leave::Terminate };
            let mut done = Vec::new();
            if one_in(rng, 2) && !session.is_in_transaction {
                let sql = if rng.bool() { change(rng, session) } else { outlasting(rng) };
                done.push((feature, query(format!("BEGIN; {sql}"))));
            }
            session.leave();
            done.push((feature, Action::Leave(how)));
            done
        }
        Feature::Startup => {
            session.leave();
            session.is_connected = true;
            let again = startup(rng);
            vec![(feature, Action::Leave(Leave::Terminate)), (feature, Action::Connect(again))]
        }
        _ => {
            let when = [Cancel::Now, Cancel::Now, Cancel::Late, Cancel::Racing, Cancel::Racing];
            vec![(feature, Action::Cancel(when[rng.usize(..when.len())]))]
        }
    }
}

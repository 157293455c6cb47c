//! What few applications do: libraries, session authorization, prepared transactions, FunctionCall, values in binary.

use fastrand::Rng;

use super::{Done, Session, bind, in_transaction, one_in, pick, query, statement, statements};
use crate::feature::Feature;
use crate::program::{Action, Message};

/// Where libraries lie that anybody may load; the test's servers have them there.
const PLUGINS: &str = "$libdir/plugins";

/// A function, its arguments as text, and the same in binary if they can be given so.
type Call = (&'static str, &'static [Option<&'static str>], Option<&'static [Option<&'static str>]>);

/// Calls that leave nothing in a session.
const HARMLESS: &[Call] = &[
    ("int4pl(integer,integer)", &[Some("3"), Some("4")], Some(&[Some("00000003"), Some("00000004")])),
    ("int4div(integer,integer)", &[Some("3"), Some("0")], Some(&[Some("00000003"), Some("00000000")])),
    ("int4pl(integer,integer)", &[Some("3")], Some(&[Some("0003"), Some("00000004")])),
    ("upper(text)", &[Some("letters")], Some(&[Some("616263")])),
    ("upper(text)", &[None], None),
    ("current_setting(text,boolean)", &[Some("TimeZone"), Some("true")], None),
    ("current_setting(text,boolean)", &[Some("app.a"), Some("true")], None),
    ("to_char(timestamp with time zone,text)", &[Some("2024-07-01 00:00+00"), Some("HH24 TZ")], None),
    ("complain(text)", &[Some("call")], None),
    ("fail(text)", &[Some("call")], None),
    ("pg_notify(text,text)", &[Some("ch1"), Some("by call")], None),
    ("none_such(text)", &[Some("")], None),
];

/// Calls that leave something which no text tells.
const LEAVING: &[Call] = &[
    ("set_config(text,text,boolean)", &[Some("work_mem"), Some("3MB"), Some("false")], None),
    ("set_config(text,text,boolean)", &[Some("TimeZone"), Some("Asia/Tokyo"), Some("false")], None),
    ("set_config(text,text,boolean)", &[Some("app.a"), Some("called"), Some("false")], None),
    ("set_config(text,text,boolean)", &[Some("app.b"), Some("called"), Some("true")], None),
    ("put(text,text)", &[Some("search_path"), Some("south, public")], None),
    ("put(text,text)", &[Some("app.b"), Some("put by call")], None),
    ("put_by_set(text)", &[Some("set by call")], None),
    ("role_inside()", &[], None),
    ("nextval(regclass)", &[Some("numbers")], None),
    ("next_inside()", &[], None),
    ("lastval()", &[], Some(&[])),
    ("pg_try_advisory_lock(bigint)", &[Some("2")], Some(&[Some("0000000000000003")])),
    ("pg_advisory_unlock(bigint)", &[Some("2")], Some(&[Some("0000000000000003")])),
    ("pg_advisory_unlock_all()", &[], None),
    ("lock_inside(integer)", &[Some("1")], Some(&[Some("00000001")])),
    ("temp_inside()", &[], None),
    ("listen_inside(text)", &[Some("ch2")], None),
];

pub(super) fn act(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    match feature {
        Feature::Load => load(rng, session),
        Feature::Authorization => authorization(rng, session),
        Feature::TwoPhase => two_phase(rng, session),
        Feature::Call => call(rng, session),
        _ => binary(rng, session),
    }
}

/// Shows what there is of a feature.
pub(super) fn look(rng: &mut Rng, feature: Feature) -> Done {
    let sql = match feature {
        Feature::Load => {
            "SELECT current_setting('pg_trgm.similarity_threshold', true), \
             current_setting('auto_explain.log_nested_statements', true)"
        }
        Feature::Authorization => "SELECT session_user, current_user, current_setting('is_superuser')",
        Feature::TwoPhase => {
            "SELECT gid, owner FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"
        }
        Feature::Call => return vec![(feature, Action::Send(vec![message(rng, HARMLESS)]))],
        _ => {
            let sql = "SELECT id, at, amount FROM items WHERE id < 3 ORDER BY id";
            return vec![(feature, Action::Send(extended("", sql, &[], &[], &[1])))];
        }
    };
    vec![(feature, statement(rng, sql))]
}

/// A library stays in a session until it ends, also if the transaction that loaded it fails.
fn load(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Load;
    let setting = "pg_trgm.similarity_threshold";
    let (trigrams, show) = (format!("LOAD '{PLUGINS}/pg_trgm'"), format!("SELECT current_setting('{setting}', true)"));
    let set = |value: &str| format!("SET {setting} = {value}");
    let kind = rng.usize(..7);
    session.is_lasting |= kind != 0;
    let list = match kind {
        0 => vec!["LOAD 'none_such'".to_owned()],
        1 => vec![trigrams, show],
        2 => vec![set("0.5"), trigrams, show],
        3 => vec![trigrams, set("0.25"), show.clone(), format!("RESET {setting}"), show],
        4 => {
            // By its name alone only a superuser may load one.
            let show = "SELECT current_setting('auto_explain.log_timing', true)";
            vec!["LOAD 'auto_explain'".to_owned(), show.to_owned()]
        }
        5 => return in_transaction(rng, session, feature, &[trigrams, show]),
        _ => vec![trigrams, "DISCARD ALL".to_owned(), show],
    };
    statements(rng, feature, &list)
}

/// What a superuser's session may become, and others' may not.
fn authorization(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Authorization;
    let name = pick(rng, &["alpha", "beta", "app", "none_such"]);
    let set = format!("SET SESSION AUTHORIZATION {name}");
    let show = "SELECT session_user, current_user, current_setting('role')".to_owned();
    session.is_pinned = true;
    let list = match rng.usize(..if session.is_fast { 9 } else { 10 }) {
        0 => vec![set],
        1 => vec![set, show],
        2 => vec![set, "SET ROLE alpha".to_owned(), show],
        3 => vec!["SET ROLE beta".to_owned(), set, show, "RESET ROLE".to_owned()],
        4 => return in_transaction(rng, session, feature, &[format!("SET LOCAL SESSION AUTHORIZATION {name}"), show]),
        5 => vec![format!("SELECT set_config('session_authorization', '{name}', false)"), show],
        6 => vec![set, "SELECT id, owner FROM secrets ORDER BY id".to_owned()],
        7 => return in_transaction(rng, session, feature, &[set, show]),
        8 => {
            session.is_pinned = session.is_lasting;
            vec![pick(rng, &["RESET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION DEFAULT"]).to_owned(), show]
        }
        _ => vec![format!("SELECT put('session_authorization', '{name}')"), show],
    };
    statements(rng, feature, &list)
}

/// Transactions that are prepared change rows that nobody else changes, so that nobody waits for one; those that others
/// have changed rows in end at once.
fn two_phase(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::TwoPhase;
    let own = format!("p_{}_{}_{{u}}", session.client, rng.usize(..3));
    let other = format!("p_{}_{}_{{u}}", rng.usize(..3), rng.usize(..3));
    let prepare = format!("PREPARE TRANSACTION '{own}'");
    if session.is_in_transaction {
        session.is_in_transaction = false;
        let end = pick(rng, &["COMMIT", "ROLLBACK"]);
        return vec![(feature, statement(rng, prepare)), (feature, query(format!("{end} PREPARED '{own}'")))];
    }
    let change = format!("INSERT INTO pledges VALUES ({}, '{own}')", session.client);
    let more = match rng.usize(..7) {
        0 if session.may_set => "SET work_mem = '7MB'".to_owned(),
        1 => "SET LOCAL TimeZone = 'Asia/Tokyo'".to_owned(),
        2 => format!("SELECT pg_try_advisory_xact_lock({})", rng.usize(1..4)),
        3 => {
            session.created += 1;
            format!("CREATE TABLE work.pledged_{}_{}_{{u}} (a int)", session.client, session.created)
        }
        4 => "NOTIFY ch1, 'pledged'".to_owned(),
        _ => "SELECT count(*) FROM pledges".to_owned(),
    };
    match rng.usize(..8) {
        0..=3 => {
            session.is_in_transaction = false;
            statements(rng, feature, &["BEGIN".to_owned(), change, more, prepare])
        }
        4 => vec![(feature, statement(rng, prepare))],
        5 => vec![(feature, statement(rng, format!("ROLLBACK PREPARED '{other}'")))],
        6 => in_transaction(rng, session, feature, &[change, format!("COMMIT PREPARED '{other}'")]),
        _ => vec![(feature, statement(rng, format!("COMMIT PREPARED '{other}'")))],
    }
}

fn message(rng: &mut Rng, list: &[Call]) -> Message {
    let (function, text, binary) = list[rng.usize(..list.len())];
    let is_binary = binary.is_some() && rng.bool();
    let arguments = binary.filter(|_| is_binary).unwrap_or(text);
    named(function, arguments, is_binary)
}

fn named(function: &str, arguments: &[Option<&str>], binary: bool) -> Message {
    let arguments = arguments.iter().map(|value| value.map(str::to_owned)).collect();
    Message::Call { function: function.to_owned(), arguments, binary }
}

fn call(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Call;
    if one_in(rng, 4) {
        return large_object(rng, session);
    }
    let leaves = session.may_set && !session.is_fast && rng.bool();
    let call = message(rng, if leaves { LEAVING } else { HARMLESS });
    session.is_pinned |= leaves;
    session.is_listening |= matches!(&call, Message::Call { function, .. } if function.starts_with("listen_inside"));
    // Not behind messages that no Sync has ended: PostgreSQL 18 itself is then in no state to take the next statement.
    let messages = match rng.usize(..4) {
        0 => vec![call, Message::Query("SELECT 'behind a call'".to_owned())],
        1 => {
            let mut messages = super::extended("", "SELECT count(*) FROM items", &[]);
            messages.push(call);
            messages
        }
        _ => vec![call],
    };
    vec![(feature, Action::Send(messages))]
}

/// As libpq does it: a large object of the client's own.
fn large_object(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Call;
    let number = (4000 + session.client).to_string();
    let one = |message| (feature, Action::Send(vec![message]));
    let unlink = named("lo_unlink(oid)", &[Some(number.as_str())], false);
    if session.is_in_transaction || one_in(rng, 3) {
        return vec![one(unlink)];
    }
    session.is_in_transaction = true;
    let mut done = vec![
        (feature, query("BEGIN")),
        one(named("lo_create(oid)", &[Some(number.as_str())], false)),
        one(named("lo_open(oid,integer)", &[Some(number.as_str()), Some("393216")], false)),
        one(named("lowrite(integer,bytea)", &[Some("00000000"), Some("6c61726765")], true)),
        one(named("lo_lseek(integer,integer,integer)", &[Some("0"), Some("1"), Some("0")], false)),
        one(named("loread(integer,integer)", &[Some("00000000"), Some("00000003")], true)),
    ];
    if rng.bool() {
        done.push(one(named("lo_close(integer)", &[Some("0")], false)));
    }
    done
}

/// A text, its parameters, their formats, and those of the result.
type Bound = (&'static str, &'static [&'static str], &'static [i16], &'static [i16]);

const BOUND: &[Bound] = &[
    ("SELECT $1::int4 + 1, $2::text", &["00000029", "616263"], &[1], &[1]),
    ("SELECT $1::int4 + $2::int4", &["00000001", "2"], &[1, 0], &[0]),
    ("SELECT $1::int8, $2::float8, $3::bool", &["0000000000000007", "3ff8000000000000", "01"], &[1], &[0, 1, 0]),
    ("SELECT $1::date, $2::timestamptz", &["02/03/2024", "0002b6a8d6f5e000"], &[0, 1], &[0]),
    ("SELECT $1::timestamptz, 'é'::text", &["2024-02-03 04:05:06"], &[0], &[1]),
    ("SELECT $1::bytea, $1::bytea", &["00ff41"], &[1], &[0, 1]),
    ("SELECT id, at, amount FROM items WHERE id = $1", &["00000001"], &[1], &[0, 1, 1]),
    ("SELECT $1::text, length($1)", &["c3a9"], &[1], &[]),
    // What is wrong with these is told in PostgreSQL's words.
    ("SELECT $1::int4", &["0001"], &[1], &[1]),
    ("SELECT $1::int4", &["00000001"], &[1, 0], &[]),
    ("SELECT $1::int4, 2", &["00000001"], &[1], &[1, 0, 1]),
    ("SELECT $1::int4", &["00000001"], &[2], &[]),
];

/// Signature, flags and an extension of none; one row of two columns; the end.
fn copied(client: usize) -> String {
    let head = "5047434f50590aff0d0a000000000000000000";
    format!("{head}000200000004{client:08x}0000000662696e617279ffff")
}

fn binary(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Binary;
    let name = pick(rng, &["", "s1", "s2", "dup"]);
    match rng.usize(..9) {
        0 => vec![(
            feature,
            query("COPY (SELECT id, name, at FROM items WHERE id < 3 ORDER BY id) TO STDOUT (FORMAT binary)"),
        )],
        1 => {
            let mut digits = copied(session.client);
            if one_in(rng, 3) {
                digits.truncate(30);
            }
            let start = Message::Query("COPY stream FROM STDIN (FORMAT binary)".to_owned());
            vec![(feature, Action::Send(vec![start, Message::CopyBytes(digits), Message::CopyDone]))]
        }
        2 => {
            let declare = "DECLARE bin BINARY CURSOR FOR SELECT id, at, name FROM items ORDER BY id";
            in_transaction(rng, session, feature, &[declare.to_owned(), "FETCH 2 FROM bin".to_owned()])
        }
        3 => {
            let row = session.client * 10 + rng.usize(..4);
            let sql = format!("UPDATE items SET name = $1 WHERE id = {row} RETURNING at, name");
            vec![(feature, Action::Send(extended(name, &sql, &["6e616d6564"], &[1], &[1])))]
        }
        kind => {
            let (sql, values, formats, results) = BOUND[rng.usize(..BOUND.len())];
            let messages = extended(name, sql, values, formats, results);
            if kind > 5 {
                return vec![(feature, Action::Send(messages))];
            }
            // Parsed once, and bound twice in two formats.
            let again = bound(name, values, formats, &[i16::from(results != [1])]);
            let (parse, rest) = messages.split_at(1);
            let later = vec![again, Message::Execute { portal: String::new(), rows: 0 }, Message::Sync];
            vec![
                (feature, Action::Send(parse.iter().cloned().chain([Message::Sync]).collect())),
                (feature, Action::Send(rest.to_vec())),
                (feature, Action::Send(later)),
            ]
        }
    }
}

fn bound(statement: &str, values: &[&str], formats: &[i16], results: &[i16]) -> Message {
    match bind("", statement, values) {
        Message::Bind { portal, statement, values, .. } => {
            Message::Bind { portal, statement, values, formats: formats.to_vec(), results: results.to_vec() }
        }
        other => other,
    }
}

/// Parse to Sync.
fn extended(name: &str, sql: &str, values: &[&str], formats: &[i16], results: &[i16]) -> Vec<Message> {
    vec![
        Message::Parse { name: name.to_owned(), sql: sql.to_owned() },
        bound(name, values, formats, results),
        Message::DescribePortal(String::new()),
        Message::Execute { portal: String::new(), rows: 0 },
        Message::Sync,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row that PostgreSQL can't read would only ever fail.
    #[test]
    fn a_copy_in_binary_has_whole_bytes() {
        assert_eq!(copied(3).len(), 2 * (11 + 4 + 4 + 2 + 4 + 4 + 4 + 6 + 2));
    }

    /// What calls leave is not looked for at `fast`: such calls would be differences that are told in the documentation.
    #[test]
    fn at_fast_calls_leave_nothing() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..500 {
            let mut session = Session::new(0, true, true);
            for (_, action) in call(&mut rng, &mut session) {
                let Action::Send(messages) = action else { continue };
                for message in messages {
                    let Message::Call { function, .. } = message else { continue };
                    let is_of = |list: &[Call]| list.iter().any(|(name, ..)| *name == function);
                    assert!(is_of(HARMLESS) || function.starts_with("lo"), "{function}");
                }
            }
        }
    }
}

//! What a session creates: SQL statements, tables of its own and of everybody, cursors.

use fastrand::Rng;

use super::{Done, Session, bind, in_transaction, one_in, pick, query, statement, statements};
use crate::feature::Feature;
use crate::program::{Action, Message};

pub(super) fn act(rng: &mut Rng, session: &mut Session, feature: Feature) -> Done {
    match feature {
        Feature::SqlPrepare => sql_prepare(rng, session.is_fast),
        Feature::Temp => temp(rng, session),
        Feature::Shadow => shadow(rng, session),
        Feature::TempOnCommit => {
            let name = new_name(session, "gone");
            let how = pick(rng, &["DROP", "DROP", "DELETE ROWS", "PRESERVE ROWS"]);
            session.is_pinned |= how != "DROP";
            let create = format!("CREATE TEMP TABLE {name} (a int) ON COMMIT {how}");
            let fill = format!("INSERT INTO {name} VALUES (1), (2)");
            in_transaction(rng, session, feature, &[create, fill, format!("SELECT count(*) FROM {name}")])
        }
        Feature::Ddl => ddl(rng, session),
        Feature::Replan => replan(rng, session),
        Feature::Cursor => {
            let step = pick(rng, &["FETCH 2 FROM cur", "MOVE 1 IN cur", "CLOSE cur", "FETCH ALL FROM cur"]);
            let declare = "DECLARE cur CURSOR FOR SELECT id, at FROM items ORDER BY id";
            if !session.is_in_transaction && one_in(rng, 4) {
                return vec![(feature, statement(rng, step))];
            }
            in_transaction(rng, session, feature, &[declare.into(), step.into(), "FETCH 1 FROM cur".into()])
        }
        _ => hold(rng, session),
    }
}

fn new_name(session: &mut Session, stem: &str) -> String {
    session.created += 1;
    format!("{stem}_{}_{}", session.client, session.created)
}

/// The names are those of protocol statements: the two share one space of names.
fn sql_prepare(rng: &mut Rng, is_fast: bool) -> Done {
    let feature = Feature::SqlPrepare;
    let kind = rng.usize(..6);
    // One that fails has a name that no other has.
    let name = if kind == 4 { "broken" } else { pick(rng, &["s1", "s2", "dup", "S1", "\"s1\""]) };
    let prepare = match kind {
        0 => format!("PREPARE {name} AS SELECT id, name FROM items WHERE id < 3 ORDER BY id"),
        1 => format!("PREPARE {name} (int) AS SELECT $1 + 1"),
        2 => format!("PREPARE {name} AS SELECT '02/03/2024'::date, '{name} '';' /* not the end; */"),
        // It fails, and the name stands for nothing, as before. Whether the column or a name that is taken is what
        // PostgreSQL complains of first is not asked: see docs/explanation/transaction-mode.md.
        4 => format!("PREPARE {name} AS SELECT nothing FROM items"),
        // A trigger sets what the row says.
        3 if !is_fast => {
            format!("PREPARE {name} (text) AS INSERT INTO knobs VALUES (90, 'app.b', $1) ON CONFLICT DO NOTHING")
        }
        _ => format!("PREPARE {name} AS SELECT v FROM real1"),
    };
    let execute =
        pick(rng, &["EXECUTE {n}", "EXECUTE {n}(4)", "EXECUTE {n}('t')", "EXPLAIN (COSTS OFF) EXECUTE {n}(1)"])
            .replace("{n}", name);
    let plain = name.to_ascii_lowercase().replace('"', "");
    let by_protocol = Action::Send(vec![
        bind("", &plain, &[]),
        Message::DescribePortal(String::new()),
        Message::Execute { portal: String::new(), rows: 0 },
        Message::Sync,
    ]);
    // pg_prepared_statements is not asked: it shows the names that statements have on a server, whosever they are.
    match rng.usize(..if is_fast { 7 } else { 8 }) {
        0 => vec![(feature, statement(rng, prepare))],
        1 => statements(rng, feature, &[prepare, execute]),
        2 => vec![(feature, statement(rng, execute))],
        3 => vec![(feature, query(prepare)), (feature, by_protocol)],
        4 => {
            // The name of what fails must not be taken: see above.
            let plain = if kind == 4 { "s1".to_owned() } else { plain };
            let parse = Message::Parse { name: plain, sql: "SELECT 'by protocol'".to_owned() };
            vec![(feature, Action::Send(vec![parse, Message::Sync])), (feature, query(format!("EXECUTE {name}")))]
        }
        5 => vec![(feature, statement(rng, format!("DEALLOCATE {name}")))],
        6 => {
            let sql = pick(rng, &["DEALLOCATE ALL", "DEALLOCATE PREPARE dup"]);
            vec![(feature, statement(rng, sql))]
        }
        _ => vec![(feature, statement(rng, "SELECT prepare_inside()")), (feature, query("EXECUTE inner2"))],
    }
}

fn temp(rng: &mut Rng, session: &mut Session) -> Done {
    session.is_pinned = true;
    let name = new_name(session, "own");
    let show = format!("SELECT * FROM {name}");
    let list = match rng.usize(..if session.is_fast { 7 } else { 8 }) {
        0 => vec![format!("CREATE TEMP TABLE {name} (a int)"), format!("INSERT INTO {name} VALUES (5)"), show],
        1 => vec![format!("CREATE TEMPORARY TABLE {name} AS SELECT id FROM items WHERE id = 1"), show],
        2 => vec![format!("SELECT 3 AS three INTO TEMP {name}"), show],
        3 => vec![format!("CREATE TEMP VIEW {name} AS SELECT 4 AS four"), show],
        4 => vec![format!("CREATE TEMP SEQUENCE {name}"), format!("SELECT nextval('{name}')")],
        5 => vec![
            format!("CREATE FUNCTION pg_temp.{name}() RETURNS int LANGUAGE sql AS 'SELECT 6'"),
            format!("SELECT pg_temp.{name}()"),
        ],
        6 => {
            // What is dropped pins no more.
            session.is_pinned = false;
            vec![format!("CREATE TEMP TABLE {name} (a int)"), show, format!("DROP TABLE {name}")]
        }
        _ => vec!["SELECT temp_inside()".to_owned(), "SELECT * FROM inner1".to_owned()],
    };
    statements(rng, Feature::Temp, &list)
}

fn shadow(rng: &mut Rng, session: &mut Session) -> Done {
    session.is_pinned = true;
    let create = "CREATE TEMP TABLE real1 AS SELECT 'temporary'::text AS v";
    let look = "SELECT v FROM real1";
    let write = "INSERT INTO real1 VALUES ('into which?')";
    let list: &[&str] = match rng.usize(..4) {
        0 => &[create, look],
        1 => &[create, write, look],
        2 => &[create, look, "DROP TABLE pg_temp.real1", look],
        _ => &[look, create, look],
    };
    let list: Vec<_> = list.iter().map(|sql| (*sql).to_owned()).collect();
    statements(rng, Feature::Shadow, &list)
}

/// Objects that everybody sees; only the client that made one changes it, so that nobody waits for its lock.
fn ddl(rng: &mut Rng, session: &mut Session) -> Done {
    let name = format!("work.{}_{{u}}", new_name(session, "made"));
    let table = format!("CREATE TABLE {name} (a int, b text)");
    let kinds = match (session.may_set, session.is_fast) {
        (false, _) => 4,
        (true, true) => 5,
        (true, false) => 6,
    };
    let list = match rng.usize(..kinds) {
        0 => vec![table, format!("INSERT INTO {name} VALUES (1, 'x')"), format!("SELECT * FROM {name}")],
        1 => vec![table, format!("ALTER TABLE {name} ADD c int DEFAULT 3"), format!("SELECT * FROM {name}")],
        2 => vec![table, format!("DROP TABLE {name}")],
        3 => {
            let fill = format!("INSERT INTO {name} VALUES (2, 'y')");
            return in_transaction(rng, session, Feature::Ddl, &[table, fill]);
        }
        4 => vec![
            format!("CREATE VIEW {name} AS SELECT current_setting('app.a', true) AS a, current_user::text AS u"),
            format!("SELECT * FROM {name}"),
        ],
        _ => vec![
            format!(
                "CREATE FUNCTION {name}() RETURNS text LANGUAGE sql AS 'SELECT set_config(''app.a'', ''x'', false)'"
            ),
            format!("SELECT {name}()"),
        ],
    };
    statements(rng, Feature::Ddl, &list)
}

/// A prepared statement whose table changes under it.
fn replan(rng: &mut Rng, session: &mut Session) -> Done {
    let feature = Feature::Replan;
    let name = format!("work.{}_{{u}}", new_name(session, "plan"));
    let create = format!("CREATE TABLE {name} (a int); INSERT INTO {name} VALUES (1)");
    let sql = format!("SELECT * FROM {name}");
    let statement = pick(rng, &["s1", ""]).to_owned();
    let parse = Message::Parse { name: statement.clone(), sql };
    let run = vec![
        bind("", &statement, &[]),
        Message::DescribePortal(String::new()),
        Message::Execute { portal: String::new(), rows: 0 },
        Message::Sync,
    ];
    let alter = pick(rng, &["ADD b text DEFAULT 'new'", "ALTER a TYPE bigint", "RENAME a TO z"]);
    let again = vec![Message::CloseStatement(statement), parse.clone(), Message::Sync];
    let first: Vec<_> = [parse].into_iter().chain(run.clone()).collect();
    vec![
        (feature, query(create)),
        (feature, Action::Send(first)),
        (feature, query(format!("ALTER TABLE {name} {alter}"))),
        (feature, Action::Send(run.clone())),
        (feature, Action::Send(again)),
        (feature, Action::Send(run)),
    ]
}

fn hold(rng: &mut Rng, session: &mut Session) -> Done {
    session.is_pinned = true;
    let declare = "DECLARE held CURSOR WITH HOLD FOR SELECT id, name FROM items ORDER BY id";
    let list: &[&str] = match rng.usize(..4) {
        0 => &[declare, "FETCH 2 FROM held", "FETCH 1 FROM held"],
        1 => &[declare, "FETCH 1 FROM held", "CLOSE held"],
        2 => &["FETCH 1 FROM held"],
        _ => &[declare, "CLOSE ALL"],
    };
    session.is_pinned = !list.last().is_some_and(|sql| sql.starts_with("CLOSE"));
    let list: Vec<_> = list.iter().map(|sql| (*sql).to_owned()).collect();
    statements(rng, Feature::Hold, &list)
}

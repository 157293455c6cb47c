//! A lane: two databases of its own, in which one program at a time is run on both sides.
//!
//! What programs share by name (tables, channels, advisory locks) belongs to a database, so lanes never meet. Roles are
//! the cluster's and never changed.

use std::io;
use std::sync::Arc;

use crate::connection::Connection;
use crate::encode::Functions;
use crate::event::{Event, NO_ANSWER, NOT_CONNECTED};
use crate::program::{CLIENTS_MAX, Message, POOLS, Program, Startup};
use crate::stream::Address;

/// Tables and functions of every database.
const SCHEMA: &str = include_str!("schema.sql");

/// The role that clients log in as; it may become `alpha` and `beta`.
pub(crate) const USER: &str = "app";

/// Where both sides are, and who may make databases.
#[derive(Clone)]
pub(crate) struct Sides {
    /// PostgreSQL.
    pub(crate) direct: Address,
    /// forebay before the same PostgreSQL.
    pub(crate) pooled: Address,
    /// A superuser who needs no password.
    pub(crate) superuser: String,
    /// Who may give orders to forebay's console.
    pub(crate) operator: String,
}

/// A database for each side, and an administrator's session in both.
pub(crate) struct Lane {
    /// Where both sides are.
    pub(crate) sides: Sides,
    number: usize,
    direct: Connection,
    pooled: Connection,
    initial: Vec<String>,
    restored: usize,
    /// Sessions of the direct side that programs have left as they found them, each with what it asked for at its start:
    /// opening one costs more than a program's steps. The one used longest ago comes first.
    spare: Vec<(Login, Connection)>,
    /// Of both databases, in the order of [`Side`].
    functions: [Arc<Functions>; 2],
}

/// Whether a session is a superuser's, and what it asked for at its start.
type Login = (bool, Startup);

/// How many programs may leave their rows behind.
const RESTORES_PER_VACUUM: usize = 200;

/// Sessions of the direct side that wait for the next program.
const SPARE_MAX: usize = 6 * CLIENTS_MAX;

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Clients reach PostgreSQL itself.
    Direct,
    /// Clients reach it through forebay.
    Pooled,
}

impl Lane {
    /// Makes the databases of lane `number`.
    pub(crate) fn create(sides: &Sides, number: usize) -> io::Result<Lane> {
        let mut admin = administrator(sides, "postgres")?;
        for side in ["direct", "pooled"] {
            let name = format!("diff{number}_{side}");
            command(&mut admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))?;
            command(&mut admin, &format!("CREATE DATABASE {name}"))?;
        }
        let mut direct = administrator(sides, &format!("diff{number}_direct"))?;
        let mut pooled = administrator(sides, &format!("diff{number}_pooled"))?;
        for session in [&mut direct, &mut pooled] {
            command(session, SCHEMA)?;
            command(session, "SET lock_timeout = '8s'")?;
        }
        let initial = contents_of(&mut direct)?;
        let functions = [functions_of(&mut direct)?, functions_of(&mut pooled)?];
        Ok(Lane { sides: sides.clone(), number, direct, pooled, initial, restored: 1, spare: Vec::new(), functions })
    }

    /// Has forebay learn that somebody asks for lastval here: of those who draw from a sequence before the first question
    /// it may part one from its server.
    pub(crate) fn ask_for_sequences(&self, level: &str) -> io::Result<()> {
        let asking = Program { level: level.to_owned(), ..Program::default() };
        let mut session = self.open_pooled(&asking, POOLS[0], &[])?;
        refuse_errors(&session.log_in())?;
        session.send(&[Message::Query("SELECT lastval()".to_owned())], "");
        session.close(true);
        Ok(())
    }

    /// Makes the roles of the cluster, once for all lanes.
    pub(crate) fn create_roles(sides: &Sides) -> io::Result<()> {
        let mut admin = administrator(sides, "postgres")?;
        let make = "DO $$BEGIN CREATE ROLE alpha; CREATE ROLE beta; EXCEPTION WHEN duplicate_object THEN NULL; END$$";
        command(&mut admin, make)?;
        command(&mut admin, &format!("GRANT alpha, beta TO {USER}"))
    }

    /// Opens a program's session; the answer to its login is not read yet.
    pub(crate) fn open(
        &mut self,
        side: Side,
        program: &Program,
        pool: usize,
        startup: &Startup,
    ) -> io::Result<Connection> {
        let opened = match side {
            Side::Direct => {
                // At `safe` it does not matter whether an unset custom setting is NULL or '': Allowance::UnsetCustom.
                let is_fit = |((is_super, begun), session): &(Login, Connection)| {
                    (*is_super, begun) == (program.superuser, startup)
                        && (program.level != "strict" || !session.has_custom())
                };
                match self.spare.iter().rposition(is_fit) {
                    Some(at) => self.spare.remove(at).1,
                    None => {
                        let database = format!("diff{}_direct", self.number);
                        Connection::open(&self.sides.direct, self.user(program), &database, startup)?
                    }
                }
            }
            Side::Pooled => self.open_pooled(program, pool, startup)?,
        };
        Ok(opened.with_functions(&self.functions[side as usize]))
    }

    /// Who a program's clients are.
    fn user(&self, program: &Program) -> &str {
        if program.superuser { &self.sides.superuser } else { USER }
    }

    fn open_pooled(&self, program: &Program, pool: usize, startup: &[(String, String)]) -> io::Result<Connection> {
        let mut address = self.sides.pooled.clone();
        if !program.tls {
            address.tls = None;
        }
        Connection::open(&address, self.user(program), &self.pool_name(&program.level, pool), startup)
    }

    /// Takes a session of the direct side that a program needs no more, and waits until it is renewed or gone.
    pub(crate) fn take_back(&mut self, mut session: Connection, program: &Program, startup: &Startup) {
        if !session.renew() {
            return session.close(true);
        }
        if self.spare.len() == SPARE_MAX {
            self.spare.remove(0).1.close(true);
        }
        self.spare.push(((program.superuser, startup.clone()), session));
    }

    /// From here on sessions of the direct side are opened anew.
    pub(crate) fn forget_spare(&mut self) {
        self.spare.drain(..).for_each(|(_, mut session)| session.close(true));
    }

    /// The name by which forebay knows a pool: `diff0_safe_1`; without a level `diff0_plain_1`.
    fn pool_name(&self, level: &str, pool: usize) -> String {
        let level = if level.is_empty() { "plain" } else { level };
        format!("diff{}_{level}_{pool}", self.number)
    }

    /// Has forebay open its servers anew, so that nothing of an earlier run is in them.
    pub(crate) fn reconnect(&self, level: &str, pool: usize) -> io::Result<()> {
        let plain = Address { tls: None, ..self.sides.pooled.clone() };
        let mut console = Connection::open(&plain, &self.sides.operator, "forebay", &[])?;
        refuse_errors(&console.log_in())?;
        let done = command(&mut console, &format!("RECONNECT {}", self.pool_name(level, pool)));
        console.close(true);
        done
    }

    /// What the tables of a side hold, one line for each.
    pub(crate) fn contents(&mut self, side: Side) -> io::Result<Vec<String>> {
        contents_of(self.administrator(side))
    }

    /// Rolls back the transactions that are still prepared on a side, and returns their names.
    pub(crate) fn end_prepared(&mut self, side: Side) -> io::Result<Vec<String>> {
        let session = self.administrator(side);
        let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid";
        let names: Vec<_> = rows(session, sql)?.into_iter().map(|row| row.concat()).collect();
        for name in &names {
            command(session, &format!("ROLLBACK PREPARED '{name}'"))?;
        }
        Ok(names)
    }

    /// Puts a side's tables back as they were, given what they hold, and drops what the program made.
    pub(crate) fn restore(&mut self, side: Side, contents: &[String], has_made: bool) -> io::Result<()> {
        let name = |line: &String| line.split(':').next().unwrap_or_default().to_owned();
        let changed: Vec<_> = contents.iter().filter(|line| !self.initial.contains(line)).map(name).collect();
        let is_due = side == Side::Pooled && self.restored.is_multiple_of(RESTORES_PER_VACUUM);
        self.restored += usize::from(side == Side::Direct);
        let session = self.administrator(side);
        if has_made {
            command(session, "SELECT sweep()")?;
        }
        if !changed.is_empty() {
            command(session, &format!("SELECT restore('{}')", changed.join("', '")))?;
        }
        if is_due { self.vacuum() } else { Ok(()) }
    }

    /// What was deleted to restore the tables goes, before it makes reading them slow.
    fn vacuum(&mut self) -> io::Result<()> {
        command(&mut self.direct, "VACUUM items, knobs, stream, real1, pledges")?;
        command(&mut self.pooled, "VACUUM items, knobs, stream, real1, pledges")
    }

    /// Sessions of a side that are in a transaction, and advisory locks held by programs.
    pub(crate) fn held(&mut self, side: Side) -> io::Result<(usize, usize)> {
        // The functions behind pg_stat_activity and pg_locks: the views cost several times as much.
        let sql = "SELECT (SELECT count(*) FROM pg_stat_get_activity(NULL) WHERE datid = d.oid AND state <> 'idle' AND pid \
                   <> pg_backend_pid()), (SELECT count(*) FROM pg_lock_status() WHERE locktype = 'advisory' AND objid < \
                   900 AND database = d.oid) FROM pg_database d WHERE datname = current_database()";
        let rows = rows(self.administrator(side), sql)?;
        let number = |at: usize| rows.first().and_then(|row| row.get(at)).and_then(|text| text.parse().ok());
        Ok((number(0).unwrap_or(0), number(1).unwrap_or(0)))
    }

    fn administrator(&mut self, side: Side) -> &mut Connection {
        match side {
            Side::Direct => &mut self.direct,
            Side::Pooled => &mut self.pooled,
        }
    }
}

fn administrator(sides: &Sides, database: &str) -> io::Result<Connection> {
    let mut session = Connection::open(&sides.direct, &sides.superuser, database, &[])?;
    refuse_errors(&session.log_in())?;
    Ok(session)
}

fn contents_of(session: &mut Connection) -> io::Result<Vec<String>> {
    Ok(rows(session, "SELECT name, held FROM contents()")?.into_iter().map(|row| row.join(": ")).collect())
}

/// Every function's oid, by its name and types of arguments.
fn functions_of(session: &mut Connection) -> io::Result<Arc<Functions>> {
    let rows = rows(session, "SELECT oid::regprocedure::text, oid FROM pg_proc WHERE prokind <> 'a'")?;
    let named = |row: Vec<String>| Some((row.first()?.clone(), row.get(1)?.parse().ok()?));
    Ok(Arc::new(rows.into_iter().filter_map(named).collect()))
}

fn command(session: &mut Connection, sql: &str) -> io::Result<()> {
    refuse_errors(&session.send(&[Message::Query(sql.to_owned())], ""))
}

fn rows(session: &mut Connection, sql: &str) -> io::Result<Vec<Vec<String>>> {
    let events = session.send(&[Message::Query(sql.to_owned())], "");
    refuse_errors(&events)?;
    let shown = |value: Option<String>| value.unwrap_or_default();
    Ok(events
        .into_iter()
        .filter_map(|event| match event {
            Event::Row(row) => Some(row.into_iter().map(shown).collect()),
            _ => None,
        })
        .collect())
}

fn refuse_errors(events: &[Event]) -> io::Result<()> {
    let failed = events.iter().find(|event| match event {
        Event::Report(report) => report.severity != "NOTICE" && report.severity != "WARNING",
        Event::Closed => true,
        Event::Other(text) => text == NO_ANSWER || text == NOT_CONNECTED,
        _ => false,
    });
    failed.map_or(Ok(()), |event| Err(io::Error::other(event.to_string())))
}

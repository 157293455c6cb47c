//! Who may be sent here: `/livez`, `/readyz`, `/primary`, `/replica`.
//!
//! | trouble | status | why |
//! |---|---|---|
//! | a worker hangs | 503 | whoever is connected here is not served either |
//! | a stop, DRAIN, DISABLE of the database asked for | 503, or what `unready=` says | no new clients; those that are here are served |
//! | no server can be reached | the same | the same: they wait for one |
//! | an unknown parameter or database | 400 | a check that asks for nothing must not look like one that is passed |
//!
//! With `unready=404` a load balancer can tell what to end from what to let end: HAProxy's `disable-on-404` does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_core::cluster::{Node, Standing};
use forebay_core::command::Command;
use forebay_core::stats::WorkerStats;
use forebay_core::tables::Tables;
use forebay_core::time::Instant;

use super::http::Response;
use crate::clock::Clock;
use crate::cluster::Clusters;
use crate::fleet::{Fleet, FleetTold};
use crate::hub::Hub;

/// A worker whose last turn is longer ago than this hangs: each turns at least once a second.
const ALIVE_WITHIN_US: u64 = 5_000_000;

/// What decides, shared with the engine.
pub(super) struct Readiness {
    stats: Vec<Arc<WorkerStats>>,
    clusters: Arc<Clusters>,
    fleet: Arc<Fleet>,
    clock: Clock,
    /// The configuration in force, for the names of databases.
    tables: Mutex<Arc<Tables>>,
    disabled: Mutex<BTreeSet<Arc<str>>>,
    /// New clients are refused, for good.
    is_draining: AtomicBool,
    /// They are served, and none shall be sent.
    is_leaving: AtomicBool,
}

/// What a probe asks for, beside its path.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish {
    database: Option<String>,
    /// Whether servers can be reached is left out of account.
    is_without_servers: bool,
    is_unready_404: bool,
}

impl Readiness {
    pub(super) fn new(hub: &Hub, tables: Arc<Tables>) -> Readiness {
        Readiness {
            stats: hub.stats.clone(),
            clusters: hub.clusters.clone(),
            fleet: hub.fleet.clone(),
            clock: hub.clock,
            tables: Mutex::new(tables),
            disabled: Mutex::default(),
            is_draining: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
        }
    }

    pub(super) fn heard(&self, command: &Command) {
        let disabled = || self.disabled.lock().unwrap_or_else(PoisonError::into_inner);
        match command {
            Command::Drain | Command::Close => self.is_draining.store(true, Ordering::Release),
            Command::Reload(next) => *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = next.clone(),
            Command::Disable(database) => _ = disabled().insert(database.clone()),
            Command::Enable(database) => _ = disabled().remove(database),
            _ => {}
        }
    }

    pub(super) fn set_leaving(&self, is_leaving: bool) {
        self.is_leaving.store(is_leaving, Ordering::Release);
    }

    /// What the workers count, for the metrics.
    pub(super) fn stats(&self) -> &[Arc<WorkerStats>] {
        &self.stats
    }

    /// The endpoints of clusters, with their databases, for the metrics.
    pub(super) fn endpoints(&self) -> Vec<(Arc<str>, Node)> {
        self.clusters.endpoints()
    }

    /// What the fleet's node tells, and the system's monotonic clock in microseconds, for the metrics.
    pub(super) fn fleet(&self) -> Option<(Arc<FleetTold>, u64)> {
        Some((self.fleet.told()?, self.clock.origin() + self.clock.now().0))
    }

    pub(super) fn answer(&self, path: &str, query: &str) -> Response {
        if path == "/livez" {
            return verdict(self.hanging(), false);
        }
        if !["/readyz", "/primary", "/replica"].contains(&path) {
            let words = "try /metrics, /livez, /readyz, /primary?database=NAME or /replica?database=NAME\n";
            return Response::text("404 Not Found", words);
        }
        let wish = match read(query) {
            Ok(wish) => wish,
            Err(words) => return Response::text("400 Bad Request", &format!("{words}\n")),
        };
        let name = wish.database.as_deref();
        let is_known = |name| self.tables.lock().unwrap_or_else(PoisonError::into_inner).database(name).is_some();
        if let Some(unknown) = name.filter(|name| !is_known(name)) {
            return Response::text("400 Bad Request", &format!("there is no database \"{unknown}\"\n"));
        }
        let trouble = match (path, name) {
            ("/primary", None) | ("/replica", None) => {
                return Response::text("400 Bad Request", &format!("which database? {path}?database=NAME\n"));
            }
            ("/primary", Some(name)) => self.without(name, Standing::Primary),
            ("/replica", Some(name)) => self.without(name, Standing::Replica),
            (_, name) => self.unreachable(name),
        };
        if let Some(hanging) = self.hanging() {
            return verdict(Some(hanging), false);
        }
        let closed = self.leaving().or_else(|| name.and_then(|name| self.disabled(name)));
        verdict(closed.or(trouble.filter(|_| !wish.is_without_servers)), wish.is_unready_404)
    }

    /// The first worker that does not turn.
    fn hanging(&self) -> Option<String> {
        let now = self.clock.now();
        let hangs = |s: &Arc<WorkerStats>| now.micros_since(Instant(s.last_turn_us.get())) > ALIVE_WITHIN_US;
        self.stats.iter().position(hangs).map(|worker| format!("worker {worker} hangs"))
    }

    fn leaving(&self) -> Option<String> {
        let is = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        (is(&self.is_draining) || is(&self.is_leaving)).then(|| "draining".to_owned())
    }

    fn disabled(&self, database: &str) -> Option<String> {
        let disabled = self.disabled.lock().unwrap_or_else(PoisonError::into_inner);
        disabled.contains(database).then(|| "disabled".to_owned())
    }

    /// Whether every pool that there is, of one database or of all, has lost its endpoints. Where nobody has asked for
    /// one yet there is no pool, and nothing to say against it.
    fn unreachable(&self, database: Option<&str>) -> Option<String> {
        let (open, sick) = match database {
            None => self.sum(|s| (s.pools_open.get(), s.pools_sick.get())),
            Some(name) => self.sum(|s| {
                let pools = s.pools.lock().unwrap_or_else(PoisonError::into_inner);
                let of = pools.iter().filter(|pool| *pool.database == *name);
                of.fold((0, 0), |sum, pool| (sum.0 + pool.stats.is_open.get(), sum.1 + pool.stats.is_sick.get()))
            }),
        };
        (open > 0 && sick == open).then(|| "no server can be reached".to_owned())
    }

    fn sum(&self, of: impl Fn(&WorkerStats) -> (u64, u64)) -> (u64, u64) {
        self.stats.iter().map(|s| of(s)).fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1))
    }

    /// What a database lacks whose endpoints have roles. Where they have none, each may write, and none is a replica.
    fn without(&self, database: &str, standing: Standing) -> Option<String> {
        let endpoints = self.clusters.endpoints();
        let mut nodes = endpoints.iter().filter(|(of, _)| **of == *database).map(|(_, node)| node).peekable();
        if nodes.peek().is_none() && standing == Standing::Primary {
            return self.unreachable(Some(database));
        }
        let is_there = nodes.any(|node| node.standing == standing);
        (!is_there).then(|| format!("no {} is known", standing.name()))
    }
}

fn verdict(trouble: Option<String>, is_404: bool) -> Response {
    match trouble {
        None => Response::text("200 OK", "ok\n"),
        Some(words) if is_404 => Response::text("404 Not Found", &format!("{words}\n")),
        Some(words) => Response::text("503 Service Unavailable", &format!("{words}\n")),
    }
}

/// Reads `name=value&…`; or says what it does not know.
fn read(query: &str) -> Result<Wish, String> {
    let mut wish = Wish::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (name, value) {
            ("database", _) => wish.database = Some(decode(value).ok_or("the database's name is not UTF-8")?),
            ("exclude", "servers") => wish.is_without_servers = true,
            ("unready", "404") => wish.is_unready_404 = true,
            ("unready", "503") => wish.is_unready_404 = false,
            _ => return Err("the parameters are database=NAME, exclude=servers and unready=404".to_owned()),
        }
    }
    Ok(wish)
}

/// Undoes percent-encoding, and `+` for a blank.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            _ => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A check with a typo in it would pass for ever.
    #[test]
    fn parameters_are_read_or_refused() {
        let wish = |query| read(query).expect("it is right");
        assert_eq!(wish(""), Wish::default());
        let all = Wish { database: Some("a b&c".to_owned()), is_without_servers: true, is_unready_404: true };
        assert_eq!(wish("database=a+b%26c&exclude=servers&unready=404"), all);
        for wrong in ["databse=app", "exclude=server", "unready=200", "unready", "database=%ff", "database=%f"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

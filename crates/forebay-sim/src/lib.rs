//! The core over virtual time and a seeded network, with checkers.
//!
//! [`run`] plays one seed: real workers, a fake PostgreSQL, fake clients and faults, all decided by the seed. The same
//! seed gives the same run, to the byte ([`Report::trace_hash`]).
//!
//! | part | what it is |
//! |---|---|
//! | `scenario` | what a seed stands for |
//! | `world` | the queue of events and what they happen to |
//! | `driver` | the `Io` that core talks to |
//! | `net` | streams of bytes |
//! | `server` | the fake PostgreSQL |
//! | `client` | the fake clients, and the oracle of what they must see |
//! | `check` | the rules |
//! | `hearing` | the rule of notifications |
//! | `waits` | the rule of turns: the first first |
//! | `world::failover` | clusters: endpoints that change their roles, and the rules of that ([`Options::is_cluster`]) |
//! | `secrets` | the rule of what nobody may be told |
//! | `regime` | what the operator's orders have put in force |
//! | [`scaling`] | many workers, no faults, and one queue beside them |

#![forbid(unsafe_code)]

mod cancels;
mod check;
mod client;
mod driver;
mod hearing;
mod net;
mod planting;
mod queue;
mod regime;
mod rng;
pub mod scaling;
mod scenario;
mod secrets;
mod server;
mod trace;
mod waits;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep a line for everything that happens.
    pub is_verbose: bool,
    /// Leave the workers out: the fake clients talk to the fake servers. What fails then is the simulator's fault.
    pub is_direct: bool,
    /// Connections move between workers, as they do between processes at an online restart.
    pub is_moving: bool,
    /// Databases are clusters, whose endpoints change their roles.
    pub is_cluster: bool,
    /// Whether lost COMMITs are looked for, with `commit_check`, where databases are clusters; `None`: as the seed has it.
    pub commit_check: Option<bool>,
    /// The bug to plant in the workers, by the name that [`bug_names`] gives.
    pub bug: Option<&'static str>,
}

/// Names of the bugs that this build can plant; none without the feature `planted-bugs`.
pub fn bug_names() -> Vec<&'static str> {
    planting::names()
}

/// Those that show where databases are clusters ([`Options::is_cluster`]).
pub fn cluster_bug_names() -> Vec<&'static str> {
    planting::names_of_clusters()
}

/// Those that show where lost COMMITs are looked for ([`Options::commit_check`]).
pub fn commit_bug_names() -> Vec<&'static str> {
    planting::names_of_commits()
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The rule that was broken first, in words; `None`: none.
    pub violation: Option<String>,
    /// Hash over everything that happened: equal for equal seeds.
    pub trace_hash: u64,
    /// Events that happened.
    pub events: u64,
    /// Virtual time that passed, in microseconds.
    pub virtual_us: u64,
    /// Clients times the virtual time.
    pub client_us: u64,
    /// What happened, if it was asked for.
    pub lines: Vec<String>,
}

/// Plays one seed.
pub fn run(seed: u64, options: Options) -> Report {
    let mut report =
        Report { seed, violation: None, trace_hash: 0, events: 0, virtual_us: 0, client_us: 0, lines: Vec::new() };
    let mut world = match catch_unwind(|| world::World::new(rng::Rng::new(seed), options)) {
        Ok(Ok(world)) => world,
        Ok(Err(words)) => {
            report.violation = Some(format!("the scenario cannot be: {words}"));
            return report;
        }
        Err(panic) => {
            report.violation = Some(format!("panic at the start: {}", words_of(&*panic)));
            return report;
        }
    };
    planting::plant(options.bug);
    // What was half done when it panicked is looked at no more, but for its trace.
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    planting::plant(None);
    report.violation = match panicked {
        Some(panic) => Some(format!("panic: {}", words_of(&*panic))),
        None => world.checks.take_violation(),
    };
    report.trace_hash = world.trace.hash();
    report.events = world.trace.events();
    report.virtual_us = world.now;
    report.client_us = world.now * world.clients.len() as u64;
    report.lines = world.trace.take_lines();
    report
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words").to_owned()
}

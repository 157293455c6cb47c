//! The workers' counters as one JSON text, summed over workers.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use forebay_core::stats::{PoolStats, WorkerStats};
use serde_json::json;

/// What is summed of one pool.
#[derive(Default)]
struct Sums {
    figures: [u64; NAMES.len()],
    refusals: BTreeMap<&'static str, u64>,
    server_errors: BTreeMap<&'static str, u64>,
}

fn add(sums: &mut BTreeMap<&'static str, u64>, parts: impl Iterator<Item = (&'static str, u64)>) {
    for (name, count) in parts.filter(|(_, count)| *count > 0) {
        let sum = sums.entry(name).or_default();
        *sum = sum.wrapping_add(count);
    }
}

/// A list of pools, by database and user; times in microseconds. Its reader is `forebay.observe.stats`.
pub(crate) fn to_json(workers: &[Arc<WorkerStats>]) -> String {
    let mut pools: BTreeMap<(Arc<str>, Arc<str>), Sums> = BTreeMap::new();
    for worker in workers {
        for pool in &*worker.pools.lock().unwrap_or_else(PoisonError::into_inner) {
            let sums = pools.entry((pool.database.clone(), pool.user.clone())).or_default();
            for (sum, value) in sums.figures.iter_mut().zip(values(&pool.stats)) {
                *sum = sum.wrapping_add(value);
            }
            add(&mut sums.refusals, pool.stats.refusals.iter());
            add(&mut sums.server_errors, pool.stats.server_errors.counts());
        }
    }
    let rows = pools.iter().map(|((database, user), sums)| {
        let mut row = json!({
            "database": **database, "user": **user, "refusals": sums.refusals, "server_errors": sums.server_errors,
        });
        for (name, sum) in NAMES.iter().zip(sums.figures) {
            row[name] = json!(sum);
        }
        row
    });
    serde_json::Value::Array(rows.collect()).to_string()
}

/// A list of workers, in their order; its reader is `forebay.observe.stats` as well.
pub(crate) fn workers_to_json(workers: &[Arc<WorkerStats>]) -> String {
    let rows = workers.iter().map(|worker| {
        let pools = worker.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&PoolStats) -> u64| pools.iter().map(|pool| of(&pool.stats)).fold(0, u64::wrapping_add);
        json!({
            "clients": worker.clients.get(),
            "transactions": sum(|stats| stats.transactions.get()),
            "requests": sum(|stats| stats.requests.get()),
            "loop_turns": worker.turns.get(),
            "io_calls": worker.io_calls.get(),
            "copied_bytes": worker.copied_bytes.get(),
            "lent_servers": worker.lent.get(),
        })
    });
    serde_json::Value::Array(rows.collect()).to_string()
}

const NAMES: [&str; 14] = [
    "assignments",
    "transactions",
    "requests",
    "received_bytes",
    "sent_bytes",
    "transaction_us",
    "request_us",
    "wait_us",
    "client_parses",
    "server_parses",
    "binds",
    "logins",
    "waiting",
    "servers_active",
];

/// In the order of [`NAMES`].
fn values(stats: &PoolStats) -> [u64; NAMES.len()] {
    [
        stats.assignments.get(),
        stats.transactions.get(),
        stats.requests.get(),
        stats.received_bytes.get(),
        stats.sent_bytes.get(),
        stats.transaction.sum_us.get(),
        stats.request.sum_us.get(),
        stats.wait.sum_us.get(),
        stats.client_parses.get(),
        stats.server_parses.get(),
        stats.binds.get(),
        stats.logins.get(),
        stats.waiting.get(),
        stats.servers_active.get(),
    ]
}

//! Counters and histograms: one set a worker and pool, written by its worker alone, read by the metrics listener.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use forebay_spec::errors;

use crate::pool::balance::Balance;
use crate::tally::ByClass;

/// A counter or gauge with one writer.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`. No read-modify-write cycle on the bus: there is one writer.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// Takes `n` away.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }
    /// Sets.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets of [`Histogram`]: upper bounds in microseconds, doubling from 16 µs to 268 s; one more for the rest.
pub const BUCKETS: usize = 26;

/// Durations, in buckets whose bounds double.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Counts per bucket; the last is everything above the last bound.
    pub counts: [Cell; BUCKETS],
    /// Sum of all, in microseconds.
    pub sum_us: Cell,
}

impl Histogram {
    /// Upper bound of bucket `i` in microseconds, inclusive; the last bucket has none.
    pub fn bound_us(i: usize) -> Option<u64> {
        (i + 1 < BUCKETS).then(|| 16 << i)
    }

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.counts.iter().chain([&self.sum_us])
    }

    /// Records one duration.
    pub fn record(&self, us: u64) {
        let above = us.saturating_sub(1) >> 4;
        let i = (64 - above.leading_zeros() as usize).min(BUCKETS - 1);
        self.counts[i].add(1);
        self.sum_us.add(us);
    }
}

/// What is counted per pool.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// Transactions ended.
    pub transactions: Cell,
    /// Requests answered (a ReadyForQuery each).
    pub requests: Cell,
    /// Bytes from clients.
    pub received_bytes: Cell,
    /// Bytes to clients.
    pub sent_bytes: Cell,
    /// From the first byte of a transaction on a server to its end.
    pub transaction: Histogram,
    /// From a request's arrival to its ReadyForQuery.
    pub request: Histogram,
    /// From a demand to its server; 0 where one was idle.
    pub wait: Histogram,
    /// Servers handed to a client.
    pub assignments: Cell,
    /// Parse messages from clients.
    pub client_parses: Cell,
    /// Parse messages to servers.
    pub server_parses: Cell,
    /// Bind messages.
    pub binds: Cell,
    /// Logins of clients.
    pub logins: Cell,
    /// Servers opened.
    pub opened: Cell,
    /// Servers closed, and among them those whose stream was in doubt.
    pub closed: Cell,
    /// Servers closed because their stream was in doubt.
    pub closed_in_doubt: Cell,
    /// From the begin of a server's connection to the end of its login.
    pub open: Histogram,
    /// Errors we made for clients (any FB code).
    pub errors: Cell,
    /// The same by code.
    pub refusals: ByCode,
    /// Errors with which servers answered clients.
    pub server_errors: ByClass,
    /// Sessions that came to hold their server, by reason, in the order of [`forebay_spec::pins::ALL`].
    pub pins: [Cell; forebay_spec::pins::ALL.len()],
    /// Servers reset before they served another client.
    pub resets: Cell,
    /// Looks at a server for the values of certain settings and for what pins it.
    pub probes_vector: Cell,
    /// Looks at a server for all that its session may have.
    pub probes_full: Cell,
    /// Times that the catalogue of the database was read.
    pub catalogue_loads: Cell,
    /// Notifications given to clients.
    pub notifications: Cell,
    /// Times that the listener took channels over from a client's server.
    pub takeovers: Cell,
    /// Gauges.
    pub clients: Cell,
    /// Clients that wait.
    pub waiting: Cell,
    /// Clients that hold their server between transactions.
    pub pinned: Cell,
    /// Channels that clients of this worker listen to through the listener.
    pub channels: Cell,
    /// Servers in use.
    pub servers_active: Cell,
    /// Servers idle.
    pub servers_idle: Cell,
    /// Servers opening, being checked or cleaned.
    pub servers_other: Cell,
    /// 1 while the pool is in use.
    pub is_open: Cell,
    /// 1 while its endpoints can't be reached and it has no server.
    pub is_sick: Cell,
}

/// What stands for names that have no figures of their own.
pub const REST: &str = "*";

impl PoolStats {
    /// Adds what another has counted; gauges are not counts.
    pub fn absorb(&self, other: &PoolStats) {
        let counts = |of: &PoolStats| -> Vec<u64> { of.counts().map(Cell::get).collect() };
        for (count, more) in self.counts().zip(counts(other)) {
            count.add(more);
        }
    }

    /// All that only grows.
    fn counts(&self) -> impl Iterator<Item = &Cell> {
        let Self {
            transactions,
            requests,
            received_bytes,
            sent_bytes,
            transaction,
            request,
            wait,
            assignments,
            client_parses,
            server_parses,
            binds,
            logins,
            opened,
            closed,
            closed_in_doubt,
            open,
            errors,
            refusals,
            server_errors,
            pins,
            resets,
            probes_vector,
            probes_full,
            catalogue_loads,
            notifications,
            takeovers,
            clients: _,
            waiting: _,
            pinned: _,
            channels: _,
            servers_active: _,
            servers_idle: _,
            servers_other: _,
            is_open: _,
            is_sick: _,
        } = self;
        let single = [
            transactions,
            requests,
            received_bytes,
            sent_bytes,
            assignments,
            client_parses,
            server_parses,
            binds,
            logins,
            opened,
            closed,
            closed_in_doubt,
            errors,
            resets,
            probes_vector,
            probes_full,
            catalogue_loads,
            notifications,
            takeovers,
        ];
        let durations = [transaction, request, wait, open].into_iter().flat_map(Histogram::cells);
        single.into_iter().chain(durations).chain(refusals.cells()).chain(server_errors.cells()).chain(pins)
    }

    /// Counts an error of ours.
    #[cold]
    pub fn count_refusal(&self, code: &str) {
        self.errors.add(1);
        self.refusals.count(code);
    }
}

/// A pool's stats with its labels.
#[derive(Debug, Default)]
pub struct LabelledPool {
    /// The database's name here.
    pub database: Arc<str>,
    /// The pool's user.
    pub user: Arc<str>,
    /// It has metrics of its own.
    pub is_named: bool,
    /// The figures.
    pub stats: PoolStats,
    /// How its endpoints do beside each other, where it has several: of all workers.
    pub balance: Arc<Balance>,
}

impl LabelledPool {
    /// Whether these are the figures of pools that were forgotten.
    pub fn is_rest(&self) -> bool {
        *self.database == *REST && *self.user == *REST
    }
}

/// Errors made for clients: one count for each row of [`errors::ALL`].
#[derive(Debug)]
pub struct ByCode([Cell; errors::ALL.len()]);

impl Default for ByCode {
    fn default() -> ByCode {
        ByCode(std::array::from_fn(|_| Cell::default()))
    }
}

impl ByCode {
    /// Counts an error.
    #[cold]
    pub fn count(&self, code: &str) {
        if let Some((_, cell)) = errors::ALL.iter().zip(&self.0).find(|(row, _)| row.code == code) {
            cell.add(1);
        }
    }

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.0.iter()
    }

    /// Counts by code.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        errors::ALL.iter().map(|row| row.code).zip(self.0.iter().map(Cell::get))
    }
}

/// What one worker counts. On lines of its own, as some of it is written in each turn of the loop; two, since processors
/// fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerStats {
    /// Pools, in order of first use, and one for all that were forgotten. The lock is taken to add, to forget and to
    /// scrape.
    pub pools: Mutex<Vec<Arc<LabelledPool>>>,
    /// How many were forgotten: who has read meanwhile may have counted one twice.
    pub forgotten: Cell,
    /// Connections accepted.
    pub accepted: Cell,
    /// The last number of a client or server.
    pub last_id: Cell,
    /// Clients open, logged in or not.
    pub clients: Cell,
    /// Those of them that are not let in yet.
    pub arriving: Cell,
    /// Those turned away on their way in, as too many were.
    pub logins_turned_away: Cell,
    /// Logins refused.
    pub logins_refused: Cell,
    /// Malformed or oversized messages.
    pub protocol_errors: Cell,
    /// Plain bytes that followed an SSLRequest in the same breath.
    pub tls_injections: Cell,
    /// Cancel requests received, and those that reached a server.
    pub cancels: Cell,
    /// Those that were forwarded.
    pub cancels_forwarded: Cell,
    /// Those that were passed on to a peer.
    pub cancels_passed: Cell,
    /// Those that were not looked at, as too many before them had named nobody.
    pub cancels_refused: Cell,
    /// Errors made for clients, by code.
    pub refusals: ByCode,
    /// Events dropped because the log's ring was full.
    pub events_dropped: Cell,
    /// Pools in use.
    pub pools_open: Cell,
    /// Those among them whose endpoints can't be reached and that have no server.
    pub pools_sick: Cell,
    /// Listeners open.
    pub listeners: Cell,
    /// Servers lent to other workers.
    pub lent: Cell,
    /// Loop turns.
    pub turns: Cell,
    /// System calls that the driver has made for connections.
    pub io_calls: Cell,
    /// Bytes that it has copied from one place of its memory to another.
    pub copied_bytes: Cell,
    /// Monotonic microseconds of the last turn, for /livez.
    pub last_turn_us: Cell,
}

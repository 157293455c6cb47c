//! Every metric that the engine serves, with where its value is. The names, kinds, labels and texts are those of
//! `spec/metrics.toml`; a test compares the two.

use forebay_core::cluster::Node;
use forebay_core::pool::balance::{Told, Why};
use forebay_core::stats::{ByCode, Histogram, PoolStats, WorkerStats};
use forebay_spec::pins::ALL as REASONS;

use super::exposition::seconds;
use crate::fleet::{BudgetTold, FleetTold, HOLDERS};

/// Where a metric's value is.
pub(super) enum Source {
    /// Counted per worker; the sum is served.
    Engine(Kind, fn(&WorkerStats) -> u64),
    /// The same, by the code of an error.
    Codes(fn(&WorkerStats) -> &ByCode),
    /// Counted per pool and worker; summed over workers.
    Pool(Kind, fn(&PoolStats) -> u64),
    /// Durations per pool and worker.
    Durations(fn(&PoolStats) -> &Histogram),
    /// The same by the values of one more label, of which only those are served that there were.
    Sparse(Label, fn(&PoolStats) -> Vec<(&'static str, u64)>),
    /// The same, by the values of one more label.
    Parts(Kind, Label, &'static [Part]),
    /// Of each endpoint of a cluster, where there is one; the label's value is its role.
    Endpoints(Option<Label>, fn(&Node) -> Option<u64>),
    /// Of each endpoint of a pool that has several, by the values of one more label where there is one.
    Balanced(Kind, Option<Label>, fn(&Told) -> Vec<(&'static str, String)>),
    /// Of the fleet that the process is a node of, if it is one, by the values of labels; by the system's monotonic clock.
    Fleet(Kind, &'static [&'static str], fn(&FleetTold, u64) -> Vec<FleetRow>),
}

/// Values of the labels, and the figure.
pub(super) type FleetRow = (Vec<String>, String);

/// A value of the label, and the reader of its part.
pub(super) type Part = (&'static str, fn(&PoolStats) -> u64);

/// What the parts of a metric differ in.
#[derive(Clone, Copy)]
pub(super) enum Label {
    State,
    Reason,
    Kind,
    Class,
    Code,
    Role,
    Cause,
}

impl Label {
    /// As the exposition and the spec call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Label::State => "state",
            Label::Reason => "reason",
            Label::Kind => "kind",
            Label::Class => "class",
            Label::Code => "code",
            Label::Role => "role",
            Label::Cause => "cause",
        }
    }
}

/// Prometheus' kinds of single values.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// One row.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) source: Source,
}

impl Metric {
    /// As the exposition and the spec call it.
    pub(super) fn kind(&self) -> &'static str {
        match self.source {
            Source::Engine(kind, _)
            | Source::Pool(kind, _)
            | Source::Parts(kind, ..)
            | Source::Balanced(kind, ..)
            | Source::Fleet(kind, ..) => match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            },
            Source::Codes(_) | Source::Sparse(..) => "counter",
            Source::Durations(_) => "histogram",
            Source::Endpoints(..) => "gauge",
        }
    }

    /// Names of its labels.
    #[cfg(test)]
    pub(super) fn labels(&self) -> Vec<&'static str> {
        match self.source {
            Source::Engine(..) => vec![],
            Source::Codes(_) => vec!["code"],
            Source::Pool(..) | Source::Durations(_) => vec!["database", "user"],
            Source::Parts(_, label, _) | Source::Sparse(label, _) => vec!["database", "user", label.name()],
            Source::Endpoints(label, _) => ["database", "endpoint"].into_iter().chain(label.map(Label::name)).collect(),
            Source::Fleet(_, labels, _) => labels.to_vec(),
            Source::Balanced(_, label, _) => {
                ["database", "user", "endpoint"].into_iter().chain(label.map(Label::name)).collect()
            }
        }
    }
}

const fn metric(name: &'static str, help: &'static str, source: Source) -> Metric {
    Metric { name, help, source }
}

use Kind::{Counter, Gauge};
use Source::{Balanced, Codes, Durations, Endpoints, Engine, Fleet, Parts, Pool, Sparse};

/// A figure without labels.
fn alone(figure: impl ToString) -> Vec<FleetRow> {
    vec![(vec![], figure.to_string())]
}

fn by_database(told: &FleetTold, of: fn(&BudgetTold) -> u64) -> Vec<FleetRow> {
    told.budgets.iter().map(|one| (vec![one.database.clone()], of(one).to_string())).collect()
}

fn nodes(told: &FleetTold, _: u64) -> Vec<FleetRow> {
    let states = [("here", told.here), ("absent", told.absent)];
    // Before the first look nobody knows.
    let known = states.into_iter().filter(|_| told.looked_us > 0);
    known.map(|(state, count)| (vec![state.to_owned()], count.to_string())).collect()
}

fn primaries(told: &FleetTold, _: u64) -> Vec<FleetRow> {
    let row = |(database, endpoint, timeline): &(String, String, u32)| {
        (vec![database.clone(), endpoint.clone()], timeline.to_string())
    };
    told.primaries.iter().map(row).collect()
}

fn lent(told: &FleetTold, _: u64) -> Vec<FleetRow> {
    let parts = told.budgets.iter().flat_map(|one| HOLDERS.iter().zip(one.lent).map(move |part| (one, part)));
    parts.map(|(one, (holder, count))| (vec![one.database.clone(), (*holder).to_owned()], count.to_string())).collect()
}

/// The counters of pins, in the order of their reasons.
const PINS: [Part; REASONS.len()] = [
    (REASONS[0].name, |s| s.pins[0].get()),
    (REASONS[1].name, |s| s.pins[1].get()),
    (REASONS[2].name, |s| s.pins[2].get()),
    (REASONS[3].name, |s| s.pins[3].get()),
    (REASONS[4].name, |s| s.pins[4].get()),
    (REASONS[5].name, |s| s.pins[5].get()),
    (REASONS[6].name, |s| s.pins[6].get()),
    (REASONS[7].name, |s| s.pins[7].get()),
    (REASONS[8].name, |s| s.pins[8].get()),
    (REASONS[9].name, |s| s.pins[9].get()),
];

/// All of them, in the order they are served.
pub(super) const METRICS: &[Metric] = &[
    metric("forebay_clients", "Client connections open, logged in or not.", Engine(Gauge, |s| s.clients.get())),
    metric(
        "forebay_clients_arriving",
        "Client connections that are not let in yet: silent ones, and logins under way.",
        Engine(Gauge, |s| s.arriving.get()),
    ),
    metric("forebay_connections_accepted_total", "Client connections accepted.", Engine(Counter, |s| s.accepted.get())),
    metric("forebay_logins_refused_total", "Logins of clients refused.", Engine(Counter, |s| s.logins_refused.get())),
    metric(
        "forebay_logins_turned_away_total",
        "Client connections closed before they were let in, as too many were (limits.logins_max, limits.address_logins_max).",
        Engine(Counter, |s| s.logins_turned_away.get()),
    ),
    metric(
        "forebay_protocol_errors_total",
        "Malformed or oversized messages.",
        Engine(Counter, |s| s.protocol_errors.get()),
    ),
    metric(
        "forebay_tls_injections_total",
        "Connections closed because plain bytes followed a request for TLS.",
        Engine(Counter, |s| s.tls_injections.get()),
    ),
    metric("forebay_cancels_total", "Cancel requests received.", Engine(Counter, |s| s.cancels.get())),
    metric(
        "forebay_cancels_forwarded_total",
        "Cancel requests that were sent on to a server.",
        Engine(Counter, |s| s.cancels_forwarded.get()),
    ),
    metric(
        "forebay_cancels_passed_total",
        "Cancel requests that were passed on to a peer, of whose client they were.",
        Engine(Counter, |s| s.cancels_passed.get()),
    ),
    metric(
        "forebay_cancels_refused_total",
        "Cancel requests not looked at, since too many of the same source had named nobody (limits.cancel_misses_max).",
        Engine(Counter, |s| s.cancels_refused.get()),
    ),
    metric(
        "forebay_refusals_total",
        "Requests, logins and sessions that were refused or ended with an error of forebay's own, by its code.",
        Codes(|s| &s.refusals),
    ),
    metric(
        "forebay_events_dropped_total",
        "Log events dropped because nobody fetched them.",
        Engine(Counter, |s| s.events_dropped.get()),
    ),
    metric("forebay_servers_lent_total", "Servers lent from worker to worker.", Engine(Counter, |s| s.lent.get())),
    metric(
        "forebay_listeners",
        "Connections to servers through which the clients of a pool listen.",
        Engine(Gauge, |s| s.listeners.get()),
    ),
    metric("forebay_loop_turns_total", "Turns of the workers' loops.", Engine(Counter, |s| s.turns.get())),
    metric(
        "forebay_io_calls_total",
        "System calls of the workers' loops for connections: waits, and with epoll each send and receive.",
        Engine(Counter, |s| s.io_calls.get()),
    ),
    metric(
        "forebay_copied_bytes_total",
        "Bytes copied between buffers: answers of forebay's own, and what slow readers leave.",
        Engine(Counter, |s| s.copied_bytes.get()),
    ),
    metric("forebay_pool_clients", "Clients of the pool, logged in.", Pool(Gauge, |s| s.clients.get())),
    metric("forebay_pool_waiters", "Clients of the pool that wait for a server.", Pool(Gauge, |s| s.waiting.get())),
    metric(
        "forebay_servers",
        "Servers of the pool by state: active, idle, or other (opening, being checked or cleaned). Their sum never passes pool_size; listeners are not among them.",
        Parts(
            Gauge,
            Label::State,
            &[
                ("active", |s| s.servers_active.get()),
                ("idle", |s| s.servers_idle.get()),
                ("other", |s| s.servers_other.get()),
            ],
        ),
    ),
    metric(
        "forebay_pinned_clients",
        "Clients of the pool that hold their server between transactions.",
        Pool(Gauge, |s| s.pinned.get()),
    ),
    metric(
        "forebay_listened_channels",
        "Channels that clients of the pool listen to through its listener, counted for each worker.",
        Pool(Gauge, |s| s.channels.get()),
    ),
    metric("forebay_transactions_total", "Transactions ended.", Pool(Counter, |s| s.transactions.get())),
    metric("forebay_requests_total", "Requests answered: a ReadyForQuery each.", Pool(Counter, |s| s.requests.get())),
    metric("forebay_received_bytes_total", "Bytes from clients.", Pool(Counter, |s| s.received_bytes.get())),
    metric("forebay_sent_bytes_total", "Bytes to clients.", Pool(Counter, |s| s.sent_bytes.get())),
    metric("forebay_checkouts_total", "Servers handed to a client.", Pool(Counter, |s| s.assignments.get())),
    metric("forebay_client_parses_total", "Parse messages from clients.", Pool(Counter, |s| s.client_parses.get())),
    metric("forebay_server_parses_total", "Parse messages to servers.", Pool(Counter, |s| s.server_parses.get())),
    metric("forebay_binds_total", "Bind messages.", Pool(Counter, |s| s.binds.get())),
    metric("forebay_logins_total", "Logins of clients.", Pool(Counter, |s| s.logins.get())),
    metric("forebay_servers_opened_total", "Servers opened.", Pool(Counter, |s| s.opened.get())),
    metric("forebay_servers_closed_total", "Servers closed, for any reason.", Pool(Counter, |s| s.closed.get())),
    metric(
        "forebay_servers_closed_in_doubt_total",
        "Servers closed because their stream was in doubt.",
        Pool(Counter, |s| s.closed_in_doubt.get()),
    ),
    metric("forebay_errors_total", "Errors that forebay made for clients.", Pool(Counter, |s| s.errors.get())),
    metric(
        "forebay_pool_refusals_total",
        "Errors that forebay made for clients of the pool, by code.",
        Sparse(Label::Code, |s| s.refusals.iter().filter(|(_, count)| *count > 0).collect()),
    ),
    metric(
        "forebay_server_errors_total",
        "Errors with which servers answered clients, by the class of their SQLSTATE: its first two characters.",
        Sparse(Label::Class, |s| s.server_errors.counts().collect()),
    ),
    metric(
        "forebay_pins_total",
        "Sessions that came to hold their server, by reason.",
        Parts(Counter, Label::Reason, &PINS),
    ),
    metric("forebay_notifications_total", "Notifications given to clients.", Pool(Counter, |s| s.notifications.get())),
    metric(
        "forebay_listen_takeovers_total",
        "Times that the listener was to take channels over from a client's server.",
        Pool(Counter, |s| s.takeovers.get()),
    ),
    metric(
        "forebay_resets_total",
        "Servers reset before they served another client.",
        Pool(Counter, |s| s.resets.get()),
    ),
    metric(
        "forebay_probes_total",
        "Looks at what a session has on its server: at certain settings and pins (vector), or at everything (full).",
        Parts(Counter, Label::Kind, &[("vector", |s| s.probes_vector.get()), ("full", |s| s.probes_full.get())]),
    ),
    metric(
        "forebay_catalogue_loads_total",
        "Times that the catalogue of the database was read.",
        Pool(Counter, |s| s.catalogue_loads.get()),
    ),
    metric(
        "forebay_transaction_seconds",
        "Time from a transaction's first byte on a server to its end.",
        Durations(|s| &s.transaction),
    ),
    metric("forebay_request_seconds", "Time from a request's arrival to its ReadyForQuery.", Durations(|s| &s.request)),
    metric(
        "forebay_checkout_wait_seconds",
        "Time from a demand for a server to the server; 0 where one was idle.",
        Durations(|s| &s.wait),
    ),
    metric(
        "forebay_server_open_seconds",
        "Time from the begin of a connection to a server to the end of its login.",
        Durations(|s| &s.open),
    ),
    metric(
        "forebay_endpoint_role",
        "1 for the role that an endpoint of a database with a topology has, as SHOW ENDPOINTS calls it.",
        Endpoints(Some(Label::Role), |_| Some(1)),
    ),
    metric(
        "forebay_endpoint_lag_bytes",
        "Bytes of WAL that a replica of a database with a topology had not replayed when it was last asked.",
        Endpoints(None, |node| node.lag),
    ),
    metric(
        "forebay_endpoint_seconds_behind",
        "Age of the primary's work that a replica of a database with a topology had not replayed when it was last asked, at most.",
        Endpoints(None, |node| node.exposed_s),
    ),
    metric(
        "forebay_endpoint_confirms_writes",
        "1 if the primary of a database with a topology has confirmed the last write canary within canary_timeout, 0 if it has not or has failed it.",
        Endpoints(None, |node| node.is_confirming.map(u64::from)),
    ),
    metric(
        "forebay_endpoint_answers_total",
        "Answers of an endpoint to a pool that has several: its part of their rate is its part of the requests.",
        Balanced(Counter, None, |told| vec![("", told.heard.to_string())]),
    ),
    metric(
        "forebay_endpoint_seconds_to_answer",
        "Time to the first byte of its answers, as it is shared by: of late, and without regard to single long ones.",
        Balanced(Gauge, None, |told| told.latency_us.map(|us| ("", seconds(us))).into_iter().collect()),
    ),
    metric(
        "forebay_endpoint_ejected",
        "1 while an endpoint of a pool that has several gets no requests, or few on trial, for what was seen of it.",
        Balanced(Gauge, None, |told| vec![("", u8::from(told.standing.words().is_some()).to_string())]),
    ),
    metric(
        "forebay_endpoint_ejections_total",
        "Times that it was ejected, by cause: slow, faults or silent.",
        Balanced(Counter, Some(Label::Cause), |told| {
            Why::NAMES.into_iter().zip(told.ejections.map(|count| count.to_string())).collect()
        }),
    ),
    metric(
        "forebay_fleet_member",
        "1 while this forebay is a node of its fleet and its lease surely holds, 0 while it is cut off or has not joined. Only where there is [fleet], as all that follow.",
        Fleet(Gauge, &[], |told, now| alone(u8::from(told.until_us > now))),
    ),
    metric(
        "forebay_fleet_lease_seconds_left",
        "Time for which the node counts on its lease, 0 where it does not; renewed to two thirds of fleet.lease_ttl.",
        Fleet(Gauge, &[], |told, now| alone(seconds(told.until_us.saturating_sub(now)))),
    ),
    metric(
        "forebay_fleet_seconds_since_look",
        "Time since the node last read the fleet's keys in etcd: what it tells of other nodes is as old.",
        Fleet(Gauge, &[], |told, now| {
            if told.looked_us == 0 { vec![] } else { alone(seconds(now.saturating_sub(told.looked_us))) }
        }),
    ),
    metric(
        "forebay_fleet_nodes",
        "Nodes at the last look, by state: here (their leases held, this one's among them) or absent (not there, and a part of a budget is kept for them).",
        Fleet(Gauge, &["state"], nodes),
    ),
    metric(
        "forebay_fleet_registrations_total",
        "Times that the node has joined: at its start, and after each loss of its lease.",
        Fleet(Counter, &[], |told, _| alone(told.registrations)),
    ),
    metric(
        "forebay_fleet_failures_total",
        "Rounds and renewals of the lease that failed, because etcd could not be reached or did not answer as it was to.",
        Fleet(Counter, &[], |told, _| alone(told.failures)),
    ),
    metric(
        "forebay_fleet_primary_timeline",
        "The endpoint that the fleet has written down as the primary of a database's servers; the value is its timeline, which grows with each failover.",
        Fleet(Gauge, &["database", "endpoint"], primaries),
    ),
    metric(
        "forebay_fleet_primaries_written_total",
        "Times that this node wrote down another primary for the fleet.",
        Fleet(Counter, &[], |told, _| alone(told.written)),
    ),
    metric(
        "forebay_fleet_primaries_refused_total",
        "Times that the primary that this node saw was refused, since others held another endpoint on the same timeline.",
        Fleet(Counter, &[], |told, _| alone(told.refused)),
    ),
    metric(
        "forebay_fleet_budget_servers",
        "server_budget of a database over all nodes, as the fleet has it.",
        Fleet(Gauge, &["database"], |told, _| by_database(told, |one| one.total)),
    ),
    metric(
        "forebay_fleet_lent_servers",
        "Servers of a budget that are lent, by to whom: this node, others that are here, or absent nodes, for which they are kept. What is missing to the budget is free.",
        Fleet(Gauge, &["database", "holder"], lent),
    ),
    metric(
        "forebay_fleet_kept_servers",
        "Servers of a budget that this node keeps where its lease ends.",
        Fleet(Gauge, &["database"], |told, _| by_database(told, |one| one.kept)),
    ),
    metric(
        "forebay_fleet_wanted_servers",
        "Servers of a budget that this node's clients want: the most of the last 10 s, rounded up.",
        Fleet(Gauge, &["database"], |told, _| by_database(told, |one| one.wanted)),
    ),
    metric(
        "forebay_fleet_open_servers",
        "Servers of a budget that this node had open at its last round.",
        Fleet(Gauge, &["database"], |told, _| by_database(told, |one| one.open)),
    ),
    metric(
        "forebay_fleet_budget_changes_total",
        "Times that this node has changed a budget in etcd: its own part, or what others have lost.",
        Fleet(Counter, &["database"], |told, _| by_database(told, |one| one.changes)),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference docs, dashboards and alerts are made from the spec.
    #[test]
    fn the_table_says_what_the_spec_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/metrics.toml");
        let text = std::fs::read_to_string(path).expect("the spec is there");
        let spec: toml_edit::DocumentMut = text.parse().expect("the spec is TOML");
        let rows = spec["metric"].as_array_of_tables().expect("rows");
        let word = |row: &toml_edit::Table, key: &str| row[key].as_str().expect("a text").to_owned();
        let found: Vec<_> = rows
            .iter()
            .map(|row| {
                let labels = row["labels"].as_array().expect("labels").iter();
                let labels: Vec<_> = labels.map(|l| l.as_str().expect("a text").to_owned()).collect();
                (word(row, "name"), word(row, "kind"), labels, word(row, "help"))
            })
            .collect();
        let served: Vec<_> = METRICS
            .iter()
            .map(|m| {
                let labels: Vec<_> = m.labels().iter().map(|l| (*l).to_owned()).collect();
                (m.name.to_owned(), m.kind().to_owned(), labels, m.help.to_owned())
            })
            .collect();
        assert_eq!(found, served);
    }

    /// A pin counted under another's reason sends an operator to the wrong statement.
    #[test]
    fn every_pin_is_counted_under_its_own_reason() {
        let stats = PoolStats::default();
        for (index, pins) in stats.pins.iter().enumerate() {
            pins.add(index as u64 + 1);
        }
        let read: Vec<_> = PINS.iter().map(|(reason, value)| (*reason, value(&stats))).collect();
        let counted: Vec<_> = REASONS.iter().zip(1..).map(|(reason, count)| (reason.name, count)).collect();
        assert_eq!(read, counted);
    }

    /// promtool and every dashboard builder rely on the suffixes.
    #[test]
    fn names_end_as_their_kind_demands() {
        for metric in METRICS {
            assert!(metric.name.starts_with("forebay_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind() == "counter", "{}", metric.name);
            assert_eq!(metric.name.ends_with("_seconds"), metric.kind() == "histogram", "{}", metric.name);
        }
    }
}

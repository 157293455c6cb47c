//! The figures as text: Prometheus' exposition format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, PoisonError};

use forebay_core::cluster::Node;
use forebay_core::stats::{BUCKETS, Histogram, LabelledPool, REST, WorkerStats};

use super::table::{FleetRow, Label, METRICS, Metric, Part, Source};
use crate::fleet::FleetTold;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Figures that change all the time are taken as they are after so many looks.
const READS_MAX: usize = 8;

/// Each pool's parts, one a worker that knows it, under its labels.
type Pools = BTreeMap<(Arc<str>, Arc<str>), Vec<Arc<LabelledPool>>>;

/// All metrics of `workers`, summed. While pools are forgotten, their figures might be read twice: all are read again.
///
/// `fleet`: what its node has told, if there is one, and the clock that it is told by.
pub(super) fn render(
    workers: &[Arc<WorkerStats>],
    endpoints: &[(Arc<str>, Node)],
    fleet: Option<(&FleetTold, u64)>,
) -> String {
    let forgotten = || workers.iter().map(|worker| worker.forgotten.get()).fold(0, u64::wrapping_add);
    let mut text = String::new();
    for _ in 0..READS_MAX {
        let before = forgotten();
        text = render_once(workers, endpoints, fleet);
        if forgotten() == before {
            break;
        }
    }
    text
}

fn render_once(
    workers: &[Arc<WorkerStats>],
    endpoints: &[(Arc<str>, Node)],
    fleet: Option<(&FleetTold, u64)>,
) -> String {
    let mut pools = Pools::new();
    for worker in workers {
        let known = worker.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pool in known {
            let name =
                if pool.is_named { (pool.database.clone(), pool.user.clone()) } else { (REST.into(), REST.into()) };
            pools.entry(name).or_default().push(pool);
        }
    }
    let mut out = String::with_capacity(16 * 1024);
    for metric in METRICS {
        // Writing to a String does not fail.
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {0} {}", metric.name, metric.help, metric.kind());
        match &metric.source {
            Source::Endpoints(label, value) => render_endpoints(&mut out, metric.name, *label, *value, endpoints),
            Source::Fleet(_, labels, values) => {
                let rows = fleet.map_or_else(Vec::new, |(told, now_us)| values(told, now_us));
                rows.iter().for_each(|row| render_fleet(&mut out, metric.name, labels, row));
            }
            _ => render_metric(&mut out, metric, workers, &pools),
        }
    }
    out
}

fn render_endpoints(
    out: &mut String,
    name: &str,
    label: Option<Label>,
    value: fn(&Node) -> Option<u64>,
    endpoints: &[(Arc<str>, Node)],
) {
    for (database, node) in endpoints {
        let Some(value) = value(node) else { continue };
        let role = label.map_or(String::new(), |label| format!(",{}=\"{}\"", label.name(), node.standing.name()));
        let (database, endpoint) = (escape(database), escape(&node.name));
        let _ = writeln!(out, "{name}{{database=\"{database}\",endpoint=\"{endpoint}\"{role}}} {value}");
    }
}

fn render_fleet(out: &mut String, name: &str, labels: &[&str], (values, figure): &FleetRow) {
    let pairs: Vec<_> =
        labels.iter().zip(values).map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
    let labels = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
    let _ = writeln!(out, "{name}{labels} {figure}");
}

fn render_metric(out: &mut String, metric: &Metric, workers: &[Arc<WorkerStats>], pools: &Pools) {
    if let Source::Engine(_, value) = &metric.source {
        let sum: u64 = workers.iter().map(|w| value(w)).fold(0, u64::wrapping_add);
        let _ = writeln!(out, "{} {sum}", metric.name);
        return;
    }
    if let Source::Codes(counts) = &metric.source {
        let mut sums = BTreeMap::new();
        for (code, count) in workers.iter().flat_map(|worker| counts(worker).iter()) {
            let sum: &mut u64 = sums.entry(code).or_default();
            *sum = sum.wrapping_add(count);
        }
        for (code, sum) in sums {
            let _ = writeln!(out, "{}{{code=\"{code}\"}} {sum}", metric.name);
        }
        return;
    }
    for ((database, user), parts) in pools {
        let labels = format!("database=\"{}\",user=\"{}\"", escape(database), escape(user));
        match &metric.source {
            Source::Engine(..) | Source::Codes(_) | Source::Endpoints(..) | Source::Fleet(..) => {}
            Source::Balanced(_, label, values) => {
                // They have one account of their endpoints for all workers; those that share a name here have several.
                let mut all = parts.iter().filter(|part| part.is_named).map(|part| part.balance.told());
                let told = all.find(|told| !told.is_empty());
                for one in told.into_iter().flatten() {
                    for (value, figure) in values(&one) {
                        let more = label.map_or(String::new(), |label| format!(",{}=\"{value}\"", label.name()));
                        let endpoint = escape(&one.place.name);
                        let _ = writeln!(out, "{}{{{labels},endpoint=\"{endpoint}\"{more}}} {figure}", metric.name);
                    }
                }
            }
            Source::Pool(_, value) => {
                let sum = parts.iter().map(|p| value(&p.stats)).fold(0, u64::wrapping_add);
                let _ = writeln!(out, "{}{{{labels}}} {sum}", metric.name);
            }
            Source::Parts(_, label, values) => {
                for ((name, _), sum) in values.iter().zip(steady_sums(parts, values)) {
                    let _ = writeln!(out, "{}{{{labels},{}=\"{name}\"}} {sum}", metric.name, label.name());
                }
            }
            Source::Sparse(label, values) => {
                let mut sums = BTreeMap::<&str, u64>::new();
                for (name, count) in parts.iter().flat_map(|p| values(&p.stats)) {
                    let sum = sums.entry(name).or_default();
                    *sum = sum.wrapping_add(count);
                }
                for (name, sum) in sums {
                    let _ = writeln!(out, "{}{{{labels},{}=\"{name}\"}} {sum}", metric.name, label.name());
                }
            }
            Source::Durations(histogram) => {
                let parts: Vec<&Histogram> = parts.iter().map(|p| histogram(&p.stats)).collect();
                render_histogram(out, metric.name, &labels, &parts);
            }
        }
    }
}

/// Sums over workers. What moves from one worker to another while they are read would be counted twice: they are read
/// until they are the same twice, or [`READS_MAX`] times.
fn steady_sums(parts: &[Arc<LabelledPool>], values: &[Part]) -> Vec<u64> {
    let read = || values.iter().map(|(_, v)| parts.iter().map(|p| v(&p.stats)).collect()).collect::<Vec<Vec<_>>>();
    let mut last = read();
    for _ in 1..READS_MAX {
        let before = std::mem::replace(&mut last, read());
        if before == last {
            break;
        }
    }
    last.iter().map(|of_workers| of_workers.iter().copied().fold(0, u64::wrapping_add)).collect()
}

fn render_histogram(out: &mut String, name: &str, labels: &str, parts: &[&Histogram]) {
    let mut count: u64 = 0;
    for bucket in 0..BUCKETS {
        count += parts.iter().map(|h| h.counts[bucket].get()).sum::<u64>();
        match Histogram::bound_us(bucket) {
            Some(us) => {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{}\"}} {count}", seconds(us));
            }
            None => {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            }
        }
    }
    let sum: u64 = parts.iter().map(|h| h.sum_us.get()).fold(0, u64::wrapping_add);
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {count}", seconds(sum));
}

/// Microseconds as seconds, exactly.
pub(super) fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use forebay_core::cluster::{Cluster, Seen};
    use forebay_core::stats::PoolStats;

    use super::*;
    use crate::fleet::BudgetTold;

    /// A scrape that a parser refuses is an outage of the monitoring, noticed in the next real one.
    #[test]
    fn pools_of_two_workers_are_summed_and_labels_escaped() {
        let workers: Vec<Arc<WorkerStats>> = (0..2).map(|_| Arc::default()).collect();
        for worker in &workers {
            let stats = PoolStats::default();
            stats.requests.add(3);
            stats.request.record(20);
            stats.pins[1].add(1);
            stats.server_errors.count(b"23505");
            let pool = LabelledPool {
                database: "a\"b".into(),
                user: "u\\".into(),
                is_named: true,
                stats,
                ..LabelledPool::default()
            };
            worker.pools.lock().expect("no panic before").push(Arc::new(pool));
            worker.accepted.add(1);
        }
        let text = render(&workers, &[], None);
        let labels = r#"database="a\"b",user="u\\""#;
        assert!(text.contains("\nforebay_connections_accepted_total 2\n"));
        assert!(text.contains(&format!("\nforebay_requests_total{{{labels}}} 6\n")));
        assert!(text.contains(&format!("\nforebay_request_seconds_bucket{{{labels},le=\"0.000016\"}} 0\n")));
        assert!(text.contains(&format!("\nforebay_request_seconds_bucket{{{labels},le=\"0.000032\"}} 2\n")));
        assert!(text.contains(&format!("\nforebay_request_seconds_bucket{{{labels},le=\"+Inf\"}} 2\n")));
        assert!(text.contains(&format!("\nforebay_request_seconds_sum{{{labels}}} 0.00004\n")));
        assert!(text.contains(&format!("\nforebay_servers{{{labels},state=\"idle\"}} 0\n")));
        assert!(text.contains(&format!("\nforebay_pins_total{{{labels},reason=\"advisory lock\"}} 2\n")));
        assert!(text.contains(&format!("\nforebay_server_errors_total{{{labels},class=\"23\"}} 2\n")));
        assert!(text.contains(&format!("\nforebay_probes_total{{{labels},kind=\"full\"}} 0\n")));
    }

    /// An alert on a cluster without a primary, or on a replica that lags, reads these.
    #[test]
    fn each_endpoint_of_a_cluster_is_told_with_its_role() {
        let mut cluster = Cluster::new(["a:1", "b:2", "c:3"].map(Arc::from), 1, 0);
        for (index, (is_in_recovery, lsn)) in [(false, 500), (true, 300)].into_iter().enumerate() {
            cluster.heard(index, Seen { is_in_recovery, timeline: 1, is_certain: false, lsn, system: 7 }, 0);
        }
        cluster.missed(2);
        cluster.decide();
        cluster.confirm("a:1", Some(false));
        cluster.expose(1, Some(3));
        let endpoints: Vec<_> = cluster.nodes().iter().map(|node| (Arc::from("shop"), node.clone())).collect();
        let text = render(&[], &endpoints, None);
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("forebay_endpoint")).collect();
        assert_eq!(
            lines,
            [
                r#"forebay_endpoint_role{database="shop",endpoint="a:1",role="primary"} 1"#,
                r#"forebay_endpoint_role{database="shop",endpoint="b:2",role="replica"} 1"#,
                r#"forebay_endpoint_role{database="shop",endpoint="c:3",role="down"} 1"#,
                r#"forebay_endpoint_lag_bytes{database="shop",endpoint="b:2"} 200"#,
                r#"forebay_endpoint_seconds_behind{database="shop",endpoint="b:2"} 3"#,
                r#"forebay_endpoint_confirms_writes{database="shop",endpoint="a:1"} 0"#,
            ]
        );
    }

    /// A node that is cut off goes on serving: nobody would see that it is, nor who has the servers of a budget.
    #[test]
    fn a_node_tells_of_its_fleet_and_its_lease_runs_out_by_itself() {
        let budget = BudgetTold {
            database: "shop".to_owned(),
            total: 12,
            lent: [5, 3, 2],
            kept: 4,
            wanted: 6,
            open: 1,
            changes: 9,
        };
        let told = FleetTold {
            until_us: 9_500_000,
            looked_us: 7_000_000,
            here: 2,
            absent: 1,
            failures: 3,
            primaries: vec![("shop".to_owned(), "a:1".to_owned(), 4)],
            budgets: vec![budget],
            ..FleetTold::default()
        };
        let lines = |told: &FleetTold, now_us| -> Vec<String> {
            let text = render(&[], &[], Some((told, now_us)));
            text.lines().filter(|line| line.starts_with("forebay_fleet")).map(str::to_owned).collect()
        };
        assert_eq!(
            lines(&told, 7_250_000),
            [
                r"forebay_fleet_member 1",
                r"forebay_fleet_lease_seconds_left 2.25",
                r"forebay_fleet_seconds_since_look 0.25",
                r#"forebay_fleet_nodes{state="here"} 2"#,
                r#"forebay_fleet_nodes{state="absent"} 1"#,
                r"forebay_fleet_registrations_total 0",
                r"forebay_fleet_failures_total 3",
                r#"forebay_fleet_primary_timeline{database="shop",endpoint="a:1"} 4"#,
                r"forebay_fleet_primaries_written_total 0",
                r"forebay_fleet_primaries_refused_total 0",
                r#"forebay_fleet_budget_servers{database="shop"} 12"#,
                r#"forebay_fleet_lent_servers{database="shop",holder="this"} 5"#,
                r#"forebay_fleet_lent_servers{database="shop",holder="others"} 3"#,
                r#"forebay_fleet_lent_servers{database="shop",holder="absent"} 2"#,
                r#"forebay_fleet_kept_servers{database="shop"} 4"#,
                r#"forebay_fleet_wanted_servers{database="shop"} 6"#,
                r#"forebay_fleet_open_servers{database="shop"} 1"#,
                r#"forebay_fleet_budget_changes_total{database="shop"} 9"#,
            ]
        );
        // Nobody has told anything since.
        assert_eq!(lines(&told, 9_500_000)[..2], ["forebay_fleet_member 0", "forebay_fleet_lease_seconds_left 0"]);
        let never = lines(&FleetTold::default(), 1);
        assert!(!never.iter().any(|line| line.contains("since_look") || line.contains("nodes")), "{never:?}");
        assert_eq!(render(&[], &[], None).lines().filter(|line| line.starts_with("forebay_fleet")).count(), 0);
    }
}

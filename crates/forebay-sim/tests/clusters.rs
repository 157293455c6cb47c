//! Failovers: schedules of what becomes of a cluster's endpoints, and the proof that their checkers can fail.
//!
//! `CLUSTER_SEEDS=5000 cargo test -p forebay-sim --test clusters` plays more.

use forebay_sim::{Options, Report, run};

/// Fresh schedules in each run of the tests.
const SEEDS: u64 = 300;

const CLUSTERS: Options =
    Options { is_verbose: false, is_direct: false, is_moving: false, is_cluster: true, bug: None };

fn play(seeds: impl Iterator<Item = u64>) -> Vec<Report> {
    seeds.map(|seed| run(seed, CLUSTERS)).filter(|report| report.violation.is_some()).collect()
}

fn assert_none(failed: &[Report]) {
    let lines: Vec<String> =
        failed.iter().map(|r| format!("seed {}: {}", r.seed, r.violation.as_deref().unwrap_or_default())).collect();
    assert!(lines.is_empty(), "{} fail; look with --clusters --seed N --verbose\n{}", lines.len(), lines.join("\n"));
}

/// If one fails, a write was lost, done twice or sent where it must not go, a session did not see its own, or somebody
/// waits for ever.
#[test]
fn three_hundred_failovers_break_no_rule() {
    let seeds = std::env::var("CLUSTER_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    assert_none(&play(0..seeds));
}

/// A bug that came back would come back here first.
#[test]
fn failovers_that_failed_once_pass() {
    let kept = include_str!("../../../tests/sim/clusters.txt");
    let seeds = kept.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    assert_none(&play(seeds));
}

/// A run that cannot be repeated cannot be looked into.
#[test]
fn a_failover_is_the_same_every_time() {
    let hashes = || (0..12).map(|seed| run(seed, CLUSTERS).trace_hash).collect::<Vec<_>>();
    assert_eq!(hashes(), hashes());
}

/// If a bug is not found, its checker has gone blind.
#[cfg(feature = "planted-bugs")]
#[test]
fn every_bug_planted_in_failovers_is_found() {
    /// A bug that does not show in so many seeds is not found.
    const SEEDS_MAX: u64 = 600;
    /// Those that show rarely, and a seed from which on they do.
    const RARE: [(&str, u64); 1] = [("older-read", 4_800)];
    // Panics of core's own assertions are findings too; their messages would drown the table.
    std::panic::set_hook(Box::new(|_| {}));
    let first_of = |name: &'static str| {
        let from = RARE.iter().find(|(rare, _)| *rare == name).map_or(0, |(_, from)| *from);
        let found = (from..from + SEEDS_MAX).find_map(|seed| {
            let words = run(seed, Options { bug: Some(name), ..CLUSTERS }).violation?;
            // It proves nothing where it fails without the bug as well.
            run(seed, CLUSTERS).violation.is_none().then_some((seed, words))
        });
        (name, found)
    };
    let names = forebay_sim::cluster_bug_names().into_iter();
    let handles: Vec<_> = names.map(|name| std::thread::spawn(move || first_of(name))).collect();
    let findings: Vec<_> = handles.into_iter().map(|handle| handle.join().expect("a run does not panic")).collect();
    let _ = std::panic::take_hook();
    println!("| planted bug | first |\n|---|---|");
    for (name, found) in &findings {
        let words = found.as_ref().map(|(seed, words)| format!("seed {seed}: {words:.110}"));
        println!("| {name} | {} |", words.as_deref().unwrap_or("not found"));
    }
    let missed: Vec<&str> = findings.iter().filter(|(_, found)| found.is_none()).map(|(name, _)| *name).collect();
    assert!(findings.len() >= 15 && missed.is_empty(), "not found in {SEEDS_MAX} seeds: {missed:?}");
}

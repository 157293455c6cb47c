//! Failovers: schedules of what becomes of a cluster's endpoints, and the proof that their checkers can fail.
//!
//! `CLUSTER_SEEDS=5000 cargo test -p forebay-sim --test clusters` plays more, and COMMIT_SEEDS of those that look for COMMITs.

use forebay_sim::{Options, Report, run};

/// Fresh schedules in each run of the tests.
const SEEDS: u64 = 300;

const CLUSTERS: Options =
    Options { is_verbose: false, is_direct: false, is_moving: false, is_cluster: true, commit_check: None, bug: None };

/// Lost COMMITs are looked for in all of them.
const COMMITS: Options = Options { commit_check: Some(true), ..CLUSTERS };

fn play(seeds: impl Iterator<Item = u64>, options: Options) -> Vec<Report> {
    seeds.map(|seed| run(seed, options)).filter(|report| report.violation.is_some()).collect()
}

/// The seeds of a file, in which a line begins with one.
fn kept(text: &str) -> impl Iterator<Item = u64> {
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok())
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
    assert_none(&play(0..seeds, CLUSTERS));
}

/// If one fails, a client was told of a lost COMMIT what is not so, or nothing at all.
#[test]
fn three_hundred_failovers_in_which_lost_commits_are_looked_for_break_no_rule() {
    let seeds = std::env::var("COMMIT_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    assert_none(&play(0..seeds, COMMITS));
}

/// A bug that came back would come back here first.
#[test]
fn failovers_that_failed_once_pass() {
    // They were found before COMMITs were looked for, which makes another run of a seed.
    let without = Options { commit_check: Some(false), ..CLUSTERS };
    assert_none(&play(kept(include_str!("../../../tests/sim/clusters.txt")), without));
    assert_none(&play(kept(include_str!("../../../tests/sim/commits.txt")), COMMITS));
}

/// A run that cannot be repeated cannot be looked into.
#[test]
fn a_failover_is_the_same_every_time() {
    let hashes = || (0..12).map(|seed| run(seed, COMMITS).trace_hash).collect::<Vec<_>>();
    assert_eq!(hashes(), hashes());
}

/// If a bug is not found, its checker has gone blind.
#[cfg(feature = "planted-bugs")]
#[test]
fn every_bug_planted_in_failovers_is_found() {
    /// A bug that does not show in so many seeds is not found.
    const SEEDS_MAX: u64 = 600;
    /// Those that show rarely, and a seed from which on they do, without a look for COMMITs.
    const RARE: [(&str, u64); 1] = [("older-read", 4_800)];
    // Panics of core's own assertions are findings too; their messages would drown the table.
    std::panic::set_hook(Box::new(|_| {}));
    let of_commits = forebay_sim::commit_bug_names();
    let names = [forebay_sim::cluster_bug_names(), of_commits.clone()].concat();
    let first_of = |name: &'static str, of_commits: &[&str]| {
        let rare = RARE.iter().find(|(rare, _)| *rare == name);
        let from = rare.map_or(0, |(_, from)| *from);
        let commit_check = if of_commits.contains(&name) { Some(true) } else { rare.map(|_| false) };
        let options = Options { commit_check, ..CLUSTERS };
        let found = (from..from + SEEDS_MAX).find_map(|seed| {
            let words = run(seed, Options { bug: Some(name), ..options }).violation?;
            // It proves nothing where it fails without the bug as well.
            run(seed, options).violation.is_none().then_some((seed, words))
        });
        (name, found)
    };
    let findings: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = names.iter().map(|name| scope.spawn(|| first_of(name, &of_commits))).collect();
        handles.into_iter().map(|handle| handle.join().expect("a run does not panic")).collect()
    });
    let _ = std::panic::take_hook();
    println!("| planted bug | first |\n|---|---|");
    for (name, found) in &findings {
        let words = found.as_ref().map(|(seed, words)| format!("seed {seed}: {words:.110}"));
        println!("| {name} | {} |", words.as_deref().unwrap_or("not found"));
    }
    let missed: Vec<&str> = findings.iter().filter(|(_, found)| found.is_none()).map(|(name, _)| *name).collect();
    assert!(findings.len() >= 15 && missed.is_empty(), "not found in {SEEDS_MAX} seeds: {missed:?}");
}

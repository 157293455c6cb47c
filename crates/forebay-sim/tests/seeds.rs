//! Seeds: fresh ones, those that failed once, and the simulator's own honesty.

use forebay_sim::{Options, Report, run};

/// Fresh seeds in CI; `make soak` plays more.
const SEEDS: u64 = 300;

fn play(seeds: impl Iterator<Item = u64>, options: Options) -> Vec<Report> {
    seeds.map(|seed| run(seed, options)).filter(|report| report.violation.is_some()).collect()
}

fn assert_none(failed: &[Report]) {
    let lines: Vec<String> =
        failed.iter().map(|r| format!("seed {}: {}", r.seed, r.violation.as_deref().unwrap_or_default())).collect();
    assert!(lines.is_empty(), "{} seeds failed; look with --seed N --verbose\n{}", lines.len(), lines.join("\n"));
}

/// If one fails, some client saw what a server of its own would not have shown it.
#[test]
fn three_hundred_seeds_break_no_rule() {
    assert_none(&play(0..SEEDS, Options::default()));
}

/// A bug that came back would come back here first.
#[test]
fn seeds_that_failed_once_pass() {
    let kept = include_str!("../../../tests/sim/seeds.txt");
    let seeds = kept.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    assert_none(&play(seeds, Options::default()));
}

/// If one fails, a session is not what it was after an online restart: something of its state is not carried, or is read
/// otherwise than it was written.
#[test]
fn sessions_that_move_all_the_time_break_no_rule() {
    assert_none(&play(0..60, Options { is_moving: true, ..Options::default() }));
}

/// A run that cannot be repeated cannot be looked into. Standard maps with random seeds, clocks and addresses show here.
#[test]
fn a_seed_gives_the_same_run_every_time() {
    let hashes = |seeds: std::ops::Range<u64>| seeds.map(|s| run(s, Options::default()).trace_hash).collect::<Vec<_>>();
    let first = hashes(0..12);
    assert_eq!(first, hashes(0..12));
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(distinct.len(), first.len(), "seeds differ from each other");
}

/// Without a pooler between, the oracle and the fake server agree: what differs with one is the pooler's doing.
#[test]
fn without_workers_between_no_rule_is_broken() {
    assert_none(&play(0..150, Options { is_direct: true, ..Options::default() }));
}

/// Clients must have something to do, and faults something to hit: a simulator that draws nothing passes for ever.
#[test]
fn runs_are_long_enough_to_mean_something() {
    let reports: Vec<Report> = (0..20).map(|seed| run(seed, Options::default())).collect();
    let events: u64 = reports.iter().map(|r| r.events).sum();
    assert!(events > 20 * 1_000, "{events} events in 20 seeds");
}

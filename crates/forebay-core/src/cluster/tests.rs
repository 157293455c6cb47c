//! What follows from what endpoints say, round by round.

use super::*;

use crate::command::{Command, CommandId};
use crate::config::{AuthMethod, ClusterConfig, Consistency, PoolMode, Role};
use crate::fuzz_entry::memory::{MemoryIo, config};
use crate::ids::WorkerId;
use crate::stats::WorkerStats;
use crate::tables::Tables;
use crate::time::Instant;
use crate::worker::{Shared, Worker};

use super::legacy::Legacy;
use super::progress::Replayed;
use super::roles::{Found, Serves};

mod legacy;
mod stray;
mod written;

/// One word for what an endpoint says: `w1` writes on timeline 1, `r1` replays and has reached it, `c1` replays and gets it;
/// a number after a colon is its LSN, and one after `#` its system; `-` is a miss, `.` nothing.
fn say(cluster: &mut Cluster, index: usize, word: &str) {
    match word {
        "." => return,
        "-" => return cluster.missed(index),
        _ => {}
    }
    let (word, system) = word.split_once('#').unwrap_or((word, "7"));
    let (word, lsn) = word.split_once(':').unwrap_or((word, "100"));
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (kind, timeline) = word.split_at(1);
    let seen = Seen {
        is_in_recovery: kind != "w",
        timeline: number(timeline) as u32,
        is_certain: kind == "c",
        lsn: number(lsn),
        system: number(system),
    };
    cluster.heard(index, seen, 0);
}

fn standings(cluster: &Cluster) -> String {
    cluster.nodes().iter().map(|node| node.standing.name()).collect::<Vec<_>>().join(" ")
}

/// Plays rounds of what three endpoints say; each line is a round, and what they are after it.
fn plays(lag_max: u64, rounds: &[(&str, &str)]) {
    let mut cluster = Cluster::new(["a", "b", "c"].map(Arc::from), 2, lag_max);
    for (number, (said, expected)) in rounds.iter().enumerate() {
        for (index, word) in said.split_whitespace().enumerate() {
            say(&mut cluster, index, word);
        }
        cluster.decide();
        assert_eq!(standings(&cluster), *expected, "after round {number}: {said}");
    }
}

#[test]
fn roles_are_found_and_a_failover_is_followed() {
    plays(
        0,
        &[
            (". . .", "unknown unknown unknown"),
            (". r1 .", "unknown replica unknown"),
            ("w1 r1 r1", "primary replica replica"),
            ("- r1 r1", "primary replica replica"),
            ("w1 r1 -", "primary replica replica"),
            ("- r1 r1", "primary replica replica"),
            ("- r1 r1", "down replica replica"),
            ("- w2 r1", "down primary replica"),
            ("r2 w2 r2", "replica primary replica"),
        ],
    );
}

/// A primary that was cut off and comes back must not get a write, nor when the new one is down meanwhile.
#[test]
fn a_primary_of_an_older_timeline_stays_deposed() {
    plays(
        0,
        &[
            ("w1 r1 r1", "primary replica replica"),
            ("w1 w2 r1", "deposed primary replica"),
            ("w1 - r2", "deposed primary replica"),
            ("w1 - r2", "deposed down replica"),
            ("w1 - w3", "deposed down primary"),
        ],
    );
}

/// What one has said before it was lost holds, though others had not been heard by then.
#[test]
fn a_timeline_that_was_lost_before_all_were_heard_is_not_undercut() {
    let mut cluster = Cluster::new(["a", "b", "c"].map(Arc::from), 1, 0);
    for (index, word) in [(1, "w2"), (1, "-"), (2, "w3"), (2, "r3"), (0, "w1")] {
        say(&mut cluster, index, word);
    }
    cluster.decide();
    assert_eq!(standings(&cluster), "deposed down replica");
    say(&mut cluster, 1, "w2");
    cluster.decide();
    assert_eq!(standings(&cluster), "deposed deposed replica");
}

/// Two that write on one timeline differ for good: whichever is asked, the other's writes are lost.
#[test]
fn writes_stop_while_two_can_write_on_one_timeline() {
    plays(
        0,
        &[
            ("w2 r2 r2", "primary replica replica"),
            ("w2 w2 r2", "contested contested replica"),
            ("- w2 r2", "contested contested replica"),
            ("- w2 r2", "down primary replica"),
        ],
    );
}

/// A host list with one address of another cluster in it would spread reads over both.
#[test]
fn an_endpoint_of_another_cluster_serves_nobody() {
    plays(
        0,
        &[
            ("w9#8 w1 r1", "stranger primary replica"),
            ("w9#8 - r1", "stranger primary replica"),
            ("w9#8 - r9#8", "stranger down stranger"),
        ],
    );
    plays(0, &[("w1#8 w1#9 .", "primary stranger unknown")]);
}

/// What has taken the address of a primary that nobody had heard: it is listed first, and as many as the others.
#[test]
fn a_system_that_was_read_from_is_left_for_no_other_that_is_as_many() {
    plays(
        0,
        &[
            ("- r1 -", "unknown replica unknown"),
            ("w2#8 r1 -", "stranger replica down"),
            ("w2#8 w2 -", "stranger primary down"),
        ],
    );
    // More than one say otherwise.
    plays(0, &[("- r1 -", "unknown replica unknown"), ("w2#8 r1 r2#8", "primary stranger replica")]);
}

/// The process before this one has seen which it is.
#[test]
fn of_two_systems_that_are_as_many_the_remembered_one_counts() {
    for (remembered, expected) in [(7, "stranger primary unknown"), (8, "primary stranger unknown")] {
        let mut cluster = Cluster::new(["a", "b", "c"].map(Arc::from), 2, 0);
        cluster.remember(remembered, 1);
        say(&mut cluster, 0, "w1#8");
        say(&mut cluster, 1, "w1");
        cluster.decide();
        assert_eq!(standings(&cluster), expected, "{remembered}");
    }
}

#[test]
fn a_replica_that_is_too_far_behind_serves_no_reads_until_it_has_caught_up() {
    plays(
        50,
        &[
            ("w1:100 r1:50 r1:49", "primary replica lagging"),
            ("- r1:50 r1:60", "primary replica replica"),
            ("w1:200 r1:60 r1:200", "primary lagging replica"),
            ("- . r1:200", "primary lagging replica"),
            ("- r1:190 r1:200", "down lagging replica"),
            ("w1:200 r1:190 .", "primary replica replica"),
        ],
    );
}

/// After an online restart a primary that was deposed would be written to, if the new one is down by then.
#[test]
fn what_was_seen_to_write_outlives_the_process() {
    let mut before = Cluster::new(["a", "b"].map(Arc::from), 1, 0);
    assert_eq!(before.memory(), None);
    say(&mut before, 0, "w2#8");
    before.decide();
    let (system, floor) = before.memory().expect("one writes");
    let mut after = Cluster::new(["a", "b"].map(Arc::from), 1, 0);
    after.remember(system, floor);
    assert_eq!(after.memory(), Some((system, floor)));
    say(&mut after, 1, "w1#8");
    after.decide();
    assert_eq!(after.nodes()[1].standing, Standing::Deposed);
    assert_eq!(after.memory(), Some((system, floor)));
    say(&mut after, 1, "w3#8");
    after.decide();
    assert_eq!((after.nodes()[1].standing, after.memory()), (Standing::Primary, Some((system, 3))));
}

#[test]
fn a_change_is_told_once() {
    let mut cluster = Cluster::new([Arc::from("a")], 1, 0);
    assert!(!cluster.decide());
    say(&mut cluster, 0, "w1");
    assert!(cluster.decide() && !cluster.decide());
    assert_eq!(cluster.primary().map(|node| &*node.name), Some("a"));
    cluster.missed(0);
    assert!(cluster.decide() && cluster.primary().is_none());
}

/// An account of `names` after that of `before`, once its endpoints have said `said`.
fn after(before: &Cluster, names: &[&str], said: &str) -> Cluster {
    let mut cluster = Cluster::new(names.iter().map(|name| Arc::from(*name)), 2, 0);
    cluster.succeed(before);
    for (index, word) in said.split_whitespace().enumerate() {
        say(&mut cluster, index, word);
    }
    cluster.decide();
    cluster
}

fn account(names: &[&str], said: &str) -> Cluster {
    after(&Cluster::new([], 2, 0), names, said)
}

/// A reload that adds a replica must not let the old primary write again, nor stop the one that does.
#[test]
fn what_was_seen_outlives_a_change_of_the_endpoints() {
    let seen = after(&account(&["a", "b"], "w1 r1"), &["a", "b"], "w1 w2");
    assert_eq!(standings(&seen), "deposed primary");
    assert_eq!(standings(&after(&seen, &["c", "b", "a"], ". . .")), "unknown primary deposed", "before it is asked");
    assert_eq!(standings(&after(&seen, &["a"], "w1")), "deposed", "the new primary is not listed any more");
    assert_eq!(standings(&after(&seen, &["d"], "w1")), "deposed", "the same server by another name");
    let twice = after(&after(&seen, &["d"], "."), &["e"], "w1");
    assert_eq!(standings(&twice), "deposed", "a second change, before the first was answered");
}

/// Timelines are those of one system: another one's begin at 1.
#[test]
fn another_system_is_refused_beside_one_that_stays_and_taken_in_its_place() {
    let seen = after(&account(&["a", "b"], "w1 r1"), &["a", "b"], "w1 w2");
    assert_eq!(standings(&after(&seen, &["x", "y", "b"], "w1#8 r1#8 -")), "stranger stranger primary");
    assert_eq!(standings(&after(&seen, &["x", "y"], "w1#8 r1#8")), "primary replica");
}

/// Who can write is said by the server, who may by whoever holds its cluster together; of two, neither.
#[test]
fn only_the_named_one_of_those_that_can_write_gets_writes() {
    let name = |cluster: &mut Cluster, names: &[&str]| {
        cluster.name(Some(names.iter().map(|name| Arc::from(*name)).collect()));
        cluster.decide();
        standings(cluster)
    };
    let mut cluster = account(&["a", "b"], "w1 r1");
    assert_eq!(name(&mut cluster, &["a"]), "primary replica");
    assert_eq!(name(&mut cluster, &["b"]), "unnamed replica", "it is named, and can not write yet");
    assert_eq!(name(&mut cluster, &[]), "unnamed replica");
    say(&mut cluster, 1, "w2");
    assert_eq!(name(&mut cluster, &["a"]), "deposed unnamed", "the word of the source is older than the promotion");
    assert_eq!(name(&mut cluster, &["b"]), "deposed primary");
    say(&mut cluster, 0, "w2");
    assert_eq!(name(&mut cluster, &["b"]), "contested contested");
}

/// Whoever holds a cluster together by a lease knows which of two it is; nobody else does.
#[test]
fn of_two_that_can_write_the_only_one_that_is_named_gets_writes_where_that_is_enough() {
    let mut cluster = account(&["a", "b", "c"], "w1 w1 r1");
    let name = |cluster: &mut Cluster, names: Option<&[&str]>| {
        cluster.name(names.map(|names| names.iter().map(|name| Arc::from(*name)).collect()));
        cluster.decide();
        standings(cluster)
    };
    let stopped = "contested contested replica";
    assert_eq!(name(&mut cluster, Some(&["a"])), stopped);
    assert!(cluster.nodes()[0].reason().contains("writes are stopped"));
    cluster.trust_lease(true);
    assert_eq!(name(&mut cluster, Some(&["a"])), "primary contested replica");
    assert_eq!(Serves::from(cluster.nodes()[1].standing), Serves::Barred, "what is under way there ends");
    assert!(cluster.nodes()[1].reason().contains("named in its place"));
    assert_eq!(cluster.legacy(), Legacy::default(), "nobody goes on from half of it");
    for nobody in [None, Some(&[][..]), Some(&["c"]), Some(&["a", "b"])] {
        assert_eq!(name(&mut cluster, nobody), stopped, "{nobody:?}");
        assert!(cluster.nodes()[1].reason().contains("writes are stopped"));
    }
    assert_eq!(name(&mut cluster, Some(&["b"])), "contested primary replica");
    assert!(cluster.hold("b", false));
    assert_eq!(name(&mut cluster, Some(&["b"])), "contested held replica");
    cluster.release();
    say(&mut cluster, 0, "w2");
    say(&mut cluster, 2, "r2");
    assert_eq!(name(&mut cluster, Some(&["b"])), "unnamed deposed replica", "no lease takes a timeline back");
    say(&mut cluster, 1, "w2#8");
    say(&mut cluster, 2, "w2");
    assert_eq!(name(&mut cluster, Some(&["b"])), "contested stranger contested", "nor lets another system in");
}

/// Nothing may go back to the one that is left, nor anything be kept from it that has been promoted anew.
#[test]
fn the_one_that_a_switchover_leaves_gets_nothing_and_its_heir_all() {
    let play = |cluster: &mut Cluster, said: &str| {
        said.split_whitespace().enumerate().for_each(|(index, word)| say(cluster, index, word));
        cluster.decide();
        standings(cluster)
    };
    let mut cluster = account(&["a", "b"], "w1 r1");
    assert!(!cluster.hold("b", false) && !cluster.hold("nobody", false), "there is nothing to hold");
    assert!(cluster.hold("a", false));
    assert_eq!(play(&mut cluster, "w1 r1"), "held replica");
    let mut anew = Cluster::new(["a", "b"].map(Arc::from), 2, 0);
    anew.succeed(&cluster);
    assert_eq!(play(&mut anew, "w1 r1"), "held replica", "a reload does not end it");
    cluster.release();
    assert_eq!(play(&mut cluster, "w1 r1"), "primary replica");
    assert!(cluster.hold("a", true));
    assert_eq!(play(&mut cluster, "w1 r1"), "relieved replica");
    let (system, floor) = cluster.memory().expect("it is known");
    let mut heir = Cluster::new(["a", "b"].map(Arc::from), 2, 0);
    heir.remember(system, floor);
    assert_eq!(play(&mut heir, "w1 r1"), "deposed replica", "nor does another process write there");
    assert_eq!(play(&mut heir, "w1 w2"), "deposed primary");
    assert_eq!(play(&mut cluster, "w1 w2"), "deposed primary");
    assert_eq!(play(&mut cluster, "w3 r3"), "primary replica", "it was promoted itself");
}

fn tables(cluster: Option<ClusterConfig>) -> Arc<Tables> {
    let mut config = config(AuthMethod::Trust, PoolMode::Transaction, 1);
    config.databases[0].cluster = cluster;
    Arc::new(Tables::build(config, None, &mut |out| out.fill(7)).expect("a configuration"))
}

/// Endpoints that have been promoted and demoted while nobody asked them.
#[test]
fn roles_of_a_topology_that_was_taken_out_are_not_believed_when_it_is_back() {
    let with = tables(Some(ClusterConfig {
        role: Role::Primary,
        is_split: false,
        read_consistency: Consistency::Session,
        retries_reads: true,
        holds_per_hour_max: 30,
    }));
    let database = with.config.databases[0].name.clone();
    let name: Arc<str> = with.config.databases[0].endpoints[0].clone();
    let found: Arc<[Found]> = [Found { name, serves: Serves::Writes }].into();
    let roles = || Command::Roles(database.clone(), found.clone(), Replayed::default());
    let mut io = MemoryIo::default();
    let mut worker = Worker::new(WorkerId(0), with.clone(), Arc::new(Shared::new(1)), Arc::new(WorkerStats::default()));
    let serves = |worker: &Worker<MemoryIo>| worker.places(with.database(&database).expect("it"), &database).is_some();
    worker.command(&mut io, CommandId(1), roles());
    assert!(serves(&worker));
    for order in [Command::Reload(tables(None)), roles(), Command::Reload(with.clone())] {
        worker.command(&mut io, CommandId(1), order);
    }
    assert!(!serves(&worker));
}

/// What the replicas are told to have is what sessions read from them as their own.
#[test]
fn what_replicas_have_replayed_is_known_by_when_it_was_asked() {
    let mut cluster = Cluster::new(["a", "b", "c"].map(Arc::from), 2, 0);
    let mut at = 0;
    let mut hears = |cluster: &mut Cluster, words: &str| {
        for (index, word) in words.split_whitespace().enumerate() {
            let (kind, lsn) = word.split_at(2);
            at += 1;
            let is_in_recovery = kind.starts_with('r');
            let timeline = kind[1..].parse().expect("a timeline");
            match lsn {
                "" => cluster.missed(index),
                lsn => {
                    let lsn = lsn.strip_prefix(':').and_then(|lsn| lsn.parse().ok()).expect("an LSN");
                    cluster.heard(index, Seen { is_in_recovery, timeline, is_certain: false, lsn, system: 7 }, at);
                }
            }
            cluster.decide();
        }
        cluster.replayed().clone()
    };
    let until = |known: &Replayed| ["b", "c"].map(|name| known.until(name));
    let before = hears(&mut cluster, "w1:100 r1:100");
    assert_eq!(until(&before), [1, 0], "the only replica has what the primary had when it was asked");
    let joined = hears(&mut cluster, "w1:200 r1:200 r1:50");
    assert_eq!(until(&joined), [0, 0], "one has joined: all are measured anew");
    assert_eq!(until(&before), [3, 0], "who does not know of it goes by those it knows");
    assert!(cluster.is_behind());
    hears(&mut cluster, "w1:300 r1:300 r1:299");
    assert_eq!(until(&joined), [6, 3], "one that stands still keeps nobody from another");
    hears(&mut cluster, "w1:300 r1:300 r1:300");
    assert_eq!(until(&joined), [9, 9]);
    assert!(!cluster.is_behind());
    assert_eq!(until(&before), [3, 0]);
    hears(&mut cluster, "w1:300 r1 r1:300");
    assert_eq!(until(&joined), [0, 12], "of one it is not known");
    hears(&mut cluster, "w1:300 r1:300 r1:300");
    assert_eq!(until(&joined), [15, 15]);
    hears(&mut cluster, "w1:400 r1:10 r1:400");
    assert_eq!(until(&joined), [0, 18], "one has begun anew");
    hears(&mut cluster, "w1:400 r1:400 r1:400");
    assert_eq!(until(&joined), [21, 21], "it holds for as long as the roles do");
    // What the old primary has told says nothing of the new one's.
    hears(&mut cluster, "w1 w2:390 r2:390");
    assert_eq!(until(&hears(&mut cluster, "w1 w2:390 r2:390")), [0, 28]);
    assert_eq!(until(&joined), [21, 21]);
    hears(&mut cluster, "w1 w2:500 r1:600");
    assert_eq!(until(cluster.replayed()), [0, 0], "further on, and on another branch");
    hears(&mut cluster, "w1 w2:500 r2:600");
    assert_eq!(until(cluster.replayed()), [0, 34]);
}

/// A replica that was killed shows what is older than it has shown, until it has replayed that again.
#[test]
fn what_is_known_of_a_replica_holds_on_connections_that_were_there_when_it_was_asked() {
    let known = Replayed::told(&["a", "b"], &[0, 50], 60);
    let is_at = |at, let_in_at| known.is_at("b", Instant(at), Instant(let_in_at));
    assert!(is_at(50, 60) && !is_at(51, 60), "by what it has replayed");
    assert!(!is_at(50, 61), "it may have begun again since it was asked");
    assert!(!known.is_at("a", Instant(1), Instant(1)) && !known.is_at("c", Instant(1), Instant(1)));
    assert!(known.is_anywhere(Instant(50)) && !known.is_anywhere(Instant(51)));
}

/// A replica that stands still for hours must not cost memory for each moment of them.
#[test]
fn moments_that_are_not_replayed_are_thinned_out() {
    let mut cluster = Cluster::new(["a", "b"].map(Arc::from), 2, 0);
    for at in 1..10_000 {
        cluster.heard(0, Seen { is_in_recovery: false, timeline: 1, is_certain: false, lsn: at, system: 7 }, at);
        cluster.heard(1, Seen { is_in_recovery: true, timeline: 1, is_certain: false, lsn: 0, system: 7 }, at);
        cluster.decide();
    }
    cluster.heard(1, Seen { is_in_recovery: true, timeline: 1, is_certain: false, lsn: 9_000, system: 7 }, 10_000);
    cluster.decide();
    let until = cluster.replayed().until("b");
    assert!((8_500..=9_000).contains(&until), "{until}");
}

/// A commit that hangs for want of a standby is no reason to take away the only one that has all.
#[test]
fn what_a_canary_tells_changes_no_role() {
    let mut cluster = Cluster::new(["a", "b"].map(Arc::from), 2, 0);
    say(&mut cluster, 0, "w1");
    say(&mut cluster, 1, "r1");
    cluster.decide();
    cluster.confirm("a", Some(false));
    cluster.confirm("nobody", Some(true));
    cluster.expose(1, Some(3600));
    assert!(!cluster.decide());
    assert_eq!(standings(&cluster), "primary replica");
    assert_eq!(cluster.nodes()[0].is_confirming, Some(false));
    assert_eq!(cluster.nodes()[1].exposed_s, Some(3600));
}

/// Which of both limits it is, is what whoever is called must know.
#[test]
fn a_replica_that_is_told_to_be_late_serves_nobody_until_it_is_not() {
    let mut cluster = Cluster::new(["a", "b"].map(Arc::from), 2, 50);
    let mut play = |said: &str, is_late: bool| {
        said.split_whitespace().enumerate().for_each(|(index, word)| say(&mut cluster, index, word));
        (0..2).for_each(|index| cluster.delay(index, is_late));
        cluster.decide();
        (standings(&cluster), cluster.nodes()[1].reason())
    };
    let lagging = String::from("primary lagging");
    assert_eq!(play("w1:100 r1:90", false), ("primary replica".into(), "is in recovery"));
    let (roles, reason) = play("w1:100 r1:90", true);
    assert!(roles == lagging && reason.contains("replica_lag_time_max") && !reason.contains("replica_lag_max"));
    let (roles, reason) = play("w1:200 r1:90", true);
    assert!(roles == lagging && reason.contains("replica_lag_time_max") && reason.contains("replica_lag_max"));
    let (roles, reason) = play("w1:200 r1:90", false);
    assert!(roles == lagging && !reason.contains("replica_lag_time_max") && reason.contains("replica_lag_max"));
    assert_eq!(play("w1:200 r1:200", false).0, "primary replica");
    assert_eq!(play("- r1:200", true).0, lagging);
    assert_eq!(play("- w2:300", true).0, "down primary", "it is none of a primary");
}

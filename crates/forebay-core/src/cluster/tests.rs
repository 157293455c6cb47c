//! What follows from what endpoints say, round by round.

use super::*;

/// One word for what an endpoint says: `w1` writes on timeline 1, `r1` replays there; a number after a colon is its LSN, and
/// one after `#` its system; `-` is a miss, `.` nothing.
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
        is_in_recovery: kind == "r",
        timeline: number(timeline) as u32,
        lsn: number(lsn),
        system: number(system),
    };
    cluster.heard(index, seen);
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

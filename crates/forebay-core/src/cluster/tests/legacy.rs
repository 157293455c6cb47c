//! What one account knows of another's.

use super::*;

/// Else all wait until the endpoints have been asked anew; or write where somebody else has meanwhile been promoted.
#[test]
fn a_process_that_takes_the_place_of_another_knows_what_that_knew() {
    let inherits = |before: &Cluster, since_us: u64| {
        let mut heir = Cluster::new(["a", "b", "c"].map(Arc::from), 2, 0);
        if let Some((system, floor)) = before.memory() {
            heir.remember(system, floor);
        }
        heir.inherit(&before.legacy(), since_us);
        standings(&heir)
    };
    let mut cluster = Cluster::new(["a", "b", "c"].map(Arc::from), 2, 0);
    let hear = |cluster: &mut Cluster, at: [u64; 3], said: [(bool, u32, u64); 3]| {
        for (index, (at, (is_in_recovery, timeline, lsn))) in at.into_iter().zip(said).enumerate() {
            cluster.heard(index, Seen { is_in_recovery, timeline, is_certain: false, lsn, system: 7 }, at);
        }
        cluster.decide();
    };
    assert_eq!(inherits(&cluster, 0), "unknown unknown unknown");
    hear(&mut cluster, [10, 20, 30], [(false, 1, 100), (true, 1, 100), (true, 1, 100)]);
    assert_eq!(inherits(&cluster, 10), "primary replica replica");
    assert_eq!(inherits(&cluster, 11), "unknown replica replica", "that is too long ago");
    assert!(cluster.hold("a", false));
    cluster.decide();
    assert_eq!(inherits(&cluster, 10), "unknown unknown unknown", "the one that holds it knows more");
    cluster.release();
    cluster.missed(0);
    cluster.decide();
    assert_eq!(inherits(&cluster, 10), "primary replica replica");
    cluster.missed(0);
    hear(&mut cluster, [10, 40, 50], [(false, 1, 100), (false, 2, 200), (true, 1, 200)]);
    assert_eq!(standings(&cluster), "deposed primary replica", "it is as far as the new one was");
    hear(&mut cluster, [60, 70, 65], [(false, 1, 100), (false, 2, 900), (true, 1, 300)]);
    assert_eq!(inherits(&cluster, 60), "deposed primary replica", "it is not measured anew");
    assert_eq!(inherits(&cluster, 66), "unknown primary unknown");
    cluster.missed(0);
    cluster.missed(0);
    cluster.decide();
    assert_eq!(inherits(&cluster, 66), "down primary unknown", "it serves nobody");
    hear(&mut cluster, [60, 80, 90], [(false, 1, 100), (true, 2, 900), (true, 2, 900)]);
    assert_eq!(inherits(&cluster, 60), "deposed replica replica", "nobody goes back to the old primary");
}

/// What sessions have written is known of the replicas by the process that takes the place, and after a reload.
#[test]
fn how_far_replicas_are_is_known_after_a_change_of_the_endpoints() {
    let before = account(&["a", "b"], "w1:100 r1:100");
    let mut heir = Cluster::new(["a", "b"].map(Arc::from), 2, 0);
    heir.inherit(&before.legacy(), 0);
    let mut known = [after(&before, &["b", "a"], ". ."), heir];
    for cluster in &mut known {
        for name in ["a", "b"] {
            let index = cluster.nodes().iter().position(|node| *node.name == *name).expect("it is there");
            let seen = Seen { is_in_recovery: name == "b", timeline: 1, is_certain: false, lsn: 200, system: 7 };
            cluster.heard(index, seen, 9);
        }
        assert!(!cluster.decide(), "all roles are as they were");
        assert_eq!(cluster.replayed().until("b"), 9);
    }
}

//! What was seen to write, and of which system.

use super::*;

/// A server of another cluster has taken the place of the one that wrote last, before it was known which is which.
#[test]
fn what_one_was_seen_to_write_is_not_forgotten_when_a_stranger_takes_its_place() {
    let mut cluster = Cluster::new(["a", "b", "c"].map(Arc::from), 2, 0);
    let play = |cluster: &mut Cluster, said: &str| {
        said.split_whitespace().enumerate().for_each(|(index, word)| say(cluster, index, word));
        cluster.decide();
        standings(cluster)
    };
    for (index, word) in [(1, "w2"), (1, "w1#8")] {
        say(&mut cluster, index, word);
    }
    let mut heir = Cluster::new(["a", "b", "c"].map(Arc::from), 2, 0);
    for (system, timeline) in cluster.written() {
        heir.recall(*system, *timeline);
    }
    let mut anew = Cluster::new(["a", "b", "c"].map(Arc::from), 2, 0);
    anew.succeed(&cluster);
    for known in [&mut cluster, &mut heir, &mut anew] {
        assert_eq!(play(known, "w1 w1#8 r1"), "deposed stranger replica");
        assert_eq!(known.memory(), Some((7, 2)));
        assert_eq!(play(known, "- w1#8 w3"), "deposed stranger primary");
    }
}

/// What a stranger has written says nothing of this cluster's timelines, also while it was taken for the cluster.
#[test]
fn the_timelines_of_a_system_depose_nobody_of_another() {
    plays(0, &[("r5#8 - -", "replica unknown unknown"), ("w5#8 w1 r1", "stranger primary replica")]);
    let mut cluster = Cluster::new(["a", "b", "c"].map(Arc::from), 2, 0);
    cluster.name(Some(vec![]));
    say(&mut cluster, 0, "w5#8");
    cluster.decide();
    assert_eq!(standings(&cluster), "unnamed unknown unknown");
    cluster.name(None);
    for (index, word) in [(1, "w1"), (2, "r1")] {
        say(&mut cluster, index, word);
    }
    cluster.decide();
    assert_eq!(standings(&cluster), "stranger primary replica");
}

/// Each server that answers at an address may be of another system, and one of them comes back.
#[test]
fn of_many_strangers_the_oldest_are_forgotten_and_the_cluster_never() {
    let mut cluster = Cluster::new(["a", "b"].map(Arc::from), 2, 0);
    say(&mut cluster, 0, "w3");
    cluster.decide();
    for system in 100..1000 {
        say(&mut cluster, 1, &format!("w9#{system}"));
        cluster.decide();
    }
    assert_eq!(cluster.written().len(), 16);
    assert!(cluster.written().contains(&(7, 3)) && cluster.written().contains(&(999, 9)));
}

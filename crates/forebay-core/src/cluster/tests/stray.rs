//! Replicas that have not followed.

use super::*;

/// It never catches up: what it shows is older than what was read before the change, for ever.
#[test]
fn a_replica_that_does_not_follow_the_new_primary_serves_nobody_until_it_does() {
    let said_by_itself = [
        ("w1 c1 c1", "primary replica replica"),
        ("w1 w2 c1:900", "deposed primary astray"),
        ("w1 w2 -", "deposed primary astray"),
        ("- w2 c1:900", "deposed primary astray"),
        ("- - c1:900", "down primary astray"),
        ("- - c1:900", "down down astray"),
        ("- w2 c2:900", "down primary replica"),
        ("c2 w2 c2:900", "replica primary replica"),
    ];
    plays(0, &said_by_itself);
    // One that has lost its primary gets nothing, and what it tells of its timeline is late.
    let by_its_position = [
        ("w1:100 r1:100 r1:100", "primary replica replica"),
        ("- r1:100 r1:110", "primary replica replica"),
        ("- w2:120 r1:110", "down primary astray"),
        ("- w2:150 r1:119", "down primary astray"),
        ("- w2:180 r1:120", "down primary replica"),
        ("- w2:180 r2:10", "down primary replica"),
    ];
    plays(0, &by_its_position);
    // It has got more of the old primary than the new one had.
    let has_more = [
        ("w1:100 r1:100 r1:130", "primary replica replica"),
        ("- r1:100 r1:130", "primary replica replica"),
        ("- w2:120 r1:130", "down primary astray"),
        ("- w2:500 r1:130", "down primary astray"),
        ("- w2:500 r1:140", "down primary astray"),
        ("- w2:500 r1:125", "down primary replica"),
        ("- w2:500 r2:125", "down primary replica"),
    ];
    plays(0, &has_more);
}

/// A managed service's readers have no position; nor may a replica be kept from reads for what nobody knows of it.
#[test]
fn a_replica_of_which_the_timeline_is_not_known_serves() {
    plays(
        0,
        &[
            ("w1 r1 r1", "primary replica replica"),
            ("- w2:100 r1:100", "deposed primary replica"),
            ("- w2:200 r1:0", "down primary replica"),
        ],
    );
    let mut heir = Cluster::new(["a", "b"].map(Arc::from), 2, 0);
    heir.remember(7, 2);
    for (said, expected) in
        [("- r1:50", "unknown replica"), ("- c1:50", "down astray"), ("w2:60 r1:50", "primary astray")]
    {
        said.split_whitespace().enumerate().for_each(|(index, word)| say(&mut heir, index, word));
        heir.decide();
        assert_eq!(standings(&heir), expected, "{said}");
    }
    // A reload does not make it serve, though the primary is far on by then.
    let anew = after(&heir, &["a", "b"], "w2:900 r1:55");
    assert_eq!(standings(&anew), "primary astray");
    assert_eq!(standings(&after(&anew, &["a", "b"], "w2:900 r1:60")), "primary replica", "as far as it was at first");
}

//! What is drawn.

use super::*;

/// What is never drawn is never tested, and nothing fails by it.
#[test]
fn every_order_and_bad_answer_is_drawn_in_some_of_three_hundred_seeds() {
    let faults: Vec<Faults> = (0..300).map(|seed| Scenario::draw(&mut Rng::new(seed).fork(1)).faults).collect();
    let count = |is_drawn: fn(&Faults) -> bool| faults.iter().filter(|f| is_drawn(f)).count();
    let counts = [
        count(|f| f.kill_database > 0),
        count(|f| f.change > 0),
        count(|f| f.drain_at.is_some()),
        count(|f| f.ends_paused),
        count(|f| f.bad_answer_one_in > 0),
        count(Faults::is_calm),
    ];
    assert!(counts.iter().all(|seeds| *seeds >= 10), "{counts:?}");
}

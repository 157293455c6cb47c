//! Endpoints that are to have more than others, or nothing as long as others serve, and those that are near.

use super::*;
use crate::config::{LoadBalanceHosts, Preference};

/// Weights hold to within a request, whatever requests are shared by.
#[test]
fn parts_are_as_the_weights_say() {
    for by in [Latency, RoundRobin] {
        let mut world = World::new(by, 12, &[1, 2, 5], |_, _, request| Some(usual(request)));
        world.run(20.0);
        for (at, part) in [0.125, 0.25, 0.625].into_iter().enumerate() {
            assert!((world.share(at) - part).abs() < 0.03, "{by:?}: {at} has {}", world.share(at));
        }
    }
}

/// Twice the weight is twice the requests under way.
#[test]
fn the_least_busy_one_is_so_for_its_weight() {
    let mut world = World::new(LeastBusy, 32, &[1, 2, 5], |_, _, request| Some(usual(request)));
    world.run(20.0);
    for (at, part) in [0.125, 0.25, 0.625].into_iter().enumerate() {
        assert!((world.share(at) - part).abs() < 0.05, "{at} has {}", world.share(at));
    }
}

/// One without a weight is for when no other serves: ejected and out of reach are the same to those who ask.
#[test]
fn one_without_a_weight_serves_where_nobody_else_does() {
    for by in [Latency, LeastBusy, RoundRobin] {
        // The only one with a weight fails for ten seconds.
        let mut world = World::new(by, 8, &[1, 0], |at, endpoint, request| {
            (endpoint == 1 || !(5 * SECOND..15 * SECOND).contains(&at) || request % 2 == 0).then(|| usual(request))
        });
        world.run(4.0);
        assert_eq!(world.begun[1], 0, "{by:?}");
        world.run(2.0);
        world.run(7.0);
        assert!(world.share(1) > 0.95, "{by:?}: {}", world.share(1));
        world.run(15.0);
        world.run(3.0);
        assert_eq!(world.begun[1], 0, "{by:?}: {:?}", world.changes);
    }
    let mut looks = Looks::new(&["a", "b", "c"]);
    looks.weights = vec![1, 0, 0];
    looks.usual();
    let spared = |looks: &Looks| looks.turns.iter().map(|turn| turn.is_spared).collect::<Vec<_>>();
    assert_eq!(spared(&looks), [false, true, true]);
    looks.look(|at| (at != 0, Window::default()));
    assert_eq!(spared(&looks), [false; 3], "the others share what there is");
    assert_eq!(looks.turns[1].cost, looks.turns[2].cost);
    looks.weights = vec![0, 0, 0];
    looks.usual();
    assert_eq!(spared(&looks), [false; 3], "all without a weight are as good as any");
}

/// What a zone's border costs is paid for a few requests only, as long as somebody on this side serves.
#[test]
fn those_that_are_near_get_nearly_all() {
    let said = |near: &[&str]| -> Vec<Preference> {
        let said = |name: &&str| Preference { endpoint: (*name).into(), weight: 1, zone: "a".into(), is_near: true };
        near.iter().map(said).collect()
    };
    for by in [Latency, LeastBusy, RoundRobin] {
        let mut world = World::new(by, 16, &[1, 1, 1, 1], |at, endpoint, request| {
            let is_slow = endpoint < 2 && at >= 20 * SECOND;
            Some(usual(request) * if is_slow { 20 } else { 1 })
        });
        world.endpoints.weigh(&said(&["a", "b"]));
        world.run(10.0);
        let near = world.share(0) + world.share(1);
        assert!(near > 0.95 && (0.4..0.6).contains(&world.share(0)), "{by:?}: {near}");
        assert!(world.share(2) > 0.005, "{by:?}: it is known how the others do");
        assert_eq!(world.told(), [], "{by:?}");
        world.run(2.0);
        // Only those that are far are left: they share alike.
        world.endpoints.weigh(&said(&[]));
        world.run(3.0);
        assert!((0.2..0.3).contains(&world.share(3)), "{by:?}: {}", world.share(3));
    }
    // All that is near becomes slow.
    let mut world = World::new(Latency, 16, &[1, 1, 1], |at, endpoint, request| {
        Some(usual(request) * if endpoint == 0 && at >= 10 * SECOND { 20 } else { 1 })
    });
    world.endpoints.weigh(&said(&["a"]));
    world.run(9.0);
    assert!(world.share(0) > 0.95, "{}", world.share(0));
    world.run(4.0);
    world.run(4.0);
    assert!(world.share(0) < 0.05, "others take over: {}", world.share(0));
}

/// A server more elsewhere is a place less here: of a small pool, none is kept for those that are far.
#[test]
fn servers_are_spread_by_weight() {
    let mut all = endpoints(&["a", "b", "c"]);
    let near = Preference { endpoint: "a".into(), weight: 1, zone: "z".into(), is_near: true };
    let spare = Preference { endpoint: "c".into(), weight: 0, zone: "z".into(), is_near: true };
    all.weigh(&[near, spare]);
    let now = Instant(SECOND);
    let open = |all: &mut Endpoints, at: usize| all.given(at as u8 + 1).unwrap().servers += 1;
    let hosts = LoadBalanceHosts::RoundRobin;
    for _ in 0..5 {
        let at = all.choose(hosts, Duration::ZERO, now).expect("one is open");
        assert_eq!(at, 0);
        open(&mut all, at);
    }
    assert_eq!(all.poorest(now, true, 5), None);
    assert_eq!(all.poorest(now, true, 20), Some(1), "there is room for one that is ready to take over");
    assert_eq!(all.poorest(now, true, 0), Some(1));
    all.get(0).host.failed("refused", Duration::from_secs(5), 0, now, now);
    assert_eq!(all.choose(hosts, Duration::ZERO, now), Some(1), "the next best is one with a weight");
    all.get(1).host.failed("refused", Duration::from_secs(5), 0, now, now);
    assert_eq!(all.choose(hosts, Duration::ZERO, now), Some(2), "and then one without");
}

/// A request that goes elsewhere for want of an idle server here is no reason to go there for ever.
#[test]
fn more_servers_are_opened_where_those_are_missed_that_are_preferred() {
    let mut all = endpoints(&["a", "b"]);
    let near = Preference { endpoint: "a".into(), weight: 1, zone: "z".into(), is_near: true };
    all.weigh(&[near]);
    let now = Instant(SECOND);
    for number in 1..=2 {
        let given = all.given(number).unwrap();
        (given.servers, given.idle) = (1, 1);
    }
    all.given(2).unwrap().turn.cost = COST * 64;
    assert_eq!((all.next(Latency), all.take_short(now)), (Some(0), None));
    assert_eq!((all.next(Latency), all.take_short(now)), (Some(1), Some(0)));
    assert_eq!(all.take_short(now), None);
    // Of equal ones none is missed.
    all.weigh(&[]);
    all.given(2).unwrap().idle = 1;
    assert_eq!((all.next(Latency), all.take_short(now)), (Some(1), None));
}

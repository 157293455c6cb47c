//! Clients in a closed loop over three endpoints, in virtual time: the choice, the looks and the trials as workers do them.

use std::collections::BinaryHeap;

use super::*;
use crate::config::LoadBalance::{Latency, LeastBusy, RoundRobin};
use crate::pool::endpoints::Endpoints;
use crate::pool::endpoints::tests::{endpoints, weighted};

const SECOND: u64 = 1_000_000;

/// How an endpoint does at a time: how long it takes over the request with that number; `None`: it fails it.
type Takes = fn(at_us: u64, endpoint: usize, request: u64) -> Option<u64>;

struct World {
    endpoints: Endpoints,
    balance: Balance,
    terms: Terms,
    takes: Takes,
    now: u64,
    requests: u64,
    /// When each ends: at which endpoint, begun when, and whether it fails.
    under_way: BinaryHeap<std::cmp::Reverse<(u64, usize, u64, bool)>>,
    looked_at: u64,
    trial_due: Vec<(u64, usize, u64)>,
    changes: Vec<(u64, Change)>,
    /// Requests begun, and what they took, of late.
    begun: Vec<u64>,
    took: Vec<u64>,
}

impl World {
    fn new(by: LoadBalance, clients: usize, weights: &[u32], takes: Takes) -> World {
        let mut world = World {
            endpoints: weighted(endpoints(&["a", "b", "c", "d"][..weights.len()]), weights),
            balance: Balance::default(),
            terms: Terms { by, slower_than: 4, slow_start: Duration::from_secs(5), pause_max: Duration::from_secs(5) },
            takes,
            now: SECOND,
            requests: 0,
            under_way: BinaryHeap::new(),
            looked_at: 0,
            trial_due: Vec::new(),
            changes: Vec::new(),
            begun: vec![0; weights.len()],
            took: Vec::new(),
        };
        (0..clients).for_each(|_| world.ask());
        world
    }

    fn ask(&mut self) {
        for number in 1..=self.begun.len() as u8 {
            // There is always an idle one.
            let given = self.endpoints.given(number).unwrap();
            given.servers += u32::from(given.idle == 0);
            given.idle = given.idle.max(1);
        }
        let at = self.endpoints.next(self.terms.by).expect("one serves");
        self.requests += 1;
        self.begun[at] += 1;
        let takes = (self.takes)(self.now, at, self.requests);
        let end = self.now + takes.unwrap_or(1000);
        self.under_way.push(std::cmp::Reverse((end, at, self.now, takes.is_none())));
    }

    fn run(&mut self, seconds: f64) {
        let until = self.now + (seconds * SECOND as f64) as u64;
        self.begun.fill(0);
        self.took.clear();
        while let Some(std::cmp::Reverse((end, at, begun, is_failed))) = self.under_way.pop() {
            if end > until {
                self.under_way.push(std::cmp::Reverse((end, at, begun, is_failed)));
                break;
            }
            self.now = end;
            let given = self.endpoints.given(at as u8 + 1).unwrap();
            given.idle += 1;
            if is_failed {
                given.window.faults += 1;
            } else {
                given.window.answered(end - begun, given.turn.mean);
                self.took.push(end - begun);
            }
            if self.now >= self.looked_at + 100_000 {
                self.look();
            }
            self.ask();
        }
        self.now = until;
    }

    fn look(&mut self) {
        let now = Instant(self.now);
        self.looked_at = self.now;
        for (_, at, took) in self.trial_due.extract_if(.., |(due, _, _)| *due <= now.0) {
            self.balance.tried(&self.endpoints.get(at).place, Some(took), &self.terms, now);
        }
        let seen = self.endpoints.iter().map(|one| Seen {
            place: one.place.clone(),
            is_well: true,
            weight: one.weight,
            window: one.given.window,
        });
        let seen: Vec<_> = seen.collect();
        let (turns, changes) = self.balance.look(WorkerId(0), &seen, &self.terms, now);
        self.changes.extend(changes.into_iter().map(|change| (self.now, change)));
        self.endpoints.take_turns(&turns, now);
        for (at, one) in seen.iter().enumerate() {
            if self.balance.claim(WorkerId(0), &one.place, now) {
                let took = (self.takes)(self.now, at, 1).unwrap_or(1000);
                self.trial_due.push((self.now + took, at, took));
            }
        }
    }

    fn share(&self, at: usize) -> f64 {
        self.begun[at] as f64 / self.begun.iter().sum::<u64>() as f64
    }

    fn p99(&self) -> u64 {
        let mut took = self.took.clone();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }

    fn told(&self) -> Vec<(&str, bool)> {
        self.changes.iter().map(|(_, change)| (&*change.name, change.ejected.is_some())).collect()
    }
}

/// 2 ms, give or take a half, and one of 50 a hundred times as long.
fn usual(request: u64) -> u64 {
    let luck = request.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let us = 1000 + luck % 2000;
    if luck.is_multiple_of(50) { us * 100 } else { us }
}

/// Between the tenth second and the twentieth the last one is ten times as slow.
fn slowed(at_us: u64, endpoint: usize, request: u64) -> Option<u64> {
    let is_slow = endpoint == 2 && (10 * SECOND..20 * SECOND).contains(&at_us);
    Some(usual(request) * if is_slow { 10 } else { 1 })
}

/// What everybody wants of it, whatever the strategy: a slow replica is not the clients' loss, and comes back.
#[test]
fn one_that_is_ten_times_as_slow_is_left_and_comes_back() {
    for (by, clients) in [(Latency, 1), (Latency, 8), (Latency, 64), (LeastBusy, 8), (RoundRobin, 64)] {
        let mut world = World::new(by, clients, &[1, 1, 1], slowed);
        world.run(9.0);
        let before = world.p99();
        assert!((0.30..0.37).contains(&world.share(2)), "{by:?} {clients}: {}", world.share(2));
        assert_eq!(world.told(), [], "one query in fifty that is long is nobody's fault");
        world.run(2.0);
        world.run(7.0);
        assert!(world.share(2) < 0.02, "{by:?} {clients}: {}", world.share(2));
        assert!(world.p99() * 10 <= before * 13, "{by:?} {clients}: {} and {before}", world.p99());
        // One client asks too little of it for it to be certain, and hardly asks it anything.
        assert!(clients == 1 || world.told()[0] == ("c", true), "{by:?} {clients}");
        world.run(13.0);
        world.run(3.0);
        assert!(world.share(2) > 0.28, "{by:?} {clients}: {} {:?}", world.share(2), world.balance.told());
        assert!(world.told().last().is_none_or(|last| *last == ("c", false)));
    }
}

/// Latency is compared, never limited: else all would be out at the very time at which they are needed.
#[test]
fn where_all_are_slow_or_asked_unlike_things_none_is_ejected() {
    let cases: [(&str, Takes); 3] = [
        ("all are slow at once", |at, _, request| Some(usual(request) * if at > 5 * SECOND { 30 } else { 1 })),
        ("half of the requests take a thousand times as long", |_, _, request| {
            Some(if usual(request).is_multiple_of(2) { 200 } else { 200_000 })
        }),
        ("one is farther away, by less than counts", |_, endpoint, _| Some([100, 100, 1200][endpoint])),
    ];
    for (what, takes) in cases {
        for clients in [1, 4, 32] {
            let mut world = World::new(Latency, clients, &[1, 1, 1], takes);
            world.run(60.0);
            assert_eq!(world.told(), [], "{what}, {clients} clients");
        }
    }
}

/// Of two that are slow, and of two at all, one stays: at most half are out.
#[test]
fn at_most_half_are_ejected() {
    let mut world = World::new(Latency, 8, &[1, 1, 1], |_, endpoint, request| {
        Some(usual(request) * if endpoint > 0 { 20 } else { 1 })
    });
    world.run(5.0);
    let out = world.balance.told().iter().filter(|told| told.standing.is_out()).count();
    assert_eq!(out, 1);
    assert!(world.share(0) > 0.9, "the other has little: {}", world.share(0));
    let mut world = World::new(Latency, 8, &[1, 1], |_, endpoint, request| {
        Some(usual(request) * if endpoint > 0 { 20 } else { 1 })
    });
    world.run(5.0);
    assert_eq!(world.told()[0], ("b", true));
}

/// A replica with a full disk fails at once: the fewer it has under way, the more it would get.
#[test]
fn one_that_fails_requests_is_ejected_until_it_does_not() {
    let mut world = World::new(LeastBusy, 8, &[1, 1, 1], |at, endpoint, request| {
        (endpoint != 1 || request % 4 != 0 || !(5 * SECOND..15 * SECOND).contains(&at)).then(|| usual(request))
    });
    world.run(4.0);
    assert_eq!(world.told(), []);
    world.run(2.0);
    world.run(8.0);
    assert!(world.share(1) < 0.03, "{}", world.share(1));
    world.run(15.0);
    assert_eq!(*world.told().last().unwrap(), ("b", false));
    world.run(5.0);
    assert!(world.share(1) > 0.28, "{}", world.share(1));
}

/// Requests that wait for an endpoint that has stopped would be counted by nobody, as they have taken no time yet.
#[test]
fn one_that_answers_nothing_is_ejected() {
    let (balance, all) = (Balance::default(), endpoints(&["a", "b", "c"]));
    let terms = Terms { by: Latency, slower_than: 4, slow_start: Duration::ZERO, pause_max: Duration::from_secs(5) };
    let mut ejected = None;
    for look in 0..20u64 {
        let seen = all.iter().enumerate().map(|(at, one)| {
            let mut window = Window::default();
            let is_stopped = at == 0 && look >= 5;
            (0..10).filter(|_| !is_stopped).for_each(|_| window.answered(2000, None));
            window.overdue = if is_stopped && look > 12 { 3 } else { 0 };
            Seen { place: one.place.clone(), is_well: true, weight: 1, window }
        });
        let (turns, changes) =
            balance.look(WorkerId(0), &seen.collect::<Vec<_>>(), &terms, Instant((look + 1) * 100_000));
        assert!(turns.iter().all(|turn| turn.overdue_us > 500_000));
        ejected = ejected.or(changes.first().cloned().map(|change| (look, change)));
    }
    assert_eq!(ejected, Some((13, Change { name: "a".into(), ejected: Some(Why::Silent) })));
}

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

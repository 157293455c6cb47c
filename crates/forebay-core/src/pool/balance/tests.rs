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
                given.window.failed(self.requests % 4);
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

/// Looks at endpoints ten times a second, by what a test says of each.
struct Looks {
    balance: Balance,
    endpoints: Endpoints,
    terms: Terms,
    look: u64,
    changes: Vec<(u64, Change)>,
    turns: Vec<Turn>,
    weights: Vec<u32>,
}

impl Looks {
    fn new(names: &[&str]) -> Looks {
        let terms =
            Terms { by: Latency, slower_than: 4, slow_start: Duration::ZERO, pause_max: Duration::from_secs(5) };
        let (endpoints, balance) = (endpoints(names), Balance::default());
        let weights = vec![1; names.len()];
        Looks { balance, endpoints, terms, look: 0, changes: Vec::new(), turns: Vec::new(), weights }
    }

    fn now(&self) -> Instant {
        Instant(SECOND + self.look * 100_000)
    }

    /// `measured`: by which worker, and at each endpoint whether it is reachable and what was measured.
    fn look(&mut self, measured: impl Fn(usize) -> (bool, Window)) {
        self.look += 1;
        self.look_of(WorkerId(0), measured);
    }

    fn look_of(&mut self, me: WorkerId, measured: impl Fn(usize) -> (bool, Window)) {
        let seen = self.endpoints.iter().enumerate().map(|(at, one)| {
            let (is_well, window) = measured(at);
            Seen { place: one.place.clone(), is_well, weight: self.weights[at], window }
        });
        let (turns, changes) = self.balance.look(me, &seen.collect::<Vec<_>>(), &self.terms, self.now());
        self.turns = turns;
        self.changes.extend(changes.into_iter().map(|change| (self.look, change)));
    }

    /// One look at endpoints that all answer.
    fn usual(&mut self) {
        self.look(|_| (true, answers(10, 2000)));
    }

    fn claim(&self, at: usize) -> bool {
        self.balance.claim(WorkerId(0), &self.endpoints.get(at).place, self.now())
    }

    fn is_out(&self, at: usize) -> bool {
        self.turns[at].standing.is_out()
    }

    fn told(&self) -> Vec<(&str, bool)> {
        self.changes.iter().map(|(_, change)| (&*change.name, change.ejected.is_some())).collect()
    }
}

fn answers(count: u32, us: u64) -> Window {
    let mut window = Window::default();
    (0..count).for_each(|_| window.answered(us, None));
    window
}

fn failures(clients: &[u64]) -> Window {
    let mut window = Window::default();
    clients.iter().for_each(|client| window.failed(*client));
    window
}

fn overdue(window: Window, overdue: u32) -> Window {
    Window { overdue, ..window }
}

/// Requests that wait for an endpoint that has stopped would be counted by nobody, as they have taken no time yet.
#[test]
fn one_that_answers_nothing_is_ejected() {
    let mut looks = Looks::new(&["a", "b", "c"]);
    let mut asked_at = None;
    for look in 0..60 {
        // Of the two that wait each worker has one.
        let stopped = |worker: usize| {
            move |at: usize| match at {
                0 if look >= 5 => (true, overdue(Window::default(), u32::from(look > 12 + worker))),
                _ => (true, answers(5, 2000)),
            }
        };
        looks.look(stopped(0));
        looks.look_of(WorkerId(1), stopped(1));
        assert!(looks.turns.iter().all(|turn| turn.overdue_us > 500_000));
        if looks.turns[0].is_doubted {
            assert!(looks.claim(0) && !looks.claim(0), "one asks it");
            assert!(looks.balance.is_tried(&looks.endpoints.get(0).place));
            asked_at = Some(look);
        }
    }
    assert_eq!(asked_at, Some(14));
    let ejected = Change { name: "a".into(), ejected: Some(Why::Silent) };
    assert_eq!(looks.changes, [(30, ejected)], "what it is asked goes unanswered");
}

/// A slow report is no silence: neither beside others, nor where all of an endpoint's servers have one.
#[test]
fn long_reports_eject_nobody() {
    let mut looks = Looks::new(&["a", "b"]);
    for _ in 0..30 {
        looks.look(|at| (true, overdue(answers(10, 2000), if at == 0 { 5 } else { 0 })));
        assert!(!looks.turns[0].is_doubted, "it answers others");
    }
    let mut asked = 0;
    for _ in 0..300 {
        looks.look(|at| (true, if at == 0 { overdue(Window::default(), 2) } else { answers(10, 2000) }));
        if looks.turns[0].is_doubted && looks.claim(0) {
            asked += 1;
            looks.balance.tried(&looks.endpoints.get(0).place.clone(), Some(900), &looks.terms, looks.now());
        }
    }
    assert_eq!(looks.told(), [], "it answers what it is asked beside the pool");
    assert!((2..5).contains(&asked), "{asked}");
    // Another worker's clients are answered there.
    let mut looks = Looks::new(&["a", "b"]);
    for _ in 0..60 {
        looks.look(|at| (true, if at == 0 { overdue(Window::default(), 2) } else { answers(10, 2000) }));
        assert!(!looks.turns[0].is_doubted);
        looks.look_of(WorkerId(1), |_| (true, answers(10, 2000)));
    }
    let mut looks = Looks::new(&["a", "b"]);
    looks.terms.slower_than = 0;
    (0..10).for_each(|_| looks.usual());
    for _ in 0..60 {
        looks.look(|at| (true, if at == 0 { overdue(Window::default(), 2) } else { answers(10, 2000) }));
        assert!(!looks.turns[0].is_doubted, "it was switched off");
    }
}

/// An endpoint that is half open, or can't be reached, serves nobody: the last one that does is never ejected.
#[test]
fn where_nobody_else_serves_ejections_are_lifted() {
    let fail = [1, 2, 3, 4, 5, 6];
    // The other one cannot be reached any more.
    let mut looks = Looks::new(&["a", "b"]);
    (0..10).for_each(|_| looks.usual());
    looks.look(|at| (true, if at == 0 { failures(&fail) } else { answers(10, 2000) }));
    assert!(looks.is_out(0));
    looks.look(|at| (at == 0, Window::default()));
    assert!(!looks.is_out(0), "an endpoint that fails a part serves better than none");
    looks.look(|at| (at == 0, failures(&fail)));
    assert_eq!(looks.told(), [("a", true), ("a", false)]);
    // Of three, it goes by halves.
    let mut looks = Looks::new(&["a", "b", "c"]);
    looks.look(|at| (true, if at == 0 { failures(&fail) } else { answers(10, 2000) }));
    assert!(looks.is_out(0));
    looks.look(|at| (at != 1, answers(10, 2000)));
    assert!(!looks.is_out(0));
    // The other one fails while the first is on trial.
    let mut looks = Looks::new(&["a", "b"]);
    looks.look(|at| (true, if at == 0 { failures(&fail) } else { answers(10, 2000) }));
    (0..11).for_each(|_| looks.look(|at| (true, answers(at as u32 * 10, 2000))));
    assert!(looks.claim(0));
    looks.balance.tried(&looks.endpoints.get(0).place.clone(), Some(900), &looks.terms, looks.now());
    looks.look(|at| (true, if at == 1 { failures(&fail) } else { answers(1, 2000) }));
    assert_eq!(looks.told(), [("a", true)], "the other one stays");
    looks.look(|at| (at == 0, answers(1, 2000)));
    assert_eq!(looks.told(), [("a", true), ("a", false)]);
    // Nobody can be reached: whoever can be again is not out then.
    let mut looks = Looks::new(&["a", "b"]);
    looks.look(|at| (true, if at == 0 { failures(&fail) } else { answers(10, 2000) }));
    looks.look(|_| (false, Window::default()));
    assert!(!looks.is_out(0));
}

/// One client can make requests that fail as often as it likes.
#[test]
fn failures_of_a_single_client_eject_nobody() {
    let mut looks = Looks::new(&["a", "b"]);
    for _ in 0..20 {
        looks.look(|at| (true, if at == 0 { failures(&[7, 7, 7]) } else { answers(10, 2000) }));
    }
    assert_eq!(looks.told(), []);
    looks.look(|at| (true, if at == 0 { failures(&[8]) } else { answers(10, 2000) }));
    assert_eq!(looks.told(), [("a", true)]);
}

/// What a worker counts changes by lending: closings for the sake of another endpoint come to an end where nothing else happens.
#[test]
fn servers_are_not_closed_for_ever_to_spread_them() {
    let mut looks = Looks::new(&["a", "b"]);
    looks.usual();
    let turns = looks.turns.clone();
    let all = &mut looks.endpoints;
    let at = |second: u64| Instant(second * SECOND);
    assert_eq!((100..300).filter(|second| all.may_close(at(*second))).count(), 11, "eight at once, then one a minute");
    let back = Turn { standing: Standing::Serving(at(300)), ..turns[0] };
    all.take_turns(&[back, turns[1]], at(300));
    assert_eq!((0..20).filter(|_| all.may_close(at(300))).count(), 8, "one that has come back is to have its part");
    let balance = Balance::default();
    assert!(balance.begin_spreading() && balance.is_spreading() && !balance.begin_spreading(), "one at a time");
    balance.end_spreading();
    assert!(balance.begin_spreading());
}

mod weights;

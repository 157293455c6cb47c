//! Orders that come while a server is on its way between two workers: neither of them has it, and it obeys all the same.

use std::sync::Arc;

use crate::command::{Command, CommandId, Reply};
use crate::fuzz_entry::memory::Handed;
use crate::fuzz_entry::scene::{Scene, tables};
use crate::ids::{ConnId, WorkerId};
use crate::pool::balance::{Standing, Why};
use crate::time::Instant;
use crate::worker::{Message, Shared};

type Told = Message<Handed>;

/// Any statement.
const QUERY: &[u8] = b"Q\0\0\0\x06;\0";

/// Two workers, and what they have told each other and not been given yet.
struct Pair {
    of: [Scene; 2],
}

impl Pair {
    fn new() -> Pair {
        Pair::with(1)
    }

    /// Where the pool has so many endpoints.
    fn with(endpoints: u16) -> Pair {
        let shared = Arc::new(Shared::new(2));
        let endpoint = |number: u16| Arc::from(format!("127.0.0.1:{}", 5432 + number));
        let tables = tables(|config| config.databases[0].endpoints = (0..endpoints).map(endpoint).collect());
        let worker = |id| {
            let mut scene = Scene::of(id, tables.clone(), shared.clone());
            scene.io.told = Some(Vec::new());
            scene.tick(1);
            scene
        };
        Pair { of: [worker(0), worker(1)] }
    }

    /// The only server of the pool is on its way from worker 0 to worker 1: what is to be told to that.
    fn under_way() -> (Pair, Told) {
        Pair::under_way_from(1)
    }

    /// The same, from the first of so many endpoints.
    fn under_way_from(endpoints: u16) -> (Pair, Told) {
        let mut pair = Pair::with(endpoints);
        let first = pair.of[0].client();
        let server = pair.of[0].opening().expect("a server is opened for the first client");
        pair.of[0].let_in(server);
        assert!(pair.of[0].sent(first).ends_with(b"I"), "the first client is greeted, and its server idle");
        pair.asks_for_one(1);
        let want = pair.told(0).expect("the other worker asks for it");
        pair.tell(1, 0, want);
        assert_eq!(pair.of[0].io.detaching, [server]);
        pair.detached(0, server);
        let lent = pair.told(1).expect("it is lent");
        assert!(matches!(lent, Message::Lend(..)));
        (pair, lent)
    }

    /// A client comes, is told what the other worker has heard, and has a query.
    fn asks_for_one(&mut self, w: usize) {
        let heard = self.told(w).expect("the other worker has heard how a server greets");
        assert!(matches!(heard, Message::Greeting(_)));
        self.tell(1 - w, w, heard);
        let client = self.of[w].client();
        assert!(self.of[w].sent(client).ends_with(b"I"), "it is greeted without a server");
        self.of[w].arrives(client, QUERY);
    }

    /// A worker has seen how the first endpoint does.
    fn sees(&mut self, w: usize, standing: Standing) {
        for pool in &mut self.of[w].worker.pools {
            pool.endpoints.given(1).expect("there is one").turn.standing = standing;
        }
    }

    /// A connection is out of its worker.
    fn detached(&mut self, w: usize, conn: ConnId) {
        let Scene { worker, io } = &mut self.of[w];
        io.end(conn);
        worker.detached(io, conn, Handed);
    }

    /// What the other worker has told a worker first.
    fn told(&mut self, w: usize) -> Option<Told> {
        let told = self.of[1 - w].io.told.as_mut().expect("there are two workers");
        if told.is_empty() { None } else { Some(told.remove(0).1) }
    }

    fn tell(&mut self, from: usize, w: usize, message: Told) {
        let Scene { worker, io } = &mut self.of[w];
        worker.told(io, WorkerId(from as u16), message);
        worker.turn_end(io);
    }

    fn order(&mut self, w: usize, number: u64, command: &Command) {
        let Scene { worker, io } = &mut self.of[w];
        worker.command(io, CommandId(number), command.clone());
        worker.turn_end(io);
    }

    fn is_done(&self, w: usize, number: u64) -> bool {
        self.of[w].io.replies.iter().any(|(id, reply)| id.0 == number && matches!(reply, Reply::Done))
    }

    /// Servers of a worker that it has said goodbye to.
    fn parted(&self, w: usize) -> usize {
        self.of[w].io.last_words.iter().filter(|(_, sent)| sent.starts_with(b"X")).count()
    }
}

/// The only server may be in a transaction for as long as it likes: nobody waits at the door for it.
#[test]
fn clients_of_both_workers_are_greeted_by_what_one_has_heard() {
    let mut pair = Pair::new();
    pair.of[0].client();
    let early = pair.of[1].client();
    assert!(!pair.of[1].sent(early).ends_with(b"I"), "nothing is known yet");
    assert!(pair.of[1].opening().is_none(), "the pool has room for one");
    let server = pair.of[0].opening().expect("a server is opened");
    pair.of[0].let_in(server);
    let heard = pair.told(1).expect("it is told");
    pair.tell(0, 1, heard);
    assert!(pair.of[1].sent(early).ends_with(b"I"));
    let late = pair.of[1].client();
    assert!(pair.of[1].sent(late).ends_with(b"I"));
}

/// After RECONNECT or a new endpoint, a client would go on with what the operator has turned away from.
#[test]
fn a_server_that_arrives_after_an_order_is_closed() {
    let moved = tables(|config| config.databases[0].endpoints = vec!["127.0.0.1:5433".into()]);
    let removed = tables(|config| config.databases.clear());
    for command in [
        Command::Reconnect(None),
        Command::Reconnect(Some("app".into())),
        Command::Reload(moved),
        Command::Reload(removed),
        Command::Pause(None),
        Command::Pause(Some("app".into())),
    ] {
        for first in [0, 1] {
            let (mut pair, lent) = Pair::under_way();
            pair.order(first, 1, &command);
            if first == 1 {
                // It has no server, and is about to get one.
                assert!(matches!(command, Command::Reconnect(_) | Command::Reload(_)) == pair.is_done(1, 1));
            }
            pair.order(1 - first, 1, &command);
            pair.tell(0, 1, lent);
            assert_eq!(pair.parted(1), 1, "{command:?}, first to worker {first}");
            let is_replaced = pair.of[1].opening().is_some();
            let is_wanted = !matches!(command, Command::Pause(_)) && pair.of[1].worker.tables.database("app").is_some();
            assert_eq!(is_replaced, is_wanted, "{command:?}, first to worker {first}");
        }
    }
}

/// The operator who waits for PAUSE would stop the database below a server that is still there.
#[test]
fn what_waits_for_servers_to_go_waits_for_one_that_is_on_its_way() {
    for command in [Command::Pause(None), Command::WaitClose(Some("app".into()))] {
        let (mut pair, lent) = Pair::under_way();
        for w in [0, 1] {
            pair.order(w, 1, &Command::Reconnect(None));
            pair.order(w, 2, &command);
        }
        assert!(!pair.is_done(0, 2) && !pair.is_done(1, 2), "{command:?}");
        pair.tell(0, 1, lent);
        pair.of[0].tick(20_000);
        pair.of[1].tick(20_000);
        assert!(pair.is_done(0, 2) && pair.is_done(1, 2), "{command:?}");
    }
}

/// One opened since RECONNECT reached the worker that opened it is closed for nothing if it comes before the order.
#[test]
fn a_server_opened_after_reconnect_is_kept_by_a_worker_that_hears_of_it_later() {
    let mut pair = Pair::new();
    pair.order(0, 1, &Command::Reconnect(None));
    pair.of[0].client();
    let server = pair.of[0].opening().expect("a server is opened");
    pair.of[0].let_in(server);
    pair.asks_for_one(1);
    let want = pair.told(0).expect("the other worker asks for it");
    pair.tell(1, 0, want);
    pair.detached(0, server);
    let lent = pair.told(1).expect("it is lent");
    pair.tell(0, 1, lent);
    pair.order(1, 1, &Command::Reconnect(None));
    assert_eq!(pair.parted(1), 0);
}

/// As PgBouncer's: how long to wait is up to who waits. An end after half a minute broke off a PAUSE before a switch-over.
#[test]
fn pause_and_wait_close_have_no_limit_of_their_own() {
    for command in [Command::Pause(None), Command::WaitClose(None)] {
        let (mut pair, lent) = Pair::under_way();
        pair.order(0, 1, &command);
        pair.order(1, 1, &Command::Reconnect(None));
        pair.of[0].tick(3_600_000_000);
        assert!(pair.of[0].io.replies.is_empty(), "{command:?}");
        pair.of[1].tick(3_600_000_000);
        pair.tell(0, 1, lent);
        pair.of[0].tick(3_601_000_000);
        assert!(pair.is_done(0, 1) && pair.of[0].worker.pending.is_empty(), "{command:?}");
    }
}

/// The waiter would be the one whose request fails, or takes ten times as long.
#[test]
fn a_server_whose_endpoint_is_ejected_on_its_way_serves_nobody() {
    let (mut pair, lent) = Pair::under_way_from(2);
    pair.sees(1, Standing::Ejected(Instant(5_000_000), Why::Slow(10)));
    pair.tell(0, 1, lent);
    assert_eq!(pair.parted(1), 1);
    assert!(pair.of[1].opening().is_some(), "who waits gets one elsewhere");
    let (mut pair, lent) = Pair::under_way_from(2);
    pair.tell(0, 1, lent);
    assert_eq!(pair.parted(1), 0, "it serves where the endpoint does");
}

/// It is this worker that counts how the few requests of a trial end: for the others the endpoint is out.
#[test]
fn a_server_on_trial_is_lent_to_nobody() {
    for standing in [Standing::HalfOpen(Instant(1), Why::Silent), Standing::Ejected(Instant(9), Why::Silent)] {
        let mut pair = Pair::with(2);
        pair.of[0].client();
        let server = pair.of[0].opening().expect("a server is opened for the first client");
        pair.of[0].let_in(server);
        pair.sees(0, standing);
        pair.asks_for_one(1);
        let want = pair.told(0).expect("the other worker asks for it");
        pair.tell(1, 0, want);
        assert!(pair.of[0].io.detaching.is_empty(), "{standing:?}");
        assert!(matches!(pair.told(1), Some(Message::NoneIdle(_))), "{standing:?}");
    }
}

//! A worker before a cluster of two, as its clients and the servers live through a change of roles.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

use crate::cluster::progress::Replayed;
use crate::cluster::roles::{Found, Serves};
use crate::command::Command;
use crate::config::{AuthMethod, ClusterConfig, Consistency, DatabaseConfig, EngineConfig, PoolMode, Role};
use crate::fuzz_entry::memory::{Handed, HandedOn, Stage, config};
use crate::fuzz_entry::scene::{SERVER_PID, Scene, welcome};
use crate::ids::{ConnId, WorkerId};
use crate::io::Endpoint;
use crate::moving::arriving::Arrival;
use crate::pool::PoolId;
use crate::tables::Tables;
use crate::time::Instant;
use crate::worker::{Message, Shared};

use Serves::{Barred, Leaving, Nobody, Reads, Writes};

mod again;
mod commits;
mod demoted;
mod holds;
mod interrupted;
mod moved;
mod reads;
mod replay;
mod untouched;

const SECOND: u64 = 1_000_000;
const A: &str = "a";
const B: &str = "b";

fn cluster(role: Role, is_split: bool) -> Option<ClusterConfig> {
    let read_consistency = Consistency::Eventual;
    Some(ClusterConfig { role, is_split, read_consistency, retries_reads: true, holds_per_hour_max: 30 })
}

/// With the servers `a` and `b`.
impl Scene {
    /// A database `app` at both, whose reads go to replicas; `change` is made to it.
    fn of_two(change: impl FnOnce(&mut DatabaseConfig)) -> Scene {
        Scene::of_two_with(change, |_| ())
    }

    fn of_two_with(change: impl FnOnce(&mut DatabaseConfig), change_all: impl FnOnce(&mut EngineConfig)) -> Scene {
        let mut config = config(AuthMethod::Trust, PoolMode::Transaction, 2);
        let database = &mut config.databases[0];
        database.endpoints = vec![format!("{A}:5432").into(), format!("{B}:5432").into()];
        database.cluster = cluster(Role::Primary, true);
        database.pool.server_check_delay = 0;
        change(database);
        let reading =
            DatabaseConfig { name: "reading".into(), cluster: cluster(Role::Replica, false), ..database.clone() };
        config.databases.push(reading);
        change_all(&mut config);
        let tables = Tables::build(config, None, &mut |out| out.fill(7)).expect("the configuration is sound");
        let mut scene = Scene::of(0, Arc::new(tables), Arc::new(Shared::new(1)));
        scene.tick(1);
        scene
    }

    /// `a` writes and `b` reads; each has let in a server of `app`, and both are idle.
    fn at_rest(change: impl FnOnce(&mut DatabaseConfig)) -> (Scene, ConnId, ConnId, ConnId) {
        let mut scene = Scene::of_two(change);
        scene.roles(Writes, Reads);
        let client = scene.comes("app", &[]);
        let primary = scene.lets_in(A);
        scene.asks(client, "select 1");
        let replica = scene.lets_in(B);
        assert_eq!(scene.heard(replica), "select 1");
        scene.answers(replica, TransactionStatus::Idle);
        (scene, client, primary, replica)
    }

    fn roles(&mut self, a: Serves, b: Serves) {
        self.roles_of("app", a, b);
    }

    fn roles_of(&mut self, database: &str, a: Serves, b: Serves) {
        let found = |(name, serves): (&str, Serves)| Found { name: format!("{name}:5432").into(), serves };
        self.order(Command::Roles(database.into(), [(A, a), (B, b)].map(found).into(), Replayed::default()));
    }

    /// A client asks this.
    fn asks(&mut self, client: ConnId, sql: &str) {
        let mut bytes = Vec::new();
        write::query(&mut bytes, sql);
        self.arrives(client, &bytes);
    }

    /// Connections to a host that are being opened.
    fn opening_to(&self, host: &str) -> Vec<ConnId> {
        let is_to = |to: &Option<Endpoint>| matches!(to, Some(Endpoint::Tcp { host: of, .. }) if **of == *host);
        let opening = self.io.alive().filter(|(_, c)| c.stage == Stage::Connecting && is_to(&c.to));
        opening.map(|(conn, _)| conn).collect()
    }

    /// The one connection to a host that is being opened stands, and asks to be let in.
    fn stands(&mut self, host: &str) -> ConnId {
        let [conn] = self.opening_to(host)[..] else { panic!("one is opened to {host}: {:?}", self.opening_to(host)) };
        self.connected(conn);
        self.sent(conn);
        conn
    }

    /// The same, and it is let in.
    fn lets_in(&mut self, host: &str) -> ConnId {
        let conn = self.stands(host);
        self.arrives(conn, &welcome());
        conn
    }

    /// A server answers what it was asked.
    fn answers(&mut self, server: ConnId, status: TransactionStatus) {
        let mut bytes = Vec::new();
        write::command_complete(&mut bytes, "SELECT 0");
        write::ready_for_query(&mut bytes, status);
        self.arrives(server, &bytes);
    }

    /// A client reads at a replica, which then is idle again.
    fn reads(&mut self, client: ConnId, replica: ConnId) {
        self.asks(client, "select 1");
        assert_eq!(self.heard(replica), "select 1");
        self.answers(replica, TransactionStatus::Idle);
        self.sent(client);
    }

    /// A client listens, and its pool's listener has taken that over from its server.
    fn listens(&mut self, client: ConnId, server: ConnId) -> ConnId {
        self.asks(client, "listen news");
        self.answers(server, TransactionStatus::Idle);
        self.sent(server);
        self.says_channels(server);
        let listener = self.lets_in(A);
        let said = self.heard(listener);
        let mark = said.split_once("NOTIFY fb_cut,'").and_then(|(_, mark)| mark.split('\'').next());
        let mut cut = Vec::new();
        write::notification_response(&mut cut, SERVER_PID, b"fb_cut", mark.expect("it makes a cut").as_bytes());
        self.answers(listener, TransactionStatus::Idle);
        self.arrives(listener, &cut);
        self.arrives(server, &cut);
        assert_eq!(self.heard(server), "UNLISTEN *");
        self.answers(server, TransactionStatus::Idle);
        self.sent(client);
        listener
    }

    /// A server says what it listens to.
    fn says_channels(&mut self, server: ConnId) {
        let mut bytes = Vec::new();
        write::data_row(&mut bytes, &[Some(b"news".as_slice())]);
        self.arrives(server, &bytes);
        self.answers(server, TransactionStatus::Idle);
    }

    /// A server answers what it was asked with an error.
    fn fails(&mut self, server: ConnId, sqlstate: &str) {
        let mut bytes = Vec::new();
        write::error_response(&mut bytes, &[(b'S', b"ERROR"), (b'C', sqlstate.as_bytes()), (b'M', b"no")]);
        write::ready_for_query(&mut bytes, TransactionStatus::Idle);
        self.arrives(server, &bytes);
    }

    fn refuses(&mut self, server: ConnId, sqlstate: &str) {
        let mut bytes = Vec::new();
        write::error_response(&mut bytes, &[(b'S', b"FATAL"), (b'C', sqlstate.as_bytes()), (b'M', b"no")]);
        self.arrives(server, &bytes);
    }

    /// The text of a simple query that was sent on a connection.
    fn heard(&mut self, server: ConnId) -> String {
        let said = self.sent(server);
        let text = said.strip_prefix(b"Q").and_then(|said| said.get(4..said.len() - 1));
        String::from_utf8_lossy(text.unwrap_or(&said)).into_owned()
    }

    /// All that may move goes to another process.
    fn hands_on(&mut self) -> Vec<HandedOn> {
        self.io.handed_on = Some(Vec::new());
        self.order(Command::HandOn);
        for _ in 0..2 {
            self.worker.tick(&mut self.io, Instant(self.worker.now.0 + 100_000));
            for conn in std::mem::take(&mut self.io.detaching) {
                self.io.end(conn);
                self.worker.detached(&mut self.io, conn, Handed);
            }
            self.worker.turn_end(&mut self.io);
        }
        self.io.handed_on.take().expect("that was set")
    }

    /// It comes from another process.
    fn takes(&mut self, handed_on: HandedOn) {
        let HandedOn { state, connections, .. } = handed_on;
        let arrival = Arrival { state, connections, counted: None, is_refused: false };
        self.worker.told(&mut self.io, WorkerId(0), Message::Group(Box::new(arrival)));
        self.worker.turn_end(&mut self.io);
    }

    fn pool(&self, name: &str) -> &crate::pool::Pool {
        self.worker.pools.iter().find(|pool| *pool.database == *name).expect("there is such a pool")
    }
}

/// A replica that lags behind tells of functions as they were, and what is sent to the primary would be judged by that.
#[test]
fn the_catalogue_is_read_on_the_primary() {
    let (mut scene, client, primary, replica) = Scene::at_rest(|database| {
        database.pool.catalogue_refresh = 30 * SECOND;
        database.pool.min_pool_size = 1;
    });
    let reader = scene.stands(A);
    scene.refuses(reader, "53300");
    // A server that comes free is to read instead: that of the primary.
    scene.reads(client, replica);
    assert_eq!(scene.heard(replica), "");
    scene.asks(client, "begin; commit");
    scene.answers(primary, TransactionStatus::Idle);
    let asked = scene.heard(primary);
    assert!(asked.contains("statement_timeout"), "it is asked whether anything has changed: {asked}");
    scene.answers(primary, TransactionStatus::Idle);
    // Reads alone see to it as well.
    scene.at(62 * SECOND);
    let at_replica = scene.opening_to(B);
    scene.reads(client, replica);
    assert_eq!(scene.opening_to(B), at_replica);
    scene.lets_in(A);
}

/// Those that ask for replicas alone have nobody else to ask, and what they hear holds for nobody else.
#[test]
fn what_replicas_tell_of_the_catalogue_holds_for_their_own_databases() {
    let (mut scene, client, primary, _) = Scene::at_rest(|database| database.pool.catalogue_refresh = 30 * SECOND);
    scene.roles_of("reading", Writes, Reads);
    scene.comes("reading", &[]);
    let of = |scene: &Scene, name| scene.pool(name).knowledge.clone();
    let (own, replicas, reading) = (of(&scene, "app"), of(&scene, "app:replicas"), of(&scene, "reading"));
    assert!(Arc::ptr_eq(&own, &replicas) && !Arc::ptr_eq(&own, &reading));
    // What is changed through one of them is changed for all.
    let before = (own.epoch(), reading.epoch());
    scene.asks(client, "create table made (a int)");
    scene.answers(primary, TransactionStatus::Idle);
    assert!(own.epoch() > before.0 && reading.epoch() > before.1);
    scene.roles_of("reading", Reads, Barred);
    scene.roles_of("reading", Barred, Reads);
    assert!(Arc::ptr_eq(&reading, &scene.pool("reading").knowledge), "the copies of a cluster are one");
}

/// Whoever is given a server of such an endpoint meanwhile would write there.
#[test]
fn nobody_gets_a_server_of_a_barred_endpoint_while_its_others_are_closed() {
    for (a, b) in [(Barred, Reads), (Barred, Writes), (Reads, Writes)] {
        let (mut scene, first, primary, _) = Scene::at_rest(|_| ());
        let [second, third] = ["app", "app"].map(|name| scene.comes(name, &[]));
        scene.asks(first, "begin");
        scene.asks(second, "begin");
        let other = scene.lets_in(A);
        scene.asks(third, "begin");
        scene.io.last_words.clear();
        scene.roles(a, b);
        let to_a =
            [primary, other].map(|conn| scene.io.last_words.iter().filter(|(of, _)| of.slot == conn.slot).count());
        assert_eq!(to_a, [1, 1], "each of them is closed, and none is opened in its place");
        assert_eq!(scene.opening_to(A), []);
    }
}

/// It comes with its client from a process that did not know yet that it may acknowledge nothing more.
#[test]
fn a_server_that_comes_from_a_barred_endpoint_is_closed() {
    let (mut before, client, primary, _) = Scene::at_rest(|_| ());
    before.asks(client, "begin");
    before.answers(primary, TransactionStatus::InTransaction);
    let group = before.hands_on().into_iter().find(|group| group.connections.len() == 2).expect("both go together");
    let mut after = Scene::of_two(|_| ());
    after.roles(Barred, Writes);
    after.takes(group);
    let left: Vec<_> = after.io.alive().filter(|(_, c)| c.to.is_none()).map(|(conn, _)| conn).collect();
    assert_eq!(left.len(), 1, "the server is closed, and the session lives on");
    after.asks(left[0], "commit");
    assert!(String::from_utf8_lossy(&after.sent(left[0])).contains("57P01"));
}

/// A new listener hears nothing of what was notified before it listened: whoever hears it must know.
#[test]
fn a_listener_is_lost_with_the_primary() {
    for (a, b) in [(Barred, Reads), (Reads, Writes), (Nobody, Writes), (Nobody, Reads)] {
        let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
        let listener = scene.listens(client, primary);
        scene.roles(a, b);
        let is_kept = (a, b) == (Nobody, Reads);
        assert_eq!(scene.is_alive(listener), is_kept, "a primary that does not answer may be the same afterwards");
        assert_eq!(scene.is_alive(client), is_kept);
        let said = String::from_utf8_lossy(&scene.sent(client)).into_owned();
        assert_eq!(said.contains("FB4"), !is_kept, "{said}");
        assert_eq!(scene.opening_to(A), []);
    }
}

/// Its connection would be to whichever endpoint served last.
#[test]
fn no_listener_is_opened_while_there_is_no_primary() {
    let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
    scene.asks(client, "listen news");
    scene.answers(primary, TransactionStatus::Idle);
    scene.sent(primary);
    scene.roles(Nobody, Reads);
    scene.says_channels(primary);
    assert_eq!(scene.opening_to(A), []);
    assert_eq!(scene.heard(primary), "UNLISTEN fb_cut", "its client stays on its server");
}

/// A role that a replica does not know would fail all reads, which the primary serves as well.
#[test]
fn reads_go_home_where_no_replica_lets_the_pool_in() {
    for sqlstate in ["28000", "57P03", "53300"] {
        let mut scene = Scene::of_two(|_| ());
        scene.roles(Writes, Reads);
        let client = scene.comes("app", &[]);
        let primary = scene.lets_in(A);
        scene.sent(client);
        scene.asks(client, "select 1");
        let replica = scene.stands(B);
        scene.refuses(replica, sqlstate);
        assert_eq!(scene.heard(primary), "select 1", "{sqlstate}");
        scene.answers(primary, TransactionStatus::Idle);
        scene.asks(client, "select 1");
        assert_eq!(scene.heard(primary), "select 1", "the replica is not tried by each");
        scene.answers(primary, TransactionStatus::Idle);
        scene.at(10 * SECOND);
        scene.asks(client, "select 1");
        let replica = scene.lets_in(B);
        assert_eq!(scene.heard(replica), "select 1", "it is tried again");
    }
}

/// Its bytes would be made again for the next one, whose answers they would take the place of.
#[test]
fn what_a_client_that_left_had_sent_to_a_replica_is_made_again_for_nobody() {
    let (mut scene, gone, primary, replica) = Scene::at_rest(|_| ());
    scene.sent(primary);
    scene.asks(gone, "select 'of another'");
    assert_eq!(scene.heard(replica), "select 'of another'");
    scene.closed(gone);
    scene.answers(replica, TransactionStatus::Idle);
    for cancel in scene.opening_to(B) {
        scene.closed(cancel);
    }
    scene.sent(replica);
    let client = scene.comes("app", &[]);
    scene.asks(client, "select 'own'");
    assert_eq!(scene.heard(replica), "select 'own'");
    scene.fails(replica, "40001");
    assert_eq!(scene.heard(primary), "select 'own'");
}

/// A tail of a request that was made again would be taken for the whole of it.
#[test]
fn a_request_that_is_too_long_to_keep_is_not_made_again() {
    let (mut scene, client, primary, replica) = Scene::at_rest(|_| ());
    scene.sent(primary);
    scene.sent(client);
    let long = format!("select '{}'", "x".repeat(20_000));
    scene.asks(client, &long);
    assert_eq!(scene.heard(replica), long);
    scene.asks(client, "select 2");
    scene.fails(replica, "40001");
    let said = scene.sent(client);
    assert!(said.windows(5).any(|part| part == b"40001"), "it hears of it");
    assert_eq!(scene.sent(primary), b"");
    assert_eq!(scene.heard(replica), "select 2", "what is behind it is a request of its own");
}

/// Nobody serves that pool any more, and who waits there would wait for ever.
#[test]
fn nobody_waits_in_a_pool_of_replicas_that_was_removed() {
    let (mut scene, client, primary, replica) = Scene::at_rest(|_| ());
    scene.asks(client, "select 1");
    assert_eq!(scene.heard(replica), "select 1");
    let of = |scene: &Scene, name: &str| {
        let at = scene.worker.pools.iter().position(|pool| *pool.database == *name);
        PoolId(at.expect("there is such a pool") as u32)
    };
    let (home, replicas) = (of(&scene, "app"), of(&scene, "app:replicas"));
    let key = scene.worker.clients.iter().next().expect("there is one").0;
    assert_eq!(scene.worker.waits_in(replicas, key), replicas);
    scene.worker.pool(replicas).is_removed = true;
    assert_eq!(scene.worker.waits_in(replicas, key), home);
    assert!(scene.is_alive(primary));
}

/// Without a limit on waits that of logins holds all the same.
#[test]
fn a_login_ends_while_there_is_no_primary() {
    let mut scene = Scene::of_two(|database| database.pool.query_wait_timeout = 0);
    scene.roles(Nobody, Reads);
    let client = scene.comes("app", &[]);
    scene.at(16 * SECOND);
    assert!(!scene.is_alive(client), "login_timeout is over");
}

/// A standby refuses what begins serializable, however that is written.
#[test]
fn who_is_serializable_by_default_reads_at_the_primary() {
    let mut scene = Scene::of_two(|_| ());
    scene.roles(Writes, Reads);
    let client = scene.comes("app", &[("options", "-c default_transaction_isolation=SERIALIZABLE")]);
    let primary = scene.lets_in(A);
    scene.answers(primary, TransactionStatus::Idle);
    scene.sent(primary);
    scene.asks(client, "select 1");
    assert_eq!((scene.heard(primary), scene.opening_to(B)), ("select 1".into(), vec![]));
}

/// Whoever waits for the next primary and gives up, and comes again, would keep all others out.
#[test]
fn those_that_have_left_the_queue_do_not_count() {
    let mut scene = Scene::of_two_with(|_| (), |config| config.limits.waiters_max = 3);
    scene.roles(Writes, Nobody);
    let first = scene.comes("app", &[]);
    scene.lets_in(A);
    let clients: Vec<_> = (0..3).map(|_| scene.comes("app", &[])).chain([first]).collect();
    scene.roles(Nobody, Nobody);
    for client in &clients {
        scene.sent(*client);
    }
    let (stays, leaves) = (clients[0], clients[1]);
    for client in [stays, leaves, clients[2]] {
        scene.asks(client, "insert into t values (1)");
    }
    let is_full = |scene: &mut Scene| scene.sent(clients[3]).windows(5).any(|part| part == b"53300");
    scene.asks(clients[3], "insert into t values (1)");
    assert!(is_full(&mut scene));
    scene.closed(leaves);
    scene.tick(SECOND);
    scene.asks(clients[3], "insert into t values (1)");
    assert!(!is_full(&mut scene));
}

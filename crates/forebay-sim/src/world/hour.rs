//! An hour of virtual time with five clients that hold their servers, and more others than the rest can serve at once.

use forebay_core::auth::Credential;
use forebay_core::command::Snapshot;
use forebay_core::config::{AuthMethod, OnPin, PoolMode};

use crate::Options;
use crate::client::actor::{Identity, Stage};
use crate::client::program::{Leave, Step};
use crate::rng::Rng;
use crate::scenario::{ClientPlan, Faults, LocalSocket, Scenario, Target};
use crate::secrets::PASSWORD;
use crate::wire::{Front, Tag};
use crate::world::World;

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;
const SERVERS: usize = 20;
const OTHERS: u64 = 40;
/// How long each statement of the others takes.
const STATEMENT_S: u64 = 6;
/// Statements of each of the others: together they take 15 servers a little more than the hour.
const STATEMENTS: u64 = 240;

/// What pins, and what ends it.
const CAUSES: [(&str, &str); 5] = [
    ("create temp table t1 as select 'x'", "drop table t1"),
    ("select pg_try_advisory_lock(1)", "select pg_advisory_unlock(1)"),
    ("declare k1 cursor with hold for select 'x'", "close k1"),
    ("select pg_try_advisory_lock(2)", "select pg_advisory_unlock(2)"),
    ("create temp table t2 as select 'y'", "discard temp"),
];

fn plan(client: u64, program: Vec<Step>) -> ClientPlan {
    let who = Identity {
        id: client as u32,
        database: "db0".into(),
        user: "app".into(),
        server_user: "app".into(),
        password: PASSWORD.into(),
        is_impostor: false,
        version: 0x0003_0000,
        asks_tls: false,
        is_owner: client < CAUSES.len() as u64,
        params: Vec::new(),
    };
    ClientPlan { who, program, starts_at: client * 1000 }
}

fn query(text: String) -> Step {
    Step::Send { messages: vec![Front::Query(text)], tail: vec![], waits: true, cancel: None, needs_unnamed: false }
}

fn leave() -> Step {
    Step::Leave { how: Leave::Terminate, cut: 0 }
}

fn clients() -> Vec<ClientPlan> {
    let tag = |client: u64, request: u64| Tag { client: client as u32, request: request as u32 }.to_string();
    let holders = (0..).zip(CAUSES).map(|(client, (pinning, ending))| {
        let begin = query(format!("{pinning} /* {} */", tag(client, 1)));
        let end = query(format!("{ending} /* {} */", tag(client, 2)));
        // It stays for a while when its pin has gone.
        let last = query(format!("select '{}' as sleep_1", tag(client, 3)));
        plan(client, vec![begin, Step::Think(HOUR), end, Step::Think(60 * SECOND), last, leave()])
    });
    let others = (0..OTHERS).map(|other| {
        let client = CAUSES.len() as u64 + other;
        let statement = |i| query(format!("select '{}' as sleep_{}", tag(client, i), STATEMENT_S * 1000));
        let mut program = vec![Step::Think(5 * SECOND)];
        program.extend((1..=STATEMENTS).map(statement));
        program.push(leave());
        plan(client, program)
    });
    holders.chain(others).collect()
}

fn scenario(rng: &mut Rng) -> Scenario {
    let mut scenario = Scenario::draw(rng);
    let credential = Credential::Plain { password: forebay_core::auth::Secret::new(PASSWORD), verifier: None };
    scenario.workers = 2;
    scenario.targets.truncate(1);
    let target = Target {
        name: "db0".into(),
        mode: PoolMode::Transaction,
        pool_size: SERVERS as u32,
        max_db_connections: 0,
        processes_max: 100,
        local_socket: LocalSocket::Nothing,
    };
    scenario.targets[0] = target;
    scenario.config.databases.truncate(1);
    let pool = &mut scenario.config.databases[0].pool;
    (pool.pool_mode, pool.pool_size, pool.max_db_connections) = (PoolMode::Transaction, SERVERS as u32, 0);
    (pool.on_pin, pool.pin_idle_limit, pool.min_pool_size) = (OnPin::Allow, 0, 0);
    (pool.query_wait_timeout, pool.server_idle_timeout, pool.server_lifetime) = (0, 0, 600 * SECOND);
    (pool.server_connect_timeout, pool.server_local_socket) = (15 * SECOND, false);
    scenario.config.databases[0].forced_user = None;
    scenario.config.databases[0].forced_secret = None;
    scenario.config.engine.workers = 2;
    scenario.config.auth.method = AuthMethod::Trust;
    scenario.config.auth.ask_unknown = false;
    (scenario.server_method, scenario.credential) = (AuthMethod::Trust, credential);
    scenario.faults = Faults::default();
    scenario.clients = clients();
    scenario.heals_at = HOUR + 120 * SECOND;
    scenario.may_time_out = false;
    scenario
}

/// What all workers hold.
fn look(world: &mut World) -> Vec<Snapshot> {
    world.seats.iter_mut().map(|seat| seat.look()).collect()
}

fn pins(all: &[Snapshot]) -> usize {
    all.iter().flat_map(|one| &one.clients).filter(|client| !client.pin.is_empty()).count()
}

fn holders(all: &[Snapshot]) -> usize {
    all.iter().flat_map(|one| &one.clients).filter(|client| client.server.is_some()).count()
}

/// A pool that lost a server in an hour, or served one client more and more rarely, would pass every short test.
#[test]
fn five_pins_held_for_an_hour_leave_fifteen_servers_to_the_others() {
    let mut rng = Rng::new(7);
    let scenario = scenario(&mut rng.fork(1));
    let mut world = World::of(scenario, rng, Options::default()).expect("the scenario can be");
    let (mut looks, mut next_look, mut busy_looks) = (0, 10 * SECOND, 0);
    let (mut longest_wait_us, mut unpinned_at) = (0, None);
    while let Some((at, event)) = world.queue.pop() {
        world.now = at.max(world.now);
        world.carry_out(event);
        assert_eq!(world.checks.take_violation(), None, "at {} s", world.now / SECOND);
        if world.now < next_look {
            continue;
        }
        if world.clients.iter().all(|client| client.stage == Stage::Done) {
            break;
        }
        next_look += SECOND;
        let all = look(&mut world);
        let of_pool = |one: &Snapshot| one.servers.iter().filter(|server| server.state != "reading").count();
        let servers: usize = all.iter().map(of_pool).sum();
        assert!(servers <= SERVERS, "{servers} servers at {} s", world.now / SECOND);
        let waits = all.iter().flat_map(|one| &one.clients).map(|client| client.wait_us);
        longest_wait_us = waits.max().unwrap_or(0).max(longest_wait_us);
        if world.now < HOUR {
            looks += 1;
            assert_eq!(pins(&all), CAUSES.len(), "at {} s", world.now / SECOND);
            // One may be on its way from one client, or one worker, to the next.
            busy_looks += usize::from(holders(&all) >= SERVERS - 1);
        } else if pins(&all) == 0 {
            unpinned_at.get_or_insert(world.now);
        }
    }
    assert!(world.clients.iter().all(|client| client.stage == Stage::Done), "all have been served");
    assert!(looks > 3500, "{looks}");
    assert!(busy_looks * 100 >= looks * 99, "all servers were in use at {busy_looks} of {looks} looks");
    // A round of all others over 15 servers, twice.
    assert!(longest_wait_us <= 2 * OTHERS * STATEMENT_S * SECOND / 15, "somebody waited {longest_wait_us} us");
    let unpinned_at = unpinned_at.expect("the pins have ended");
    assert!(unpinned_at <= HOUR + 2 * SECOND, "the pins ended at {unpinned_at} us");
}

//! A cluster that flaps: its clients wait for a primary only so often.

use super::*;

const MINUTE: u64 = 60 * SECOND;

/// A client at `app`, whose primary may be lost so often within an hour.
fn at_most(max: u32, change: impl FnOnce(&mut DatabaseConfig)) -> (Scene, ConnId) {
    let mut scene = Scene::of_two(|database| {
        database.cluster.as_mut().expect("it is one").holds_per_hour_max = max;
        change(database);
    });
    scene.roles(Writes, Reads);
    let client = scene.comes("app", &[]);
    scene.lets_in(A);
    scene.sent(client);
    (scene, client)
}

/// The primary is lost at a minute, and what a client asks meanwhile. Returns what it is told; empty: it waits.
fn lost_at(scene: &mut Scene, client: ConnId, minute: u64) -> String {
    scene.at(minute * MINUTE);
    scene.roles(Nobody, Reads);
    scene.asks(client, "begin");
    turns(scene);
    String::from_utf8_lossy(&scene.sent(client)).into_owned()
}

/// What is due at once is looked at.
fn turns(scene: &mut Scene) {
    let now = scene.worker.now.0;
    scene.tick(now);
    scene.worker.turn_end(&mut scene.io);
}

/// The primary is there again, and serves who waited.
fn is_back(scene: &mut Scene, client: ConnId) {
    scene.roles(Writes, Reads);
    for conn in scene.opening_to(A) {
        scene.connected(conn);
        scene.sent(conn);
        scene.arrives(conn, &welcome());
    }
    let asked: Vec<_> = scene.io.alive().filter(|(_, c)| c.to.is_some()).map(|(conn, _)| conn).collect();
    for conn in asked {
        if scene.heard(conn).starts_with("begin") {
            scene.answers(conn, TransactionStatus::Idle);
        }
    }
    scene.sent(client);
}

fn refusals(scene: &Scene) -> usize {
    scene.io.logged.iter().filter(|name| **name == "holds_refused").count()
}

/// Each of its requests would take as long as the next primary takes to be found, for ever.
#[test]
fn clients_of_a_cluster_that_flaps_do_not_wait() {
    let (mut scene, client) = at_most(2, |_| ());
    for minute in [10, 20] {
        assert_eq!(lost_at(&mut scene, client, minute), "", "it waits");
        is_back(&mut scene, client);
    }
    for minute in [30, 40] {
        let said = lost_at(&mut scene, client, minute);
        assert!(said.contains("57P03") && said.contains("(FB416)"), "{said}");
        assert!(said.contains("holds_per_hour_max = 2 allows"), "{said}");
        is_back(&mut scene, client);
    }
    assert_eq!(refusals(&scene), 1, "it is told once");
    assert!(scene.is_alive(client), "its session lives on");
    // Of the losses at 10, 20, 30 and 40 two are left.
    assert_eq!(lost_at(&mut scene, client, 95), "", "it waits again");
    is_back(&mut scene, client);
    lost_at(&mut scene, client, 96);
    assert_eq!(refusals(&scene), 2, "it is told anew");
}

/// Those who wait for a server when the primary is lost, and who log in, would wait as long.
#[test]
fn who_waits_already_is_told_as_well_and_who_comes() {
    let (mut scene, client) = at_most(1, |database| database.pool.pool_size = 1);
    assert_eq!(lost_at(&mut scene, client, 10), "");
    is_back(&mut scene, client);
    scene.at(20 * MINUTE);
    let second = scene.comes("app", &[]);
    scene.sent(second);
    scene.asks(client, "begin");
    scene.asks(second, "begin");
    turns(&mut scene);
    assert_eq!(scene.sent(second), b"", "the only server is the first one's");
    scene.roles(Nobody, Reads);
    turns(&mut scene);
    let said = String::from_utf8_lossy(&scene.sent(second)).into_owned();
    assert!(said.contains("(FB416)"), "{said}");
    // What clients are told at their login is not known before a server was there.
    let mut scene = Scene::of_two(|database| database.cluster.as_mut().expect("it is one").holds_per_hour_max = 1);
    for serves in [Writes, Nobody, Writes, Nobody] {
        scene.roles(serves, Reads);
    }
    let third = scene.comes("app", &[]);
    scene.sent(third);
    turns(&mut scene);
    assert!(!scene.is_alive(third), "it can't log in, and learns so at once");
}

/// A long outage after a flapping hour is one like another.
#[test]
fn requests_wait_again_as_soon_as_the_losses_are_old_enough() {
    let (mut scene, client) = at_most(1, |_| ());
    assert_eq!(lost_at(&mut scene, client, 10), "");
    is_back(&mut scene, client);
    assert!(lost_at(&mut scene, client, 11).contains("(FB416)"));
    scene.at(71 * MINUTE);
    scene.asks(client, "begin");
    turns(&mut scene);
    assert_eq!(scene.sent(client), b"", "one loss within the last hour is allowed");
}

/// An operator who moves a primary often is no reason to fail requests.
#[test]
fn a_switchover_is_no_loss_and_without_a_limit_all_wait() {
    let (mut scene, client) = at_most(1, |_| ());
    for minute in 1..6 {
        scene.at(minute * MINUTE);
        scene.roles(Leaving, Reads);
        scene.roles(Barred, Reads);
        scene.asks(client, "begin");
        turns(&mut scene);
        assert_eq!(scene.sent(client), b"");
        is_back(&mut scene, client);
    }
    assert_eq!(lost_at(&mut scene, client, 10), "", "none of them counts");
    is_back(&mut scene, client);
    assert!(lost_at(&mut scene, client, 11).contains("(FB416)"));
    is_back(&mut scene, client);
    scene.roles(Leaving, Reads);
    scene.asks(client, "begin");
    turns(&mut scene);
    assert_eq!(scene.sent(client), b"", "nor do losses before it");
    let (mut scene, client) = at_most(0, |_| ());
    for minute in 1..50 {
        assert_eq!(lost_at(&mut scene, client, minute), "");
        is_back(&mut scene, client);
    }
    assert_eq!(refusals(&scene), 0);
}

//! Connections on their way in that owe a word: who of them goes.

use std::sync::Arc;

use forebay_pgwire::write;

use super::scene::{Scene, tables};
use crate::config::EngineConfig;
use crate::ids::{ConnId, WorkerId};
use crate::io::Peer;
use crate::worker::Shared;

const SECOND: u64 = 1_000_000;
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

fn limited(config: &mut EngineConfig) {
    config.limits.logins_max = 8;
    config.limits.address_logins_max = 3;
    config.limits.clients_max = 20;
    config.limits.login_timeout = 15 * SECOND;
}

impl Scene {
    /// Somebody connects from there, and says nothing.
    fn from(&mut self, address: [u8; 4]) -> ConnId {
        let client = self.io.open_client();
        self.worker.accepted(&mut self.io, client, Peer::Tcp(address.into(), 9));
        client
    }

    fn are_alive(&self, conns: &[ConnId]) -> Vec<bool> {
        conns.iter().map(|conn| self.is_alive(*conn)).collect()
    }

    fn owing(&self) -> u64 {
        self.worker.stats.arriving.get()
    }
}

/// One address that holds all places keeps everybody else out.
#[test]
fn of_an_address_with_too_many_the_first_goes() {
    let mut scene = Scene::with(limited);
    scene.tick(SECOND);
    let beside = scene.from([192, 0, 2, 1]);
    let loud: Vec<ConnId> = (0..5).map(|_| scene.from([192, 0, 2, 66])).collect();
    assert_eq!(scene.are_alive(&loud), [true; 5], "nobody has had the time to read what they say");
    scene.at(4 * SECOND);
    assert_eq!(scene.are_alive(&loud), [false, false, true, true, true]);
    assert!(scene.is_alive(beside));
    assert_eq!((scene.owing(), scene.worker.stats.logins_turned_away.get()), (4, 2));
    assert_eq!(scene.sent(loud[0]), b"", "it has asked nothing");
}

/// A proxy on the same host stands for many; all together they are limited.
#[test]
fn of_all_the_first_goes_of_the_address_that_has_most() {
    let mut scene = Scene::with(limited);
    scene.tick(SECOND);
    let few: Vec<ConnId> = (0..2).map(|_| scene.from([192, 0, 2, 1])).collect();
    let local: Vec<ConnId> = (0..8).map(|_| scene.connects()).collect();
    scene.at(4 * SECOND);
    assert_eq!(scene.are_alive(&few), [true, true]);
    assert_eq!(scene.are_alive(&local), [false, false, true, true, true, true, true, true]);
    assert_eq!(scene.owing(), 8);
}

/// After a restart a whole service comes at once, by one load balancer, and takes a moment for its proofs.
#[test]
fn those_that_talk_stay_until_they_take_long() {
    let mut scene = Scene::with(limited);
    scene.tick(SECOND);
    let talking: Vec<ConnId> = (0..12)
        .map(|_| {
            let client = scene.from([192, 0, 2, 1]);
            scene.arrives(client, SSL_REQUEST);
            client
        })
        .collect();
    assert_eq!(scene.are_alive(&talking), [true; 12]);
    scene.at(5 * SECOND);
    scene.from([192, 0, 2, 2]);
    assert_eq!(scene.are_alive(&talking), [true; 12], "a third of the time for a login has not passed");
    scene.at(7 * SECOND);
    let last = scene.from([192, 0, 2, 1]);
    assert_eq!(scene.are_alive(&talking).iter().filter(|is_alive| **is_alive).count(), 2);
    assert!(scene.is_alive(last));
    for _ in 0..30 {
        let client = scene.from([192, 0, 2, 3]);
        scene.arrives(client, SSL_REQUEST);
    }
    assert!(scene.owing() <= 28, "as many as may be clients, and those that owe");
}

/// Else every client that was ever let in would count against those that come.
#[test]
fn who_is_let_in_cancels_or_leaves_is_not_counted() {
    let mut scene = Scene::with(limited);
    scene.tick(SECOND);
    scene.in_transaction();
    assert_eq!(scene.owing(), 0);
    let leaver = scene.from([192, 0, 2, 1]);
    let canceller = scene.from([192, 0, 2, 1]);
    assert_eq!(scene.owing(), 2);
    scene.closed(leaver);
    let mut bytes = Vec::new();
    write::cancel_request(&mut bytes, 1, b"abcd");
    scene.arrives(canceller, &bytes);
    assert_eq!(scene.owing(), 0);
    let many: Vec<ConnId> = (0..3).map(|_| scene.from([192, 0, 2, 1])).collect();
    assert_eq!(scene.are_alive(&many), [true; 3]);
}

/// It is the client's address that counts, not that of the load balancer in front.
#[test]
fn the_address_of_a_header_counts() {
    let mut scene = Scene::with(|config| {
        limited(config);
        config.listen.proxy_from = vec!["10.0.0.1/32".into()];
    });
    scene.tick(SECOND);
    let waiting: Vec<ConnId> = (0..4).map(|_| scene.from([10, 0, 0, 1])).collect();
    assert_eq!(scene.are_alive(&waiting), [true; 4], "its own connections are not counted by address");
    for conn in &waiting {
        scene.arrives(*conn, b"PROXY TCP4 192.0.2.66 10.0.0.9 1 2\r\n");
    }
    scene.at(4 * SECOND);
    assert_eq!(scene.are_alive(&waiting), [false, true, true, true]);
    scene.arrives(waiting[3], &[0, 0, 0, 40]);
    assert_eq!(scene.owing(), 3);
}

/// The limit is one over all workers; each lets go of its own.
#[test]
fn workers_count_together() {
    let shared = Arc::new(Shared::new(2));
    let mut scenes = [0, 1].map(|id| Scene::of(id, tables(limited), shared.clone()));
    scenes.iter_mut().for_each(|scene| scene.tick(SECOND));
    let first: Vec<ConnId> = (0..2).map(|_| scenes[0].from([192, 0, 2, 1])).collect();
    let second: Vec<ConnId> = (0..3).map(|_| scenes[1].from([192, 0, 2, 1])).collect();
    scenes[1].at(4 * SECOND);
    assert_eq!(scenes[0].are_alive(&first), [true; 2]);
    assert_eq!(scenes[1].are_alive(&second), [false, false, true]);
    // One that has just come must not go for those of another worker.
    scenes[1].closed(second[2]);
    scenes[0].at(4 * SECOND);
    let third = scenes[0].from([192, 0, 2, 1]);
    scenes[1].io.told = Some(Vec::new());
    let newest = scenes[1].from([192, 0, 2, 1]);
    assert!(scenes[1].is_alive(newest));
    let told = scenes[1].io.told.take().expect("what it was told");
    for (_, message) in told {
        let scene = &mut scenes[0];
        scene.worker.told(&mut scene.io, WorkerId(1), message);
    }
    assert_eq!(scenes[0].are_alive(&[first[0], first[1], third]), [false, true, true]);
    assert!(scenes[1].is_alive(newest));
}

/// A silent crowd may take no more than a part of the descriptors, and gives some when there is none left.
#[test]
fn descriptors_are_given_to_those_that_talk() {
    let mut scene = Scene::with(|config| config.limits.logins_max = 0);
    scene.worker.shared.crowd.set_files_max(64);
    scene.tick(SECOND);
    let silent: Vec<ConnId> = (0..20).map(|_| scene.connects()).collect();
    scene.worker.short_of_files(&mut scene.io);
    assert_eq!(scene.owing(), 20, "they have only just come");
    scene.at(4 * SECOND);
    assert_eq!(scene.owing(), 16, "a quarter of 64");
    scene.worker.short_of_files(&mut scene.io);
    assert_eq!(scene.owing(), 8);
    assert_eq!(scene.are_alive(&silent).iter().filter(|is_alive| **is_alive).count(), 8);
}

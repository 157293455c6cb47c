//! CancelRequests that come to nothing, and those whose key was made under another number.

use forebay_pgwire::write;

use super::scene::{Scene, tables};
use crate::command::Command;
use crate::config::{EngineConfig, PeerConfig};
use crate::ids::ConnId;
use crate::io::ClosedBy;

const SECOND: u64 = 1_000_000;
/// A key of a client of the peer 2.
const OF_2: u32 = 0x11_02_00_22;

fn peered(config: &mut EngineConfig, own: u16) {
    config.limits.clients_max = 20_000;
    config.limits.waiters_max = 20_000;
    config.limits.cancel_misses_max = 0;
    config.limits.cancel_wait_timeout = 0;
    config.peers.own = own;
    config.peers.others = vec![PeerConfig { id: 2, endpoint: "10.0.0.2:6432".into(), pool_size: 1 }];
}

impl Scene {
    /// Somebody sends a CancelRequest.
    fn cancels(&mut self, pid: u32, secret: &[u8]) -> ConnId {
        let canceller = self.connects();
        let mut bytes = Vec::new();
        write::cancel_request(&mut bytes, pid, secret);
        self.arrives(canceller, &bytes);
        canceller
    }

    /// The key in a client's greeting.
    fn key(&mut self, client: ConnId) -> (u32, Vec<u8>) {
        let greeting = self.sent(client);
        let at = greeting.windows(5).position(|part| part == b"K\0\0\0\x0c").expect("a key of protocol 3.0") + 5;
        let pid = u32::from_be_bytes(greeting[at..at + 4].try_into().expect("four bytes"));
        (pid, greeting[at + 4..at + 8].to_vec())
    }

    /// The client's server is at work for it.
    fn works(&mut self, client: ConnId, server: ConnId) {
        self.arrives(client, b"Q\0\0\0\x0dselect 1\0");
        assert!(self.sent(server).ends_with(b"select 1\0"));
    }
}

/// One call for each that waits would end the process: its stack is not that deep.
#[test]
fn ten_thousand_that_wait_for_a_peer_end_with_it() {
    let mut scene = Scene::with(|config| peered(config, 1));
    scene.tick(SECOND);
    let waiting: Vec<ConnId> = (0..10_000).map(|_| scene.cancels(OF_2, b"abc\x43")).collect();
    let [under_way] = scene.connecting()[..] else { panic!("one at a time") };
    scene.order(Command::Reload(tables(|config| {
        peered(config, 1);
        config.peers.others.clear();
    })));
    scene.worker.closed(&mut scene.io, under_way, ClosedBy::Error("refused".into()));
    scene.io.end(under_way);
    assert_eq!(scene.io.alive().count(), 0, "of {}", waiting.len());
}

/// Half of the cancels of all that come by one address are for the other process: they are no guesses.
#[test]
fn what_goes_on_to_a_peer_is_counted_apart_and_may_be_more() {
    let mut scene = Scene::with(|config| {
        peered(config, 1);
        config.limits.cancel_misses_max = 2;
        config.peers.others[0].pool_size = 0;
    });
    scene.tick(SECOND);
    for _ in 0..16 {
        scene.cancels(OF_2, b"abc\x43");
    }
    assert_eq!(scene.connecting().len(), 16);
    let too_many = scene.cancels(OF_2, b"abc\x43");
    assert!(!scene.is_alive(too_many) && scene.connecting().len() == 16, "nobody guesses through us");
    assert_eq!(scene.worker.stats.cancels_refused.get(), 1);
    for _ in 0..3 {
        scene.cancels(0x11_01_00_22, b"abc\x43");
    }
    assert_eq!(scene.worker.stats.cancels_refused.get(), 2, "two that name nobody here are looked at");
}

/// A server that is at work has no limit, so that the cancel needs one: else no other is ever sent.
#[test]
fn a_cancel_that_was_sent_and_does_not_end_is_given_up() {
    let mut scene = Scene::new();
    scene.tick(SECOND);
    let (client, server) = scene.in_transaction();
    let (pid, secret) = scene.key(client);
    scene.works(client, server);
    let canceller = scene.cancels(pid, &secret);
    let cancel = scene.connecting()[0];
    scene.connected(cancel);
    assert!(scene.sent(cancel).ends_with(&[0, 0, 0x12, 0x67, 1, 2, 3, 4]), "the server's own key");
    scene.tick(3 * SECOND);
    assert!(scene.is_alive(canceller) && scene.is_alive(cancel));
    scene.tick(5 * SECOND);
    assert!(!scene.is_alive(canceller) && !scene.is_alive(cancel));
    scene.cancels(pid, &secret);
    assert_eq!(scene.connecting().len(), 1, "another may try");
    // What was given up may arrive yet: nobody else has that server.
    scene.connected(scene.connecting()[0]);
    let second = scene.io.alive().filter(|(_, c)| c.is_outgoing).map(|(conn, _)| conn).find(|conn| *conn != server);
    scene.worker.closed(&mut scene.io, second.expect("it is under way"), ClosedBy::Peer);
    scene.io.end(second.expect("it is under way"));
    scene.arrives(server, b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I");
    assert!(!scene.is_alive(server));
    assert!(scene.is_alive(client));
}

/// A client that was told its key before a RELOAD changed `peer_id` can still cancel.
#[test]
fn a_key_made_under_another_number_is_understood() {
    for own in [0, 7] {
        let mut scene = Scene::with(|config| peered(config, 1));
        scene.tick(SECOND);
        let (client, server) = scene.in_transaction();
        let (pid, secret) = scene.key(client);
        assert_eq!(pid.to_be_bytes()[1..3], [1, 0], "the number that it was made under");
        scene.works(client, server);
        scene.order(Command::Reload(tables(|config| peered(config, own))));
        let wrong = scene.cancels(pid, b"abc\x43");
        assert!(!scene.is_alive(wrong) && scene.connecting().is_empty());
        scene.cancels(pid, &secret);
        assert_eq!(scene.connecting().len(), 1, "own: {own}");
    }
}

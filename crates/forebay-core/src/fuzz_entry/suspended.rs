//! What SUSPEND holds, and what goes on after RESUME.

use super::scene::Scene;
use crate::command::Command;
use crate::ids::ConnId;

const SECOND: u64 = 1_000_000;
const SELECT: &[u8] = b"Q\0\0\0\x0dselect 2\0";

/// A's transaction has ended.
fn commits(scene: &mut Scene, client: ConnId, server: ConnId) {
    scene.arrives(client, b"Q\0\0\0\x0bCOMMIT\0");
    scene.sent(server);
    scene.arrives(server, b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I");
}

/// A place in the queue that is lost by a restart of another process is a client that hangs.
#[test]
fn who_waits_for_a_server_has_it_after_resume() {
    let mut scene = Scene::with(|config| config.databases[0].pool.query_wait_notify = SECOND);
    scene.tick(SECOND);
    let (first, server) = scene.in_transaction();
    let second = scene.client();
    assert!(scene.sent(second).ends_with(b"Z\0\0\0\x05I"), "it is greeted with what is known of the server");
    scene.arrives(second, SELECT);
    scene.tick(3 * SECOND);
    assert_eq!(scene.sent(second)[0], b'N', "it is told that it waits");
    scene.order(Command::Suspend);
    scene.tick(200 * SECOND);
    scene.order(Command::Resume(None));
    scene.tick(202 * SECOND);
    assert_eq!(scene.sent(second), b"", "it has been told of this wait, and waits no longer than it may");
    commits(&mut scene, first, server);
    assert_eq!(scene.sent(server), SELECT);
}

/// A login, or a way into a server, that was held must not be ended for it.
#[test]
fn who_comes_and_what_is_opened_has_as_much_time_as_without() {
    let mut scene = Scene::new();
    scene.tick(SECOND);
    let silent = scene.connects();
    let client = scene.client();
    let server = scene.connecting()[0];
    scene.order(Command::Suspend);
    scene.tick(100 * SECOND);
    scene.order(Command::Resume(None));
    scene.tick(114 * SECOND);
    assert_eq!([silent, client, server].map(|conn| scene.is_alive(conn)), [true; 3]);
    scene.tick(116 * SECOND);
    assert_eq!([silent, server].map(|conn| scene.is_alive(conn)), [false; 2], "nor more than that");
}

/// What a server says that was opened meanwhile waits as well; and nobody is ended for what SUSPEND wanted once it is over.
#[test]
fn a_server_opened_meanwhile_is_not_read_from_and_nobody_is_dropped_after_resume() {
    let mut scene = Scene::new();
    scene.tick(SECOND);
    let (first, server) = scene.in_transaction();
    let second = scene.client();
    scene.arrives(second, SELECT);
    scene.order(Command::Suspend);
    scene.closed(server);
    let opened = scene.connecting().pop().expect("one is opened for the second client");
    scene.connected(opened);
    assert!(!scene.io.connection(opened).is_read);
    scene.order(Command::Resume(None));
    assert!(scene.io.connection(opened).is_read);
    assert!(!scene.io.connection(second).sent.is_empty(), "its greeting is not taken yet");
    scene.order(Command::DropUnflushed);
    assert!(scene.is_alive(second));
    assert_ne!(first, second);
}

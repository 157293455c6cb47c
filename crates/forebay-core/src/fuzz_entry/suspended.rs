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

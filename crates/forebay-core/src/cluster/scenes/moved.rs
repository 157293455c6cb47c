//! Who is with a replica in an online restart.

use forebay_sql::traces::Traces;

use super::*;

/// The client of an online restart must not hear what it hears at no other time.
#[test]
fn what_a_replica_refuses_after_a_restart_is_made_again_on_the_primary() {
    let (mut before, client, _, replica) = Scene::at_rest(|_| ());
    before.asks(client, "select 1");
    assert_eq!(before.heard(replica), "select 1");
    let group = before.hands_on().into_iter().find(|group| group.connections.len() == 2).expect("both go together");
    let mut after = Scene::of_two(|_| ());
    after.roles(Writes, Reads);
    after.takes(group);
    let client = after.worker.clients.iter().next().expect("it is there").1.conn;
    let replica = after.worker.servers.iter().next().expect("it is there").1.conn;
    after.fails(replica, "25006");
    assert_eq!(String::from_utf8_lossy(&after.sent(client)), "");
    let primary = after.lets_in(A);
    assert_eq!(after.heard(primary), "select 1");
    after.answers(primary, TransactionStatus::Idle);
    assert!(after.sent(client).ends_with(b"Z\0\0\0\x05I"));
}

/// A pool that its clients have come to with servers of replicas must let others in, and count, as before.
#[test]
fn who_comes_with_a_server_of_a_replica_is_at_home_as_before() {
    let (mut before, client, _, replica) = Scene::at_rest(|_| ());
    before.asks(client, "begin read only");
    before.answers(replica, TransactionStatus::InTransaction);
    let held = before.worker.servers.iter().find(|(_, server)| server.client.is_some()).expect("one is held").0;
    before.worker.pinned_by(&mut before.io, held, Traces::LOCK, Traces::LOCK);
    let pinned = |scene: &Scene| ["app", "app:replicas"].map(|name| scene.pool(name).stats.stats.pinned.get());
    assert_eq!(pinned(&before), [0, 1]);
    let group = before.hands_on().into_iter().find(|group| group.connections.len() == 2).expect("both go together");
    assert_eq!(pinned(&before), [0, 0]);
    // The secret is known from logins alone.
    let mut after = Scene::of_two_with(|_| (), |config| config.users.clear());
    after.roles(Writes, Reads);
    after.takes(group);
    assert_eq!(pinned(&after), [0, 1]);
    let (home, replicas) = (after.pool("app"), after.pool("app:replicas"));
    assert!(replicas.secret.is_some() && home.secret.is_some());
    assert!(home.replicas.is_some(), "what the next login gives away reaches both");
}

/// A restart is called off by the very order that says that nobody takes writes: who had waited gets no server of before.
#[test]
fn who_waits_again_gets_no_server_that_roles_take_away() {
    let (mut scene, holder, primary, _) = Scene::at_rest(|_| ());
    scene.asks(holder, "begin");
    scene.heard(primary);
    scene.answers(primary, TransactionStatus::InTransaction);
    let writer = scene.comes("app", &[]);
    scene.asks(writer, "insert into t values (1)");
    let opened = scene.stands(A);
    scene.io.handed_on = Some(Vec::new());
    scene.order(Command::HandOn);
    scene.at(scene.worker.now.0 + 1);
    scene.arrives(opened, &welcome());
    scene.roles(Reads, Reads);
    assert!(!scene.heard(opened).contains("insert"));
    scene.order(Command::Stay);
    scene.roles(Reads, Writes);
    let primary = scene.lets_in(B);
    assert_eq!(scene.heard(primary), "insert into t values (1)");
}

//! What a transaction hears whose server is lost: that it only read, and is to be run again, or that it is lost.

use forebay_pgwire::write;

use super::again::is_told;
use super::*;
use crate::config::Level;

/// Texts, and what a server says of each.
type Done<'a> = &'a [(&'a str, &'a str)];

const READ_ONLY: Done<'_> = &[("begin read only", "BEGIN"), ("select 1", "SELECT 1")];
const SET: Done<'_> = &[("begin", "BEGIN"), ("set transaction read only", "SET"), ("select 1", "SELECT 1")];

/// What a client hears that has done this and loses its server, while `last` is under way, or before it asks anything.
fn heard(first: Done<'_>, last: &str) -> Vec<u8> {
    // With a transaction that begins anew nothing of this would be seen.
    let mut without = cluster(Role::Primary, true);
    without.as_mut().expect("it is one").retries_reads = false;
    let (mut scene, client, primary, replica) = Scene::at_rest(|database| {
        database.cluster = without;
        database.pool.level = Level::Safe;
    });
    scene.sent(client);
    let server = if first[0].0.starts_with("begin read only") { replica } else { primary };
    scene.begun(client, server, first);
    if last.is_empty() {
        scene.closed(server);
        assert_eq!(scene.sent(client), b"", "it has asked for nothing");
        scene.asks(client, "select 9");
    } else {
        scene.asks(client, last);
        scene.sent(server);
        scene.closed(server);
    }
    scene.sent(client)
}

fn assert_told(first: Done<'_>, last: &str, sqlstate: &str) {
    let said = heard(first, last);
    assert!(is_told(&said, sqlstate), "{first:?} {last}: {}", String::from_utf8_lossy(&said));
    assert!(said.ends_with(b"Z\0\0\0\x05I"), "{first:?} {last}: it is in no transaction any more");
}

/// What runs transactions again on 40001 would see an application fail at each failover, though it has only read.
#[test]
fn a_read_only_transaction_is_to_be_run_again() {
    for first in [READ_ONLY, SET] {
        for last in ["", "select 2", "fetch next from c", "set local work_mem = 1"] {
            assert_told(first, last, "40001");
        }
        assert!(heard(first, "").windows(5).any(|part| part == b"FB404"));
    }
    // Before anything was told but that it has begun.
    assert_told(&READ_ONLY[..1], "", "40001");
    assert_told(&SET[..2], "", "40001");
    assert_told(&SET[..1], "set transaction read only", "40001");
}

/// A transaction that may have written would be taken for one that has not.
#[test]
fn a_transaction_that_may_write_is_lost_as_before() {
    let lost = |first: Done<'_>, last: &str| assert_told(first, last, "57P01");
    lost(&[("begin", "BEGIN"), ("select 1", "SELECT 1")], "");
    lost(&[("begin", "BEGIN"), ("insert into t values (1)", "INSERT 0 1"), ("set transaction read only", "SET")], "");
    lost(&[SET[0], SET[1], ("set transaction read write", "SET")], "insert into t values (1)");
    lost(&[READ_ONLY[0], ("set transaction_read_only = off", "SET")], "");
    lost(&[READ_ONLY[0], ("commit and chain", "COMMIT"), ("set transaction read write", "SET")], "");
    lost(&[("insert into t values (1); begin read only", "BEGIN")], "select 1");
}

/// A COMMIT may have sent a notification, and what stands behind the end of a transaction is none of it.
#[test]
fn the_end_of_a_read_only_transaction_is_lost_as_before() {
    for first in [READ_ONLY, SET] {
        assert_told(first, "commit", "08007");
        assert_told(first, "rollback", "57P01");
    }
}

/// What a transaction leaves whether it is rolled back or not, who runs it again takes to be there.
#[test]
fn a_read_only_transaction_is_lost_with_what_its_session_had() {
    for last in ["select pg_advisory_lock(1)", "select setseed(0)", "select f()", "load 'x'"] {
        assert_told(READ_ONLY, last, "57P01");
    }
    for (lasting, tag) in [("select pg_advisory_lock(1)", "SELECT 1"), ("select f()", "SELECT 1"), ("do ''", "DO")] {
        assert_told(&[SET[0], SET[1], (lasting, tag)], "select 1", "57P01");
    }
    for effect in [
        "copy (select 1) to program 'mail'",
        "copy t to '/t'",
        "select pg_switch_wal()",
        "select pg_advisory_xact_lock(1)",
    ] {
        assert_told(READ_ONLY, effect, "57P01");
    }
}

/// All that was sent of it, each by itself: nothing of it was done.
#[test]
fn each_request_of_a_read_only_transaction_is_answered() {
    let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
    scene.sent(client);
    scene.begun(client, primary, SET);
    let mut both = Vec::new();
    write::query(&mut both, "select 2");
    write::query(&mut both, "select 3");
    scene.arrives(client, &both);
    scene.sent(primary);
    scene.closed(primary);
    let said = scene.sent(client);
    let count = |what: &[u8]| said.windows(what.len()).filter(|part| *part == what).count();
    assert_eq!((count(b"C40001"), count(b"Z\0\0\0\x05I")), (2, 2), "{}", String::from_utf8_lossy(&said));
}

/// Who asks for a replica and says no more begins what can't write there; one that was promoted meanwhile takes writes.
#[test]
fn a_transaction_on_a_standby_only_reads_as_long_as_that_says_that_it_is_one() {
    let mut said = Vec::new();
    for in_recovery in [Some("on"), Some("off"), None] {
        let mut scene = Scene::of_two(|_| ());
        scene.roles_of("reading", Barred, Reads);
        let client = scene.comes("reading", &[]);
        let replica = scene.lets_in(B);
        scene.sent(client);
        scene.asks(client, "begin");
        assert_eq!(scene.heard(replica), "begin");
        let mut bytes = Vec::new();
        write::command_complete(&mut bytes, "BEGIN");
        in_recovery.iter().for_each(|value| write::parameter_status(&mut bytes, "in_hot_standby", *value));
        write::ready_for_query(&mut bytes, TransactionStatus::InTransaction);
        scene.arrives(replica, &bytes);
        scene.sent(client);
        scene.asks(client, "select 1");
        scene.closed(replica);
        said.push(is_told(&scene.sent(client), "40001"));
    }
    assert_eq!(said, [true, false, false]);
}

/// An online restart in the middle of it takes nothing away, and adds nothing.
#[test]
fn a_transaction_that_has_moved_is_what_it_was() {
    let writing: Done<'_> = &[("begin", "BEGIN"), ("insert into t values (1)", "INSERT 0 1")];
    for (done, then, told) in [(READ_ONLY, "select 2", "40001"), (writing, "begin read only", "57P01")] {
        let (mut before, client, primary, replica) = Scene::at_rest(|_| ());
        before.sent(client);
        before.begun(client, if done == READ_ONLY { replica } else { primary }, done);
        let group = before.hands_on().into_iter().find(|group| group.connections.len() == 2).expect("both go together");
        let mut after = Scene::of_two(|_| ());
        after.roles(Writes, Reads);
        after.takes(group);
        let client = after.worker.clients.iter().next().expect("it is there").1.conn;
        let server = after.worker.servers.iter().next().expect("it is there").1.conn;
        after.asks(client, then);
        assert_eq!(after.heard(server), then);
        after.closed(server);
        let said = after.sent(client);
        assert!(is_told(&said, told), "{then}: {}", String::from_utf8_lossy(&said));
    }
}

//! COMMITs whose servers are lost, with `commit_check`: which answer is about which of them.

use forebay_pgwire::backend::TransactionStatus::{Idle, InTransaction};
use forebay_pgwire::write;

use super::again::is_told;
use super::*;

/// How a question about a transaction ends, and one by what it can be found.
const AFTER: &str = " OFFSET 0) AS q";
const BEFORE: &str = "pg_current_xact_id_if_assigned() AS x";

/// What is sent for a transaction, as one of the timeline 1.
fn known(xid: &str) -> Vec<u8> {
    row(&[Some(xid), Some("0/1000"), Some("7"), Some("000000010000000000000001"), Some("on")], InTransaction)
}

/// The same server, further on, says what became of a transaction.
fn told(status: &str) -> Vec<u8> {
    let file = Some("000000010000000000000001");
    row(&[Some("7"), file, Some("0/2000"), None, Some("f"), Some(status), None, Some("on")], Idle)
}

fn row(values: &[Option<&str>], status: TransactionStatus) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
    let mut out = Vec::new();
    write::data_row(&mut out, &values);
    write::command_complete(&mut out, "SELECT 1");
    write::ready_for_query(&mut out, status);
    out
}

impl Scene {
    /// A server of PostgreSQL 18 is let in.
    fn lets_in_18(&mut self) -> ConnId {
        let conn = self.stands(A);
        let mut bytes = welcome();
        let ready = bytes.split_off(bytes.len() - 6);
        write::parameter_status(&mut bytes, "server_version", "18.0");
        self.arrives(conn, &[bytes, ready].concat());
        conn
    }

    /// A client's transaction is committed, as far as anybody has heard; then its server is lost.
    fn loses_commit(&mut self, client: ConnId, server: ConnId, xid: &str) {
        assert_eq!(self.heard(server), "begin");
        self.answers(server, InTransaction);
        self.sent(client);
        self.asks(client, "commit");
        assert!(self.heard(server).ends_with(BEFORE));
        self.arrives(server, &known(xid));
        assert_eq!(self.heard(server), "commit");
        self.closed(server);
        assert_eq!(self.sent(client), b"", "it waits for what became of it");
    }

    /// A server is asked what became of a transaction.
    fn is_asked_about(&mut self, server: ConnId, xid: &str) {
        let text = self.heard(server);
        assert!(text.ends_with(AFTER) && text.contains(&format!("pg_xact_status('{xid}'")), "{text}");
    }
}

/// A client that has waited too long goes on, and the answer that it has waited for comes all the same. Told of the next
/// COMMIT, it would acknowledge one that was lost.
#[test]
fn an_answer_that_comes_too_late_tells_nothing_of_the_next_commit() {
    let mut scene = Scene::of_two(|database| {
        database.cluster = cluster(Role::Primary, false);
        database.checks_commits = true;
        database.pool.query_wait_timeout = 2 * SECOND;
    });
    scene.roles(Writes, Reads);
    let client = scene.comes("app", &[]);
    let first = scene.lets_in_18();
    scene.asks(client, "begin");
    scene.sent(client);
    scene.loses_commit(client, first, "700");
    let slow = scene.lets_in_18();
    scene.is_asked_about(slow, "700");
    scene.at(4 * SECOND);
    let said = scene.sent(client);
    assert!(is_told(&said, "08007"), "{}", String::from_utf8_lossy(&said));
    scene.asks(client, "begin");
    let second = scene.lets_in_18();
    scene.loses_commit(client, second, "701");
    scene.arrives(slow, &told("committed"));
    assert_eq!(scene.sent(client), b"", "that was about the transaction before");
    scene.is_asked_about(slow, "701");
    scene.arrives(slow, &told("aborted"));
    let said = scene.sent(client);
    assert!(is_told(&said, "40001"), "{}", String::from_utf8_lossy(&said));
}

/// Two replicas may be promoted to the same timeline, one after the other: the second has ids of its own.
#[test]
fn what_another_endpoint_says_on_the_same_timeline_is_not_believed() {
    let mut scene = Scene::of_two(|database| {
        database.cluster = cluster(Role::Primary, false);
        database.checks_commits = true;
    });
    scene.roles(Writes, Barred);
    let client = scene.comes("app", &[]);
    let first = scene.lets_in_18();
    scene.asks(client, "begin");
    scene.sent(client);
    scene.loses_commit(client, first, "700");
    scene.roles(Barred, Writes);
    let twin = scene.lets_in(B);
    scene.is_asked_about(twin, "700");
    scene.arrives(twin, &told("committed"));
    let said = scene.sent(client);
    assert!(is_told(&said, "08007"), "{}", String::from_utf8_lossy(&said));
}

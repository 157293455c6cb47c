//! What becomes of a transaction that has begun and done nothing, or read nothing yet, when its server is lost.

use forebay_pgwire::backend::TransactionStatus::{Idle, InTransaction};
use forebay_pgwire::write;

use super::again::{a_row, is_told};
use super::*;

impl Scene {
    /// A server says that it has done this, and that a transaction is under way.
    pub(super) fn does(&mut self, server: ConnId, tag: &str) {
        let mut bytes = Vec::new();
        write::command_complete(&mut bytes, tag);
        write::ready_for_query(&mut bytes, InTransaction);
        self.arrives(server, &bytes);
    }

    /// A client has begun a transaction at a server, by these texts, and been told so.
    pub(super) fn begun(&mut self, client: ConnId, server: ConnId, texts: &[(&str, &str)]) {
        for (text, tag) in texts {
            self.asks(client, text);
            assert_eq!(self.heard(server), *text);
            self.does(server, tag);
            assert!(self.sent(client).starts_with(b"C"), "{text}");
        }
    }

    /// Another primary does it all once more, and nobody hears of it.
    fn begins_anew(&mut self, client: ConnId, server: ConnId, texts: &[(&str, &str)]) {
        for (text, tag) in texts {
            assert_eq!(self.heard(server), *text, "one at a time");
            self.does(server, tag);
            assert_eq!(self.sent(client), b"", "{text}");
        }
    }

    /// Who comes in place of a server that was lost is asked for nothing.
    fn hears_nothing(&mut self) -> ConnId {
        let next = self.lets_in(B);
        assert_eq!(self.heard(next), "");
        next
    }
}

const BEGIN: &[(&str, &str)] = &[("begin", "BEGIN")];
const MORE: &[(&str, &str)] = &[
    ("begin isolation level repeatable read", "BEGIN"),
    ("set local work_mem = '64MB'", "SET"),
    ("set transaction read write", "SET"),
];

/// Whoever holds transactions open between its statements would hear of each failover.
#[test]
fn a_transaction_that_has_only_begun_begins_anew_with_its_next_request() {
    for texts in [BEGIN, MORE] {
        let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
        scene.sent(client);
        scene.begun(client, primary, texts);
        scene.closed(primary);
        scene.roles(Barred, Writes);
        assert_eq!(scene.sent(client), b"");
        assert_eq!(scene.opening_to(B), [], "it asks for nothing");
        scene.asks(client, "insert into t values (1)");
        let heir = scene.lets_in(B);
        scene.begins_anew(client, heir, texts);
        assert_eq!(scene.heard(heir), "insert into t values (1)");
        scene.does(heir, "INSERT 0 1");
        assert!(scene.sent(client).starts_with(b"C"));
        // From here on it is a transaction as any.
        scene.closed(heir);
        scene.asks(client, "insert into t values (2)");
        assert!(is_told(&scene.sent(client), "57P01"));
    }
}

/// A read within it is asked again with it.
#[test]
fn a_read_in_a_transaction_is_made_again_with_that() {
    for (texts, is_at_home) in [(BEGIN, true), (MORE, true), (&[("begin read only", "BEGIN")][..], false)] {
        let (mut scene, client, primary, replica) = Scene::at_rest(|_| ());
        scene.sent(client);
        let (server, other) = if is_at_home { (primary, B) } else { (replica, A) };
        scene.begun(client, server, texts);
        scene.asks(client, "select 2");
        assert_eq!(scene.heard(server), "select 2");
        scene.arrives(server, &a_row().0);
        scene.closed(server);
        let heir = if is_at_home {
            scene.roles(Barred, Writes);
            scene.lets_in(other)
        } else {
            primary
        };
        scene.begins_anew(client, heir, texts);
        assert_eq!(scene.heard(heir), "select 2");
        let (head, row) = a_row();
        scene.arrives(heir, &[head, row].concat());
        scene.does(heir, "SELECT 1");
        assert!(scene.sent(client).starts_with(b"T"));
        scene.closed(heir);
        scene.asks(client, "select 3");
        let told = if is_at_home { "57P01" } else { "40001" };
        assert!(is_told(&scene.sent(client), told), "what was read can't be read anew");
    }
}

/// What may have been done is never done twice, and what was seen is not seen anew.
#[test]
fn a_transaction_that_has_done_more_does_not_begin_anew() {
    let lost = |first: &[(&str, &str)], last: &str, sqlstate: &str| {
        let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
        scene.sent(client);
        scene.begun(client, primary, first);
        if !last.is_empty() {
            scene.asks(client, last);
            scene.sent(primary);
        }
        scene.closed(primary);
        scene.roles(Barred, Writes);
        if last.is_empty() {
            scene.asks(client, "select 9");
        }
        let said = scene.sent(client);
        assert!(is_told(&said, sqlstate), "{last}: {}", String::from_utf8_lossy(&said));
        assert_eq!(scene.opening_to(B), [], "{last}: nobody wants a server");
    };
    lost(BEGIN, "insert into t values (1)", "57P01");
    lost(BEGIN, "commit", "08007");
    lost(BEGIN, "select f()", "57P01");
    lost(BEGIN, "select nextval('s')", "57P01");
    lost(&[("begin", "BEGIN"), ("select 1", "SELECT 1")], "", "57P01");
    lost(&[("begin", "BEGIN"), ("set work_mem = 1", "SET")], "", "57P01");
    lost(&[("begin; select 1", "BEGIN")], "", "57P01");
}

/// What can't begin anew is lost, and what was to be done in it is not done without it.
#[test]
fn a_transaction_that_does_not_begin_anew_is_lost() {
    let scene = || {
        let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
        scene.sent(client);
        scene.begun(client, primary, MORE);
        scene.closed(primary);
        scene.roles(Barred, Writes);
        scene.asks(client, "insert into t values (1)");
        let heir = scene.lets_in(B);
        (scene, client, heir)
    };
    let is_lost = |scene: &mut Scene, client: ConnId| {
        let said = scene.sent(client);
        assert!(is_told(&said, "57P01"), "{}", String::from_utf8_lossy(&said));
        assert!(said.ends_with(b"Z\0\0\0\x05I") && said.iter().filter(|byte| **byte == b'Z').count() == 1);
    };
    // The server refuses what another has done.
    let (mut refused, client, heir) = scene();
    refused.begins_anew(client, heir, &MORE[..1]);
    assert_eq!(refused.heard(heir), MORE[1].0);
    refused.fails(heir, "22023");
    is_lost(&mut refused, client);
    assert_eq!(refused.sent(heir), b"");
    // Its transaction is another, or the server is lost as well, at any point.
    for (steps, is_answered) in [(0, false), (1, false), (2, false), (1, true)] {
        let (mut scene, client, heir) = scene();
        scene.begins_anew(client, heir, &MORE[..steps]);
        if is_answered {
            scene.answers(heir, Idle);
        } else {
            scene.closed(heir);
        }
        is_lost(&mut scene, client);
        scene.asks(client, "select 1");
        assert!(!is_told(&scene.sent(client), "57P01"), "its session goes on");
    }
}

/// Nobody waits for ever, and who has not asked is not answered.
#[test]
fn a_transaction_that_waits_too_long_to_begin_anew_is_lost() {
    let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
    scene.sent(client);
    scene.begun(client, primary, BEGIN);
    scene.closed(primary);
    scene.roles(Nobody, Nobody);
    scene.at(600 * SECOND);
    assert_eq!(scene.sent(client), b"", "it has asked for nothing");
    scene.asks(client, "insert into t values (1)");
    scene.at(1200 * SECOND);
    let said = scene.sent(client);
    assert!(is_told(&said, "57P01"), "{}", String::from_utf8_lossy(&said));
    assert!(said.ends_with(b"Z\0\0\0\x05I"));
    scene.roles(Barred, Writes);
    scene.asks(client, "select 5");
    let heir = scene.lets_in(B);
    assert_eq!(scene.heard(heir), "select 5", "what was told is not done once more");
}

/// What a transaction has only prepared is the client's as before, and is no reason to lose it.
#[test]
fn a_transaction_that_has_prepared_begins_anew_without_preparing() {
    let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
    scene.sent(client);
    scene.begun(client, primary, BEGIN);
    let mut request = Vec::new();
    write::parse(&mut request, "mine", "select 3", &[]);
    write::sync(&mut request);
    scene.arrives(client, &request);
    scene.sent(primary);
    let mut answer = Vec::new();
    write::parse_complete(&mut answer);
    write::ready_for_query(&mut answer, InTransaction);
    scene.arrives(primary, &answer);
    assert!(scene.sent(client).starts_with(b"1"));
    let mut request = Vec::new();
    write::bind(&mut request, "", "mine", &[], &[], &[]);
    write::execute(&mut request, "", 0);
    write::sync(&mut request);
    scene.arrives(client, &request);
    scene.sent(primary);
    scene.closed(primary);
    scene.roles(Barred, Writes);
    let heir = scene.lets_in(B);
    scene.begins_anew(client, heir, BEGIN);
    let sent = scene.sent(heir);
    assert!(sent.windows(8).any(|part| part == b"select 3"), "the new server has not been told of it");
    let mut answer = Vec::new();
    write::parse_complete(&mut answer);
    write::bind_complete(&mut answer);
    write::command_complete(&mut answer, "SELECT 0");
    write::ready_for_query(&mut answer, InTransaction);
    scene.arrives(heir, &answer);
    assert!(scene.sent(client).starts_with(b"2"));
}

/// Who says goodbye gets no server for that.
#[test]
fn who_leaves_a_transaction_that_was_lost_begins_nothing_anew() {
    let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
    scene.sent(client);
    scene.begun(client, primary, BEGIN);
    scene.closed(primary);
    scene.roles(Barred, Writes);
    scene.arrives(client, b"X\0\0\0\x04");
    assert_eq!(scene.opening_to(B), []);
}

/// Half of a transaction would be committed by itself.
#[test]
fn a_read_that_loses_the_server_on_which_its_transaction_began_anew_is_lost_with_that() {
    for (texts, reads) in [(BEGIN, true), (MORE, false), (&[("begin read only", "BEGIN")][..], true)] {
        let (mut scene, client, primary, replica) = Scene::at_rest(|_| ());
        scene.sent(client);
        let is_read_only = texts[0].0.ends_with("only");
        let server = if is_read_only { replica } else { primary };
        scene.begun(client, server, texts);
        scene.closed(server);
        if !is_read_only {
            scene.roles(Barred, Writes);
        }
        scene.asks(client, if reads { "select 2" } else { "set local x = 1" });
        let heir = scene.lets_in(B);
        scene.begins_anew(client, heir, texts);
        scene.sent(heir);
        scene.closed(heir);
        let said = scene.sent(client);
        let told = if is_read_only { "40001" } else { "57P01" };
        assert!(is_told(&said, told), "{}", String::from_utf8_lossy(&said));
        scene.hears_nothing();
        assert_eq!(scene.sent(primary), b"");
    }
}

/// What stands behind the request that hears of the loss was to be done in the same transaction.
#[test]
fn all_that_was_sent_of_a_transaction_that_is_lost_is_refused() {
    let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
    scene.sent(client);
    scene.begun(client, primary, BEGIN);
    scene.closed(primary);
    scene.roles(Barred, Writes);
    let mut both = Vec::new();
    write::query(&mut both, "insert into t values (1)");
    write::query(&mut both, "insert into t values (2)");
    scene.arrives(client, &both);
    let heir = scene.lets_in(B);
    assert_eq!(scene.heard(heir), "begin");
    scene.closed(heir);
    let said = scene.sent(client);
    assert_eq!(said.windows(6).filter(|part| *part == b"Z\0\0\0\x05I").count(), 2);
    let next = scene.hears_nothing();
    scene.asks(client, "insert into t values (3)");
    assert_eq!(scene.heard(next), "insert into t values (3)", "its session goes on");
}

/// A portal, and the unnamed statement, are gone with the server; a name that means something else by now would be run in the
/// place of what it meant.
#[test]
fn a_transaction_of_which_the_server_alone_knows_something_does_not_begin_anew() {
    let bind = |out: &mut Vec<u8>, portal: &str, name: &str| write::bind(out, portal, name, &[], &[], &[]);
    let mut unnamed = Vec::new();
    write::parse(&mut unnamed, "", "select 3", &[]);
    let mut portal = Vec::new();
    write::parse(&mut portal, "", "select 3", &[]);
    bind(&mut portal, "p", "");
    let mut closed = Vec::new();
    write::close(&mut closed, b'S', b"mine");
    for (prepared, answers) in [(unnamed, &b"1"[..]), (portal, b"12"), (closed, b"3")] {
        let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
        scene.sent(client);
        let mut parse = Vec::new();
        write::parse(&mut parse, "mine", "set local x = 1", &[]);
        write::sync(&mut parse);
        scene.begun(client, primary, BEGIN);
        for (request, tags) in [(parse, &b"1"[..]), (prepared, answers)] {
            let mut request = request;
            if !request.ends_with(b"S\0\0\0\x04") {
                write::sync(&mut request);
            }
            scene.arrives(client, &request);
            let is_ours = tags == b"3";
            let mut answer: Vec<u8> = tags.iter().filter(|_| !is_ours).flat_map(|tag| [*tag, 0, 0, 0, 4]).collect();
            write::ready_for_query(&mut answer, InTransaction);
            scene.arrives(primary, &answer);
            assert!(scene.sent(client).ends_with(b"T"));
        }
        scene.closed(primary);
        scene.roles(Barred, Writes);
        scene.asks(client, "select 9");
        assert!(is_told(&scene.sent(client), "57P01"));
    }
}

/// An online restart may bring another configuration: what had begun is one transaction all the same.
#[test]
fn a_transaction_begins_anew_where_reads_go_to_replicas_no_more() {
    let (mut before, client, primary, _) = Scene::at_rest(|_| ());
    before.sent(client);
    before.begun(client, primary, BEGIN);
    before.closed(primary);
    before.roles(Barred, Writes);
    let group = before.hands_on().into_iter().find(|group| group.connections.len() == 1);
    let mut after = Scene::of_two(|database| database.cluster = cluster(Role::Primary, false));
    after.roles(Barred, Writes);
    after.takes(group.expect("its client goes"));
    let client = after.worker.clients.iter().next().expect("it is there").1.conn;
    after.asks(client, "insert into t values (1)");
    let heir = after.lets_in(B);
    after.begins_anew(client, heir, BEGIN);
    assert_eq!(after.heard(heir), "insert into t values (1)");
    after.does(heir, "INSERT 0 1");
    assert!(after.sent(client).ends_with(b"Z\0\0\0\x05T"));
}

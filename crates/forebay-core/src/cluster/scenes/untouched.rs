//! A server that is lost before its client has had it do anything.

use forebay_pgwire::backend::TransactionStatus::{self, Idle};
use forebay_pgwire::write;

use super::again::is_told;
use super::*;

const WRITES: &str = "insert into t values ($1)";

/// Parse of what writes, under a name.
fn parse(name: &str) -> Vec<u8> {
    let mut request = Vec::new();
    write::parse(&mut request, name, WRITES, &[]);
    request
}

/// Bind, Execute and Sync of it.
fn runs(name: &str) -> Vec<u8> {
    let mut request = Vec::new();
    write::bind(&mut request, "", name, &[], &[], &[]);
    write::execute(&mut request, "", 0);
    write::sync(&mut request);
    request
}

impl Scene {
    /// A server answers to Bind, Execute and Sync; `heads`: what comes before.
    fn has_run(&mut self, server: ConnId, heads: &[u8], status: TransactionStatus) {
        let mut answer = heads.to_vec();
        write::bind_complete(&mut answer);
        write::command_complete(&mut answer, "INSERT 0 1");
        write::ready_for_query(&mut answer, status);
        self.arrives(server, &answer);
    }

    /// Its client has prepared what writes, which the server has since.
    fn at_rest_prepared() -> (Scene, ConnId, ConnId) {
        let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
        scene.arrives(client, &[parse("one"), runs("one")].concat());
        assert!(scene.sent(primary).starts_with(b"P"));
        scene.has_run(primary, b"1\0\0\0\x04", Idle);
        assert!(is_told(&scene.sent(client), "INSER"));
        (scene, client, primary)
    }

    /// The primary is lost, and the other one is it.
    fn fails_over(&mut self, primary: ConnId) {
        self.closed(primary);
        self.roles(Barred, Writes);
    }

    /// What the client goes on with is done by the new primary, which is told of the statement first.
    fn is_done_by_the_next(&mut self, client: ConnId) {
        let heir = self.lets_in(B);
        let sent = self.sent(heir);
        assert!(sent.starts_with(b"P") && sent.ends_with(b"S\0\0\0\x04"), "{sent:?}");
        self.has_run(heir, b"1\0\0\0\x04", Idle);
        let told = self.sent(client);
        assert!(told.starts_with(b"2") && is_told(&told, "INSER"), "{told:?}");
    }
}

/// It was answered without the server, which then has nothing of the client's to lose.
#[test]
fn a_request_of_which_nothing_was_sent_goes_to_the_next_server() {
    let (mut scene, client, primary) = Scene::at_rest_prepared();
    scene.arrives(client, &parse("two"));
    assert_eq!(scene.sent(client), b"1\0\0\0\x04");
    scene.fails_over(primary);
    assert_eq!(scene.sent(client), b"");
    assert_eq!(scene.opening_to(B), [], "nobody waits");
    scene.arrives(client, &runs("two"));
    scene.is_done_by_the_next(client);
}

/// The same, and the next message of it has begun to come.
#[test]
fn a_request_that_has_half_come_waits_for_the_next_server() {
    let (mut scene, client, primary) = Scene::at_rest_prepared();
    let (two, rest) = (parse("two"), runs("two"));
    scene.arrives(client, &[&two[..], &rest[..7]].concat());
    assert_eq!(scene.sent(client), b"1\0\0\0\x04");
    scene.fails_over(primary);
    scene.arrives(client, &rest[7..]);
    scene.is_done_by_the_next(client);
}

/// What has gone to the server may have been done.
#[test]
fn a_request_that_was_sent_is_lost() {
    let (mut scene, client, primary) = Scene::at_rest_prepared();
    let (two, rest) = (parse("two"), runs("two"));
    let bind = rest.len() - 5;
    scene.arrives(client, &[&two[..], &rest[..bind]].concat());
    assert_eq!(scene.sent(client), b"1\0\0\0\x04");
    assert!(scene.sent(primary).starts_with(b"B"));
    scene.fails_over(primary);
    let told = scene.sent(client);
    assert!(is_told(&told, "08007"), "{}", String::from_utf8_lossy(&told));
}

//! What becomes of a request that only reads when its server is lost.

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

use super::*;

/// A row of one column, after what tells how it looks; without the end of the answer.
pub(super) fn a_row() -> (Vec<u8>, Vec<u8>) {
    let (mut head, mut row) = (Vec::new(), Vec::new());
    write::row_description(&mut head, &[("n", 23)]);
    write::data_row(&mut row, &[Some(b"1".as_slice())]);
    (head, row)
}

pub(super) fn is_told(said: &[u8], sqlstate: &str) -> bool {
    said.windows(5).any(|part| part == sqlstate.as_bytes())
}

/// Each replica that goes would cost its clients an error, although the primary has all that they ask for.
#[test]
fn a_read_whose_replica_is_lost_is_made_again_on_the_primary() {
    for says_why in [false, true] {
        let (mut scene, client, primary, replica) = Scene::at_rest(|_| ());
        scene.sent(client);
        scene.asks(client, "select 2");
        assert_eq!(scene.heard(replica), "select 2");
        // How it looks was answered, and has not been told.
        scene.arrives(replica, &a_row().0);
        if says_why {
            scene.refuses(replica, "57P01");
        }
        scene.closed(replica);
        assert_eq!(scene.sent(client), b"");
        assert_eq!(scene.heard(primary), "select 2");
        scene.answers(primary, TransactionStatus::Idle);
        assert!(scene.sent(client).starts_with(b"C"));
    }
}

/// What ends one server after the other must come to an end itself.
#[test]
fn a_read_that_has_lost_two_servers_is_not_made_a_third_time() {
    let (mut scene, client, primary, replica) = Scene::at_rest(|_| ());
    scene.sent(client);
    scene.asks(client, "select 2");
    scene.closed(replica);
    assert_eq!(scene.heard(primary), "select 2");
    scene.closed(primary);
    assert!(is_told(&scene.sent(client), "57P01"), "and nothing can have been committed");
    scene.asks(client, "select 3");
    let again = scene.lets_in(B);
    assert_eq!(scene.heard(again), "select 3", "its session goes on");
    scene.closed(again);
    assert!(!is_told(&scene.sent(client), "57P01"), "another request is another matter");
}

/// A part of an answer can't be taken back.
#[test]
fn a_read_that_has_been_told_a_row_is_not_made_again() {
    let (mut scene, client, primary, replica) = Scene::at_rest(|_| ());
    scene.sent(client);
    scene.asks(client, "select 2");
    let (head, row) = a_row();
    scene.arrives(replica, &[head, row].concat());
    scene.closed(replica);
    // Of what it was is nothing kept by then.
    assert!(is_told(&scene.sent(client), "08007"));
    assert_eq!(scene.sent(primary), b"");
}

/// The primary serves reads as well, and is the one that fails over.
#[test]
fn a_read_whose_primary_is_lost_waits_for_the_next_one() {
    let (mut scene, client, primary, replica) = Scene::at_rest(|_| ());
    scene.roles(Writes, Nobody);
    scene.sent(client);
    scene.asks(client, "select 2");
    assert_eq!(scene.heard(primary), "select 2");
    scene.closed(primary);
    scene.roles(Nobody, Nobody);
    assert_eq!(scene.sent(client), b"");
    let _ = replica;
    scene.roles(Barred, Writes);
    let heir = scene.lets_in(B);
    assert_eq!(scene.heard(heir), "select 2");
    scene.answers(heir, TransactionStatus::Idle);
    assert!(scene.sent(client).starts_with(b"C"));
}

/// Whoever makes a write again does it twice.
#[test]
fn what_may_write_is_never_made_again() {
    let lost = |first: &str, then: Option<&str>| {
        let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
        scene.roles(Writes, Nobody);
        scene.sent(client);
        scene.asks(client, first);
        if let Some(then) = then {
            scene.asks(client, then);
        }
        scene.sent(primary);
        scene.closed(primary);
        scene.roles(Nobody, Writes);
        let said = scene.sent(client);
        assert!(is_told(&said, "08007"), "{first}: {}", String::from_utf8_lossy(&said));
        assert_eq!(scene.opening_to(B), [], "{first}: nobody wants a server any more");
    };
    lost("insert into t values (1)", None);
    lost("select f()", None);
    lost("/* forebay: role=replica */ select 1", None);
    lost("select 1", Some("insert into t values (1)"));
}

/// Who does not want any of this is obeyed.
#[test]
fn a_read_that_nobody_wants_made_again_is_not() {
    let (mut scene, client, primary, replica) = Scene::at_rest(|database| {
        database.cluster.as_mut().expect("it is one").retries_reads = false;
    });
    scene.sent(client);
    scene.asks(client, "select 2");
    scene.closed(replica);
    assert!(is_told(&scene.sent(client), "57P01"));
    assert_eq!(scene.sent(primary), b"");
}

/// Names that the lost server was told of are the client's as before, or its next Bind is refused.
#[test]
fn a_read_that_prepares_is_made_again_with_its_names() {
    let (mut scene, client, primary, replica) = Scene::at_rest(|_| ());
    scene.sent(client);
    let mut request = Vec::new();
    write::parse(&mut request, "mine", "select 3", &[]);
    write::sync(&mut request);
    scene.arrives(client, &request);
    scene.sent(replica);
    let mut answer = Vec::new();
    write::parse_complete(&mut answer);
    scene.arrives(replica, &answer);
    scene.closed(replica);
    assert_eq!(scene.sent(client), b"");
    let sent = scene.sent(primary);
    assert!(sent.windows(8).any(|part| part == b"select 3"), "{}", String::from_utf8_lossy(&sent));
    write::ready_for_query(&mut answer, TransactionStatus::Idle);
    scene.arrives(primary, &answer);
    assert!(scene.sent(client).starts_with(b"1"));
}

/// Of a name whose ParseComplete it was never told, a client that tries again would hear that it is taken.
#[test]
fn a_read_that_fails_has_prepared_nothing() {
    let (mut scene, client, primary, replica) = Scene::at_rest(|database| {
        database.cluster.as_mut().expect("it is one").retries_reads = false;
    });
    scene.sent(client);
    let mut request = Vec::new();
    write::parse(&mut request, "mine", "select 3", &[]);
    write::bind(&mut request, "", "mine", &[], &[], &[]);
    write::execute(&mut request, "", 0);
    write::sync(&mut request);
    scene.arrives(client, &request);
    assert!(scene.sent(replica).starts_with(b"P"));
    let mut answer = Vec::new();
    write::parse_complete(&mut answer);
    scene.arrives(replica, &answer);
    assert_eq!(scene.sent(client), b"");
    scene.closed(replica);
    assert!(is_told(&scene.sent(client), "57P01"));
    scene.roles(Writes, Barred);
    scene.arrives(client, &request);
    assert!(scene.sent(primary).starts_with(b"P"));
    write::bind_complete(&mut answer);
    write::command_complete(&mut answer, "SELECT 0");
    write::ready_for_query(&mut answer, TransactionStatus::Idle);
    scene.arrives(primary, &answer);
    assert!(scene.sent(client).starts_with(b"1"));
}

/// One part of a pipeline: longer than half of what is kept.
fn a_part(out: &mut Vec<u8>, n: u32) {
    write::parse(out, "", format!("select {n} /* {} */", "x".repeat(9000)), &[]);
    write::bind(out, "", "", &[], &[], &[]);
    write::describe(out, b'P', "");
    write::execute(out, "", 0);
}

/// The second half of a pipeline, made again by itself, would be answered in the place of the first.
#[test]
fn a_pipeline_that_is_told_in_parts_is_not_made_again() {
    let (mut scene, client, primary, _) = Scene::at_rest(|_| ());
    scene.roles(Writes, Nobody);
    scene.sent(client);
    // Whoever comes next has its settings set before its request, which goes ahead in part.
    let other = scene.comes("app", &[("application_name", "other")]);
    scene.asks(other, "select 9");
    scene.sent(primary);
    let mut prefix = Vec::new();
    for tag in ["BEGIN", "SET", "COMMIT"] {
        write::command_complete(&mut prefix, tag);
    }
    let mut ready = prefix.clone();
    write::command_complete(&mut ready, "SELECT 0");
    write::ready_for_query(&mut ready, TransactionStatus::Idle);
    scene.arrives(primary, &ready);
    let mut request = Vec::new();
    a_part(&mut request, 1);
    a_part(&mut request, 2);
    write::sync(&mut request);
    scene.arrives(client, &request);
    scene.sent(primary);
    write::parse_complete(&mut prefix);
    write::bind_complete(&mut prefix);
    let (head, row) = a_row();
    scene.arrives(primary, &[prefix, head, row].concat());
    assert!(!scene.sent(client).is_empty(), "it is told of the first part");
    let second = scene.sent(primary);
    assert!(second.windows(8).any(|part| part == b"select 2"), "the second part is sent");
    scene.closed(primary);
    assert!(is_told(&scene.sent(client), "08007"));
    assert_eq!(scene.opening_to(A), [], "nobody wants a server any more");
}

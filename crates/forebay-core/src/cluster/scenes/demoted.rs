//! What becomes of those who wait when the primary has been restarted as a standby, and nobody has told yet.

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

use super::*;
use crate::question::Question;

const ASKED: &str = "/* forebay: is this a standby? */ SELECT pg_catalog.pg_is_in_recovery()";

/// What a server says that lets us in and is a standby.
fn welcome_of_standby() -> Vec<u8> {
    let mut bytes = Vec::new();
    write::authentication_ok(&mut bytes);
    write::parameter_status(&mut bytes, "in_hot_standby", "on");
    write::backend_key_data(&mut bytes, SERVER_PID, &[1, 2, 3, 4]);
    write::ready_for_query(&mut bytes, TransactionStatus::Idle);
    bytes
}

fn has(said: &[u8], words: &str) -> bool {
    said.windows(words.len()).any(|part| part == words.as_bytes())
}

impl Scene {
    /// `a` is the primary of a database whose reads stay there, and a client of it is idle.
    fn of_a_primary(role: Role) -> (Scene, ConnId, ConnId) {
        let mut scene = Scene::of_two(|database| database.cluster = cluster(role, false));
        scene.roles(Writes, Nobody);
        let client = scene.comes("app", &[]);
        let primary = scene.lets_in(A);
        scene.sent(client);
        (scene, client, primary)
    }

    /// The one connection to a host that is being opened is let in, by a standby.
    fn lets_in_as_standby(&mut self, host: &str) -> ConnId {
        let conn = self.stands(host);
        self.arrives(conn, &welcome_of_standby());
        conn
    }

    fn says_recovery(&mut self, server: ConnId, is_in_recovery: bool) {
        let mut bytes = Vec::new();
        let value: &[u8] = if is_in_recovery { b"t" } else { b"f" };
        write::row_description(&mut bytes, &[("pg_is_in_recovery", 16)]);
        write::data_row(&mut bytes, &[Some(value)]);
        self.arrives(server, &bytes);
        self.answers(server, TransactionStatus::Idle);
    }

    /// How often the cluster was to be looked at since this was asked last.
    fn suspicions(&mut self) -> usize {
        let asked = std::mem::take(&mut self.io.questions);
        asked.iter().filter(|(_, question)| matches!(question, Question::Suspect { .. })).count()
    }

    /// A server refuses what is refused in recovery alone, or in any transaction that is to read.
    fn refuses_by(&mut self, server: ConnId, routine: &str) {
        let mut bytes = Vec::new();
        let fields: [(u8, &[u8]); 4] =
            [(b'S', b"ERROR"), (b'C', b"25006"), (b'M', b"cannot"), (b'R', routine.as_bytes())];
        write::error_response(&mut bytes, &fields);
        write::ready_for_query(&mut bytes, TransactionStatus::Idle);
        self.arrives(server, &bytes);
    }
}

/// Its roles are asked every half a second: until then each write would fail with 25006, where it could have waited.
#[test]
fn a_primary_that_comes_back_as_a_standby_is_given_to_nobody() {
    for answer in [Some(true), None] {
        let (mut scene, client, primary) = Scene::of_a_primary(Role::Primary);
        scene.at(SECOND);
        scene.closed(primary);
        scene.at(2 * SECOND);
        scene.suspicions();
        scene.asks(client, "insert");
        let standby = scene.lets_in_as_standby(A);
        assert_eq!(scene.heard(standby), ASKED);
        match answer {
            Some(is_in_recovery) => scene.says_recovery(standby, is_in_recovery),
            None => scene.fails(standby, "42883"),
        }
        assert!(!scene.is_alive(standby));
        assert_eq!(scene.suspicions(), 1, "it is asked what it is, before its turn");
        assert_eq!(scene.opening_to(A), [], "it is left alone for a moment");
        assert_eq!(scene.sent(client), b"");
        scene.roles(Nobody, Writes);
        let next = scene.lets_in(B);
        assert_eq!(scene.heard(next), "insert");
    }
}

/// A mark that the next roles had to take away would hold the pool for ever: roles that are as before are not told.
#[test]
fn one_that_is_the_primary_again_serves_though_no_role_was_told() {
    let (mut scene, client, primary) = Scene::of_a_primary(Role::Primary);
    scene.closed(primary);
    scene.asks(client, "insert");
    let (mut tries, mut suspected) = (0, 0);
    for at in 1..100 {
        scene.at(at * SECOND / 20);
        if !scene.opening_to(A).is_empty() {
            let standby = scene.lets_in_as_standby(A);
            scene.says_recovery(standby, true);
            tries += 1;
            suspected += scene.suspicions();
        }
    }
    assert!((10..=100).contains(&tries), "in five seconds: {tries}");
    assert!(suspected >= tries / 2, "each is a reason to look: {suspected} of {tries}");
    assert_eq!(scene.sent(client), b"");
    scene.at(6 * SECOND);
    let primary = scene.lets_in(A);
    assert_eq!(scene.heard(primary), "insert");
}

/// A pooler in between greets with what its first server said, which may have been promoted since.
#[test]
fn one_that_is_in_recovery_no_longer_serves_whatever_its_greeting_says() {
    let (mut scene, client, primary) = Scene::of_a_primary(Role::Primary);
    scene.closed(primary);
    scene.asks(client, "insert");
    let next = scene.lets_in_as_standby(A);
    assert_eq!(scene.heard(next), ASKED);
    scene.says_recovery(next, false);
    assert_eq!(scene.heard(next), "insert");
    scene.answers(next, TransactionStatus::Idle);
    let other = scene.comes("app", &[]);
    let greeted = scene.sent(other);
    assert!(!has(&greeted, "in_hot_standby\0on"), "clients look for a primary by it");
}

/// Replicas are standbys, and so is a server that is no cluster's.
#[test]
fn a_standby_serves_where_not_only_the_primary_does() {
    let (mut scene, client, server) = Scene::of_a_primary(Role::Any);
    scene.closed(server);
    scene.asks(client, "select 1");
    let standby = scene.lets_in_as_standby(A);
    assert_eq!(scene.heard(standby), "select 1");
    let mut scene = Scene::new();
    let client = scene.client();
    let server = scene.opening().expect("the greeting needs a server");
    scene.connected(server);
    scene.sent(server);
    scene.arrives(server, &welcome_of_standby());
    scene.asks(client, "select 1");
    assert_eq!(scene.heard(server), "select 1");
}

/// Before PostgreSQL 14 a login says nothing of it.
#[test]
fn what_is_refused_in_recovery_alone_is_told_as_what_it_is() {
    let (mut scene, client, server) = Scene::of_a_primary(Role::Primary);
    scene.at(SECOND);
    scene.suspicions();
    scene.asks(client, "vacuum");
    assert_eq!(scene.heard(server), "vacuum");
    scene.refuses_by(server, "PreventCommandDuringRecovery");
    let said = scene.sent(client);
    assert!(has(&said, "C25006\0") && has(&said, "(FB403)"), "{}", String::from_utf8_lossy(&said));
    assert!(said.ends_with(b"Z\0\0\0\x05I"), "its session lives on");
    assert_eq!(scene.suspicions(), 1);
    assert!(!scene.is_alive(server), "nobody else gets it");
}

/// A transaction that is to read is refused so by any primary.
#[test]
fn what_a_primary_may_refuse_is_told_as_the_server_says_it() {
    let of_recovery = "PreventCommandDuringRecovery";
    for (role, routine) in [(Role::Primary, "PreventCommandIfReadOnly"), (Role::Any, of_recovery)] {
        let (mut scene, client, server) = Scene::of_a_primary(role);
        scene.asks(client, "insert");
        assert_eq!(scene.heard(server), "insert");
        scene.refuses_by(server, routine);
        let said = scene.sent(client);
        assert!(has(&said, "Mcannot\0") && !has(&said, "FB403"));
        assert!(scene.is_alive(server));
    }
}

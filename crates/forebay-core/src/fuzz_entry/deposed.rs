//! A primary that may acknowledge nothing more, while requests are on their way to it.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

use super::scene::Scene;
use crate::cluster::progress::Replayed;
use crate::cluster::roles::{Found, Serves};
use crate::command::Command;
use crate::config::{ClusterConfig, Consistency, EngineConfig, Role};

fn of_two(config: &mut EngineConfig) {
    let database = &mut config.databases[0];
    database.endpoints = vec!["127.0.0.1:5432".into(), "127.0.0.1:5433".into()];
    database.cluster = Some(ClusterConfig {
        role: Role::Primary,
        is_split: false,
        read_consistency: Consistency::Session,
        retries_reads: true,
        holds_per_hour_max: 30,
    });
    database.pool.pool_size = 2;
}

fn roles(scene: &mut Scene, first: Serves, second: Serves) {
    let found = |name: &str, serves| Found { name: name.into(), serves };
    let found: Arc<[Found]> = [found("127.0.0.1:5432", first), found("127.0.0.1:5433", second)].into();
    scene.order(Command::Roles("app".into(), found, Replayed::default()));
}

/// What was cut off is begun again, and the next server at hand is one of the same primary.
#[test]
fn nothing_is_begun_again_at_a_primary_that_was_deposed() {
    for second in [Serves::Nobody, Serves::Writes] {
        let mut scene = Scene::with(of_two);
        roles(&mut scene, Serves::Writes, Serves::Reads);
        let (client, idle) = scene.in_transaction();
        let german = scene.connects();
        let mut bytes = Vec::new();
        write::startup(&mut bytes, (3, 0), [("user", "app"), ("database", "app"), ("datestyle", "German")]);
        scene.arrives(german, &bytes);
        let used = scene.connecting().pop().expect("it needs a server of its own");
        scene.let_in(used);
        assert!(scene.sent(used).windows(6).any(|part| part == b"German"), "which is told what it wants");
        bytes.clear();
        write::query(&mut bytes, b"COMMIT");
        scene.arrives(client, &bytes);
        bytes.clear();
        write::command_complete(&mut bytes, "COMMIT");
        write::ready_for_query(&mut bytes, TransactionStatus::Idle);
        scene.arrives(idle, &bytes);
        scene.sent(idle);
        roles(&mut scene, Serves::Barred, second);
        assert!(!scene.is_alive(used), "what it would still acknowledge is lost");
        let ended = scene.io.last_words.iter().find(|(conn, _)| *conn == idle).map(|(_, sent)| sent.clone());
        let said = ended.unwrap_or_else(|| scene.sent(idle));
        assert!(said.starts_with(b"X"), "{second:?}: {}", String::from_utf8_lossy(&said));
    }
}

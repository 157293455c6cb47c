//! What is left of pools that nobody uses any more.

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

use super::scene::Scene;
use crate::command::{Command, Reply};
use crate::config::EngineConfig;
use crate::ids::ConnId;
use crate::stats::REST;

const SECOND: u64 = 1_000_000;
/// As many as a process with a database for each of its users' tenants sees in an hour.
const DATABASES: usize = 5000;

fn tenants(config: &mut EngineConfig) {
    let mut any = config.databases[0].clone();
    any.name = "*".into();
    any.pool.server_idle_timeout = SECOND;
    config.fallback_database = Some(any);
    config.limits.autodb_idle_timeout = 60 * SECOND;
    config.limits.metric_pools_max = 3;
}

fn asks(scene: &mut Scene, database: &str) -> ConnId {
    let client = scene.connects();
    let mut bytes = Vec::new();
    write::startup(&mut bytes, (3, 0), [("user", "app"), ("database", database)]);
    scene.arrives(client, &bytes);
    client
}

/// A client that has been let in, and its server.
fn comes(scene: &mut Scene, database: &str) -> (ConnId, ConnId) {
    let client = asks(scene, database);
    let mut bytes = Vec::new();
    let server = scene.connecting().pop().expect("the greeting needs a server");
    scene.connected(server);
    scene.sent(server);
    write::authentication_ok(&mut bytes);
    write::backend_key_data(&mut bytes, 4711, &[1, 2, 3, 4]);
    write::ready_for_query(&mut bytes, TransactionStatus::Idle);
    scene.arrives(server, &bytes);
    assert!(scene.sent(client).ends_with(b"I"), "it is greeted");
    (client, server)
}

fn leaves(scene: &mut Scene, client: ConnId) {
    scene.closed(client);
}

fn shown(scene: &mut Scene) -> Vec<String> {
    scene.io.replies.clear();
    scene.order(Command::Snapshot);
    let Some((_, Reply::Snapshot(snapshot))) = scene.io.replies.pop() else { panic!("a snapshot is answered at once") };
    snapshot.pools.iter().map(|pool| pool.database.to_string()).collect()
}

/// Memory that grows with every name that was ever asked for ends in an outage, after weeks.
#[test]
fn five_thousand_databases_leave_nothing_but_what_they_counted() {
    let mut scene = Scene::with(tenants);
    scene.tick(SECOND);
    for number in 0..DATABASES {
        let (client, _) = comes(&mut scene, &format!("tenant_{number}"));
        leaves(&mut scene, client);
    }
    let stays = asks(&mut scene, "tenant_7");
    assert_eq!(shown(&mut scene).len(), DATABASES);
    let named = |scene: &Scene| scene.worker.stats.pools.lock().unwrap().iter().filter(|pool| pool.is_named).count();
    assert_eq!(named(&scene), 3, "metrics are of a few");
    for second in 2..59 {
        scene.tick(second * SECOND);
    }
    assert_eq!(scene.io.alive().count(), 1, "servers that idle are closed");
    assert_eq!(shown(&mut scene).len(), DATABASES, "a pool is kept for a while");
    for second in 59..90 {
        scene.tick(second * SECOND);
    }
    assert_eq!(shown(&mut scene), ["tenant_7"], "whoever is connected keeps its pool");
    assert!(scene.worker.pools.len() < 10, "their slots are free: {}", scene.worker.pools.len());
    assert_eq!(scene.worker.shared.pools_known(), 1);
    let counted = |scene: &Scene, name: &str| {
        let pools = scene.worker.stats.pools.lock().unwrap();
        let logins: Vec<u64> = pools.iter().filter(|p| *p.database == *name).map(|p| p.stats.logins.get()).collect();
        (logins, pools.len())
    };
    assert_eq!(counted(&scene, REST), (vec![DATABASES as u64 - 1], 2), "totals do not fall");
    let (again, _) = comes(&mut scene, "tenant_9");
    assert_eq!(counted(&scene, "tenant_9"), (vec![1], 3));
    leaves(&mut scene, again);
    leaves(&mut scene, stays);
    for second in 90..300 {
        scene.tick(second * SECOND);
    }
    assert_eq!((shown(&mut scene).len(), scene.worker.pools.len(), scene.worker.shared.pools_known()), (0, 0, 0));
}

/// A slot that is taken again must not be found by what the pool before was waiting for.
#[test]
fn a_slot_is_another_pools_and_a_paused_pool_or_one_in_use_keeps_its_own() {
    let mut scene = Scene::with(|config| {
        tenants(config);
        config.limits.pool_idle_timeout = 10 * SECOND;
    });
    scene.tick(SECOND);
    let (client, server) = comes(&mut scene, "app");
    let (other, _) = comes(&mut scene, "shop");
    leaves(&mut scene, other);
    scene.order(Command::Pause(Some("shop".into())));
    for second in 2..40 {
        scene.tick(second * SECOND);
    }
    assert_eq!(shown(&mut scene), ["app", "shop"]);
    scene.order(Command::Resume(Some("shop".into())));
    for second in 40..60 {
        scene.tick(second * SECOND);
    }
    assert_eq!(shown(&mut scene), ["app"]);
    leaves(&mut scene, client);
    scene.tick(61 * SECOND);
    assert!(scene.is_alive(server), "configured pools keep their servers for server_idle_timeout");
    let (next, _) = comes(&mut scene, "blog");
    assert_eq!(shown(&mut scene), ["app", "blog"]);
    scene.closed(server);
    for second in 62..80 {
        scene.tick(second * SECOND);
    }
    assert_eq!(shown(&mut scene), ["blog"]);
    let (_, server) = comes(&mut scene, "news");
    assert_eq!(shown(&mut scene), ["news", "blog"], "the slot of the first is the last one's");
    scene.closed(server);
    leaves(&mut scene, next);
    assert_eq!(scene.worker.stats.pools.lock().unwrap().iter().filter(|pool| pool.is_rest()).count(), 1);
}

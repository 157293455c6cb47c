//! Lookups in tables, and what a reload makes of them.

use serde_json::{Value, json};

use super::*;
use crate::config::PoolMode;

fn database(name: &str, endpoints: &[&str]) -> Value {
    let mut database = json!({
        "name": name, "dbname": name, "endpoints": endpoints, "forced_user": null, "forced_secret": null, "tls": 0,
        "pool": {
            "pool_mode": "transaction", "pool_size": 20, "reserve_pool_size": 0, "reserve_pool_timeout": 0, "min_pool_size": 0, "max_db_connections": 0, "max_db_client_connections": 0,
            "max_replication_connections": 0,
            "query_wait_timeout": 1, "query_wait_notify": 0, "server_lifetime": 2, "server_idle_timeout": 3, "server_connect_timeout": 4,
            "server_backoff_max": 5, "load_balance_hosts": "round-robin", "server_opening_max": 6, "server_check_delay": 7, "server_check_query": "",
            "server_round_robin": false, "server_fast_close": false, "server_reset_query": "DISCARD ALL", "server_reset_query_always": false, "disable_pqexec": false, "max_prepared_statements": 8, "transaction_timeout": 9,
            "idle_transaction_timeout": 10, "query_timeout": 11, "client_idle_timeout": 12,
            "level": "safe", "on_pin": "allow", "sequence_affinity": "pin", "pin_idle_limit": 13,
            "catalogue_refresh": 14,
            "server_local_socket": true,
        },
    });
    database["checks_commits"] = false.into();
    let shared = [("load_balance", json!("latency")), ("eject_slower_than", json!(4)), ("slow_start", json!(5))];
    for (name, value) in shared {
        database["pool"][name] = value;
    }
    database
}

fn user(name: &str, secret: Value) -> Value {
    json!({
        "name": name, "secret": secret, "pool_mode": null, "pool_size": null, "reserve_pool_size": null, "query_timeout": null,
        "query_wait_timeout": null, "transaction_timeout": null, "idle_transaction_timeout": null,
        "client_idle_timeout": null, "max_user_connections": null,
    })
}

fn config(databases: Vec<Value>, users: Vec<Value>) -> Value {
    json!({
        "listen": {
            "addresses": ["127.0.0.1"], "port": 0, "unix": null, "unix_mode": 511, "backlog": 128, "reuse_port": false, "proxy_from": [], "tls": null,
        },
        "dns": { "max_ttl": 15000000, "nxdomain_ttl": 15000000 },
        "tcp": {
            "keepalive": true, "keepalive_idle": 0, "keepalive_interval": 0, "keepalive_count": 0, "user_timeout": 0, "server_dead_after": 0,
            "socket_buffer": 0, "defer_accept": false,
        },
        "engine": { "workers": 1, "io": "auto", "buffers": 16, "buffer_size": 4096, "core_dumps": false },
        "arrivals": { "ignored_parameters": [], "is_name_with_address": false, "login_notice": "" },
        "limits": {
            "clients_max": 10, "max_user_connections": 0, "max_user_client_connections": 0, "message_bytes_max": 1, "relay_bytes_max": 1, "wait_bytes_max": 1, "waiters_max": 1, "cancel_misses_max": 1, "pool_idle_timeout": 0, "autodb_idle_timeout": 0, "metric_pools_max": 1, "cancel_wait_timeout": 1,
            "client_channels_max": 1, "notification_bytes_max": 1, "client_statements_max": 1, "statement_bytes_max": 1, "login_timeout": 1, "client_write_timeout": 0, "drain_timeout": 1,
        },
        "auth": {
            "method": "scram-sha-256", "ask_unknown": false, "cache_for": 0, "cache_negative_for": 0,
            "ask_timeout": 0,
        },
        "databases": databases, "fallback_database": null, "users": users, "server_tls": [], "peers": { "own": 0, "others": [] },
        "console": { "admins": ["ops"], "viewers": ["eye"] }, "metrics": null,
        "log": { "level": 1, "connections": false, "disconnections": false, "attempts": false, "servers": false, "refusals": false,
         "min_duration": 0 },
        "speaks_pgbouncer": false,
    })
}

/// Numbers each draw, so that a salt tells whether it was drawn anew.
fn build_after(config: Value, before: Option<&Tables>, draws: &mut u8) -> Result<Tables, ConfigError> {
    let config = serde_json::from_value(config).expect("the configuration has the shape of EngineConfig");
    Tables::build(config, before, &mut |out| {
        *draws += 1;
        out.fill(*draws);
    })
}

fn build(config: Value) -> Result<Tables, ConfigError> {
    build_after(config, None, &mut 0)
}

fn salt(tables: &Tables, user: &str) -> Vec<u8> {
    match tables.user(user).and_then(|user| user.credential.as_ref()) {
        Some(Credential::Plain { verifier: Some(verifier), .. }) => verifier.salt.to_vec(),
        other => panic!("{user} has no prepared password: {other:?}"),
    }
}

/// A database whose next server may be a replica for good would look for its lost COMMITs until the wait ends.
#[test]
fn commits_are_looked_for_only_where_the_next_server_is_a_primary() {
    let checks = |cluster: Value| {
        let mut shop = database("shop", &["db:5432"]);
        shop["checks_commits"] = true.into();
        shop["cluster"] = cluster;
        let tables = build(config(vec![shop], vec![])).expect("the configuration is right");
        ["shop".to_owned(), format!("shop{REPLICAS}")]
            .map(|name| tables.pool_target(&name).map(|target| target.config.checks_commits))
    };
    let cluster = |role: &str, is_split: bool| {
        json!({
            "role": role, "is_split": is_split, "read_consistency": "session", "retries_reads": true,
            "holds_per_hour_max": 30,
        })
    };
    assert_eq!(checks(Value::Null), [Some(true), None]);
    assert_eq!(checks(cluster("primary", false)), [Some(true), None]);
    assert_eq!(checks(cluster("primary", true)), [Some(true), Some(false)]);
    assert_eq!(checks(cluster("replica", false)), [Some(false), None]);
    assert_eq!(checks(cluster("any", false)), [Some(false), None]);
}

/// A client that asks for a name not listed gets `*`, under the name it asked for.
#[test]
fn a_database_is_found_by_name_and_else_falls_back() {
    let mut with_fallback = config(vec![database("shop", &["db:5432"])], vec![]);
    let tables = build(with_fallback.clone()).expect("the configuration is right");
    assert_eq!(tables.database("shop").map(|database| database.dbname("shop")), Some("shop"));
    assert!(tables.database("other").is_none());
    with_fallback["fallback_database"] = database("*", &["/run/.s.PGSQL.5432"]);
    let tables = build(with_fallback).expect("the configuration is right");
    let database = tables.database("other").expect("it falls back");
    assert!(database.is_fallback);
    assert_eq!(database.dbname("other"), "other");
    assert_eq!(*database.endpoints, [Endpoint::Unix("/run/.s.PGSQL.5432".into())]);
    assert!(!tables.database("shop").expect("it is listed").is_fallback);
}

/// The precedence that the reference promises: user over database.
#[test]
fn what_a_user_overrides_is_in_force_in_its_pools() {
    let mut app = user("app", Value::Null);
    app["pool_mode"] = json!("session");
    app["query_timeout"] = json!(0);
    let tables = build(config(vec![database("shop", &["db:5432"])], vec![app])).expect("the configuration is right");
    let of_app = tables.pool_settings("shop", "app").expect("shop is listed");
    assert_eq!((of_app.pool_mode, of_app.query_timeout, of_app.pool_size), (PoolMode::Session, 0, 20));
    let of_other = tables.pool_settings("shop", "other").expect("shop is listed");
    assert_eq!((of_other.pool_mode, of_other.query_timeout), (PoolMode::Transaction, 11));
    assert!(tables.pool_settings("other", "app").is_none());
}

/// A reload of 1,000 users must not cost 1,000 PBKDF2, nor change the salts that clients cached their keys for.
#[test]
fn a_reload_keeps_the_verifier_of_an_unchanged_secret() {
    let users = |app: &str| vec![user("app", json!(app)), user("etl", json!("etl-password"))];
    let mut draws = 0;
    let first = build_after(config(vec![], users("one")), None, &mut draws).expect("the configuration is right");
    let after_first = draws;
    let same = build_after(config(vec![], users("one")), Some(&first), &mut draws).expect("still right");
    assert_eq!(draws, after_first, "nothing was derived");
    assert_eq!(salt(&same, "app"), salt(&first, "app"));
    let changed = build_after(config(vec![], users("two")), Some(&same), &mut draws).expect("still right");
    assert_eq!(draws, after_first + 1, "one was derived");
    assert_ne!(salt(&changed, "app"), salt(&first, "app"));
    assert_eq!(salt(&changed, "etl"), salt(&first, "etl"));
    assert_ne!(salt(&changed, "app"), salt(&changed, "etl"), "each user has its own salt");
}

/// Else an unknown user could be told by the salt that a reload changes, or by its count of iterations.
#[test]
fn unknown_users_look_like_most_known_ones() {
    let verifier = |iterations| {
        let password = crate::auth::Secret::new("s3cret");
        json!(crate::auth::ScramVerifier::derive(&password, &[1; 16], iterations).to_secret().expose())
    };
    let shown = |tables: &Tables| {
        use crate::auth::{Account, ClientLogin, Step};
        let method = crate::config::AuthMethod::ScramSha256;
        let (mut login, _) =
            ClientLogin::begin(method, "nobody", Account::Unknown, None, &tables.mock, &mut |out| out.fill(0));
        let Step::Send(bytes) = login.message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc") else {
            panic!("no challenge");
        };
        String::from_utf8_lossy(&bytes).split_once(",s=").expect("the challenge has a salt").1.to_owned()
    };
    let plain = build(config(vec![], vec![user("app", json!("s3cret"))])).expect("the configuration is right");
    assert!(shown(&plain).ends_with(",i=4096"));
    let users = vec![user("a", verifier(8)), user("b", verifier(8)), user("c", json!("s3cret"))];
    let mostly = build_after(config(vec![], users), Some(&plain), &mut 0).expect("the configuration is right");
    assert!(shown(&mostly).ends_with(",i=8"));
    let salt = |shown: &str| shown.split_once(',').expect("iterations follow").0.to_owned();
    assert_eq!(salt(&shown(&mostly)), salt(&shown(&plain)));
}

/// Python points at the line by this path; a secret in the message would end up in a log.
#[test]
fn a_configuration_that_can_not_be_prepared_names_the_place_and_hides_the_secret() {
    let refused = |config: Value| build(config).map(|_| ()).expect_err("it is wrong");
    let error = refused(config(vec![database("shop", &["db:5432", "db"])], vec![]));
    assert_eq!(error.to_string(), "databases.shop.endpoints[1]: \"db\" has no port; write \"db:5432\"");
    assert_eq!(refused(config(vec![database("shop", &[])], vec![])).path, "databases.shop.endpoints");
    let error = refused(config(vec![], vec![user("app", json!("SCRAM-SHA-256$canary"))]));
    assert_eq!(error.path, "users.app.secret");
    assert!(!error.message.contains("canary"));
    assert_eq!(refused(config(vec![], vec![user("app", json!(""))])).path, "users.app.secret");
    let twice = vec![user("app", Value::Null), user("app", Value::Null)];
    assert_eq!(refused(config(vec![], twice)).path, "users.app");
    let twice = vec![database("shop", &["db:1"]), database("shop", &["db:1"])];
    assert_eq!(refused(config(twice, vec![])).path, "databases.shop");
    let mut forced = database("shop", &["db:1"]);
    forced["forced_user"] = json!("app");
    let verifier = crate::auth::ScramVerifier::derive(&crate::auth::Secret::new("x"), &[1; 16], 1);
    forced["forced_secret"] = json!(verifier.to_secret().expose());
    assert_eq!(refused(config(vec![forced.clone()], vec![])).path, "databases.shop.forced_secret");
    forced["forced_secret"] = json!("x");
    let tables = build(config(vec![forced], vec![])).expect("a password will do");
    let database = tables.database("shop").expect("it is listed");
    assert!(matches!(database.forced_credential, Some(Credential::Plain { .. })));
}

/// Admins may look, viewers may not act, others neither.
#[test]
fn the_console_knows_its_people() {
    let tables = build(config(vec![], vec![])).expect("the configuration is right");
    assert!(tables.is_admin("ops") && tables.is_viewer("ops"));
    assert!(!tables.is_admin("eye") && tables.is_viewer("eye"));
    assert!(!tables.is_admin("app") && !tables.is_viewer("app"));
}

/// A panic message or a log line with `{:?}` of the tables must not hand out a password.
#[test]
fn the_tables_do_not_print_secrets() {
    let users = vec![user("app", json!("canary-3f9a"))];
    let mut forced = database("shop", &["db:1"]);
    forced["forced_secret"] = json!("canary-3f9a");
    let tables = build(config(vec![forced], users)).expect("the configuration is right");
    assert!(!format!("{tables:?}{tables:#?}").contains("canary"));
}

/// An endpoint taken for another one would send an application to the wrong server.
#[test]
fn endpoints_are_read_strictly() {
    let tcp = |host: &str, port| Ok(Endpoint::Tcp { host: host.into(), port });
    assert_eq!(parse_endpoint("db.internal:5432"), tcp("db.internal", 5432));
    assert_eq!(parse_endpoint("10.0.0.5:1"), tcp("10.0.0.5", 1));
    assert_eq!(parse_endpoint("[fe80::1]:65535"), tcp("fe80::1", 65_535));
    assert_eq!(parse_endpoint("/run/a b/.s.PGSQL.5432"), Ok(Endpoint::Unix("/run/a b/.s.PGSQL.5432".into())));
    for wrong in [
        "",
        ":5432",
        "db",
        "db:",
        "db:0",
        "db:65536",
        "db:+1",
        "db:-1",
        "db:5432x",
        "fe80::1:5432",
        "::1",
        "[::1]",
        "[::1]5432",
        "[db]:5432",
        "[]:5432",
        "a b:5432",
        "run/x:5432",
        "db:5432\n",
    ] {
        assert!(parse_endpoint(wrong).is_err(), "{wrong}");
    }
}

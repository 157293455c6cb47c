//! Endpoints that fail, move and come back, as clients of their pools feel it.

use std::net::IpAddr;

use forebay_pgwire::write;

use crate::command::Command;
use crate::config::{DatabaseConfig, EngineConfig, ServerTls, TlsMode};
use crate::fuzz_entry::memory::Stage;
use crate::fuzz_entry::scene::{Scene, tables, welcome};
use crate::ids::ConnId;
use crate::io::TlsInfo;

impl Scene {
    /// A connection comes about; what is sent on it first.
    fn first_words(&mut self, conn: ConnId) -> Vec<u8> {
        self.connected(conn);
        self.sent(conn)
    }
}

/// One worker, and what it has begun.
fn world_of(change: impl FnOnce(&mut EngineConfig)) -> Scene {
    let mut scene = Scene::with(change);
    scene.tick(1);
    scene
}

fn refused(sqlstate: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::error_response(&mut bytes, &[(b'S', b"FATAL"), (b'C', sqlstate.as_bytes()), (b'M', b"no")]);
    bytes
}

/// How an opening ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Unconnected,
    LateToConnect,
    ClosedInLogin,
    LateInLogin,
    NoTls,
    Said(&'static str),
}

/// One database with a wrong name, certificate or query would hold up all others of its host.
#[test]
fn what_fails_for_one_pool_holds_no_other_up() {
    let both = |config: &mut EngineConfig| {
        let other = config.databases[0].clone();
        config.databases.push(DatabaseConfig { name: "other".into(), ..other });
    };
    let ends = [
        (End::Unconnected, true),
        (End::LateToConnect, true),
        (End::Said("57P03"), true),
        (End::ClosedInLogin, false),
        (End::LateInLogin, false),
        (End::NoTls, false),
        (End::Said("08P01"), false),
        (End::Said("53300"), false),
        (End::Said("58000"), false),
    ];
    for (end, is_of_host) in ends {
        let mut world = world_of(|config| {
            both(config);
            if matches!(end, End::NoTls) {
                config.server_tls = tls(&[TlsMode::Require]);
            }
        });
        world.comes("app", &[]);
        let server = world.opening().expect("a server is opened");
        match end {
            End::Unconnected => world.closed(server),
            End::LateToConnect => world.at(15_010_000),
            _ => {
                world.first_words(server);
                match end {
                    End::ClosedInLogin => world.closed(server),
                    End::NoTls => world.arrives(server, b"N"),
                    End::Said(sqlstate) => world.arrives(server, &refused(sqlstate)),
                    _ => world.at(15_010_000),
                }
            }
        }
        assert!(world.opening().is_none(), "{end:?}: the pool waits");
        world.comes("other", &[]);
        assert_eq!(world.opening().is_none(), is_of_host, "{end:?}");
    }
}

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

fn tls(modes: &[TlsMode]) -> Vec<ServerTls> {
    modes.iter().map(|mode| ServerTls { mode: *mode, ..ServerTls::default() }).collect()
}

/// A reload numbers the TLS settings anew: passwords and cancel keys went out in the clear.
#[test]
fn a_reload_takes_no_encryption_away() {
    let require = |config: &mut EngineConfig| config.server_tls = tls(&[TlsMode::Require]);
    let renumbered = |config: &mut EngineConfig| {
        config.server_tls = tls(&[TlsMode::Disable, TlsMode::Require]);
        config.databases[0].tls = 1;
    };
    let plain = |config: &mut EngineConfig| config.server_tls = tls(&[TlsMode::Disable]);

    let mut world = world_of(require);
    let client = world.comes("app", &[]);
    let server = world.opening().expect("a server is opened");
    world.order(Command::Reload(tables(renumbered)));
    assert_eq!(world.opening(), Some(server), "nothing has changed for it");
    assert_eq!(world.first_words(server), SSL_REQUEST);
    world.arrives(server, b"S");
    world.io.connection(server).stage = Stage::Open;
    world.worker.tls_ready(&mut world.io, server, TlsInfo::default());
    world.arrives(server, &welcome());
    let greeting = world.sent(client);
    let key = greeting.windows(5).position(|bytes| bytes == [b'K', 0, 0, 0, 12]).expect("a key to cancel by");
    let mut query = Vec::new();
    write::query(&mut query, "SELECT 1");
    world.arrives(client, &query);
    let sent = world.sent(server);
    assert!(sent.windows(8).any(|bytes| bytes == b"SELECT 1"), "{}", String::from_utf8_lossy(&sent));
    world.order(Command::Reload(tables(plain)));
    let canceller = world.connects();
    let pid = u32::from_be_bytes(greeting[key + 5..key + 9].try_into().expect("four bytes"));
    let mut cancel = Vec::new();
    write::cancel_request(&mut cancel, pid, &greeting[key + 9..key + 13]);
    world.arrives(canceller, &cancel);
    let cancelling = world.opening().expect("the cancel goes to the server");
    assert_eq!(world.first_words(cancelling), SSL_REQUEST, "as its session does");
}

/// Waiters sat out server_connect_timeout on openings to where the servers had been.
#[test]
fn openings_to_where_servers_were_make_room_at_once() {
    let at = |last: u8| IpAddr::from([10, 0, 0, last]);
    let at_name = |config: &mut EngineConfig| config.databases[0].endpoints = vec!["db:5432".into()];
    let mut world = world_of(at_name);
    let told = |world: &mut Scene, last: u8| {
        world.worker.readdressed(&mut world.io, &"db".into(), &vec![at(last)].into());
        world.worker.turn_end(&mut world.io);
        world.opening()
    };
    world.comes("app", &[]);
    let first = world.opening().expect("a server is opened");
    assert_eq!(told(&mut world, 2), Some(first), "it asked for the addresses");

    world.io.remote = Some(at(1));
    assert!(world.first_words(first).is_empty(), "its connect was under way to an older address");
    let second = world.opening().expect("another one takes its place");
    world.io.remote = Some(at(2));
    assert!(!world.first_words(second).is_empty() && world.opening().is_none());

    let third = told(&mut world, 3).expect("its host is elsewhere before it is let in");
    let fourth = told(&mut world, 4).expect("nor does one go on that was given older addresses");
    assert!(third != fourth && world.io.alive().filter(|(_, c)| c.is_outgoing).count() == 1);
    world.order(Command::Reconnect(None));
    let fifth = world.opening().expect("RECONNECT");
    world.order(Command::Reload(tables(|config| config.databases[0].endpoints = vec!["other:5432".into()])));
    let sixth = world.opening().expect("RELOAD");
    assert!(fourth != fifth && fifth != sixth);
    assert!(world.io.alive().filter(|(_, c)| c.is_outgoing).count() == 1);
    assert!(world.worker.addresses.is_empty(), "no database is there any more");
}

/// The corrected database waited for the end of the mistake's back-off.
#[test]
fn a_corrected_place_is_tried_at_once() {
    let corrections: [fn(&mut EngineConfig); 4] = [
        |config| config.databases[0].dbname = "right".into(),
        |config| config.server_tls = tls(&[TlsMode::Prefer]),
        |config| config.databases[0].parameters = vec![("work_mem".into(), "1MB".into())],
        |config| config.databases[0].connect_query = "SELECT 1".into(),
    ];
    for (index, correction) in corrections.into_iter().enumerate() {
        let mut world = world_of(|_| ());
        world.comes("app", &[]);
        let server = world.opening().expect("a server is opened");
        world.first_words(server);
        world.arrives(server, &refused("55000"));
        assert!(world.opening().is_none());
        world.order(Command::Reload(tables(|_| ())));
        assert!(world.opening().is_none(), "nothing was corrected");
        world.order(Command::Reload(tables(correction)));
        assert!(world.opening().is_some(), "correction {index}");
    }
}

/// A trial alone never got in where the server speaks 3.0 only, or wants TLS.
#[test]
fn a_trial_learns_how_to_get_in() {
    let mut world = world_of(|config| {
        config.databases[0].endpoints = vec!["127.0.0.1:5432".into(), "127.0.0.1:5433".into()];
        config.server_tls = tls(&[TlsMode::Allow]);
    });
    world.comes("app", &[]);
    let sick = world.opening().expect("a server is opened");
    world.closed(sick);
    let well = world.opening().expect("the other endpoint is tried");
    world.first_words(well);
    world.arrives(well, &welcome());
    world.at(2_000_000);
    let mut trial = world.opening().expect("the sick one is tried beside");
    for sqlstate in ["0A000", "28000"] {
        world.first_words(trial);
        world.arrives(trial, &refused(sqlstate));
        trial = world.opening().expect("it is tried again at once");
    }
    assert_eq!(world.first_words(trial), SSL_REQUEST);
    world.arrives(trial, b"S");
    world.io.connection(trial).stage = Stage::Open;
    world.worker.tls_ready(&mut world.io, trial, TlsInfo::default());
    assert_eq!(world.sent(trial)[4..8], [0, 3, 0, 0]);
}

//! The engine as its users see it: starts as a whole or not at all, tells what it bound, reloads, stops.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forebay_core::command::{Command, Reply};
use forebay_core::config::{EngineConfig, IoDriver, ListenTls, TlsMode, TlsOffers};
use forebay_core::ids::WorkerId;
use forebay_runtime::{Engine, ReloadError, StartError};

/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> EngineConfig {
    serde_json::from_str(include_str!("engine.json")).expect("the sample is a configuration")
}

/// A folder of this test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("fbe-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write_certificate(&self) -> ListenTls {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(self.path("crt.pem"), made.cert.pem()).expect("written");
        std::fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).expect("written");
        let (certificate, key) = (self.path("crt.pem"), self.path("key.pem"));
        ListenTls { certificate, key, ca: None, mode: TlsMode::Prefer, offers: TlsOffers::default() }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn get(engine: &Engine, path: &str) -> String {
    let address = engine.metrics_address().expect("metrics are served");
    let mut stream = TcpStream::connect(address).expect("served");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

/// Waits until each worker has replied to `id`.
fn replies(engine: &Engine, id: forebay_core::command::CommandId) -> Vec<(WorkerId, Reply)> {
    let deadline = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    while found.len() < usize::from(engine.workers()) {
        let mut poll = libc::pollfd { fd: engine.outbox().fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 1000) };
        let batch = engine.outbox().take();
        found.extend(batch.replies.into_iter().filter(|(_, i, _)| *i == id).map(|(w, _, r)| (w, r)));
        assert!(Instant::now() < deadline, "only {} workers replied", found.len());
    }
    found
}

/// `make run` prints these addresses; each must be one that a client can use.
#[test]
fn an_engine_says_where_it_listens_and_with_what() {
    for io in [IoDriver::Uring, IoDriver::Epoll] {
        let folder = Folder::new(&format!("listen-{io:?}"));
        let mut config = config();
        config.engine.io = io;
        config.listen.addresses = vec!["127.0.0.1".to_owned(), "::1".to_owned()];
        config.listen.unix = Some(folder.path(""));
        let engine = Engine::start(config).expect("it starts");
        let name = if io == IoDriver::Uring { "io_uring" } else { "epoll" };
        assert_eq!((engine.driver().name, engine.workers()), (name, 2));
        let [v4, v6, unix] = engine.listeners() else { panic!("{:?}", engine.listeners()) };
        assert_ne!(v4.rsplit(':').next(), Some("0"));
        TcpStream::connect(v4).expect("IPv4");
        TcpStream::connect(v6).expect("IPv6");
        UnixStream::connect(unix).expect("Unix");
        let unix = unix.clone();
        engine.stop();
        assert!(!std::path::Path::new(&unix).exists(), "the socket's file stays behind");
    }
}

/// Two poolers that share a port by accident would each get half of the clients.
#[test]
fn a_second_engine_on_the_same_port_is_refused() {
    let first = Engine::start(config()).expect("it starts");
    let mut second = config();
    let port = first.listeners()[0].rsplit(':').next().expect("a port").parse().expect("a number");
    second.listen.port = port;
    match Engine::start(second) {
        Err(StartError::Listen(error)) => assert!(error.address.ends_with(&format!(":{port}")), "{}", error.address),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("both listen"),
    }
}

/// A socket's file that a crash left over must not need a human; one that is in use must not be taken.
#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = Folder::new("stale");
    let mut config = config();
    config.listen.unix = Some(folder.path(""));
    config.listen.unix_mode = 0o700;
    config.listen.addresses.clear();
    config.listen.port = 16432;
    let path = folder.path(".s.PGSQL.16432");
    drop(UnixListener::bind(&path).expect("bound"));
    let engine = Engine::start(config.clone()).expect("nobody listens there");
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(matches!(Engine::start(config.clone()), Err(StartError::Listen(_))));
    UnixStream::connect(&path).expect("the first one still listens");
    engine.stop();
    std::fs::write(&path, "not a socket").expect("written");
    assert!(matches!(Engine::start(config), Err(StartError::Listen(_))));
    assert_eq!(std::fs::read_to_string(&path).expect("untouched"), "not a socket");
}

/// Probes decide whether traffic comes; a scrape is what dashboards live on.
#[test]
fn metrics_and_probes_are_served() {
    let engine = Engine::start(config()).expect("it starts");
    TcpStream::connect(&engine.listeners()[0]).expect("a client");
    let metrics = get(&engine, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\n# TYPE forebay_connections_accepted_total counter\n"), "{metrics}");
    assert!(get(&engine, "/livez").contains("200 OK"));
    assert!(get(&engine, "/readyz").contains("200 OK"));
    assert!(get(&engine, "/other").contains("404"));
    engine.stats()[0].pools_open.set(1);
    engine.stats()[0].pools_sick.set(1);
    assert!(get(&engine, "/readyz").contains("503"));
    assert!(get(&engine, "/readyz?unready=404").contains("404"));
    assert!(get(&engine, "/readyz?exclude=servers").contains("200 OK"));
    assert!(get(&engine, "/readyz?database=nobody").contains("400"));
    assert!(get(&engine, "/readyz?typo=1").contains("400"));
    engine.stats()[0].pools_sick.set(0);
    engine.set_leaving(true);
    assert!(get(&engine, "/readyz?exclude=servers").contains("503"));
    engine.set_leaving(false);
    assert!(get(&engine, "/readyz").contains("200 OK"));
    engine.command(None, &Command::Drain);
    assert!(get(&engine, "/readyz").contains("503"));
    assert!(get(&engine, "/readyz?unready=404").contains("404"));
    assert!(get(&engine, "/livez").contains("200 OK"));
}

/// Whoever opens connections and says nothing must not shut the door for the scraper.
#[test]
fn silent_connections_do_not_stop_a_scrape() {
    let engine = Engine::start(config()).expect("it starts");
    let address = engine.metrics_address().expect("metrics are served");
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address).expect("accepted")).collect();
    for mut stream in &silent {
        let _ = stream.write_all(b"GET /metr");
    }
    assert!(get(&engine, "/metrics").contains("200 OK"));
}

/// What only a start can change is refused by name, and nothing else of that reload happens.
#[test]
fn a_reload_that_needs_a_restart_names_the_settings() {
    let engine = Engine::start(config()).expect("it starts");
    engine.reload(config()).expect("the same again is fine");
    let mut other = config();
    other.listen.backlog = 7;
    other.engine.workers = 1;
    match engine.reload(other) {
        Err(ReloadError::NeedsRestart(names)) => assert_eq!(names, ["listen.backlog", "engine.workers"]),
        other => panic!("{other:?}"),
    }
}

/// A certificate that was renewed badly must not take TLS down; a good one serves the next client.
#[test]
fn broken_tls_files_refuse_the_reload_and_good_ones_serve_the_next_handshake() {
    let folder = Folder::new("tls");
    let mut config = config();
    config.listen.tls = Some(folder.write_certificate());
    let engine = Engine::start(config.clone()).expect("it starts");
    folder.write_certificate();
    engine.reload(config.clone()).expect("a new certificate");
    std::fs::write(folder.path("key.pem"), "no key").expect("written");
    match engine.reload(config.clone()) {
        Err(ReloadError::Tls(error)) => {
            let words = error.to_string();
            assert!(words.contains("listen.tls.key") && words.contains("key.pem"), "{words}");
        }
        other => panic!("{other:?}"),
    }
    // A key of another certificate.
    let other = rcgen::KeyPair::generate().expect("a key");
    std::fs::write(folder.path("key.pem"), other.serialize_pem()).expect("written");
    assert!(matches!(engine.reload(config.clone()), Err(ReloadError::Tls(_))));
    drop(engine);
    assert!(matches!(Engine::start(config), Err(StartError::Tls(_))));
}

/// SHOW asks every worker.
#[test]
fn each_worker_replies_to_a_command() {
    let engine = Engine::start(config()).expect("it starts");
    let id = engine.command(None, &Command::Snapshot);
    let mut workers: Vec<u16> = replies(&engine, id).into_iter().map(|(worker, _)| worker.0).collect();
    workers.sort_unstable();
    assert_eq!(workers, [0, 1]);
}

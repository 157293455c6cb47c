//! TLS end to end: our two roles against each other and against rustls' own blocking streams.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use forebay_core::config::{EngineConfig, ServerTls, TlsMode, TlsOffers};
use forebay_core::io::{ClosedBy, Io, TlsRole};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::harness::{PATIENCE, Role, Seen, Setup, World, pattern};
use crate::driver::backend::Backend;
use crate::tls::certificate::end_point_hash;
use crate::tls::context::Contexts;

/// A folder with a certificate for `localhost` and its key, removed at the end.
pub(super) struct Files {
    folder: std::path::PathBuf,
    pub(super) der: CertificateDer<'static>,
}

impl Files {
    pub(super) fn new() -> Files {
        let mut tag = [0; 8];
        crate::random::fill(&mut tag);
        let name = format!("fbtls-{}-{:x}", std::process::id(), u64::from_ne_bytes(tag));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(folder.join("crt.pem"), made.cert.pem()).expect("written");
        std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        Files { folder, der: made.cert.der().clone() }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Contexts that accept with the certificate, and connect with each of `modes`.
    pub(super) fn contexts(&self, modes: &[(TlsMode, bool)]) -> Contexts {
        let mut config = empty_config();
        config.listen.tls = Some(forebay_core::config::ListenTls {
            certificate: self.path("crt.pem"),
            key: self.path("key.pem"),
            ca: None,
            mode: TlsMode::Prefer,
            offers: TlsOffers::default(),
        });
        config.server_tls = modes
            .iter()
            .map(|(mode, has_ca)| ServerTls {
                mode: *mode,
                ca: has_ca.then(|| self.path("crt.pem")),
                certificate: None,
                key: None,
                offers: TlsOffers::default(),
            })
            .collect();
        Contexts::load(&config).expect("the files are good")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn empty_config() -> EngineConfig {
    serde_json::from_str(include_str!("../../../tests/engine.json")).expect("the sample is a configuration")
}

fn world<B: Backend + 'static>(role: Role, files: &Files) -> World<B> {
    World::with(role, Setup { tls: files.contexts(&[]), ..Setup::default() })
}

pub(super) fn client_config(files: &Files, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(files.der.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Arc::new(config)
}

pub(super) fn secure<B: Backend + 'static>(
    world: &World<B>,
    config: Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect(world.address).expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(ClientConnection::new(config, name).expect("a client"), stream)
}

/// psql with sslmode=require: everything it says and hears passes through TLS, also in records that are cut.
fn a_tls_client_is_echoed<B: Backend + 'static>() {
    let files = Files::new();
    let world = world::<B>(Role::TlsEcho { direct: false }, &files);
    let mut stream = secure(&world, client_config(&files, &[]));
    for len in [1, 100, 16 * 1024, 100_000] {
        for part in pattern(len).chunks(20_000) {
            stream.write_all(part).expect("written");
            stream.flush().expect("written");
            let mut back = vec![0; part.len()];
            stream.read_exact(&mut back).expect("answered");
            assert!(back == part);
        }
    }
    let (description, hash) =
        world.wait(|seen| if let Seen::TlsReady(d, h) = seen { Some((d.clone(), h.clone())) } else { None });
    assert!(description.starts_with("TLSv1.3/TLS_"), "{description}");
    assert_eq!(hash, end_point_hash(&files.der).to_vec());
    stream.conn.send_close_notify();
    stream.flush().expect("written");
    assert_eq!(world.wait_closed(), ClosedBy::Peer);
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).expect("our close_notify came too"), 0);
}

/// PostgreSQL 17's sslnegotiation=direct: the protocol's name is what keeps other protocols out.
fn direct_tls_needs_the_name_of_the_protocol<B: Backend + 'static>() {
    let files = Files::new();
    let world = world::<B>(Role::TlsEcho { direct: true }, &files);
    let mut stream = secure(&world, client_config(&files, &[b"postgresql"]));
    stream.write_all(b"hello").expect("written");
    let mut back = [0; 5];
    stream.read_exact(&mut back).expect("answered");
    let mut without = secure(&world, client_config(&files, &[]));
    let _ = without.write_all(b"hello");
    assert!(without.read_exact(&mut back).is_err());
    assert!(matches!(world.wait_closed(), ClosedBy::Error(words) if words.contains("ALPN")));
}

/// A client that is cut off is not one that said goodbye.
fn an_end_without_goodbye_is_an_error<B: Backend + 'static>() {
    let files = Files::new();
    let world = world::<B>(Role::TlsEcho { direct: false }, &files);
    let mut stream = secure(&world, client_config(&files, &[]));
    stream.write_all(b"hello").expect("written");
    let mut back = [0; 5];
    stream.read_exact(&mut back).expect("answered");
    drop(stream.sock);
    assert!(matches!(world.wait_closed(), ClosedBy::Error(words) if words.contains("without")));
}

/// Garbage in place of a hello: the peer is told, and the log says what it was.
fn garbage_in_place_of_a_hello_is_refused<B: Backend + 'static>() {
    let files = Files::new();
    let world = world::<B>(Role::TlsEcho { direct: false }, &files);
    let mut stream = TcpStream::connect(world.address).expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    world.wait(|seen| matches!(seen, Seen::Accepted(..)).then_some(()));
    // What comes within the turn that began TLS would be called an injection.
    world.on(0, |_, _| ());
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    assert!(matches!(world.wait_closed(), ClosedBy::Error(words) if words.contains("TLS")));
    let mut alert = Vec::new();
    let _ = stream.read_to_end(&mut alert);
    assert_eq!(alert.first(), Some(&21), "an alert says why");
}

/// Towards servers, in libpq's words: who is let in by which.
fn servers_are_verified_as_libpq_would<B: Backend + 'static>() {
    let files = Files::new();
    let server = world::<B>(Role::TlsEcho { direct: false }, &files);
    let other = Files::new();
    let modes = [
        (TlsMode::Require, false, "elsewhere", true),
        (TlsMode::Require, true, "localhost", true),
        (TlsMode::VerifyCa, true, "elsewhere", true),
        (TlsMode::VerifyFull, true, "localhost", true),
        (TlsMode::VerifyFull, true, "elsewhere", false),
    ];
    for (i, (mode, has_ca, name, is_let_in)) in modes.into_iter().enumerate() {
        let contexts = files.contexts(&[(mode, has_ca)]);
        assert_eq!(try_relay::<B>(&server, contexts, name), is_let_in, "row {i}");
    }
    // Another authority.
    for mode in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
        assert!(!try_relay::<B>(&server, other.contexts(&[(mode, true)]), "localhost"));
    }
}

fn try_relay<B: Backend + 'static>(server: &World<B>, tls: Contexts, name: &str) -> bool {
    let settings = tls.connecting[0].0.clone();
    let role = TlsRole::Connect { tls: settings.into(), server_name: name.into() };
    let world = World::<B>::with(Role::TlsRelay(server.endpoint(), role), Setup { tls, ..Setup::default() });
    let mut client = TcpStream::connect(world.address).expect("accepted");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let bytes = pattern(200_000);
    let sent = bytes.clone();
    let mut writer = client.try_clone().expect("a second handle");
    let thread = std::thread::spawn(move || writer.write_all(&sent).is_ok());
    let mut back = vec![0; bytes.len()];
    let is_echoed = client.read_exact(&mut back).is_ok();
    if !is_echoed {
        eprintln!("relay: {:?}", world.seen.try_iter().collect::<Vec<_>>());
    }
    drop(client);
    let _ = thread.join();
    assert!(!is_echoed || back == bytes);
    is_echoed
}

/// The bytes of an attacker between client and pooler, slipped in before TLS begins.
fn bytes_slipped_in_before_tls_close_the_connection<B: Backend + 'static>() {
    let files = Files::new();
    let world = world::<B>(Role::Echo, &files);
    let mut stream = TcpStream::connect(world.address).expect("accepted");
    let conn = world.wait(|seen| if let Seen::Accepted(conn, _) = seen { Some(*conn) } else { None });
    // The worker is held until the bytes are in the socket, so that they come in the turn that begins TLS.
    let (go, held) = std::sync::mpsc::channel::<()>();
    let (is_held, wait) = std::sync::mpsc::channel();
    world.order(0, move |_, _| {
        is_held.send(()).expect("the test waits");
        held.recv().expect("the test goes on");
    });
    wait.recv_timeout(PATIENCE).expect("the worker is held");
    stream.write_all(b"SELECT 1").expect("written");
    world.order(0, move |_, driver| driver.start_tls(conn, TlsRole::Accept { direct: false }, &[]));
    go.send(()).expect("the worker waits");
    assert!(matches!(world.wait_closed(), ClosedBy::Error(words) if words.contains("plain bytes")));
    assert_eq!(world.hub.stats[0].tls_injections.get(), 1);
}

super::over_both!(
    a_tls_client_is_echoed,
    direct_tls_needs_the_name_of_the_protocol,
    an_end_without_goodbye_is_an_error,
    garbage_in_place_of_a_hello_is_refused,
    servers_are_verified_as_libpq_would,
    bytes_slipped_in_before_tls_close_the_connection,
);

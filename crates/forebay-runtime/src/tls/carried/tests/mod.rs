//! The record layer against the library's own; [`rules`] has peers that do not keep to them.

mod rules;

use std::sync::{Arc, LazyLock};

use forebay_core::config::{ServerTls, TlsMode};
use forebay_core::io::TlsRole;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{
    AlertDescription, ClientConfig, Connection, ContentType, Error, RootCertStore, ServerConfig, SupportedCipherSuite,
};

use super::{Carried, LATER_KEYS};
use crate::tls::context::{Accepting, Contexts};
use crate::tls::session::{Session, Side};

/// A certificate and its key, as one key fits all tests.
static IDENTITY: LazyLock<(CertificateDer<'static>, Vec<u8>)> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["db".to_owned()]).expect("parameters");
    (params.self_signed(&key).expect("a certificate").der().clone(), key.serialize_der())
});

/// Each record layer that there is: two versions, three ciphers.
fn suites() -> impl Iterator<Item = &'static SupportedCipherSuite> {
    let is_ours = |suite: &&SupportedCipherSuite| !suite.suite().as_str().is_some_and(|name| name.contains("RSA"));
    aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(is_ours)
}

fn tls13() -> &'static SupportedCipherSuite {
    suites().find(|suite| suite.tls13().is_some()).expect("there is one")
}

fn tls12() -> &'static SupportedCipherSuite {
    suites().find(|suite| suite.tls13().is_none()).expect("there is one")
}

fn configs(suite: &SupportedCipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider = CryptoProvider { cipher_suites: vec![*suite], ..aws_lc_rs::default_provider() };
    let (provider, versions) = (Arc::new(provider), &[suite.version()]);
    let (certificate, key) = IDENTITY.clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
    let server = ServerConfig::builder_with_provider(provider.clone());
    let server = server.with_protocol_versions(versions).expect("offered").with_no_client_auth();
    let mut server = server.with_single_cert(vec![certificate.clone()], key).expect("it fits");
    server.enable_secret_extraction = true;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("an authority");
    let client = ClientConfig::builder_with_provider(provider);
    let client = client.with_protocol_versions(versions).expect("offered").with_root_certificates(roots);
    let mut client = client.with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

/// One of ours, as driver and process have it.
struct Ours {
    session: Session,
    got: Vec<u8>,
    wire: Vec<u8>,
    is_closed: bool,
}

impl Ours {
    fn new(server: Arc<ServerConfig>, client: Arc<ClientConfig>, is_server: bool) -> Ours {
        let tls = ServerTls { mode: TlsMode::Require, ..ServerTls::default() };
        let accepting = Some(Accepting { config: server, certificate_hash: Arc::default() });
        let contexts = Contexts { accepting, connecting: vec![(tls.clone(), client)] };
        let role = match is_server {
            true => TlsRole::Accept { direct: false },
            false => TlsRole::Connect { tls: Arc::new(tls), server_name: "db".into() },
        };
        let session = Session::begin(&contexts, &role).expect("both are configured");
        Ours { session, got: Vec::new(), wire: Vec::new(), is_closed: false }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let progress = self.session.read(&mut bytes.to_vec(), &mut self.got, &mut self.wire)?;
        self.is_closed |= progress.is_closed;
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) {
        self.session.queue(bytes);
        let (mut record, wire) = (Vec::new(), &mut self.wire);
        self.session.seal(&mut record, |record, _| wire.extend_from_slice(record)).expect("it may be sent");
    }

    fn wire(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire)
    }

    /// Moves to another process.
    fn moves(&mut self) {
        self.session.carry(&mut self.wire);
        assert!(!self.session.is_lost());
        let bytes = self.session.to_bytes();
        assert!(bytes.capacity() >= bytes.len());
        self.session = Session::from_bytes(&bytes).expect("what was written is read");
        assert!(self.session.to_bytes() == bytes);
    }

    /// A record of any kind and content.
    fn says(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let mut wire = self.wire();
        self.carried().sending.seal(kind, content, &mut wire).expect("short");
        wire
    }

    fn carried(&mut self) -> &mut Carried {
        match &mut self.session.side {
            Side::Carried(carried) => carried,
            _ => panic!("it has not moved"),
        }
    }
}

/// One of ours and the library's.
fn pair(suite: &SupportedCipherSuite, is_server: bool) -> (Ours, Connection) {
    let (server, client) = configs(suite);
    let mut ours = Ours::new(server.clone(), client.clone(), is_server);
    let mut peer: Connection = match is_server {
        true => rustls::ClientConnection::new(client, "db".try_into().expect("a name")).expect("begun").into(),
        false => rustls::ServerConnection::new(server).expect("begun").into(),
    };
    ours.take(&[]).expect("begun");
    while peer.is_handshaking() || !ours.session.is_ready() {
        take(&mut peer, &ours.wire()).expect("a handshake");
        ours.take(&wire(&mut peer)).expect("a handshake");
    }
    (ours, peer)
}

/// Two of ours that have moved.
fn both(suite: &SupportedCipherSuite) -> (Ours, Ours) {
    let (mut server, mut client) = library_pair(suite);
    server.moves();
    client.moves();
    (server, client)
}

/// Two of ours that have not.
fn library_pair(suite: &SupportedCipherSuite) -> (Ours, Ours) {
    let (of_server, of_client) = configs(suite);
    let mut server = Ours::new(of_server.clone(), of_client.clone(), true);
    let mut client = Ours::new(of_server, of_client, false);
    client.take(&[]).expect("begun");
    while !server.session.is_ready() || !client.session.is_ready() || !client.wire.is_empty() || !server.wire.is_empty()
    {
        server.take(&client.wire()).expect("a handshake");
        client.take(&server.wire()).expect("a handshake");
    }
    (server, client)
}

fn wire(peer: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).expect("memory");
    }
    bytes
}

/// What the library's end makes of ciphertext.
fn take(peer: &mut Connection, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut got = Vec::new();
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).expect("memory");
        let state = peer.process_new_packets()?;
        let start = got.len();
        got.resize(start + state.plaintext_bytes_to_read(), 0);
        std::io::Read::read_exact(&mut peer.reader(), &mut got[start..]).expect("it is there");
    }
    Ok(got)
}

fn send(peer: &mut Connection, bytes: &[u8]) -> Vec<u8> {
    let mut sent = Vec::new();
    for piece in bytes.chunks(10_000) {
        std::io::Write::write_all(&mut peer.writer(), piece).expect("memory");
        sent.append(&mut wire(peer));
    }
    sent
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + seed) as u8).collect()
}

/// Numbers that look like chance, the same in each run.
struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Wherever the cut falls, in a record or between two, and however often: not a byte is lost, doubled or wrong.
#[test]
fn both_ends_go_on_over_many_moves() {
    let mut luck = Luck(7);
    for (suite, is_server) in suites().flat_map(|suite| [(suite, true), (suite, false)]) {
        let (mut ours, mut peer) = pair(suite, is_server);
        for (round, len) in [1, 300, 16_384, 40_000, 5, 70_000, 16_385].into_iter().enumerate() {
            let sent = pattern(len, round);
            let bytes = send(&mut peer, &sent);
            let cut = luck.below(bytes.len() + 1);
            ours.take(&bytes[..cut]).expect("good records");
            ours.send(&sent);
            ours.moves();
            ours.take(&bytes[cut..]).expect("good records");
            assert!(std::mem::take(&mut ours.got) == sent, "{suite:?}, round {round}, cut at {cut}");
            ours.send(&sent);
            assert!(take(&mut peer, &ours.wire()).expect("good records") == [&sent[..], &sent[..]].concat());
        }
        // Each says goodbye, and what was said before it counts.
        let mut bytes = send(&mut peer, b"last");
        peer.send_close_notify();
        bytes.append(&mut wire(&mut peer));
        ours.take(&bytes).expect("good records");
        assert!(ours.is_closed && ours.session.is_peer_closed() && ours.got == b"last");
        let Ours { session, wire, .. } = &mut ours;
        session.close(wire).expect("it may be said");
        assert!(!wire.is_empty());
        take(&mut peer, &ours.wire()).expect("a goodbye");
        assert!(peer.process_new_packets().expect("no error").peer_has_closed());
    }
}

/// Byte by byte, as a network may bring it: what is not complete waits, and moves.
#[test]
fn a_record_that_comes_byte_by_byte_moves_at_each_of_them() {
    for suite in [tls13(), tls12()] {
        let (mut ours, mut peer) = pair(suite, true);
        for byte in send(&mut peer, b"select 1") {
            ours.take(&[byte]).expect("a part of a record");
            ours.moves();
        }
        assert_eq!(ours.got, b"select 1");
    }
}

/// Somebody on the way has changed a byte: nothing of it is believed, and the peer is told.
#[test]
fn a_changed_byte_ends_the_connection() {
    for (suite, is_server) in suites().flat_map(|suite| [(suite, true), (suite, false)]) {
        let (mut ours, mut peer) = pair(suite, is_server);
        ours.moves();
        ours.take(&send(&mut peer, b"good")).expect("a good record");
        let mut bytes = send(&mut peer, b"evil");
        *bytes.last_mut().expect("a record") ^= 1;
        let error = ours.take(&bytes).expect_err("a changed record");
        assert_eq!((error.as_str(), ours.got.as_slice()), ("TLS: cannot decrypt peer's message", &b"good"[..]));
        let told = take(&mut peer, &ours.wire()).expect_err("an alert");
        assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
        // Nothing is sent any more, and it does not move.
        ours.session.queue(b"more");
        ours.session.seal(&mut Vec::new(), |_, _| {}).expect_err("it is over");
        assert!(ours.session.to_bytes().is_empty());
    }
}

/// A record twice, or one left out: whoever replays or drops statements is found out.
#[test]
fn records_in_another_order_are_refused() {
    for suite in suites() {
        for is_replayed in [true, false] {
            let (mut ours, mut peer) = pair(suite, true);
            let first = send(&mut peer, b"insert 1");
            ours.moves();
            if is_replayed {
                ours.take(&first).expect("a good record");
                ours.take(&first).expect_err("the same again");
            } else {
                ours.take(&send(&mut peer, b"insert 2")).expect_err("the one before it is missing");
            }
        }
    }
    let (mut server, mut client) = both(tls13());
    server.carried().receiving.sequence = u64::MAX - 16;
    client.send(b"x");
    server.take(&client.wire()).expect_err("the number would wrap");
}

/// Java renews keys after 128 GB: unasked, and wants an answer.
#[test]
fn a_peer_may_renew_its_keys_as_long_as_later_ones_are_there() {
    for is_server in [true, false] {
        let (mut ours, mut peer) = pair(tls13(), is_server);
        // Its answer is due with the next write, which is another process's.
        peer.refresh_traffic_keys().expect("TLS 1.3");
        ours.take(&wire(&mut peer)).expect("a key update");
        ours.moves();
        for round in 0..LATER_KEYS {
            peer.refresh_traffic_keys().expect("TLS 1.3");
            let bytes = send(&mut peer, b"with new keys");
            ours.take(&bytes).expect("the next keys are there");
            ours.send(b"and so is this");
            assert_eq!(take(&mut peer, &ours.wire()).expect("good records"), b"and so is this");
            assert_eq!(ours.got.len(), 13 * (round + 1));
            ours.moves();
        }
        peer.refresh_traffic_keys().expect("TLS 1.3");
        let error = ours.take(&wire(&mut peer)).expect_err("no keys are left");
        assert_eq!(error, "TLS: the keys that came along are used up");
        take(&mut peer, &ours.wire()).expect("a goodbye");
        assert!(peer.process_new_packets().expect("no error").peer_has_closed());
    }
}

/// A key of AES encrypts 2^24 records: then the next one is used, or nothing is sent.
#[test]
fn a_key_that_has_encrypted_enough_is_renewed() {
    let worn = (1 << 24) - 1;
    let (mut server, mut client) = both(tls13());
    server.carried().sending.sequence = worn;
    client.carried().receiving.sequence = worn;
    server.send(b"over the limit");
    assert_eq!(server.carried().sending.sequence, 1);
    client.take(&server.wire()).expect("a key update and a record");
    assert_eq!(client.got, b"over the limit");

    let (mut server, mut client) = both(tls12());
    server.carried().sending.sequence = worn;
    client.carried().receiving.sequence = worn;
    server.session.queue(b"over the limit");
    server.session.seal(&mut Vec::new(), |_, _| {}).expect_err("TLS 1.2 has no other key");
    let Ours { session, wire, .. } = &mut server;
    session.close(wire).expect("it was said");
}

/// A server sends tickets when it likes: they are of no use, and must do no harm. One may be cut in two.
#[test]
fn tickets_are_passed_over() {
    let (server, client) = configs(tls13());
    let mut ours = Ours::new(server.clone(), client, false);
    let mut peer: Connection = rustls::ServerConnection::new(server).expect("begun").into();
    ours.take(&[]).expect("begun");
    while !ours.session.is_ready() {
        take(&mut peer, &ours.wire()).expect("a handshake");
        ours.take(&wire(&mut peer)).expect("a handshake");
    }
    take(&mut peer, &ours.wire()).expect("the end of the handshake");
    let tickets = wire(&mut peer);
    assert!(tickets.len() > 100, "{} bytes of tickets", tickets.len());
    ours.moves();
    ours.take(&tickets).expect("tickets");
    ours.take(&send(&mut peer, b"row")).expect("a good record");
    assert_eq!(ours.got, b"row");

    let (mut server, mut client) = both(tls13());
    let ticket = [&[4, 0, 0, 90][..], &[0; 90]].concat();
    for part in [&ticket[..2], &ticket[2..50], &ticket[50..]] {
        client.take(&server.says(ContentType::Handshake, part)).expect("a part of a ticket");
        client.moves();
    }
    server.send(b"row");
    client.take(&server.wire()).expect("a good record");
    assert_eq!(client.got, b"row");
}

/// The library keeps the beginning of a message to itself: such a connection is closed, and none is mistaken for one.
#[test]
fn a_connection_amid_a_handshake_or_one_of_its_messages_is_lost() {
    let (mut server, mut client) = library_pair(tls13());
    client.moves();
    server.take(&client.says(ContentType::Handshake, &[24, 0, 0])).expect("the beginning of a key update");
    server.session.carry(&mut Vec::new());
    assert!(server.session.is_lost());
    let arrived = Session::from_bytes(&server.session.to_bytes()).expect("it is said to be lost");
    assert!(arrived.is_lost());
    let mut arrived = Ours { session: arrived, got: Vec::new(), wire: Vec::new(), is_closed: false };
    arrived.take(b"x").expect_err("it can't go on");

    let (of_server, of_client) = configs(tls13());
    let mut early = Ours::new(of_server, of_client, true);
    early.session.carry(&mut Vec::new());
    assert!(early.session.is_lost());
}

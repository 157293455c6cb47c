//! Peers that do not keep to the rules, and states that nobody wrote.

use std::sync::LazyLock;

use proptest::prelude::*;
use rustls::{AlertDescription, ContentType, SupportedCipherSuite};

use super::{Ours, both, pair, send, suites, tls12, tls13};
use crate::tls::carried::{RENEGOTIATIONS_MAX, WARNING};
use crate::tls::session::Session;

/// What a peer may not send, what it is told, and what the log says.
#[test]
fn what_is_not_allowed_is_refused() {
    use AlertDescription as Alert;
    let handshake = ContentType::Handshake;
    let cases: [(&SupportedCipherSuite, ContentType, &[u8], Alert); 12] = [
        (tls13(), ContentType::ChangeCipherSpec, &[1], Alert::UnexpectedMessage),
        (tls13(), ContentType::Alert, &[2], Alert::DecodeError),
        (tls13(), handshake, &[], Alert::UnexpectedMessage),
        (tls13(), handshake, &[4, 0, 0, 0], Alert::UnexpectedMessage),
        (tls13(), handshake, &[24, 0, 0, 1, 2], Alert::DecodeError),
        (tls13(), handshake, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], Alert::UnexpectedMessage),
        (tls13(), handshake, &[11, 1, 0, 0], Alert::DecodeError),
        (tls13(), handshake, &[1, 0, 0, 0], Alert::UnexpectedMessage),
        (tls12(), handshake, &[24, 0, 0, 1, 0], Alert::UnexpectedMessage),
        (tls12(), handshake, &[0, 0, 0, 0], Alert::UnexpectedMessage),
        (tls12(), ContentType::Unknown(77), &[1], Alert::DecodeError),
        (tls13(), ContentType::Unknown(77), &[1], Alert::UnexpectedMessage),
    ];
    for (suite, kind, content, alert) in cases {
        let (mut server, mut client) = both(suite);
        server.take(&client.says(kind, content)).expect_err("not allowed");
        let told = client.take(&server.wire()).expect_err("an alert");
        assert_eq!(told, format!("TLS: received fatal alert: {alert:?}"), "{kind:?} {content:?}");
    }
    let plain: [(&[u8], Alert); 4] = [
        (&[21, 3, 3, 0, 2, 2, 40], Alert::UnexpectedMessage),
        (&[23, 3, 1, 0, 1, 0], Alert::DecodeError),
        (&[23, 3, 3, 0, 0], Alert::DecodeError),
        (&[23, 3, 3, 0x41, 1], Alert::RecordOverflow),
    ];
    for (bytes, alert) in plain {
        let (mut server, mut client) = both(tls13());
        server.take(bytes).expect_err("not allowed");
        let told = client.take(&server.wire()).expect_err("an alert");
        assert_eq!(told, format!("TLS: received fatal alert: {alert:?}"), "{bytes:?}");
    }
}

/// Patience with what costs nothing has an end.
#[test]
fn what_is_passed_over_has_a_limit() {
    let user_canceled: &[u8] = &[WARNING, 90];
    let cases: [(&SupportedCipherSuite, ContentType, &[u8], usize); 4] = [
        (tls13(), ContentType::Alert, user_canceled, 4),
        (tls12(), ContentType::Alert, user_canceled, 4),
        (tls13(), ContentType::ApplicationData, &[], 32),
        (tls12(), ContentType::Handshake, &[1, 0, 0, 0], usize::from(RENEGOTIATIONS_MAX)),
    ];
    for (suite, kind, content, allowed) in cases {
        let (mut server, mut client) = both(suite);
        let mut say = |server: &mut Ours| server.take(&client.says(kind, content));
        for _ in 0..allowed {
            say(&mut server).expect("passed over");
            server.moves();
        }
        say(&mut server).expect_err("once too often");
    }
}

/// Each end can carry on with a peer that refuses a new handshake politely.
#[test]
fn a_new_handshake_is_refused_with_a_warning() {
    let (mut server, mut client) = both(tls12());
    client.take(&server.says(ContentType::Handshake, &[0, 0, 0, 0])).expect("a wish");
    server.take(&client.wire()).expect("a warning");
    client.send(b"goes on");
    server.take(&client.wire()).expect("a good record");
    assert_eq!(server.got, b"goes on");
}

proptest! {
    /// Bytes that nobody encrypted cost the connection that they came on, and no more memory than a record or a message.
    #[test]
    fn foreign_bytes_cost_a_connection(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), header: bool) {
        if header && bytes.len() > 5 {
            let len = (bytes.len() - 5) as u16;
            bytes[..3].copy_from_slice(&[23, 3, 3]);
            bytes[3..5].copy_from_slice(&len.to_be_bytes());
        }
        for blob in BLOBS.iter() {
            let session = Session::from_bytes(blob).expect("a session");
            let mut ours = Ours { session, got: Vec::new(), wire: Vec::new(), is_closed: false };
            let _ = ours.take(&bytes);
            prop_assert!(ours.got.is_empty());
        }
    }

    /// A state that was damaged on its way is refused, or one whose records do not fit: never more than it says.
    #[test]
    fn a_damaged_state_is_told_or_harmless(cut in 0_usize..2000, at in 0_usize..2000, with: u8, more: Vec<u8>) {
        for blob in BLOBS.iter() {
            prop_assert!(cut >= blob.len() || cut == 0 || Session::from_bytes(&blob[..cut]).is_none());
            let mut other = blob.clone();
            let at = at % other.len();
            other[at] ^= with;
            if let Some(mut session) = Session::from_bytes(&other) {
                let _ = session.read(&mut more.clone(), &mut Vec::new(), &mut Vec::new());
            }
            let longer = [blob.as_slice(), &[with]].concat();
            prop_assert!(Session::from_bytes(&longer).is_none());
        }
        let _ = Session::from_bytes(&more);
    }
}

/// States of sessions of each kind.
static BLOBS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let of = |suite, is_server| {
        let (mut ours, mut peer) = pair(suite, is_server);
        let bytes = send(&mut peer, b"cut in two");
        ours.take(&bytes[..9]).expect("a part of a record");
        ours.moves();
        ours.session.to_bytes().to_vec()
    };
    suites().flat_map(|suite| [of(suite, true), of(suite, false)]).collect()
});

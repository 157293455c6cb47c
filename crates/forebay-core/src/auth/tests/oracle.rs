//! rust-postgres's own SCRAM client against our side towards clients.

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::*;

/// Plays one login with their client. Gives the proof, or the refusal's reason.
fn login(theirs: &str, ours: &Credential, tls: Option<&TlsInfo>, binding: ChannelBinding) -> Result<Proof, String> {
    let mechanism = if tls.is_some() { "SCRAM-SHA-256-PLUS" } else { "SCRAM-SHA-256" };
    let (mut front, offer) =
        ClientLogin::begin(AuthMethod::ScramSha256, "app", Account::Secret(ours), tls, &mock(), &mut seeded());
    let Step::Send(offer) = offer else { panic!("{offer:?}") };
    assert!(sent(&offer).body[4..].starts_with(mechanism.as_bytes()));
    let mut client = ScramSha256::new(theirs.as_bytes(), binding);
    let length = u32::try_from(client.message().len()).expect("their message is short").to_be_bytes();
    let first = [mechanism.as_bytes(), b"\0", &length, client.message()].concat();
    let challenge = match front.message(b'p', &first) {
        Step::Send(bytes) => sent(&bytes),
        step => return Err(format!("{step:?}")),
    };
    client.update(&challenge.body[4..]).expect("they take our challenge");
    match front.message(b'p', client.message()) {
        Step::Done { reply, proof } => {
            client.finish(&sent(&reply).body[4..]).expect("they take our signature");
            Ok(proof)
        }
        step => Err(format!("{step:?}")),
    }
}

/// Our two halves could agree on the same mistake; this one is not ours.
#[test]
fn the_client_of_rust_postgres_logs_in_with_and_without_channel_binding() {
    for password in ["s3cret", "I\u{ad}X", "p\u{e4}ss \u{2168}"] {
        for credential in [prepared(password), Credential::Scram(verifier(password))] {
            let plain = login(password, &credential, None, ChannelBinding::unsupported());
            assert!(matches!(plain, Ok(Proof::Scram(_))), "{plain:?}");
            let unrequested = login(password, &credential, None, ChannelBinding::unrequested());
            assert!(unrequested.is_ok(), "{unrequested:?}");
            let tls = tls();
            let binding = ChannelBinding::tls_server_end_point(tls.certificate_hash.to_vec());
            let bound = login(password, &credential, Some(&tls), binding);
            assert!(bound.is_ok(), "{bound:?}");
        }
    }
    assert!(login("s3cret", &prepared("other"), None, ChannelBinding::unsupported()).is_err());
    let tls = tls();
    let another = ChannelBinding::tls_server_end_point(vec![8; 32]);
    assert!(login("s3cret", &prepared("s3cret"), Some(&tls), another).is_err());
}

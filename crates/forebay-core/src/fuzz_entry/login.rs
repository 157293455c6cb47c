//! Logins, both sides, against a peer that does not know the secret.

use std::sync::Arc;

use forebay_pgwire::{frontend, write};

use super::choices::Choices;
use crate::auth::client::Step;
use crate::auth::server::ServerStep;
use crate::auth::{
    Account, ClientLogin, Credential, LoginRules, MockSecret, SALT_BYTES, ScramVerifier, Secret, ServerLogin,
    ServerSecret, salt_password,
};
use crate::config::AuthMethod;
use crate::io::TlsInfo;

/// Nothing that a fuzzer finds by chance.
const PASSWORD: &str = "q7!mVt0#zLxW2p@e";
/// Few: a run is thousands of logins.
const ITERATIONS: u32 = 2;
const MESSAGES_MAX: usize = 6;

/// A client that does not know the password is never let in, whatever it sends, but by `trust`.
pub fn client_login(data: &[u8]) {
    let mut choices = Choices(data);
    let method = [AuthMethod::ScramSha256, AuthMethod::Password, AuthMethod::Md5, AuthMethod::Ldap][choices.below(4)];
    let verifier = ScramVerifier::derive(&Secret::new(PASSWORD), &[5; SALT_BYTES], ITERATIONS);
    let known = match choices.below(3) {
        0 => Credential::Scram(verifier),
        1 => Credential::Plain { password: Secret::new(PASSWORD), verifier: Some(verifier) },
        _ => Credential::parse("md500000000000000000000000000000000").expect("32 digits"),
    };
    let account = [Account::Secret(&known), Account::Unknown, Account::NoSecret][choices.below(3)];
    let tls = encrypted(&mut choices);
    let mut random = seeded();
    let mock = MockSecret::new(&mut random).disguised(ITERATIONS, choices.byte() % 2 == 1);
    let (mut login, mut step) = ClientLogin::begin(method, "app", account, tls.as_ref(), &mock, &mut random);
    for _ in 0..MESSAGES_MAX {
        step = match step {
            Step::Refused(_) => return,
            Step::Done { .. } => panic!("let in without the password"),
            Step::AskSaltedPassword { password, salt, iterations } => {
                login.salted(&salt_password(&password, &salt, iterations))
            }
            Step::AskVerdict { .. } => login.judged(false),
            Step::Send(sent) => {
                let (tag, body) = client_message(&mut choices, &sent);
                login.message(tag, &body)
            }
        };
    }
}

/// What the client answers to `sent`: a message of its place in the login more often than not.
fn client_message(choices: &mut Choices<'_>, sent: &[u8]) -> (u8, Vec<u8>) {
    let mut whole = Vec::new();
    let kind = choices.byte();
    match kind % 6 {
        0 => write::sasl_initial(&mut whole, "SCRAM-SHA-256", Some(b"n,,n=,r=rOprNGfwEbeRWgbNEkqO")),
        1 => write::sasl_initial(&mut whole, "SCRAM-SHA-256-PLUS", Some(b"p=tls-server-end-point,,n=,r=rOpr")),
        2 => write::sasl_initial(&mut whole, choices.bytes(24), Some(choices.bytes(64))),
        3 => {
            let proof = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "AAAA", ""][choices.below(3)];
            let last = format!("c={},r={},p={proof}", ["biws", "eSws", ""][choices.below(3)], nonce_in(sent));
            write::sasl_response(&mut whole, last.as_bytes());
        }
        4 => write::password(&mut whole, choices.bytes(64)),
        _ => return (choices.byte(), choices.bytes(128).to_vec()),
    }
    (frontend::tag::PASSWORD, whole.split_off(5))
}

/// The nonce in a server's first SCRAM message.
fn nonce_in(sent: &[u8]) -> String {
    let text = String::from_utf8_lossy(sent);
    let nonce = text.split_once("r=").map(|(_, rest)| rest.split(',').next().unwrap_or_default().to_owned());
    nonce.unwrap_or_default()
}

/// A server that does not know the password is never taken for one that proved it: not once SCRAM has begun, and
/// never where channel binding is required.
pub fn server_login(data: &[u8]) {
    let mut choices = Choices(data);
    let secret = match choices.below(3) {
        0 => Some(ServerSecret::Plain { password: Secret::new(PASSWORD), keys: None }),
        1 => Credential::parse("md500000000000000000000000000000000").expect("32 digits").server_secret(),
        _ => None,
    };
    let kind = choices.byte();
    let rules = LoginRules { is_cleartext_allowed: kind & 1 == 1, is_binding_required: kind & 2 == 2 };
    let tls = encrypted(&mut choices);
    let mut login = ServerLogin::new("app", secret, tls.as_ref(), rules, &mut seeded());
    let mut is_scram_begun = false;
    let mut sent = Vec::new();
    for _ in 0..MESSAGES_MAX {
        let body = server_message(&mut choices, &sent);
        let mut step = login.message(&body);
        while let ServerStep::AskSaltedPassword { iterations, .. } = step {
            assert!(iterations <= crate::auth::ITERATIONS_MAX);
            step = login.salted(&[7; 32]);
        }
        match step {
            ServerStep::Failed(_) => return,
            ServerStep::Ok => {
                assert!(!is_scram_begun, "a server was let in that did not prove that it knows the password");
                assert!(!rules.is_binding_required, "a server was let in without channel binding");
                return;
            }
            ServerStep::Send(bytes) => {
                is_scram_begun |= bytes.windows(5).any(|part| part == b"SCRAM");
                sent = bytes;
            }
            ServerStep::Wait | ServerStep::AskSaltedPassword { .. } => {}
        }
    }
}

/// What the server asks next, after `sent`.
fn server_message(choices: &mut Choices<'_>, sent: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    match choices.below(8) {
        0 => write::authentication_ok(&mut whole),
        1 => write::authentication_cleartext(&mut whole),
        2 => write::authentication_md5(&mut whole, [1, 2, 3, 4]),
        3 => write::authentication_sasl(&mut whole, ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]),
        4 => {
            write::authentication_sasl(&mut whole, [["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "PLAIN"][choices.below(3)]])
        }
        5 => {
            let iterations = [2, 4096, 100_000, 100_001, u64::MAX][choices.below(5)];
            let text = format!("r={}{},s=BQUFBQUFBQU=,i={iterations}", nonce_in(sent), choices.below(10));
            write::authentication_sasl_continue(&mut whole, text.as_bytes());
        }
        6 => write::authentication_sasl_final(&mut whole, choices.bytes(64)),
        _ => return choices.bytes(96).to_vec(),
    }
    whole.split_off(5)
}

fn encrypted(choices: &mut Choices<'_>) -> Option<TlsInfo> {
    let certificate_hash: Arc<[u8]> = match choices.below(3) {
        0 => return None,
        1 => Arc::from([7; 32]),
        _ => Arc::from([]),
    };
    Some(TlsInfo { certificate_hash, description: "TLSv1.3".into(), ..TlsInfo::default() })
}

/// The same bytes in each run.
fn seeded() -> impl FnMut(&mut [u8]) {
    let mut state = 0x9e37_79b9_u32;
    move |out| {
        for byte in out {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
    }
}

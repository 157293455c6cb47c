//! Logins as a whole: our client side against our server side, against others' code, and against nonsense.

mod exchanges;
mod hostile;
mod oracle;
mod secrecy;

use std::sync::Arc;

use super::*;
use crate::config::AuthMethod;
use crate::io::TlsInfo;

/// Few iterations: the tests run hundreds of logins.
const ITERATIONS: u32 = 2;

/// Bytes that differ from draw to draw, and are the same in each run.
fn seeded() -> impl FnMut(&mut [u8]) {
    let mut state = 0x9e37_79b9_u32;
    move |out| {
        for byte in out {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
    }
}

fn mock() -> MockSecret {
    MockSecret::new(&mut seeded()).disguised(ITERATIONS, false)
}

fn tls() -> TlsInfo {
    TlsInfo { certificate_hash: Arc::from([7; 32]), description: "TLSv1.3".into(), ..TlsInfo::default() }
}

fn verifier(password: &str) -> ScramVerifier {
    ScramVerifier::derive(&Secret::new(password), &[5; SALT_BYTES], ITERATIONS)
}

fn prepared(password: &str) -> Credential {
    Credential::Plain { password: Secret::new(password), verifier: Some(verifier(password)) }
}

fn md5_of(user: &str, password: &str) -> Credential {
    Credential::Md5(md5::stored_hash(user, password))
}

fn plain(password: &str) -> Option<ServerSecret> {
    Some(ServerSecret::Plain { password: Secret::new(password), keys: None })
}

/// A message as it travels, without its length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    tag: u8,
    body: Vec<u8>,
}

fn sent(bytes: &[u8]) -> Sent {
    let length = u32::from_be_bytes(bytes[1..5].try_into().expect("a message has a length"));
    assert_eq!(bytes.len(), 1 + length as usize, "one message with the right length");
    Sent { tag: bytes[0], body: bytes[5..].to_vec() }
}

/// One login: `front` is forebay towards the client, `back` is forebay as a client.
struct Login {
    method: AuthMethod,
    credential: Option<Credential>,
    front_tls: Option<TlsInfo>,
    back_tls: Option<TlsInfo>,
    secret: Option<ServerSecret>,
    rules: LoginRules,
}

/// How it ended.
#[derive(Debug, Default)]
struct Ended {
    /// The messages, in order.
    messages: Vec<Sent>,
    /// Salted passwords that were asked for, by front and by back.
    asked: (u32, u32),
    /// Front let the client in.
    proof: Option<Proof>,
    /// Or did not.
    refusal: Option<Refusal>,
    /// Back was let in and is content with the server.
    is_content: bool,
    /// Or is not.
    failure: Option<Arc<str>>,
    /// What back may keep.
    keys: Option<ScramKeys>,
}

impl Login {
    fn new(method: AuthMethod, credential: Option<Credential>, secret: Option<ServerSecret>) -> Login {
        let rules = LoginRules { is_cleartext_allowed: true, is_binding_required: false };
        Login { method, credential, front_tls: None, back_tls: None, secret, rules }
    }

    fn encrypted(self) -> Login {
        Login { front_tls: Some(tls()), back_tls: Some(tls()), ..self }
    }

    fn run(&self) -> Ended {
        self.run_tampered(|_, _| {})
    }

    /// Plays the login; `tamper` sees each message, with its number, before it arrives.
    fn run_tampered(&self, mut tamper: impl FnMut(usize, &mut Sent)) -> Ended {
        let mut random = seeded();
        let account = self.credential.as_ref().map_or(Account::Unknown, Account::Secret);
        let mut back = ServerLogin::new("app", self.secret.clone(), self.back_tls.as_ref(), self.rules, &mut random);
        let (mut front, mut step) =
            ClientLogin::begin(self.method, "app", account, self.front_tls.as_ref(), &mock(), &mut random);
        let mut ended = Ended::default();
        let mut deliver = |ended: &mut Ended, bytes: &[u8]| {
            let mut message = sent(bytes);
            ended.messages.push(message.clone());
            tamper(ended.messages.len() - 1, &mut message);
            message
        };
        loop {
            let to_back = match step {
                Step::AskSaltedPassword { password, salt, iterations } => {
                    ended.asked.0 += 1;
                    step = front.salted(&salt_password(&password, &salt, iterations));
                    continue;
                }
                Step::AskVerdict { .. } => panic!("nobody else judges here"),
                Step::Refused(refusal) => {
                    ended.refusal = Some(*refusal);
                    return ended;
                }
                Step::Done { reply, proof } => {
                    ended.proof = Some(proof);
                    if !reply.is_empty() {
                        let message = deliver(&mut ended, &reply);
                        match back.message(&message.body) {
                            ServerStep::Wait => {}
                            other => {
                                ended.failure = Some(format!("{other:?}").into());
                                return ended;
                            }
                        }
                    }
                    ended.is_content = matches!(back.message(&[0, 0, 0, 0]), ServerStep::Ok);
                    ended.keys = back.into_keys();
                    return ended;
                }
                Step::Send(bytes) => deliver(&mut ended, &bytes),
            };
            let mut answer = back.message(&to_back.body);
            while let ServerStep::AskSaltedPassword { password, salt, iterations } = answer {
                ended.asked.1 += 1;
                answer = back.salted(&salt_password(&password, &salt, iterations));
            }
            let ServerStep::Send(bytes) = answer else {
                ended.failure = Some(format!("{answer:?}").into());
                return ended;
            };
            let message = deliver(&mut ended, &bytes);
            step = front.message(message.tag, &message.body);
        }
    }
}

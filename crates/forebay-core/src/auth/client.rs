//! A client's login: which proof we ask for, and whether it is one.
//!
//! | state | message | next |
//! |---|---|---|
//! | Password | PasswordMessage | Checking, Finished |
//! | Foreign | PasswordMessage | Judging, Finished |
//! | Judging | none: `judged` goes on | Finished |
//! | Md5 | PasswordMessage | Finished |
//! | Checking, Deriving | none: `salted` goes on | Finished, SaslInitial |
//! | SaslInitial | SASLInitialResponse | SaslFirst (it was empty), SaslFinal |
//! | SaslFirst | SASLResponse | SaslFinal |
//! | SaslFinal | SASLResponse | Finished |
//! | Finished | none | |
//!
//! Everything else is refused with 08P01. An unknown user takes the way of a known one with a wrong password,
//! against a mock ([`MockSecret`]); both are refused with the same words after the same work.

use std::fmt;
use std::sync::Arc;

use forebay_pgwire::frontend::{self, SaslInitialResponse, tag};
use forebay_pgwire::{DecodeError, write};
use forebay_spec::{Report, errors};

use super::scram::{ScramKeys, ScramVerifier, affordable_iterations, normalize};
use super::verifying::{Fault, Verifying};
use super::{Credential, ITERATIONS_DEFAULT, MESSAGE_BYTES_MAX, MockSecret, Random, SALT_BYTES, Secret, SecretKey};
use super::{ServerSecret, encoded, md5};
use crate::config::AuthMethod;
use crate::io::TlsInfo;

/// What is known about the user that a client claims to be.
#[derive(Clone, Copy, Debug)]
pub enum Account<'a> {
    /// Nothing: there is no such user, or none that may log in.
    Unknown,
    /// There is such a user, without a secret: `trust` alone lets it in.
    NoSecret,
    /// There is such a user.
    Secret(&'a Credential),
}

impl<'a> From<Option<&'a crate::tables::User>> for Account<'a> {
    fn from(user: Option<&'a crate::tables::User>) -> Account<'a> {
        match user.map(|user| user.credential.as_ref()) {
            None => Account::Unknown,
            Some(None) => Account::NoSecret,
            Some(Some(credential)) => Account::Secret(credential),
        }
    }
}

/// What to do next for a client.
pub enum Step {
    /// Send this and wait for the client's next message.
    Send(Vec<u8>),
    /// Have [`super::salt_password`] computed elsewhere and give the result to [`ClientLogin::salted`].
    AskSaltedPassword {
        /// Normalized.
        password: Secret,
        /// At most 1,024 bytes.
        salt: Arc<[u8]>,
        /// 1 to 100,000.
        iterations: u32,
    },
    /// Have the password judged by whom the method names, and give the verdict to [`ClientLogin::judged`].
    AskVerdict {
        /// As the client sent it.
        password: Secret,
    },
    /// The client is who it claims to be.
    Done {
        /// To send before AuthenticationOk; may be empty.
        reply: Vec<u8>,
        /// What the client gave away that servers may ask for.
        proof: Proof,
    },
    /// The client is refused: send the report and close.
    Refused(Box<Refusal>),
}

/// Bytes on their way to a client are no secret, but passwords may be near: only lengths are printed.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Send(bytes) => write!(f, "Send({} bytes)", bytes.len()),
            Step::AskSaltedPassword { iterations, .. } => write!(f, "AskSaltedPassword({iterations} iterations)"),
            Step::AskVerdict { .. } => f.write_str("AskVerdict"),
            Step::Done { proof, .. } => write!(f, "Done({proof:?})"),
            Step::Refused(refusal) => write!(f, "Refused({refusal:?})"),
        }
    }
}

/// What a login left in our hands.
#[derive(Clone, Debug)]
pub enum Proof {
    /// Nothing (trust, MD5).
    Nothing,
    /// The password, and the keys that it has for the verifier it was checked against.
    Password(Secret, Option<ScramKeys>),
    /// The keys for the verifier it was checked against.
    Scram(ScramKeys),
}

impl Proof {
    /// What this is worth towards servers.
    pub fn server_secret(&self) -> Option<ServerSecret> {
        match self {
            Proof::Nothing => None,
            Proof::Password(password, keys) => {
                Some(ServerSecret::Plain { password: password.clone(), keys: keys.clone() })
            }
            Proof::Scram(keys) => Some(ServerSecret::Scram(keys.clone())),
        }
    }
}

/// Why a client is refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// For the client: the same for a wrong password and for an unknown user.
    pub report: Report,
    /// For the log.
    pub reason: &'static str,
}

/// One client's login.
#[derive(Debug)]
pub struct ClientLogin {
    user: Box<str>,
    state: State,
}

#[derive(Debug)]
enum State {
    Password {
        credential: Option<Credential>,
        mock: ScramVerifier,
    },
    Md5 {
        expected: SecretKey,
        doomed: Option<&'static str>,
    },
    /// Somebody else judges passwords.
    Foreign(AuthMethod),
    Judging {
        method: AuthMethod,
        password: Secret,
    },
    Checking {
        password: Secret,
        verifier: ScramVerifier,
        doomed: Option<&'static str>,
    },
    /// A plain password came without a verifier: this is the salt to derive one with.
    Deriving(Box<Verifying>, [u8; SALT_BYTES]),
    SaslInitial(Box<Verifying>),
    SaslFirst(Box<Verifying>),
    SaslFinal(Box<Verifying>),
    Finished,
}

const UNKNOWN: &str = "no such user";
const NO_SECRET: &str = "the user has no secret";
const NOT_FOR_SCRAM: &str = "the stored secret is an MD5 hash, which SCRAM can't use";
const TOO_COSTLY: &str = "the stored SCRAM verifier has more than 100,000 iterations";
const WRONG: &str = "wrong password";
const EMPTY: &str = "empty password";
const JUDGED: &str = "whom auth.type names has refused the password";
const NOT_HERE: &str = "the method asks for no message";

impl ClientLogin {
    /// Begins a login. `tls`: of this connection, if it is encrypted.
    pub fn begin(
        method: AuthMethod,
        user: &str,
        account: Account<'_>,
        tls: Option<&TlsInfo>,
        mock: &MockSecret,
        random: Random<'_>,
    ) -> (ClientLogin, Step) {
        let mut login = ClientLogin { user: user.into(), state: State::Finished };
        let credential = match account {
            Account::Secret(credential) => Some(credential),
            _ => None,
        };
        let step = match (method, credential) {
            (AuthMethod::Trust | AuthMethod::Cert | AuthMethod::Peer, _) => match (account, method) {
                (Account::Unknown, AuthMethod::Trust) => refused(errors::trust_failed(user), UNKNOWN),
                (Account::Unknown, AuthMethod::Cert) => refused(errors::certificate_failed(user), UNKNOWN),
                (Account::Unknown, _) => refused(errors::peer_failed(user), UNKNOWN),
                _ => Step::Done { reply: Vec::new(), proof: Proof::Nothing },
            },
            (AuthMethod::Any, _) => Step::Done { reply: Vec::new(), proof: Proof::Nothing },
            (AuthMethod::Reject, _) => login.refuse(NOT_HERE),
            (AuthMethod::Ldap | AuthMethod::Pam, _) => {
                login.state = State::Foreign(method);
                Step::Send(encoded(write::authentication_cleartext))
            }
            (AuthMethod::Password, _) => {
                login.state = State::Password { credential: credential.cloned(), mock: mock.verifier(user) };
                Step::Send(encoded(write::authentication_cleartext))
            }
            (AuthMethod::Md5, Some(Credential::Scram(_))) => login.begin_scram(account, tls, mock, random),
            (AuthMethod::Md5, None) if mock.is_scram_under_md5() => login.begin_scram(account, tls, mock, random),
            (AuthMethod::Md5, _) => login.begin_md5(account, mock, random),
            (AuthMethod::ScramSha256, _) => login.begin_scram(account, tls, mock, random),
        };
        (login, step)
    }

    /// The client's next message came: its tag and its body without the length.
    pub fn message(&mut self, tag: u8, body: &[u8]) -> Step {
        let state = std::mem::replace(&mut self.state, State::Finished);
        if tag != tag::PASSWORD {
            return unexpected(tag);
        }
        if body.len() > MESSAGE_BYTES_MAX {
            return malformed("login message of more than 65,535 bytes");
        }
        let is_password = matches!(state, State::Password { .. } | State::Md5 { .. } | State::Foreign(_));
        if is_password && body == b"\0" {
            // A directory would take it for somebody who does not want to be named, and let it in.
            return refused(errors::empty_password(), EMPTY);
        }
        match state {
            State::Password { credential, mock } => self.password_came(credential, mock, body),
            State::Foreign(method) => self.foreign_password_came(method, body),
            State::Md5 { expected, doomed } => self.md5_came(&expected, doomed, body),
            State::SaslInitial(verifying) => self.sasl_initial_came(verifying, body),
            State::SaslFirst(verifying) => self.sasl_first_came(verifying, body),
            State::SaslFinal(verifying) => self.sasl_final_came(&verifying, body),
            State::Checking { .. } | State::Judging { .. } | State::Deriving(..) | State::Finished => unexpected(tag),
        }
    }

    /// The salted password that [`Step::AskSaltedPassword`] asked for is there.
    pub fn salted(&mut self, salted: &[u8; 32]) -> Step {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Checking { password, verifier, doomed } => {
                let keys = ScramKeys::from_salted(salted, &verifier.salt, verifier.iterations);
                match (doomed, keys.opens(&verifier)) {
                    (Some(reason), _) => self.refuse(reason),
                    (None, false) => self.refuse(WRONG),
                    (None, true) => Step::Done { reply: Vec::new(), proof: Proof::Password(password, Some(keys)) },
                }
            }
            State::Deriving(mut verifying, salt) => {
                verifying.expect(ScramKeys::from_salted(salted, &salt, ITERATIONS_DEFAULT).verifier());
                self.offer_scram(verifying)
            }
            _ => refused(errors::internal("a salted password came unasked"), "salted password unasked"),
        }
    }

    /// The verdict that [`Step::AskVerdict`] asked for is there.
    pub fn judged(&mut self, is_right: bool) -> Step {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Judging { password, .. } if is_right => {
                Step::Done { reply: Vec::new(), proof: Proof::Password(password, None) }
            }
            State::Judging { method, .. } => self.refuse_by(method, JUDGED),
            _ => refused(errors::internal("a verdict came unasked"), "verdict unasked"),
        }
    }

    fn begin_md5(&mut self, account: Account<'_>, mock: &MockSecret, random: Random<'_>) -> Step {
        let mut salt = [0; 4];
        random(&mut salt);
        let (stored, doomed) = match account {
            Account::Secret(Credential::Plain { password, .. }) => {
                (md5::stored_hash(&self.user, password.expose()), None)
            }
            Account::Secret(Credential::Md5(hash)) => (hash.clone(), None),
            Account::Secret(Credential::Scram(_)) | Account::Unknown => (mock.md5(&self.user), Some(UNKNOWN)),
            Account::NoSecret => (mock.md5(&self.user), Some(NO_SECRET)),
        };
        self.state = State::Md5 { expected: md5::answer(&stored, salt), doomed };
        Step::Send(encoded(|out| write::authentication_md5(out, salt)))
    }

    fn begin_scram(
        &mut self,
        account: Account<'_>,
        tls: Option<&TlsInfo>,
        mock: &MockSecret,
        random: Random<'_>,
    ) -> Step {
        // Derived for known users too: the same work for all.
        let mock_verifier = mock.verifier(&self.user);
        let mut underived = None;
        let (verifier, doomed) = match account {
            Account::Secret(Credential::Scram(verifier))
            | Account::Secret(Credential::Plain { verifier: Some(verifier), .. }) => (verifier.clone(), None),
            Account::Secret(Credential::Plain { password, verifier: None }) => {
                underived = Some(password);
                (mock_verifier, None)
            }
            Account::Secret(Credential::Md5(_)) => (mock_verifier, Some(NOT_FOR_SCRAM)),
            Account::NoSecret => (mock_verifier, Some(NO_SECRET)),
            Account::Unknown => (mock_verifier, Some(UNKNOWN)),
        };
        let certificate_hash = tls.map(|tls| tls.certificate_hash.clone());
        let verifying = Box::new(Verifying::new(verifier, doomed, certificate_hash, random));
        match underived {
            None => self.offer_scram(verifying),
            Some(password) => {
                let mut salt = [0; SALT_BYTES];
                random(&mut salt);
                self.state = State::Deriving(verifying, salt);
                ask_salted(normalize(password), salt.into(), ITERATIONS_DEFAULT)
            }
        }
    }

    fn offer_scram(&mut self, verifying: Box<Verifying>) -> Step {
        let offer = encoded(|out| write::authentication_sasl(out, verifying.mechanisms()));
        self.state = State::SaslInitial(verifying);
        Step::Send(offer)
    }

    fn password_came(&mut self, credential: Option<Credential>, mock: ScramVerifier, body: &[u8]) -> Step {
        let given = match frontend::password(body) {
            Ok(given) => given,
            Err(error) => return undecodable(&error),
        };
        // A password that is no UTF-8 can't be any of ours; it goes the long way all the same.
        let given = std::str::from_utf8(given).map(Secret::new);
        let password = given.clone().unwrap_or_else(|_| Secret::new("?"));
        let is_text = given.is_ok();
        let is_right = is_text
            && match &credential {
                Some(Credential::Plain { password: stored, .. }) => stored.is_same(&password),
                Some(Credential::Md5(hash)) => md5::stored_hash(&self.user, password.expose()).is_same(hash),
                Some(Credential::Scram(_)) | None => false,
            };
        if is_right {
            return Step::Done { reply: Vec::new(), proof: Proof::Password(password, None) };
        }
        // Every refusal costs a PBKDF2, so that its time doesn't tell why.
        let (verifier, doomed) = match credential {
            Some(Credential::Scram(verifier)) if affordable_iterations(verifier.iterations).is_none() => {
                (mock, Some(TOO_COSTLY))
            }
            Some(Credential::Scram(verifier)) if is_text => (verifier, None),
            Some(_) => (mock, Some(WRONG)),
            None => (mock, Some(UNKNOWN)),
        };
        let ask = ask_salted(normalize(&password), verifier.salt.clone(), verifier.iterations);
        self.state = State::Checking { password, verifier, doomed };
        ask
    }

    fn foreign_password_came(&mut self, method: AuthMethod, body: &[u8]) -> Step {
        let given = match frontend::password(body) {
            Ok(given) => given,
            Err(error) => return undecodable(&error),
        };
        match std::str::from_utf8(given).map(Secret::new) {
            Ok(_) if given.is_empty() => self.refuse_by(method, EMPTY),
            Ok(password) => {
                self.state = State::Judging { method, password: password.clone() };
                Step::AskVerdict { password }
            }
            Err(_) => self.refuse_by(method, WRONG),
        }
    }

    fn md5_came(&mut self, expected: &SecretKey, doomed: Option<&'static str>, body: &[u8]) -> Step {
        let given = match frontend::password(body) {
            Ok(given) => given,
            Err(error) => return undecodable(&error),
        };
        let digits = given.strip_prefix(b"md5").and_then(|digits| <[u8; 32]>::try_from(digits).ok());
        let is_right = digits.is_some_and(|digits| SecretKey::new(digits).is_same(expected));
        match (doomed, is_right) {
            (Some(reason), _) => self.refuse(reason),
            (None, false) => self.refuse(WRONG),
            (None, true) => Step::Done { reply: Vec::new(), proof: Proof::Nothing },
        }
    }

    fn sasl_initial_came(&mut self, mut verifying: Box<Verifying>, body: &[u8]) -> Step {
        let SaslInitialResponse { mechanism, data } = match SaslInitialResponse::decode(body) {
            Ok(response) => response,
            Err(error) => return undecodable(&error),
        };
        if let Err(fault) = verifying.choose(mechanism) {
            return self.fault(fault);
        }
        match data {
            Some(data) => self.sasl_first_came(verifying, data),
            // RFC 4422 allows a client to begin without data; the server then answers with none.
            None => {
                self.state = State::SaslFirst(verifying);
                Step::Send(encoded(|out| write::authentication_sasl_continue(out, &[])))
            }
        }
    }

    fn sasl_first_came(&mut self, mut verifying: Box<Verifying>, data: &[u8]) -> Step {
        match verifying.challenge(data) {
            Ok(challenge) => {
                let send = encoded(|out| write::authentication_sasl_continue(out, challenge.as_bytes()));
                self.state = State::SaslFinal(verifying);
                Step::Send(send)
            }
            Err(fault) => self.fault(fault),
        }
    }

    fn sasl_final_came(&mut self, verifying: &Verifying, body: &[u8]) -> Step {
        match verifying.conclude(body) {
            Ok((verdict, keys)) => Step::Done {
                reply: encoded(|out| write::authentication_sasl_final(out, verdict.as_bytes())),
                proof: Proof::Scram(keys),
            },
            Err(fault) => self.fault(fault),
        }
    }

    fn fault(&self, fault: Fault) -> Step {
        match fault {
            Fault::Malformed(cause) => malformed(cause),
            Fault::Rejected(reason) => {
                let words = Some(String::from("SASL authentication failed"));
                refused(Report { pgbouncer: words, ..errors::login_failed(&self.user) }, reason)
            }
        }
    }

    fn refuse_by(&self, method: AuthMethod, reason: &'static str) -> Step {
        let report = match method {
            AuthMethod::Ldap => errors::ldap_failed(&self.user),
            AuthMethod::Pam => errors::pam_failed(&self.user),
            _ => errors::login_failed(&self.user),
        };
        refused(report, reason)
    }

    fn refuse(&self, reason: &'static str) -> Step {
        refused(errors::login_failed(&self.user), reason)
    }
}

fn ask_salted(password: Secret, salt: Arc<[u8]>, iterations: u32) -> Step {
    let iterations = affordable_iterations(iterations).expect("mocks and verifiers to check are within the limit");
    Step::AskSaltedPassword { password, salt, iterations }
}

fn undecodable(error: &DecodeError) -> Step {
    refused(errors::malformed_message(error), "malformed login message")
}

fn malformed(cause: &'static str) -> Step {
    refused(errors::malformed_message(cause), cause)
}

fn unexpected(tag: u8) -> Step {
    refused(errors::unexpected_message(char::from(tag).escape_default(), "during the login"), "unexpected message")
}

fn refused(report: Report, reason: &'static str) -> Step {
    Step::Refused(Box::new(Refusal { report, reason }))
}

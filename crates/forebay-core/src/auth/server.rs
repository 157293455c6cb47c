//! Our login to a server: what it may ask, what we answer, and whether it is the right server.
//!
//! | state | authentication request | next |
//! |---|---|---|
//! | Start | Ok; CleartextPassword, MD5Password; SASL | Finished; Answered; SaslFirst |
//! | Answered | Ok | Finished |
//! | SaslFirst | SASLContinue | Salting, SaslFinal |
//! | Salting | none: `salted` goes on | SaslFinal |
//! | SaslFinal | SASLFinal | Answered |
//! | Finished | none | |
//!
//! Everything else fails the login. In particular, an Ok before SASLFinal does: it would let in a server that does
//! not know our password.

use std::fmt;
use std::sync::Arc;

use forebay_pgwire::backend::{Authentication, Mechanisms};
use forebay_pgwire::write;

use super::proving::{Binding, Challenge, Proving};
use super::scram::{PLAIN_MECHANISM, PLUS_MECHANISM, ScramKeys, affordable_iterations, nonce, normalize};
use super::{MESSAGE_BYTES_MAX, Random, Secret, SecretKey, encoded, md5};
use crate::io::TlsInfo;

/// What we have to prove ourselves with.
#[derive(Clone, Debug)]
pub enum ServerSecret {
    /// The password.
    Plain {
        /// Serves every method.
        password: Secret,
        /// Of an earlier login ([`ServerLogin::into_keys`]): they save the PBKDF2 while the server keeps its salt.
        keys: Option<ScramKeys>,
    },
    /// The digits of `md5(password + user)`: serves MD5 alone.
    Md5(SecretKey),
    /// The keys for one verifier: serve a server that has the same.
    Scram(ScramKeys),
}

/// What we let a server ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoginRules {
    /// The plain password may be sent: the connection is encrypted, local, or the operator said so.
    pub is_cleartext_allowed: bool,
    /// Nothing but SCRAM-SHA-256-PLUS will do.
    pub is_binding_required: bool,
}

/// What to do next for a server.
pub enum ServerStep {
    /// Send this and wait for the next authentication request.
    Send(Vec<u8>),
    /// Have [`super::salt_password`] computed elsewhere and give the result to [`ServerLogin::salted`].
    AskSaltedPassword {
        /// Normalized.
        password: Secret,
        /// At most 1,024 bytes.
        salt: Arc<[u8]>,
        /// 1 to 100,000.
        iterations: u32,
    },
    /// Send nothing and wait for the next authentication request.
    Wait,
    /// We are in; [`ServerLogin::into_keys`] may hold keys worth keeping.
    Ok,
    /// Close. The words are for the log and for the waiting clients: no secret in them.
    Failed(Arc<str>),
}

/// What is sent may be a password: only its length is printed.
impl fmt::Debug for ServerStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerStep::Send(bytes) => write!(f, "Send({} bytes)", bytes.len()),
            ServerStep::AskSaltedPassword { iterations, .. } => {
                write!(f, "AskSaltedPassword({iterations} iterations)")
            }
            ServerStep::Wait => f.write_str("Wait"),
            ServerStep::Ok => f.write_str("Ok"),
            ServerStep::Failed(reason) => write!(f, "Failed({reason})"),
        }
    }
}

/// One login to a server.
#[derive(Debug)]
pub struct ServerLogin {
    user: Box<str>,
    secret: Option<ServerSecret>,
    rules: LoginRules,
    /// `None`: not encrypted. Empty: the certificate's signature has no hash to bind to.
    certificate_hash: Option<Arc<[u8]>>,
    /// The nonce is drawn when the login begins, for a message brings no source of random bytes.
    nonce: String,
    state: State,
    /// Proved right by the server's signature once the state is Answered.
    keys: Option<ScramKeys>,
}

#[derive(Debug)]
enum State {
    Start,
    Answered,
    SaslFirst(Box<Proving>),
    Salting(Box<Proving>, Challenge),
    SaslFinal(Box<Proving>, ScramKeys),
    Finished,
}

impl ServerLogin {
    /// Begins a login. `secret`: `None` will do for a server that trusts us. `tls`: of this connection.
    pub fn new(
        user: &str,
        secret: Option<ServerSecret>,
        tls: Option<&TlsInfo>,
        rules: LoginRules,
        random: Random<'_>,
    ) -> ServerLogin {
        ServerLogin {
            user: user.into(),
            secret,
            rules,
            certificate_hash: tls.map(|tls| tls.certificate_hash.clone()),
            nonce: nonce(random),
            state: State::Start,
            keys: None,
        }
    }

    /// An authentication request came: message `R`'s body without the length.
    pub fn message(&mut self, body: &[u8]) -> ServerStep {
        let state = std::mem::replace(&mut self.state, State::Finished);
        if body.len() > MESSAGE_BYTES_MAX {
            return failed("it sent an authentication request of more than 65,535 bytes");
        }
        let request = match Authentication::decode(body) {
            Ok(request) => request,
            Err(error) => return ServerStep::Failed(format!("it sent an {error}").into()),
        };
        match (state, request) {
            (State::Start, Authentication::Ok) if self.rules.is_binding_required => {
                failed("it asked for no proof, but channel binding is required")
            }
            (State::Start | State::Answered, Authentication::Ok) => ServerStep::Ok,
            (State::Start, Authentication::Cleartext | Authentication::Md5 { .. })
                if self.rules.is_binding_required =>
            {
                failed("it did not offer SCRAM-SHA-256-PLUS, but channel binding is required")
            }
            (State::Start, Authentication::Cleartext) => self.cleartext_asked(),
            (State::Start, Authentication::Md5 { salt }) => self.md5_asked(salt),
            (State::Start, Authentication::Sasl { mechanisms }) => self.sasl_asked(mechanisms),
            (State::SaslFirst(proving), Authentication::SaslContinue(data)) => self.challenge_came(proving, data),
            (State::SaslFinal(proving, keys), Authentication::SaslFinal(data)) => {
                self.verdict_came(&proving, keys, data)
            }
            (State::Start, Authentication::Other(kind)) => {
                ServerStep::Failed(format!("it asked for authentication of kind {kind}, which is not supported").into())
            }
            (State::SaslFirst(_) | State::Salting(..) | State::SaslFinal(..), Authentication::Ok) => {
                failed("it let us in before it proved that it knows the password")
            }
            _ => failed("it sent an authentication request out of order"),
        }
    }

    /// The salted password that [`ServerStep::AskSaltedPassword`] asked for is there.
    pub fn salted(&mut self, salted: &[u8; 32]) -> ServerStep {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Salting(proving, challenge) => {
                let keys = ScramKeys::from_salted(salted, &challenge.salt, challenge.iterations);
                self.answer(proving, keys)
            }
            _ => failed("a salted password came unasked"),
        }
    }

    /// After [`ServerStep::Ok`]: keys that the server proved right, to be kept for its next login.
    pub fn into_keys(self) -> Option<ScramKeys> {
        self.keys
    }

    fn cleartext_asked(&mut self) -> ServerStep {
        let Some(ServerSecret::Plain { password, .. }) = &self.secret else {
            return self.unfit("the plain password");
        };
        if !self.rules.is_cleartext_allowed {
            return failed("it asked for the plain password over a connection without encryption");
        }
        self.state = State::Answered;
        ServerStep::Send(encoded(|out| write::password(out, password.expose())))
    }

    fn md5_asked(&mut self, salt: [u8; 4]) -> ServerStep {
        let stored = match &self.secret {
            Some(ServerSecret::Plain { password, .. }) => md5::stored_hash(&self.user, password.expose()),
            Some(ServerSecret::Md5(hash)) => hash.clone(),
            Some(ServerSecret::Scram(_)) | None => return self.unfit("an MD5 hash of the password"),
        };
        let answer = md5::answer(&stored, salt);
        self.state = State::Answered;
        ServerStep::Send(encoded(|out| write::password(out, [b"md5", &answer.expose()[..]].concat())))
    }

    fn sasl_asked(&mut self, mechanisms: Mechanisms<'_>) -> ServerStep {
        if !matches!(self.secret, Some(ServerSecret::Plain { .. } | ServerSecret::Scram(_))) {
            return self.unfit("SCRAM");
        }
        let offers = |name: &str| mechanisms.iter().any(|offered| offered == name.as_bytes());
        let certificate_hash = self.certificate_hash.clone().filter(|hash| !hash.is_empty());
        let (mechanism, binding) = match (offers(PLUS_MECHANISM), certificate_hash) {
            (true, _) if self.certificate_hash.is_none() => {
                return failed("it offered channel binding over a connection without encryption");
            }
            (true, Some(hash)) => (PLUS_MECHANISM, Binding::Certificate(hash)),
            (_, hash) if !offers(PLAIN_MECHANISM) => {
                return failed(if hash.is_none() && offers(PLUS_MECHANISM) {
                    "it offered SCRAM-SHA-256-PLUS alone, and its certificate can't be bound to"
                } else {
                    "it offered no SASL mechanism that we speak"
                });
            }
            (_, None) => (PLAIN_MECHANISM, Binding::Unsupported),
            (false, Some(_)) => (PLAIN_MECHANISM, Binding::NotOffered),
        };
        if self.rules.is_binding_required && mechanism != PLUS_MECHANISM {
            return failed("it did not offer SCRAM-SHA-256-PLUS, but channel binding is required");
        }
        let proving = Proving::new(binding, std::mem::take(&mut self.nonce));
        let first = proving.first();
        let send = encoded(|out| write::sasl_initial(out, mechanism, Some(first.as_bytes())));
        self.state = State::SaslFirst(Box::new(proving));
        ServerStep::Send(send)
    }

    fn challenge_came(&mut self, mut proving: Box<Proving>, data: &[u8]) -> ServerStep {
        let challenge = match proving.challenge(data) {
            Ok(challenge) => challenge,
            Err(reason) => return failed(reason),
        };
        let fits = |keys: &ScramKeys| keys.salt == challenge.salt && keys.iterations == challenge.iterations;
        match &self.secret {
            Some(ServerSecret::Plain { keys: Some(keys), .. } | ServerSecret::Scram(keys)) if fits(keys) => {
                let keys = keys.clone();
                self.answer(proving, keys)
            }
            Some(ServerSecret::Plain { password, .. }) => {
                let Some(iterations) = affordable_iterations(challenge.iterations) else {
                    return failed("it asked for more than 100,000 iterations of PBKDF2");
                };
                let ask = ServerStep::AskSaltedPassword {
                    password: normalize(password),
                    salt: challenge.salt.clone(),
                    iterations,
                };
                self.state = State::Salting(proving, challenge);
                ask
            }
            Some(ServerSecret::Scram(_)) => failed(
                "its SCRAM verifier is not the one that the client proved itself against; both need the same \
                 verifier, or the plain password",
            ),
            Some(ServerSecret::Md5(_)) | None => self.unfit("SCRAM"),
        }
    }

    fn answer(&mut self, mut proving: Box<Proving>, keys: ScramKeys) -> ServerStep {
        let answer = proving.answer(&keys);
        self.state = State::SaslFinal(proving, keys);
        ServerStep::Send(encoded(|out| write::sasl_response(out, answer.as_bytes())))
    }

    fn verdict_came(&mut self, proving: &Proving, keys: ScramKeys, data: &[u8]) -> ServerStep {
        match proving.conclude(data) {
            Ok(()) => {
                self.keys = Some(keys);
                self.state = State::Answered;
                ServerStep::Wait
            }
            Err(reason) => failed(reason),
        }
    }

    fn unfit(&self, asked: &str) -> ServerStep {
        let have = match &self.secret {
            Some(ServerSecret::Plain { .. }) => "the plain password",
            Some(ServerSecret::Md5(_)) => "an MD5 hash",
            Some(ServerSecret::Scram(_)) => "the SCRAM keys that the client proved",
            None => "nothing",
        };
        ServerStep::Failed(format!("it asked for {asked}, but for this user we have {have}").into())
    }
}

fn failed(reason: &str) -> ServerStep {
    ServerStep::Failed(reason.into())
}

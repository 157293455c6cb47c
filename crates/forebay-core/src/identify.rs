//! Who a client is: the rule that holds for it, its account, its proof.
//!
//! Nothing of a client reaches a server before this has ended with a proof, and what no rule admits is turned away.

use std::time::Duration;

use forebay_pgwire::frame;
use forebay_pgwire::startup::Replication;
use forebay_spec::{Report, errors};

use crate::auth::access::{Arrival, Demand};
use crate::auth::client::{Account, ClientLogin, Step};
use crate::auth::credential::Credential;
use crate::config::{AuthMethod, CertificateDemand, TlsMode};
use crate::event::{Field, Level};
use crate::io::{Io, Peer};
use crate::login::address;
use crate::planted::{Bug, planted};
use crate::question::{Answer, Question};
use crate::session::client::{ClientKey, ClientState};
use crate::time::Instant;
use crate::worker::{Asker, Worker};

/// What was looked up of a user is not doubted before this.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);

impl<I: Io> Worker<I> {
    /// Finds out what is asked of a client that has said who it wants to be, and asks it.
    pub(crate) fn identify(&mut self, io: &mut I, key: ClientKey) {
        let client = &self.clients[key];
        let arrival = Arrival {
            address: if let Peer::Tcp(address, _) = client.peer { Some(address) } else { None },
            is_encrypted: client.tls.is_some(),
            is_physical_replication: client.replication == Some(Replication::Physical),
            database: &client.database,
            user: &client.user,
        };
        let Some(demand) = self.tables.demand(arrival) else {
            let (database, user) = (client.database.clone(), client.user.clone());
            let report = errors::no_access_rule(address(&client.peer).0, user, database, encryption(arrival));
            return self.refuse_login(io, key, report, "no rule fits".into());
        };
        let method = demand.method;
        let is_certified = self.has_demanded_certificate(key, &demand);
        if let Some(login) = &mut self.clients[key].login {
            login.demand = Some(demand);
        }
        if !is_certified {
            return self.refuse_login(io, key, errors::client_certificate_required(), "no such certificate".into());
        }
        match method {
            AuthMethod::Trust | AuthMethod::Password | AuthMethod::Md5 | AuthMethod::ScramSha256 => {
                self.find_account(io, key);
            }
            AuthMethod::Cert => self.look_at_certificate(io, key),
            AuthMethod::Peer => self.ask_os_user(io, key),
            AuthMethod::Ldap | AuthMethod::Pam => self.begin_proof(io, key, Account::Unknown),
            AuthMethod::Any => self.become_forced_user(io, key),
            AuthMethod::Reject => self.turn_away(io, key),
        }
    }

    fn demand(&self, key: ClientKey) -> Demand {
        let demand = self.clients[key].login.as_ref().and_then(|login| login.demand.clone());
        demand.unwrap_or_else(|| Demand::of_method(AuthMethod::Reject, 0))
    }

    fn has_demanded_certificate(&self, key: ClientKey, demand: &Demand) -> bool {
        let client = &self.clients[key];
        let tls = client.tls.as_deref();
        let config = &self.tables.config;
        let is_name_demanded = config.listen.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::VerifyFull)
            && tls.is_some()
            // For PgBouncer verify-full is verify-ca, and a map may give the certificate's owner another name.
            && !config.speaks_pgbouncer
            && demand.method != AuthMethod::Cert;
        match demand.certificate {
            CertificateDemand::None if is_name_demanded => {
                tls.is_some_and(|tls| tls.peer_name.as_deref() == Some(&*client.user))
            }
            CertificateDemand::None => true,
            CertificateDemand::VerifyCa => tls.is_some_and(|tls| tls.is_certified),
            CertificateDemand::VerifyFull => {
                tls.is_some_and(|tls| tls.is_certified && tls.peer_name.as_deref() == Some(&*client.user))
            }
        }
    }

    fn turn_away(&mut self, io: &mut I, key: ClientKey) {
        let client = &self.clients[key];
        let report = errors::rejected_by_rule(address(&client.peer).0, client.user.clone(), client.database.clone());
        self.refuse_login(io, key, report, "rejected".into());
    }

    fn become_forced_user(&mut self, io: &mut I, key: ClientKey) {
        let client = &self.clients[key];
        let is_console = client.login.as_ref().is_some_and(|login| login.is_console);
        let forced = self.tables.database(&client.database).map(|database| database.config.forced_user.clone());
        match forced {
            _ if is_console => {}
            None => {
                let report = errors::unknown_database(client.database.clone());
                return self.refuse_login(io, key, report, "unknown database".into());
            }
            Some(None) => {
                let report = errors::forced_user_missing(client.database.clone());
                return self.refuse_login(io, key, report, "auth_type=any requires forced user".into());
            }
            Some(Some(user)) => self.clients[key].user = user,
        }
        self.begin_proof(io, key, Account::NoSecret);
    }

    fn look_at_certificate(&mut self, io: &mut I, key: ClientKey) {
        let map = self.demand(key).map;
        let client = &self.clients[key];
        let tls = client.tls.as_deref().filter(|tls| tls.is_certified);
        let reason = match tls.map(|tls| tls.peer_name.as_deref()) {
            None => "TLS client certificate required",
            Some(Some(name)) if self.tables.maps().allow(map.as_deref(), name, &client.user) => {
                return self.find_account(io, key);
            }
            Some(_) => "the certificate is for another user",
        };
        self.refuse_login(io, key, errors::certificate_failed(client.user.clone()), reason.into());
    }

    fn ask_os_user(&mut self, io: &mut I, key: ClientKey) {
        let client = &mut self.clients[key];
        let Peer::Unix(Some(uid)) = client.peer else {
            let report = errors::peer_failed(client.user.clone());
            return self.refuse_login(io, key, report, "the system does not tell whose process it is".into());
        };
        client.enter(ClientState::Secret, self.now);
        self.ask(io, Asker::Client(key), Question::OsUser { uid });
    }

    fn os_user_told(&mut self, io: &mut I, key: ClientKey, name: Option<&str>) {
        let map = self.demand(key).map;
        let client = &self.clients[key];
        let is_allowed = name.is_some_and(|name| self.tables.maps().allow(map.as_deref(), name, &client.user));
        if is_allowed {
            return self.find_account(io, key);
        }
        let reason = name.map_or_else(
            || String::from("its process belongs to no user of this system"),
            |name| format!("its process belongs to {name}"),
        );
        self.refuse_login(io, key, errors::peer_failed(client.user.clone()), reason.into());
    }

    /// Looks up the secret: in the tables, among those told before, or by asking Python.
    fn find_account(&mut self, io: &mut I, key: ClientKey) {
        let tables = self.tables.clone();
        let user = self.clients[key].user.clone();
        let lookup = tables.database(&self.clients[key].database).map(|database| &database.config.lookup);
        let is_asked = tables.config.auth.ask_unknown || lookup.is_some_and(|lookup| lookup.is_asked);
        let method = self.demand(key).method;
        let needs_secret = matches!(method, AuthMethod::Password | AuthMethod::Md5 | AuthMethod::ScramSha256);
        match tables.user(&user) {
            // What is known of a user may be its limits alone.
            Some(known) if known.credential.is_none() && needs_secret && is_asked => {}
            None if is_asked => {}
            known => return self.begin_proof(io, key, Account::from(known)),
        }
        if let Some(asked) = lookup.and_then(|lookup| lookup.dbname.as_ref())
            && self.disabled.contains(asked)
        {
            let report = errors::auth_database_disabled(asked);
            return self.refuse_login(io, key, report, "authentication database is disabled".into());
        }
        let name = (self.clients[key].database.clone(), user);
        if let Some((credential, until)) = self.secrets.get(&name)
            && *until > self.now
        {
            let credential = credential.clone();
            return self.begin_proof(io, key, credential.as_ref().map_or(Account::Unknown, Account::Secret));
        }
        self.clients[key].enter(ClientState::Secret, self.now);
        let (database, user) = name;
        self.ask(io, Asker::Client(key), Question::Secret { database, user });
    }

    fn begin_proof(&mut self, io: &mut I, key: ClientKey, account: Account<'_>) {
        let client = &self.clients[key];
        let method = self.demand(key).method;
        let server_secret = if let Account::Secret(credential) = &account { credential.server_secret() } else { None };
        let (login, step) =
            ClientLogin::begin(method, &client.user, account, client.tls.as_deref(), &self.tables.mock, &mut |b| {
                io.fill_random(b);
            });
        let client = &mut self.clients[key];
        client.enter(ClientState::Login, self.now);
        if let Some(state) = &mut client.login {
            state.proof = Some(login);
            state.server_secret = server_secret;
        }
        self.proof_step(io, key, step);
    }

    pub(crate) fn proof_message(&mut self, io: &mut I, key: ClientKey, data: &[u8]) -> usize {
        let head = match frame::head(data, frame::AUTH_BYTES_MAX) {
            Ok(Some(head)) => head,
            Ok(None) => return 0,
            Err(error) => {
                self.stats.protocol_errors.add(1);
                self.refuse_and_close(io, key, errors::malformed_message(error));
                return 0;
            }
        };
        let Some(body) = data.get(frame::HEAD_BYTES..head.bytes as usize) else { return 0 };
        let Some(proof) = self.clients[key].login.as_mut().and_then(|l| l.proof.as_mut()) else { return 0 };
        let step = proof.message(head.tag, body);
        if planted(Bug::ProofLogged) {
            self.log(io, Level::Debug, "proof", vec![("message", String::from_utf8_lossy(body).into_owned().into())]);
        }
        self.proof_step(io, key, step);
        head.bytes as usize
    }

    fn proof_step(&mut self, io: &mut I, key: ClientKey, step: Step) {
        match step {
            Step::Send(bytes) => self.send_to_client(io, key, &bytes),
            Step::AskSaltedPassword { password, salt, iterations } => {
                self.clients[key].enter(ClientState::Secret, self.now);
                let turn = self.turn(key);
                self.ask(io, Asker::Client(key), Question::SaltPassword { password, salt, iterations, turn });
            }
            Step::AskVerdict { password } => {
                let demand = self.demand(key);
                let client = &mut self.clients[key];
                client.enter(ClientState::Secret, self.now);
                let question = Question::Verdict {
                    method: demand.method,
                    service: demand.service,
                    database: client.database.clone(),
                    user: client.user.clone(),
                    password,
                    address: address(&client.peer).0.into(),
                };
                self.ask(io, Asker::Client(key), question);
            }
            Step::Done { reply, proof } => {
                if !reply.is_empty() {
                    self.send_to_client(io, key, &reply);
                }
                self.logged_in(io, key, &proof);
            }
            Step::Refused(refusal) => {
                self.doubt_secret(key);
                self.refuse_login(io, key, refusal.report, refusal.reason.into());
            }
        }
    }

    /// A client has not proved what was looked up of it a while ago: that may be another secret by now, and is asked for at
    /// the next login. At most once in [`DOUBTED_AFTER`], so that who guesses does not make anybody else work.
    fn doubt_secret(&mut self, key: ClientKey) {
        let client = &self.clients[key];
        let name = (client.database.clone(), client.user.clone());
        let Some((credential, until)) = self.secrets.get(&name) else { return };
        let told_at = Instant(until.0.saturating_sub(self.kept_for(credential.as_ref())));
        if told_at + DOUBTED_AFTER <= self.now {
            self.secrets.remove(&name);
        }
    }

    /// How long it counts what was looked up of a user, in microseconds; `None`: there is none.
    fn kept_for(&self, credential: Option<&Credential>) -> u64 {
        let auth = &self.tables.config.auth;
        if credential.is_some() { auth.cache_for } else { auth.cache_negative_for }
    }

    /// Tells a client, and the log, why it is not let in.
    pub(crate) fn refuse_login(&mut self, io: &mut I, key: ClientKey, report: Report, reason: Field) {
        self.stats.logins_refused.add(1);
        self.note_failed_login(key);
        let client = &self.clients[key];
        let mut fields = vec![
            ("client", Field::Number(client.id)),
            ("user", client.user.clone().into()),
            ("database", client.database.clone().into()),
            ("reason", reason),
        ];
        let rule = client.login.as_ref().and_then(|login| login.demand.as_ref()?.place.clone());
        fields.extend(rule.map(|place| ("rule", place.into())));
        self.log_code(io, Level::Warn, "login_refused", Some(report.code), fields);
        self.refuse_and_close(io, key, report);
    }

    /// Python, or the side thread, has answered.
    pub(crate) fn client_answered(&mut self, io: &mut I, key: ClientKey, answer: Answer) {
        let Some(client) = self.clients.get_mut(key) else { return };
        match (client.state, answer) {
            (ClientState::Secret, Answer::Secret(credential)) => {
                let name = (client.database.clone(), client.user.clone());
                let until = Instant(self.now.0.saturating_add(self.kept_for(credential.as_ref())));
                self.secrets.insert(name, (credential.clone(), until));
                self.begin_proof(io, key, credential.as_ref().map_or(Account::Unknown, Account::Secret));
            }
            (ClientState::Secret, Answer::SaltedPassword(salted)) => {
                client.enter(ClientState::Login, self.now);
                let Some(proof) = client.login.as_mut().and_then(|l| l.proof.as_mut()) else { return };
                let step = proof.salted(&salted);
                self.proof_step(io, key, step);
            }
            (ClientState::Secret, Answer::OsUser(name)) => self.os_user_told(io, key, name.as_deref()),
            (ClientState::Secret, Answer::Verdict(is_right)) => {
                client.enter(ClientState::Login, self.now);
                let Some(proof) = client.login.as_mut().and_then(|l| l.proof.as_mut()) else { return };
                let step = proof.judged(is_right);
                self.proof_step(io, key, step);
            }
            (ClientState::Secret, Answer::Failed(cause)) => {
                let demand = client.login.as_ref().and_then(|login| login.demand.as_ref());
                // What a directory is called, and what it said, is for the log: nobody has proved anything yet.
                let report = match demand.map(|demand| demand.method) {
                    Some(AuthMethod::Ldap) => errors::verdict_unavailable(client.user.clone(), "LDAP"),
                    Some(AuthMethod::Pam) => errors::verdict_unavailable(client.user.clone(), "PAM"),
                    _ => errors::secret_unavailable(client.user.clone(), cause.clone()),
                };
                self.refuse_login(io, key, report, cause.into());
            }
            (ClientState::Console, answer) => self.console_answered(io, key, answer),
            _ => {}
        }
        if self.clients.get(key).is_some() {
            self.ready.push_back(key);
        }
    }
}

fn encryption(arrival: Arrival<'_>) -> &'static str {
    match (arrival.address, arrival.is_encrypted) {
        (None, _) => "a Unix socket",
        (_, true) => "an encrypted connection",
        (_, false) => "a connection without encryption",
    }
}

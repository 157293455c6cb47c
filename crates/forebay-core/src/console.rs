//! Sessions for the console: logged in like any other, served by Python, one statement at a time.
//!
//! The protocol's state is kept here, simple and extended; what a statement says, and what its columns are, is Python's.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_pgwire::frame::{self, HEAD_BYTES};
use forebay_pgwire::frontend::{Bind, Execute, Parse, Target, tag};
use forebay_pgwire::write;
use forebay_spec::{Report, Severity, errors};

use crate::io::{Io, Peer};
use crate::leave::encode;
use crate::question::{Answer, ConsoleStep, Question};
use crate::session::IDLE;
use crate::session::client::{ClientKey, ClientState};
use crate::worker::{Asker, Worker};

/// What drivers want to hear before they begin.
const GREETING: [(&str, &str); 6] = [
    ("server_version", concat!("16.0 (forebay ", env!("CARGO_PKG_VERSION"), ")")),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("standard_conforming_strings", "on"),
];

/// Longest statement the console takes.
const STATEMENT_BYTES_MAX: u32 = 65_536;

/// Named statements, and as many portals, that a session may hold.
const NAMES_MAX: usize = 100;

/// The user that needs no password where it is this process's own.
const OWN_OPERATOR: &str = "pgbouncer";

/// What a console session holds.
#[derive(Default)]
pub struct ConsoleSession {
    /// It came over the Unix socket, from a process of the user that forebay runs as.
    is_own: bool,
    /// What Python is at work on is a simple query: ReadyForQuery is sent behind its answer.
    is_simple: bool,
    statements: BTreeMap<Box<[u8]>, Arc<str>>,
    portals: BTreeMap<Box<[u8]>, Portal>,
}

#[derive(Clone)]
struct Portal {
    text: Arc<str>,
    formats: Arc<[i16]>,
}

impl<I: Io> Worker<I> {
    /// Whether a client that asks for the console is the operator who needs no password.
    pub(crate) fn is_own_operator(&self, key: ClientKey) -> bool {
        let client = &self.clients[key];
        let uid = if let Peer::Unix(uid) = client.peer { uid } else { None };
        &*client.user == OWN_OPERATOR && uid.is_some() && uid == self.tables.config.console.own_uid
    }

    pub(crate) fn console_logged_in(&mut self, io: &mut I, key: ClientKey) {
        let user = self.clients[key].user.clone();
        let is_own = self.is_own_operator(key);
        if !is_own && !self.tables.is_viewer(&user) {
            return self.refuse_and_close(io, key, errors::console_login_denied(user));
        }
        self.console(key).is_own = is_own;
        let mut out = Vec::new();
        write::authentication_ok(&mut out);
        for (name, value) in GREETING {
            write::parameter_status(&mut out, name, value);
        }
        self.finish_greeting(io, key, &mut out);
        self.clients[key].enter(ClientState::Console, self.now);
        self.arrival_is_over(key);
        self.tell_login(io, key, "console_connected");
        self.ready.push_back(key);
    }

    fn console(&mut self, key: ClientKey) -> &mut ConsoleSession {
        self.clients[key].rare.get_or_insert_default().console.get_or_insert_default()
    }

    /// Deals with the bytes kept of a console session, and stops reading where too many wait for Python.
    pub(crate) fn console_goes_on(&mut self, io: &mut I, key: ClientKey) {
        self.take_console_messages(io, key);
        self.balance_client(io, key);
    }

    /// Those that are there whole, unless Python is at work for one.
    fn take_console_messages(&mut self, io: &mut I, key: ClientKey) {
        loop {
            let Some(client) = self.clients.get_mut(key) else { return };
            if client.is_held {
                return;
            }
            let head = match frame::head(&client.carry, STATEMENT_BYTES_MAX) {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(error) => return self.refuse_and_close(io, key, errors::malformed_message(error)),
            };
            if client.carry.len() < head.bytes as usize {
                return;
            }
            let rest = client.carry.split_off(head.bytes as usize);
            let message = std::mem::replace(&mut client.carry, rest);
            self.console_message(io, key, head.tag, &message[HEAD_BYTES..]);
        }
    }

    fn console_message(&mut self, io: &mut I, key: ClientKey, kind: u8, body: &[u8]) {
        let client = &mut self.clients[key];
        match kind {
            tag::TERMINATE => self.client_leaves(io, key),
            tag::SYNC => {
                client.is_skipping = false;
                self.console(key).portals.clear();
                self.console_ready(io, key, &[]);
            }
            tag::FLUSH => {}
            _ if client.is_skipping => {}
            tag::QUERY => {
                let text = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body));
                self.ask_console(io, key, text.as_ref().into(), ConsoleStep::Query);
            }
            _ => {
                if let Err(report) = self.extended(io, key, kind, body) {
                    self.clients[key].is_skipping = true;
                    self.console_error(io, key, &report);
                }
            }
        }
    }

    /// A message of the extended protocol.
    fn extended(&mut self, io: &mut I, key: ClientKey, kind: u8, body: &[u8]) -> Result<(), Box<Report>> {
        let mut out = Vec::new();
        match kind {
            tag::PARSE => {
                let parse = Parse::decode(body).map_err(|e| Box::new(errors::malformed_message(e)))?;
                let text: Arc<str> = String::from_utf8_lossy(parse.query).as_ref().into();
                let statements = &mut self.console(key).statements;
                if statements.len() >= NAMES_MAX && !statements.contains_key(parse.name) {
                    return Err(Box::new(errors::console_names_full(NAMES_MAX)));
                }
                statements.insert(parse.name.into(), text);
                write::parse_complete(&mut out);
            }
            tag::BIND => {
                let bind = Bind::decode(body).map_err(|e| Box::new(errors::malformed_message(e)))?;
                if !bind.values.is_empty() {
                    return Err(Box::new(errors::console_parameters()));
                }
                let session = self.console(key);
                let text = session.statement(bind.statement)?;
                if session.portals.len() >= NAMES_MAX && !session.portals.contains_key(bind.portal) {
                    return Err(Box::new(errors::console_names_full(NAMES_MAX)));
                }
                let formats = bind.result_formats.iter().collect();
                session.portals.insert(bind.portal.into(), Portal { text, formats });
                write::bind_complete(&mut out);
            }
            tag::DESCRIBE => {
                let target = Target::decode(body).map_err(|e| Box::new(errors::malformed_message(e)))?;
                let session = self.console(key);
                let (text, formats) = if target.is_statement() {
                    write::parameter_description(&mut out, &[]);
                    (session.statement(target.name)?, Arc::default())
                } else {
                    let portal = session.portal(target.name)?;
                    (portal.text, portal.formats)
                };
                self.ask_console(io, key, text, ConsoleStep::Describe(formats));
            }
            tag::EXECUTE => {
                let execute = Execute::decode(body).map_err(|e| Box::new(errors::malformed_message(e)))?;
                let Portal { text, formats } = self.console(key).portal(execute.portal)?;
                self.ask_console(io, key, text, ConsoleStep::Execute(formats));
            }
            tag::CLOSE => {
                let target = Target::decode(body).map_err(|e| Box::new(errors::malformed_message(e)))?;
                let session = self.console(key);
                if target.is_statement() {
                    session.statements.remove(target.name);
                } else {
                    session.portals.remove(target.name);
                }
                write::close_complete(&mut out);
            }
            _ => return Err(Box::new(errors::console_only_statements())),
        }
        if !out.is_empty() {
            self.send_to_client(io, key, &out);
        }
        Ok(())
    }

    fn ask_console(&mut self, io: &mut I, key: ClientKey, text: Arc<str>, step: ConsoleStep) {
        let session = self.console(key);
        session.is_simple = matches!(step, ConsoleStep::Query);
        let is_own = session.is_own;
        let client = &mut self.clients[key];
        client.is_held = true;
        let question = Question::Console { user: client.user.clone(), is_own, text, step };
        self.ask(io, Asker::Client(key), question);
    }

    /// The session's user has cancelled what Python is at work on.
    pub(crate) fn call_off_statement(&mut self, io: &mut I, key: ClientKey) {
        let of_session = |asker: &Asker| matches!(asker, Asker::Client(asking) if *asking == key);
        let asked = self.questions.iter().find(|(_, asker)| of_session(asker)).map(|(id, _)| *id);
        if let Some(asked) = asked {
            self.tell_python(io, Question::CallOff { asked });
        }
    }

    fn console_error(&mut self, io: &mut I, key: ClientKey, report: &Report) {
        let mut out = Vec::new();
        encode(&mut out, report, Severity::Error, &self.stats);
        self.send_to_client(io, key, &out);
    }

    fn console_ready(&mut self, io: &mut I, key: ClientKey, before: &[u8]) {
        let mut out = before.to_vec();
        write::ready_for_query(&mut out, IDLE);
        self.send_to_client(io, key, &out);
    }

    /// Python has answered a statement.
    pub(crate) fn console_answered(&mut self, io: &mut I, key: ClientKey, answer: Answer) {
        if let Answer::ConsolePart(bytes) = &answer {
            return self.send_to_client(io, key, bytes);
        }
        let is_simple = self.console(key).is_simple;
        let client = &mut self.clients[key];
        client.is_held = false;
        match answer {
            Answer::Console(bytes) if is_simple => self.console_ready(io, key, &bytes),
            Answer::Console(bytes) => {
                // What comes behind an error is dropped up to its Sync.
                client.is_skipping = bytes.first() == Some(&b'E');
                self.send_to_client(io, key, &bytes);
            }
            Answer::Failed(cause) => {
                client.is_skipping = !is_simple;
                self.console_error(io, key, &errors::console_unavailable(cause));
                if is_simple {
                    self.console_ready(io, key, &[]);
                }
            }
            Answer::Secret(_) | Answer::SaltedPassword(_) | Answer::Verdict(_) | Answer::OsUser(_) => {}
            Answer::ConsolePart(_) => unreachable!("it has been sent above"),
        }
    }
}

impl ConsoleSession {
    fn statement(&self, name: &[u8]) -> Result<Arc<str>, Box<Report>> {
        let named = || Box::new(errors::console_no_statement(String::from_utf8_lossy(name)));
        self.statements.get(name).cloned().ok_or_else(named)
    }

    fn portal(&self, name: &[u8]) -> Result<Portal, Box<Report>> {
        let named = || Box::new(errors::console_no_portal(String::from_utf8_lossy(name)));
        self.portals.get(name).cloned().ok_or_else(named)
    }
}

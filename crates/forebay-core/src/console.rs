//! Sessions for the console: logged in like any other, served by Python, one statement at a time.

use std::sync::Arc;

use forebay_pgwire::frame::{self, HEAD_BYTES};
use forebay_pgwire::frontend::tag;
use forebay_pgwire::write;
use forebay_spec::{Report, Severity, errors};

use crate::io::Io;
use crate::leave::encode;
use crate::question::{Answer, Question};
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

impl<I: Io> Worker<I> {
    pub(crate) fn console_logged_in(&mut self, io: &mut I, key: ClientKey) {
        let user = self.clients[key].user.clone();
        if !self.tables.is_viewer(&user) {
            return self.refuse_and_close(io, key, errors::console_login_denied(user));
        }
        let mut out = Vec::new();
        write::authentication_ok(&mut out);
        for (name, value) in GREETING {
            write::parameter_status(&mut out, name, value);
        }
        self.finish_greeting(io, key, &mut out);
        self.clients[key].enter(ClientState::Console, self.now);
        self.log_connection(io, key, "console_connected");
        self.ready.push_back(key);
    }

    /// Deals with the bytes kept of a console session, unless Python is at work for it.
    pub(crate) fn console_goes_on(&mut self, io: &mut I, key: ClientKey) {
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
            tag::QUERY => {
                client.is_held = true;
                let text = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body));
                let question = Question::Console { user: client.user.clone(), text: text.as_ref().into() };
                self.ask(io, Asker::Client(key), question);
            }
            tag::TERMINATE => self.client_leaves(io, key),
            tag::SYNC => {
                client.is_skipping = false;
                self.console_ready(io, key, &[]);
            }
            tag::FLUSH => {}
            _ if client.is_skipping => {}
            _ => {
                client.is_skipping = true;
                self.console_error(io, key, &errors::console_only_simple());
            }
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
        self.clients[key].is_held = false;
        match answer {
            Answer::Console(bytes) => self.console_ready(io, key, &bytes),
            Answer::Failed(cause) => {
                let cause: Arc<str> = cause;
                self.console_error(io, key, &errors::console_unavailable(cause));
                self.console_ready(io, key, &[]);
            }
            Answer::Secret(_) | Answer::SaltedPassword(_) => {}
        }
    }
}

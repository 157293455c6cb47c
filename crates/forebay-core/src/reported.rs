//! What a server says of its session's parameters (ParameterStatus), and what its client is told of them.

use std::rc::Rc;

use forebay_pgwire::backend::ParameterStatus;
use forebay_pgwire::write;
use forebay_sql::traces::Traces;

use crate::parameters::is_settable;
use crate::reply::{Next, Relaying, Verdict};
use crate::session::client::Client;
use crate::session::expect::{Expect, Own};
use crate::session::server::Server;
use crate::tracking::access;

impl Relaying<'_> {
    /// A value has changed.
    #[inline(never)]
    pub(crate) fn parameter_status(&mut self, body: &[u8]) -> (Verdict, Option<Next>) {
        let Ok(ParameterStatus { name, value }) = ParameterStatus::decode(body) else {
            return (Verdict::Drop, Some(Next::Violation("a malformed ParameterStatus")));
        };
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        if matches!(self.server.expect.front(), Some(Expect::Own(Own::Settings))) {
            // Undone before anything of the client's is done. What a hand-over has changed is told here, too, and stays.
            let apart = self.server.reported_apart.as_ref().unwrap_or(&self.server.reported);
            self.server.reported_apart = Some(self.images.with(apart, &name, Some(&value)));
            return (Verdict::Drop, None);
        }
        self.server.reported = self.images.with(&self.server.reported, &name, Some(&value));
        if name == access::DEFAULT && value != "on" {
            self.server.endings.access.default_is_off();
        }
        if matches!(self.server.expect.front(), Some(Expect::Own(Own::Prepare | Own::HandOver | Own::Skipped))) {
            return (Verdict::Drop, None);
        }
        let lower = name.to_ascii_lowercase();
        let is_default = self.server.defaults.get(&name).is_some_and(|v| **v == *value);
        let over_default = (!is_default).then_some(&*value);
        if is_settable(&name) {
            // Also what a client that has left did, or our ROLLBACK undid: the next client must not see it.
            self.server.set = self.images.with(&self.server.set, &lower, over_default);
        }
        self.note_authorization(&name, is_default);
        if !self.is_for_client() {
            return (Verdict::Drop, None);
        }
        if !self.server.restoring.is_empty() {
            // The client is told what it comes to when it is set again.
            return (Verdict::Drop, None);
        }
        // A client that listens hears what is notified before it, as from PostgreSQL.
        self.server.is_report_due |= self.reports_before_ready() && self.listens_to_any();
        let is_told_later = self.server.is_report_due;
        if let Some(client) = &mut self.client {
            if !is_told_later {
                client.seen = self.images.with(&client.seen, &name, Some(&value));
            }
            if is_settable(&name) {
                client.wanted = self.images.with(&client.wanted, &lower, over_default);
            }
        }
        (Verdict::relay_if(!is_told_later), None)
    }

    /// Whether the server tells of changed values just before ReadyForQuery and nowhere else (PostgreSQL >= 14).
    fn reports_before_ready(&self) -> bool {
        let version = self.server.reported.get("server_version");
        let major = version.and_then(|v| v.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
        major.is_some_and(|major| major >= 14)
    }

    /// Whose the session is may be set by a function too, by a name that no text tells: it pins until it is reset.
    fn note_authorization(&mut self, name: &str, is_default: bool) {
        if name != "session_authorization" || !self.server.left.is_on {
            return;
        }
        if self.is_for_client() {
            self.server.left.fresh |= Traces::AUTHORIZATION;
        }
        if !is_default {
            self.server.left.dirt |= Traces::AUTHORIZATION;
        }
    }
}

/// Tells the client of reported values that differ from those it last saw.
pub(crate) fn report_parameters(client: &mut Client, server: &Server, out: &mut Vec<u8>) {
    if Rc::ptr_eq(&client.seen, &server.reported) {
        return;
    }
    for (name, value) in server.reported.iter() {
        if client.seen.get(name) != Some(value) {
            write::parameter_status(out, &**name, &**value);
        }
    }
    client.seen = server.reported.clone();
}

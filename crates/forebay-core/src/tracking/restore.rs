//! RESET brings a setting back to what it was at the session's start. On a shared server that is the server's own value:
//! where the client asked for another in its startup message, it is set again before the request ends.
//!
//! Exact at the end of each request. Within one request that holds more statements behind the RESET, those see the
//! server's own value.

use std::sync::Arc;

use forebay_sql::shape::{Shape, Verb};

use crate::io::Io;
use crate::parameters::quote_literal;
use crate::planted::{Bug, planted};
use crate::request::Forwarding;
use crate::session::expect::Own;
use crate::session::server::ServerKey;
use crate::worker::Worker;

/// Settings to be set again once the request under way is answered.
pub type Restoring = Vec<(Arc<str>, Arc<str>)>;

impl Forwarding<'_> {
    /// Notes what of the client's own start `shape` resets.
    pub(crate) fn note_resets(&mut self, shape: &Shape) {
        let baseline = &self.client.baseline;
        if baseline.is_empty() || planted(Bug::StartNotRestored) {
            return;
        }
        for statement in &shape.statements {
            let resets = |name: &str| match statement.verb {
                Verb::Reset => statement.settings.is_empty() || statement.settings.iter().any(|n| **n == *name),
                Verb::DiscardAll => true,
                _ => false,
            };
            for (name, value) in baseline.iter().filter(|(name, _)| resets(name)) {
                if !self.server.restoring.iter().any(|(n, _)| n == name) {
                    self.server.restoring.push((name.clone(), value.clone()));
                }
            }
        }
    }
}

impl<I: Io> Worker<I> {
    /// The request is answered but for its ReadyForQuery: sets again what it reset.
    pub(crate) fn restore(&mut self, io: &mut I, key: ServerKey) {
        let restoring = self.servers[key].restoring.clone();
        let mut sql = String::from("SELECT ");
        for (index, (name, value)) in restoring.iter().enumerate() {
            sql.push_str(if index > 0 { ",pg_catalog.set_config(" } else { "pg_catalog.set_config(" });
            quote_literal(&mut sql, name);
            sql.push(',');
            quote_literal(&mut sql, value);
            sql.push_str(",false)");
        }
        restoring.iter().for_each(|(name, _)| self.servers[key].left.name(name));
        self.send_own(io, key, Own::Restore, &sql);
    }
}

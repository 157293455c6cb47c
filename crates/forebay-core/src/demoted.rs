//! A primary that has come back as a standby before anybody has told: it answers where it always did, and refuses what
//! writes.
//!
//! It becomes one by a restart, so that whoever meets it logs in anew; and from PostgreSQL 14 on it says so then, by the
//! parameter `in_hot_standby`. A pooler in between may say so of what was there before: that very connection is asked.
//!
//! | a server of a pool that only the primary serves | then |
//! |---|---|
//! | says nothing of being a standby | it serves |
//! | says that it is one, and that it is not in recovery | it serves |
//! | says that it is one, and nothing else when it is asked | it is closed, and its endpoint is suspected and left alone for a moment: who waits goes on waiting |
//! | refuses in a session what is refused in recovery alone | its client is told; it is closed when it comes free, and its endpoint is suspected |
//!
//! Each login is judged by itself: nothing is remembered that a promotion would have to undo.

use forebay_pgwire::backend::{ErrorFields, data_row, field, tag};
use forebay_pgwire::frame::HEAD_BYTES;
use forebay_pgwire::write;
use forebay_spec::{Severity, errors};

use crate::config::Role;
use crate::failure::words;
use crate::io::Io;
use crate::leave::encode;
use crate::planted::{Bug, planted};
use crate::pool::PoolId;
use crate::reach::Fault;
use crate::session::server::ServerKey;
use crate::worker::Worker;

/// By which a login says whether it is to a standby.
const SAYS_SO: &str = "in_hot_standby";

/// It depends on nothing that is set.
const QUESTION: &str = "/* forebay: is this a standby? */ SELECT pg_catalog.pg_is_in_recovery()";

/// Why such a server is closed.
const STANDBY: &str = "it is a standby, and only the primary serves here";

/// What a standby refuses a write with; so does a primary, in a transaction that is to read.
const READ_ONLY: &str = "25006";

/// By which the two are told apart: what reports it when there is no other reason than recovery.
const OF_RECOVERY: &[u8] = b"PreventCommandDuringRecovery";

/// Whether a login is to a standby that is taken for the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It has not been asked.
    #[default]
    None,
    /// It is being asked.
    Asked {
        /// It has said that it is not in recovery.
        is_dispelled: bool,
    },
    /// It is none.
    Settled,
}

impl Doubt {
    /// Whether what comes answers that question.
    pub(crate) fn is_asked(self) -> bool {
        matches!(self, Doubt::Asked { .. })
    }
}

impl<I: Io> Worker<I> {
    /// Whether nobody but a cluster's primary serves a pool.
    pub(crate) fn is_of_primary(&self, id: PoolId) -> bool {
        self.pools[id.0 as usize].target.config.cluster.is_some_and(|cluster| cluster.role == Role::Primary)
    }

    /// A login has come to a ReadyForQuery. True: it goes no further, for it is to a standby, or is asked whether it is.
    pub(crate) fn is_doubted(&mut self, io: &mut I, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let Some(login) = &server.login else { return false };
        match login.doubt {
            Doubt::None => {
                let says_so = login.reported.get(SAYS_SO).is_some_and(|value| **value == *"on");
                if !says_so || !self.is_of_primary(server.pool) || planted(Bug::StandbyTakenForPrimary) {
                    return false;
                }
                if server.client.is_some() {
                    // A replication connection is asked in another language, and nothing in between remembers it.
                    self.is_standby(io, key);
                } else {
                    self.ask_recovery(io, key);
                }
                true
            }
            Doubt::Asked { is_dispelled: false } => {
                self.is_standby(io, key);
                true
            }
            Doubt::Asked { is_dispelled: true } => {
                if let Some(login) = &mut self.servers[key].login {
                    login.doubt = Doubt::Settled;
                    // Clients are greeted with what is so.
                    login.reported.insert(SAYS_SO.into(), "off".into());
                }
                false
            }
            Doubt::Settled => false,
        }
    }

    fn ask_recovery(&mut self, io: &mut I, key: ServerKey) {
        if let Some(login) = &mut self.servers[key].login {
            login.doubt = Doubt::Asked { is_dispelled: false };
        }
        let mut out = Vec::new();
        write::query(&mut out, QUESTION);
        self.send_to_server(io, key, &out);
    }

    /// A message of its answer; an error dispels nothing.
    pub(crate) fn recovery_told(&mut self, key: ServerKey, kind: u8, body: &[u8]) {
        let Some(login) = self.servers[key].login.as_mut().filter(|_| kind == tag::DATA_ROW) else { return };
        let value = data_row(body).ok().and_then(|values| values.iter().next().flatten().map(<[u8]>::to_vec));
        login.doubt = Doubt::Asked { is_dispelled: value.as_deref() == Some(b"f") };
    }

    /// It must not serve. The host is well, and its replicas' pools may have it.
    fn is_standby(&mut self, io: &mut I, key: ServerKey) {
        let id = self.servers[key].pool;
        self.host_answers(io, key, READ_ONLY);
        self.suspect(io, id);
        self.open_failed_by(io, key, STANDBY, Fault::Pool);
    }

    /// A server has refused what is refused in recovery alone: its client is told, in its words where it may be a standby.
    #[cold]
    pub(crate) fn recovery_met(&mut self, io: &mut I, key: ServerKey, said: &[u8]) {
        let id = self.servers[key].pool;
        if !self.is_of_primary(id) {
            self.batch.owned().extend_from_slice(said);
            return self.flush_to_client(io, key, None, &[]);
        }
        let server = &mut self.servers[key];
        server.is_close_needed = true;
        let reply = said.get(HEAD_BYTES..).and_then(|body| ErrorFields::decode(body).ok()).map(words);
        let report = errors::server_demoted(&server.place.name, reply.map(|(_, message)| message).unwrap_or_default());
        encode(self.batch.owned(), &report, Severity::Error, &self.stats);
        server.stats.stats.count_refusal(report.code);
        self.flush_to_client(io, key, None, &[]);
        self.suspect(io, id);
    }
}

/// Whether an error says that it is for recovery, and nothing else.
#[inline]
pub(crate) fn is_of_recovery(fields: ErrorFields<'_>) -> bool {
    fields.sqlstate() == Some(READ_ONLY.as_bytes()) && fields.get(field::ROUTINE) == Some(OF_RECOVERY)
}

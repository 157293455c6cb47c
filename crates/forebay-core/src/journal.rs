//! What the log hears of clients and servers that come and go; `[log]` says which of it.

use forebay_spec::Report;

use crate::event::{Field, Level};
use crate::io::{Io, Peer};
use crate::login::address;
use crate::pool::PoolId;
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::{Server, ServerKey};
use crate::worker::Worker;

/// Codes of errors that quote what a client has written into its startup message, where a secret may have got by mistake: the
/// client is told, and the log is not.
const QUOTING: [&str; 2] = ["FB504", "FB505"];

/// What the log says instead.
const QUOTED: &str = "something that it asks for at its start";

/// Why a connection that only brought a cancel request is closed.
pub(crate) const CANCEL_REQUEST: &str = "cancel request";

type Fields = Vec<(&'static str, Field)>;

impl<I: Io> Worker<I> {
    /// A client has said who it wants to be.
    pub(crate) fn tell_attempt(&self, io: &mut I, key: ClientKey) {
        let settings = &self.tables.config.log;
        if settings.attempts && settings.connections {
            let client = &self.clients[key];
            self.log(io, Level::Info, "login_attempt", self.with_tls(client));
        }
    }

    /// A client is logged in: to a database, or to the console.
    pub(crate) fn tell_login(&self, io: &mut I, key: ClientKey, name: &'static str) {
        if self.tables.config.log.connections {
            let client = &self.clients[key];
            self.log(io, Level::Info, name, self.with_tls(client));
        }
    }

    /// A report in the words that this engine speaks.
    pub(crate) fn worded(&self, report: Report) -> Report {
        if self.tables.config.speaks_pgbouncer { report.in_pgbouncers_words() } else { report }
    }

    /// What the log calls a report by, as the reason of a client's end.
    pub(crate) fn refusal_in_log<'a>(&self, report: &'a Report) -> &'a str {
        match is_quoting(report) {
            true if report.code.is_empty() || self.tables.config.speaks_pgbouncer => QUOTED,
            false if self.tables.config.speaks_pgbouncer => &report.message,
            _ => report.code,
        }
    }

    /// A client is turned away, or its session is ended by us.
    pub(crate) fn tell_refusal(&self, io: &mut I, key: ClientKey, report: &Report) {
        let reason = if is_quoting(report) { QUOTED } else { &report.message };
        let mut fields = self.who(&self.clients[key]);
        fields.push(("reason", reason.into()));
        let level = if self.tables.config.log.refusals { Level::Warn } else { Level::Debug };
        self.log_code(io, level, "client_refused", Some(report.code), fields);
    }

    /// A client is gone. `reason`: a code, where it was told why.
    pub(crate) fn tell_leave(&self, io: &mut I, client: &Client, reason: &str) {
        let settings = &self.tables.config.log;
        let was_in = client.pool.is_some() || client.state == ClientState::Console;
        let is_told = was_in || settings.attempts && reason != CANCEL_REQUEST;
        if settings.disconnections && is_told {
            let mut fields = self.who(client);
            fields.push(("reason", reason.into()));
            fields.push(("age_s", (self.now.micros_since(client.connected_at) / 1_000_000).into()));
            self.log(io, Level::Info, "client_disconnected", fields);
        } else {
            let fields = vec![("client", Field::Number(client.id)), ("reason", reason.into())];
            self.log(io, Level::Debug, "client_closed", fields);
        }
    }

    /// A server is logged in.
    pub(crate) fn tell_server_opened(&self, io: &mut I, key: ServerKey) {
        let server = &self.servers[key];
        let mut fields = self.which(server);
        fields.push(("tls", server.tls.as_ref().map_or("", |t| &*t.description).into()));
        if let Some((ip, port)) = io.socket(server.conn).and_then(|socket| socket.local) {
            let from = if ip.is_ipv6() { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
            fields.push(("from", from.into()));
        }
        let settings = &self.tables.config.log;
        self.log(io, level(settings.servers && settings.connections), "server_opened", fields);
    }

    /// A server is gone, and out of its pool.
    pub(crate) fn tell_server_closed(&self, io: &mut I, server: &Server, reason: &str) {
        let mut fields = self.which(server);
        fields.push(("reason", reason.into()));
        fields.push(("age_s", (self.now.micros_since(server.opened_at) / 1_000_000).into()));
        let settings = &self.tables.config.log;
        self.log(io, level(settings.servers && settings.disconnections), "server_closed", fields);
    }

    fn who(&self, client: &Client) -> Fields {
        let (address, port) = self.place(&client.peer);
        vec![
            ("client", Field::Number(client.id)),
            ("user", client.user.clone().into()),
            ("database", client.database.clone().into()),
            ("address", address.into()),
            ("port", u64::from(port).into()),
        ]
    }

    fn with_tls(&self, client: &Client) -> Fields {
        let mut fields = self.who(client);
        fields.push(("tls", client.tls.as_ref().map_or("", |t| &*t.description).into()));
        fields.push(("replication", crate::replication::kind(Some(client)).into()));
        fields
    }

    /// Address and port of a client, for people. PgBouncer gives one that came over the Unix socket the number in its name.
    pub(crate) fn place(&self, peer: &Peer) -> (String, u16) {
        let (place, port) = address(peer);
        let is_numbered = self.tables.config.speaks_pgbouncer && matches!(peer, Peer::Unix(_));
        (place, if is_numbered { self.tables.config.listen.port } else { port })
    }

    fn which(&self, server: &Server) -> Fields {
        let PoolId(index) = server.pool;
        let pool = &self.pools[index as usize];
        vec![
            ("pool", pool.label().into()),
            ("server", server.id.into()),
            ("endpoint", server.place.name.clone().into()),
        ]
    }
}

/// Whether a report quotes what a client asks for at its start. PostgreSQL's own words, which have no code of ours, do.
fn is_quoting(report: &Report) -> bool {
    report.code.is_empty() || QUOTING.contains(&report.code)
}

fn level(is_wanted: bool) -> Level {
    if is_wanted { Level::Info } else { Level::Debug }
}

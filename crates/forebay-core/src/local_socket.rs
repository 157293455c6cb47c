//! The short way to a server on this host: its Unix socket, once it is proved to lead to the same server.
//!
//! A loopback connection costs the kernel more than a Unix socket does. The driver finds the socket and sees to
//! it that the user who listens there is the one who listens at the TCP address; that it is the same server, and no
//! pooler before it, is asked of both: each tells its process and when its postmaster started, to the microsecond.
//!
//! | standing | until |
//! |---|---|
//! | Unknown | a server that was reached over TCP has told who it is; without a file at the socket's path it is not asked |
//! | Known | a connection through the socket is begun |
//! | Trying | that one has told the same, or something else, or failed |
//! | Proven | a connection through the socket fails (back to Unknown: the server may be another one by now) |
//! | Refused | [`REFUSED_FOR`] has passed |

use std::time::Duration;

use forebay_pgwire::backend::{data_row, tag};
use forebay_pgwire::write;

use crate::config::TlsMode;
use crate::event::{Field, Level};
use crate::io::{Endpoint, Io};
use crate::planted::{Bug, planted};
use crate::pool::PoolId;
use crate::pool::endpoints::Place;
use crate::session::server::ServerKey;
use crate::time::Instant;
use crate::worker::Worker;

/// How long a socket that leads elsewhere, or lets nobody in, is left alone.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Between the ends of two servers that are replaced by such as are reached through the socket.
const REPLACED_EVERY: Duration = Duration::from_millis(20);
/// Its answer does not depend on what is set: a number, and eight bytes in hexadecimal digits.
const QUESTION: &str = "/* forebay: which server is this? */ SELECT pg_catalog.pg_backend_pid(), pg_catalog.encode(\
    pg_catalog.timestamptz_send(pg_catalog.pg_postmaster_start_time()), 'hex')";

/// When a server's postmaster started, as it tells.
type Identity = Box<[u8]>;

/// What a pool knows of the socket beside one of its endpoints; the table is in the module's head.
#[derive(Debug, Default)]
pub enum LocalSocket {
    /// See the table.
    #[default]
    Unknown,
    /// See the table.
    Known(Identity),
    /// See the table.
    Trying(Identity),
    /// See the table.
    Proven(Identity),
    /// Up to when.
    Refused(Instant),
}

impl LocalSocket {
    /// Begins a connection through it, if one may be begun.
    fn begin(&mut self, now: Instant) -> bool {
        match self {
            LocalSocket::Known(identity) => {
                *self = LocalSocket::Trying(std::mem::take(identity));
                true
            }
            LocalSocket::Proven(_) => true,
            LocalSocket::Refused(until) if *until <= now => {
                *self = LocalSocket::Unknown;
                false
            }
            LocalSocket::Unknown | LocalSocket::Trying(_) | LocalSocket::Refused(_) => false,
        }
    }

    /// A connection through it has ended before it told anything.
    pub(crate) fn given_up(&mut self) {
        if let LocalSocket::Trying(identity) = self {
            *self = LocalSocket::Known(std::mem::take(identity));
        }
    }

    fn failed(&mut self, now: Instant) {
        *self = match self {
            LocalSocket::Proven(_) => LocalSocket::Unknown,
            _ => LocalSocket::Refused(now + REFUSED_FOR),
        };
    }

    fn is_same(&self, told: &[u8]) -> bool {
        match self {
            LocalSocket::Known(identity) | LocalSocket::Trying(identity) | LocalSocket::Proven(identity) => {
                **identity == *told || planted(Bug::StrangerTrusted)
            }
            LocalSocket::Unknown | LocalSocket::Refused(_) => false,
        }
    }
}

/// What a server answers to [`QUESTION`].
#[derive(Debug, Default)]
pub(crate) struct Told {
    pid: Vec<u8>,
    started: Identity,
}

/// Whether a host's name can only mean this host.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

impl<I: Io> Worker<I> {
    /// The socket beside an endpoint, if a server is to be opened through it now.
    pub(crate) fn begin_local(&mut self, id: PoolId, place: &Place) -> Option<Endpoint> {
        let (now, endpoint) = (self.now, self.local_endpoint(id, place)?);
        self.local_socket(id, place)?.begin(now).then_some(endpoint)
    }

    /// The socket beside an endpoint, whether or not there is one: if the settings allow its use.
    pub(crate) fn local_endpoint(&self, id: PoolId, place: &Place) -> Option<Endpoint> {
        let pool = &self.pools[id.0 as usize];
        if !pool.settings.server_local_socket || pool.is_replication {
            return None;
        }
        let tls = self.tables.config.server_tls.get(place.tls as usize).map(|tls| tls.mode);
        if !matches!(tls, None | Some(TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer)) {
            // Whoever insists on TLS means that very connection.
            return None;
        }
        match &place.endpoint {
            Endpoint::Tcp { host, port } if is_loopback(host) => {
                Some(Endpoint::LocalSocket { host: host.clone(), port: *port })
            }
            _ => None,
        }
    }

    /// `None`: the pool has no longer that endpoint.
    fn local_socket(&mut self, id: PoolId, place: &Place) -> Option<&mut LocalSocket> {
        Some(&mut self.pool(id).endpoints.of(place)?.local)
    }

    /// Asks a server that has just been logged in which one it is, if that matters. False: it does not.
    pub(crate) fn ask_identity(&mut self, io: &mut I, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let (id, place, is_local) = (server.pool, server.place.clone(), server.is_local);
        let Some(Endpoint::LocalSocket { port, .. }) = self.local_endpoint(id, &place) else { return false };
        if self.servers[key].apart.is_some() {
            return false;
        }
        let now = self.now;
        let Some(socket) = self.local_socket(id, &place) else { return false };
        if !is_local && !matches!(socket, LocalSocket::Unknown) {
            return false;
        }
        if !is_local && !io.has_local_socket(port) {
            *socket = LocalSocket::Refused(now + REFUSED_FOR);
            return false;
        }
        let mut out = Vec::new();
        write::query(&mut out, QUESTION);
        if let Some(login) = &mut self.servers[key].login {
            login.told = Some(Told::default());
        }
        self.send_to_server(io, key, &out);
        true
    }

    /// A message of a server's answer. An error leaves `told` empty, which says enough.
    pub(crate) fn identity_message(&mut self, key: ServerKey, kind: u8, body: &[u8]) {
        let Some(told) = self.servers[key].login.as_mut().and_then(|login| login.told.as_mut()) else { return };
        if kind == tag::DATA_ROW {
            let mut values = data_row(body).into_iter().flat_map(|values| values.iter());
            let mut next = || values.next().flatten().unwrap_or_default();
            *told = Told { pid: next().to_vec(), started: next().into() };
        }
    }

    /// The answer is complete: the server is used, or given up.
    pub(crate) fn identity_told(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        let (id, place, is_local, pid) = (server.pool, server.place.clone(), server.is_local, server.remote_pid);
        let Some(told) = server.login.as_mut().and_then(|login| login.told.as_mut()).map(std::mem::take) else {
            return;
        };
        let is_itself = told.pid == pid.to_string().as_bytes() && !told.started.is_empty();
        let now = self.now;
        let mut gone = LocalSocket::Unknown;
        let socket = self.local_socket(id, &place).unwrap_or(&mut gone);
        match (is_itself, is_local) {
            (true, false) => *socket = LocalSocket::Known(told.started),
            // A pooler is in between, or no PostgreSQL.
            (false, false) => *socket = LocalSocket::Refused(now + REFUSED_FOR),
            (true, true) if socket.is_same(&told.started) => {
                let is_new = !matches!(socket, LocalSocket::Proven(_));
                *socket = LocalSocket::Proven(told.started);
                if is_new {
                    self.local_socket_proven(io, id, &place);
                }
            }
            (_, true) => return self.local_failed(io, key, "another server answers there"),
        }
        if !self.begin_connect_query(io, key) {
            self.server_logged_in(io, key);
        }
    }

    /// Servers of the pool that were reached over TCP leave one after the other.
    fn local_socket_proven(&mut self, io: &mut I, id: PoolId, place: &Place) {
        let mut at = self.now;
        let keys: Vec<_> = self.servers.iter().filter(|(_, s)| s.pool == id).map(|(key, _)| key).collect();
        for key in keys {
            let server = &mut self.servers[key];
            if *server.place == *place && !server.is_local && server.apart.is_none() {
                at = at + REPLACED_EVERY;
                server.expires_at = server.expires_at.min(at);
            }
        }
        let fields = vec![("pool", self.pools[id.0 as usize].label().into())];
        self.log(io, Level::Info, "local_socket_used", fields);
    }

    /// A server was reached over TCP and has told who it is: the socket is tried.
    pub(crate) fn try_local_socket(&mut self, io: &mut I, key: ServerKey) {
        let (id, place) = (self.servers[key].pool, self.servers[key].place.clone());
        if self.local_endpoint(id, &place).is_none()
            || !matches!(self.local_socket(id, &place), Some(LocalSocket::Known(_)))
        {
            return;
        }
        let Some(index) = self.pools[id.0 as usize].endpoints.at(&place) else { return };
        if self.take_permit(io, id) {
            self.open(io, id, index);
        } else if let Some(server) = self.servers.get_mut(key) {
            // No room for another one: its successor tries.
            server.expires_at = server.expires_at.min(self.now + REPLACED_EVERY);
        }
    }

    /// A server could not be opened through the socket: it is opened over TCP.
    pub(crate) fn local_failed(&mut self, io: &mut I, key: ServerKey, cause: &str) {
        let (id, place, now) = (self.servers[key].pool, self.servers[key].place.clone(), self.now);
        if let Some(socket) = self.local_socket(id, &place) {
            socket.failed(now);
        }
        let fields: Vec<(&str, Field)> =
            vec![("pool", self.pools[id.0 as usize].label().into()), ("cause", cause.into())];
        self.log(io, Level::Info, "local_socket_not_used", fields);
        self.drop_opening(io, key, "not through its local socket");
        self.supply(io, id);
    }
}

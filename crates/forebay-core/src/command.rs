//! What Python orders the engine to do, and what a worker reports back.

use std::sync::Arc;

use serde::Serialize;

use crate::cluster::progress::Replayed;
use crate::cluster::roles::Found;
use crate::tables::Tables;

/// Ties a [`Reply`] to its [`Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommandId(pub u64);

/// An order to one worker. Those for the whole engine are sent to every worker.
#[derive(Clone, Debug)]
pub enum Command {
    /// A new configuration, already prepared; applied at once.
    Reload(Arc<Tables>),
    /// Hold new requests (of one database, or all); `Done` once no server is in use.
    Pause(Option<Arc<str>>),
    /// Undo `Pause`; of all: every one.
    Resume(Option<Arc<str>>),
    /// Undo the one `Pause` of this database, or of all: what another one holds stays.
    Unpause(Option<Arc<str>>),
    /// Drop clients and servers of a database at once, and pause it.
    Kill(Arc<str>),
    /// Drop one client.
    KillClient(u64),
    /// Close servers as they come free, and open new ones.
    Reconnect(Option<Arc<str>>),
    /// Stop accepting; clients leave as their transactions end; `Done` once none is left.
    Drain,
    /// Tell every client to go, and cancel what runs for it; `Done` once the cancels have reached their servers.
    Cut,
    /// Take no new clients but the console's; those that are there go on. `Done` once none of them is left.
    Close,
    /// End the sessions of clients that wait for a server.
    Shed,
    /// Let no new client in to a database.
    Disable(Arc<str>),
    /// Undo `Disable`.
    Enable(Arc<str>),
    /// `Done` once no server that `Reconnect` has marked is left (of one database, or all).
    WaitClose(Option<Arc<str>>),
    /// Hand all clients and servers on to another process; `Done` when nothing is left that can move at the moment.
    HandOn,
    /// Let go of those that can't move as their transactions end; `Done` once no client is left.
    LetGo,
    /// Undo both.
    Stay,
    /// Write what was read, and read nothing more but of the console; `Done` once all is written. [`Command::Resume`] of
    /// all databases ends it.
    Suspend,
    /// End connections that have not taken what was sent to them.
    DropUnflushed,
    /// The roles of a database's endpoints, which are a cluster, and how far its replicas are.
    Roles(Arc<str>, Arc<[Found]>, Replayed),
    /// What may be open of a database's servers has changed: [`crate::pool::limited::Share`].
    Share(Arc<str>),
    /// A [`Snapshot`] of clients, servers and pools.
    Snapshot,
    /// The same, with what the system knows the connections by: a call for each.
    Sockets,
}

/// A worker's answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Carried out.
    Done,
    /// Not carried out: why.
    Refused(Arc<str>),
    /// What the worker holds.
    Snapshot(Box<Snapshot>),
}

/// What one worker holds, for SHOW and for the dashboard. Times are microseconds ago, unless named otherwise.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// The worker, from 0.
    pub worker: u16,
    /// Its clients.
    pub clients: Vec<ClientRow>,
    /// Its servers.
    pub servers: Vec<ServerRow>,
    /// Its part of each pool.
    pub pools: Vec<PoolRow>,
    /// Databases paused; `*`: all.
    pub paused: Vec<Arc<str>>,
    /// SUSPEND holds.
    pub is_suspended: bool,
    /// Databases disabled.
    pub disabled: Vec<Arc<str>>,
    /// What is on its way to the peers that are this worker's.
    pub peers: Vec<PeerRow>,
}

/// Our own end of a connection.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SocketRow {
    /// The number of its descriptor.
    pub descriptor: i32,
    /// Address, or `unix`.
    pub address: String,
    /// Port, or 0.
    pub port: u16,
}

/// A client, as SHOW CLIENTS prints it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClientRow {
    /// Unique over workers and time; what KILL CLIENT takes.
    pub id: u64,
    /// User, database, application_name.
    pub user: Arc<str>,
    /// As asked for.
    pub database: Arc<str>,
    /// As the client last set it.
    pub application_name: Arc<str>,
    /// active, waiting, idle, login, waiting_cancel_req, active_cancel_req.
    pub state: &'static str,
    /// Address, or `unix`.
    pub address: String,
    /// Port, or 0.
    pub port: u16,
    /// Age of the connection.
    pub age_us: u64,
    /// Age of the request under way, or of the last one.
    pub request_us: u64,
    /// Our own end of it, where that was asked for.
    pub socket: Option<SocketRow>,
    /// Time it has waited for a server, if it waits.
    pub wait_us: u64,
    /// The server it holds: [`ServerRow::id`].
    pub server: Option<u64>,
    /// TLS in use, or empty.
    pub tls: Arc<str>,
    /// Named statements it holds.
    pub prepared_statements: u32,
    /// none, physical, logical.
    pub replication: &'static str,
    /// What keeps its server with it: names of [`forebay_spec::pins::ALL`].
    pub pin: Vec<&'static str>,
    /// Time since the first of them came.
    pub pinned_us: u64,
    /// The kind of the statement that brought it.
    pub pin_verb: String,
    /// Channels that it listens to through its pool's listener.
    pub channels: u32,
}

/// A server, as SHOW SERVERS prints it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ServerRow {
    /// Unique over workers and time.
    pub id: u64,
    /// User it is logged in as.
    pub user: Arc<str>,
    /// The database's name here.
    pub database: Arc<str>,
    /// application_name in force on it.
    pub application_name: Arc<str>,
    /// active, idle, used, tested, login, being_canceled, active_cancel, listening.
    pub state: &'static str,
    /// Address or socket path.
    pub address: String,
    /// Port, or 0.
    pub port: u16,
    /// Our own end of it, where that was asked for.
    pub socket: Option<SocketRow>,
    /// Age of the connection.
    pub age_us: u64,
    /// Time since it was last handed out.
    pub request_us: u64,
    /// The client that holds it: [`ClientRow::id`].
    pub client: Option<u64>,
    /// Process id on the server.
    pub remote_pid: u32,
    /// none, physical, logical.
    pub replication: &'static str,
    /// TLS in use, or empty.
    pub tls: Arc<str>,
    /// Statements prepared on it.
    pub prepared_statements: u32,
    /// It will be closed when it comes free.
    pub close_needed: bool,
    /// What clients have left on it, or may have.
    pub dirt: Vec<&'static str>,
    /// Channels that it listens to for all clients of its pool.
    pub channels: u32,
}

/// What is on its way to a peer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PeerRow {
    /// Its number.
    pub peer_id: u16,
    /// Cancel requests that were passed on, and whose end has not come.
    pub cl_active_cancel_req: u32,
    /// Cancel requests that wait for a connection.
    pub cl_waiting_cancel_req: u32,
    /// Connections over which one was sent.
    pub sv_active_cancel: u32,
    /// Connections that are being opened.
    pub sv_login: u32,
}

/// A worker's part of a pool.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PoolRow {
    /// The database's name here.
    pub database: Arc<str>,
    /// The pool's user.
    pub user: Arc<str>,
    /// Clients with a server, or idle.
    pub cl_active: u32,
    /// Clients waiting for a server.
    pub cl_waiting: u32,
    /// Cancel requests that were sent on, and whose end has not come.
    pub cl_active_cancel_req: u32,
    /// Cancel requests that a connection is being opened for.
    pub cl_waiting_cancel_req: u32,
    /// Servers in use.
    pub sv_active: u32,
    /// Connections over which a cancel was sent, and that have not ended.
    pub sv_active_cancel: u32,
    /// Servers that wait for the end of a cancel before they serve anybody else.
    pub sv_being_canceled: u32,
    /// Servers idle and clean.
    pub sv_idle: u32,
    /// Servers idle for longer than `server_check_delay`.
    pub sv_used: u32,
    /// Servers being checked or cleaned.
    pub sv_tested: u32,
    /// Servers logging in.
    pub sv_login: u32,
    /// How long the oldest demand has waited.
    pub maxwait_us: u64,
    /// session, transaction, statement, replication.
    pub pool_mode: &'static str,
    /// Why the endpoint can't be used at the moment, if it can't.
    pub sick: Option<String>,
    /// How its requests are shared among its endpoints, if there are several: of all workers, whichever tells.
    pub endpoints: Vec<ShareRow>,
}

/// What an endpoint has of a pool's requests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ShareRow {
    /// As configured.
    pub endpoint: Arc<str>,
    /// Its part of the last answers, in hundredths.
    pub share: u32,
    /// Microseconds to the first byte of an answer, as a rule.
    pub latency_us: Option<u64>,
    /// Why it gets none, or few, if so.
    pub ejected: Option<String>,
}

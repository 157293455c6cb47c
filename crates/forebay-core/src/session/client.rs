//! A client's session: who it is, what it wants, and how far its bytes have come.
//!
//! | state | until | input |
//! |---|---|---|
//! | Startup | a startup message, or TLS | startup packets only |
//! | Tls | the handshake ends | none |
//! | Secret | Python tells the user's secret | kept |
//! | Login | the proof is accepted | one message a step |
//! | Greeting | a server's greeting for its parameters is known | kept |
//! | Idle | a request arrives | requests |
//! | Waiting | a server is free for it | kept, then not read |
//! | Active | its server is given back | forwarded |
//! | Console | it leaves | statements for Python |
//! | Cancelling | the cancel that it asked for has arrived | dropped |
//! | Leaving | what was sent to it is written | dropped |
//! | Moving | its connection is out of the driver | kept |

use std::rc::Rc;
use std::sync::Arc;

use forebay_pgwire::frame::Frames;
use forebay_pgwire::frontend::tag;
use forebay_pgwire::startup::Replication;
use forebay_spec::Report;
use forebay_sql::shape::Shape;

use crate::auth::ServerSecret;
use crate::auth::access::Demand;
use crate::auth::client::ClientLogin;
use crate::cluster::consistency::{Following, LastRead, Needs, Reading};
use crate::cluster::replay::{Replay, Replaying};
use crate::config::{PoolMode, Usage};
use crate::console::ConsoleSession;
use crate::crowd::Arrival;
use crate::ids::ConnId;
use crate::io::{Peer, TlsInfo};
use crate::listen::Listens;
use crate::outcome::Pending;
use crate::parameters::Image;
use crate::pool::PoolId;
use crate::session::Body;
use crate::session::server::Server;
use crate::slab::Key;
use crate::statements::ClientStatements;
use crate::time::Instant;
use crate::tracking::pin::{Causes, Pin};
use crate::tracking::restore::Resetting;

/// Names a client of this worker.
pub type ClientKey = Key<Client>;

/// Where a client's session stands; the table is in the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ClientState {
    Startup,
    Tls,
    Secret,
    Login,
    Greeting,
    Idle,
    Waiting,
    Active,
    Console,
    Cancelling,
    Leaving,
    Moving,
}

/// The key of a client's CancelRequest: random, the client's own, never a server's.
pub enum CancelSecret {
    /// Of protocol 3.0, which most clients speak.
    Short([u8; 4]),
    /// Of protocol 3.2.
    Long(Box<[u8; 32]>),
}

impl CancelSecret {
    /// Takes 4 (protocol 3.0) or 32 bytes (3.2) of `random`.
    pub fn new(random: [u8; 32], is_long: bool) -> CancelSecret {
        let [a, b, c, d, ..] = random;
        if is_long { CancelSecret::Long(Box::new(random)) } else { CancelSecret::Short([a, b, c, d]) }
    }

    /// The bytes that the client was told.
    pub fn bytes(&self) -> &[u8] {
        match self {
            CancelSecret::Short(bytes) => bytes,
            CancelSecret::Long(bytes) => &**bytes,
        }
    }
}

/// An error that waits for the requests it answers.
pub struct Refusal {
    /// The error.
    pub report: Report,
    /// Which requests it answers.
    pub extent: Extent,
}

/// Which requests an error answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The next one.
    NextRequest,
    /// All that have come and are kept.
    AllKept,
}

/// What is needed only while a client logs in.
#[derive(Default)]
pub struct Login {
    /// The protocol's minor version in force: 0 or 2.
    pub minor: u16,
    /// The state of its proof.
    pub proof: Option<ClientLogin>,
    /// The client has sent SSLRequest or GSSENCRequest and been answered `N`, or TLS is up.
    pub is_negotiated: bool,
    /// A header of the PROXY protocol must come first.
    pub is_header_due: bool,
    /// The session is for the console.
    pub is_console: bool,
    /// What is asked of it, by the rule that fits it.
    pub demand: Option<Demand>,
    /// What the secret that the login is checked against is worth towards servers by itself.
    pub server_secret: Option<ServerSecret>,
}

/// What few clients ever have, so that the others do without the room for it.
#[derive(Default)]
pub struct Rare {
    /// Names of statements that it prepared in texts of which nobody keeps account; they pin it.
    pub raw_names: Vec<Box<str>>,
    /// Its statements, by name, that reset settings; noted where statements pass unshared.
    pub resetting: Resetting,
    /// Its wait is over, and the other workers have been asked who holds the servers: when.
    pub asked_who_holds_at: Option<Instant>,
    /// It has been told that it waits, of the wait that began then.
    pub told_of_wait_since: Option<Instant>,
    /// The cancel that it asked for was sent.
    pub is_cancel_sent: bool,
    /// Another process could not take it over: it stays, and is let go.
    pub is_refused_to_move: bool,
    /// Its transaction, whose server was lost, as it begins anew.
    pub replay: Option<Box<Replay>>,
    /// It waits for what became of its COMMIT.
    pub pending: Option<Box<Pending>>,
    /// Its session with the console.
    pub console: Option<Box<ConsoleSession>>,
}

/// A client's session.
///
/// In the order given: what a transaction touches comes first, so that it lies in few cache lines.
#[repr(C)]
pub struct Client {
    /// Its connection.
    pub conn: ConnId,
    /// Its server.
    pub server: Option<Key<Server>>,
    /// Bytes still to come of the message being forwarded or dropped.
    pub body_left: u32,
    /// Where it stands.
    pub state: ClientState,
    /// What becomes of them.
    pub body: Body,
    /// We stopped reading from it.
    pub is_paused: bool,
    /// Its next message waits for a reply to an earlier one.
    pub is_held: bool,
    /// It has had its part of the turn, and goes on in the next one.
    pub is_deferred: bool,
    /// Messages are dropped up to the next Sync, which is then answered.
    pub is_skipping: bool,
    /// How often what it wants could not be set on a server since it last was.
    pub failed_hand_overs: u8,
    /// Its connection has ended after it said goodbye; what it asked for before is still to be run, for nobody to read.
    pub is_gone: bool,
    /// Its reads may go to replicas: where a request goes is decided before it is served.
    pub is_split: bool,
    /// What a replica does not do of its request, the primary does, as long as nothing was answered.
    pub is_tried: bool,
    /// What only reads is made again where its server is lost, as long as nothing was answered.
    pub retries: bool,
    /// Its request begins a transaction on the primary: as long as nothing but that was answered, it may begin anew.
    pub begins: bool,
    /// How its transaction stands whose server was lost.
    pub replaying: Replaying,
    /// How it reads from the primary.
    pub reading: Reading,
    /// How its reads are followed.
    pub following: Following,
    /// What a replica must have for the request at hand.
    pub needs: Needs,
    /// When it last may have written and that had ended, where its reads may go to replicas; 0: never.
    pub written_at: Instant,
    /// Its pool, once logged in.
    pub pool: Option<PoolId>,
    /// The pool that serves its request where it is another one: that of the replicas.
    pub served_by: Option<PoolId>,
    /// Bytes sent to it and not yet written.
    pub unsent: usize,
    /// Since when it is in its state.
    pub since: Instant,
    /// When its request under way, or its last one, arrived.
    pub request_at: Instant,
    /// When its transaction began.
    pub transaction_at: Instant,
    /// The earliest alarm set for it; `Instant(u64::MAX)`: none.
    pub armed: Instant,
    /// Parameter values it wants on its server: from its startup message, and changed since.
    pub wanted: Rc<Image>,
    /// Reported values as it last saw them.
    pub seen: Rc<Image>,
    /// What keeps its server with it between transactions.
    pub pin: Option<Box<Pin>>,
    /// Which of its statements may have pinned it, since its server was last looked at.
    pub causes: Causes,
    /// What it has last read, where that is followed.
    pub read: LastRead,
    /// The server on which it last advanced a sequence, unless that is pinned to it.
    pub sequences_on: Option<u64>,
    /// Parameter values of its startup message: what RESET brings back.
    pub baseline: Rc<Image>,
    /// Bytes received and not yet forwarded: a frame cut in two, or requests that wait.
    pub carry: Vec<u8>,
    /// Names it has prepared.
    pub statements: Option<Box<ClientStatements>>,
    /// What few clients ever have.
    pub rare: Option<Box<Rare>>,
    /// What it listens to, if it ever did.
    pub listens: Option<Box<Listens>>,
    /// What its next request is answered with: its wait was over, or its server was lost in a transaction.
    pub refusal: Option<Box<Refusal>>,
    /// Unique over workers and time.
    pub id: u64,
    /// Where it comes from.
    pub peer: Peer,
    /// Set once, by the step that verified it.
    pub user: Arc<str>,
    /// The name it asked for.
    pub database: Arc<str>,
    /// The process id that it was told.
    pub virtual_pid: u32,
    /// The key of its CancelRequest.
    pub cancel: CancelSecret,
    /// It holds no permit: it has not proved yet who it is, or is of the console.
    pub is_uncounted: bool,
    /// How it stands until it is let in.
    pub arrival: Arrival,
    /// It counts among the clients of its database and its user.
    pub is_in_census: bool,
    /// How it uses servers: as its pool was configured at its login.
    pub usage: Usage,
    /// It speaks the replication protocol, with a server of its own.
    pub replication: Option<Replication>,
    /// When it connected.
    pub connected_at: Instant,
    /// Present until it is logged in.
    pub login: Option<Box<Login>>,
    /// What TLS negotiated.
    pub tls: Option<Box<TlsInfo>>,
}

impl Client {
    /// A client that has just connected.
    pub fn new(conn: ConnId, peer: Peer, empty: Rc<Image>, nobody: Arc<str>, now: Instant) -> Client {
        Client {
            conn,
            id: 0,
            state: ClientState::Startup,
            peer,
            user: nobody.clone(),
            database: nobody,
            pool: None,
            wanted: empty.clone(),
            seen: empty.clone(),
            baseline: empty,
            sequences_on: None,
            pin: None,
            causes: Causes::default(),
            carry: Vec::new(),
            body_left: 0,
            body: Body::Drop,
            server: None,
            statements: None,
            listens: None,
            virtual_pid: 0,
            cancel: CancelSecret::new([0; 32], false),
            unsent: 0,
            is_paused: false,
            is_held: false,
            is_deferred: false,
            is_skipping: false,
            refusal: None,
            failed_hand_overs: 0,
            is_gone: false,
            is_split: false,
            is_tried: false,
            retries: false,
            begins: false,
            replaying: Replaying::No,
            reading: Reading::No,
            following: Following::No,
            needs: Needs::default(),
            written_at: Instant(0),
            read: LastRead::default(),
            served_by: None,
            is_uncounted: false,
            arrival: Arrival::Over,
            is_in_census: false,
            usage: Usage {
                mode: PoolMode::Transaction,
                is_sharing: false,
                is_reset_by_query: false,
                is_extended_only: false,
            },
            replication: None,
            rare: None,
            since: now,
            connected_at: now,
            request_at: now,
            transaction_at: now,
            armed: Instant(u64::MAX),
            login: Some(Box::default()),
            tls: None,
        }
    }

    /// The pool that its request waits in.
    pub fn serving(&self) -> Option<PoolId> {
        self.served_by.or(self.pool)
    }

    /// Whether nothing but its server holds its next message back.
    pub fn may_go_on(&self) -> bool {
        !self.is_held && !self.is_deferred
    }

    /// What few clients have; from here on it has.
    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// See [`Rare::raw_names`].
    pub fn raw_names(&self) -> &[Box<str>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.raw_names)
    }

    /// See [`Rare::resetting`].
    pub fn resetting(&self) -> &[(Box<[u8]>, Arc<Shape>)] {
        self.rare.as_ref().map_or(&[], |rare| &rare.resetting)
    }

    /// Changes its state.
    pub fn enter(&mut self, state: ClientState, now: Instant) {
        self.state = state;
        self.since = now;
    }

    /// What it sent, and was not done, stands before what it has sent since.
    pub fn keep_again(&mut self, mut sent: Vec<u8>) {
        sent.append(&mut self.carry);
        self.carry = sent;
    }

    /// Whether the last of what is kept of it is a Terminate.
    pub fn has_said_goodbye(&self) -> bool {
        let mut frames = Frames::new(&self.carry, u32::MAX);
        let last = frames.by_ref().map_while(Result::ok).last();
        self.body_left == 0 && frames.rest().is_empty() && last.is_some_and(|(head, _)| head.tag == tag::TERMINATE)
    }

    /// Whether nothing that it sent is still to be dealt with.
    pub fn has_sent_all(&self) -> bool {
        self.carry.is_empty() && self.body_left == 0 && !self.is_paused
    }

    /// Whether there may be something of it to go on with once it has taken what it was sent.
    pub fn has_more_to_do(&self) -> bool {
        self.is_paused || (!self.carry.is_empty() && self.state == ClientState::Idle)
    }

    /// Whether it is logged in and not leaving.
    pub fn is_in_session(&self) -> bool {
        matches!(self.state, ClientState::Idle | ClientState::Waiting | ClientState::Active)
    }
}

//! Our session with a server: what it owes, what is set and prepared on it, whom it serves.
//!
//! | state | until |
//! |---|---|
//! | Connecting | the socket is connected |
//! | TlsAsked | the server answers SSLRequest |
//! | Tls | the handshake ends |
//! | Login | ReadyForQuery |
//! | Idle | a demand takes it |
//! | Busy | an own query (parameters, check, rollback, reset, probe, catalogue) is answered; a reader stays in it |
//! | Leased | its client gives it back |
//! | Listening | what its client listens to is taken over, or heard; a pool's listener stays in it |
//! | Cleaning | the replies that a client left behind have come, and its transaction has ended |
//! | CancelWait | the cancel connections to it have ended |
//! | Detaching | it is on its way to another worker |
//! | Moving | it is on its way to another process |

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_spec::Report;

use crate::balance::Measured;
use crate::cluster::again::Again;
use crate::config::Usage;
use crate::hand_over::HandOver;
use crate::ids::{ConnId, WorkerId};
use crate::io::TlsInfo;
use crate::listen::OnServer;
use crate::parameters::Image;
use crate::planted::{Bug, planted};
use crate::pool::PoolId;
use crate::pool::endpoints::Place;
use crate::renamed::{Ensuring, Places};
use crate::session::client::Client;
use crate::session::expect::{Change, Does, Endings, Expect};
use crate::session::{Body, IDLE};
use crate::slab::Key;
use crate::statements::{ServerStatements, Statement};
use crate::stats::LabelledPool;
use crate::time::Instant;
use crate::tracking::Left;
use crate::tracking::knowledge::Reading;
use crate::tracking::look::Probe;
use crate::tracking::restore::Restoring;

/// Names a server of this worker.
pub type ServerKey = Key<Server>;

/// Where a server's session stands; the table is in the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ServerState {
    Connecting,
    TlsAsked,
    Tls,
    Login,
    Idle,
    Busy,
    Leased,
    Listening,
    Cleaning,
    CancelWait,
    Detaching,
    Moving,
}

impl ServerState {
    /// Whether it has not let us in yet.
    pub fn is_opening(self) -> bool {
        matches!(self, ServerState::Connecting | ServerState::TlsAsked | ServerState::Tls | ServerState::Login)
    }
}

/// What a connection is for that is none of its pool's servers: it counts in no limit, and never serves a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apart {
    /// It listens for all clients of the pool.
    Listener,
    /// It reads the database's catalogue, and ends.
    Reader,
    /// It finds out whether an endpoint that was sick lets us in again, and ends.
    Trial,
}

/// Our session with a server.
///
/// In the order given: what a transaction touches comes first, so that it lies in few cache lines.
#[repr(C)]
pub struct Server {
    /// Its connection.
    pub conn: ConnId,
    /// Whom it serves.
    pub client: Option<Key<Client>>,
    /// Whom it belongs to.
    pub pool: PoolId,
    /// Bytes still to come of the reply being relayed or dropped.
    pub body_left: u32,
    /// Where it stands.
    pub state: ServerState,
    /// What becomes of them.
    pub body: Body,
    /// As of its last ReadyForQuery.
    pub status: TransactionStatus,
    /// The number of its endpoint, from 1, where requests are shared among several; 0 where they are not.
    pub at: u8,
    /// It counts as leased: a client has it, or left it uncleaned.
    pub is_leased: bool,
    /// It has answered with an error and skips up to a Sync that has not been sent yet.
    pub is_skipping: bool,
    /// The head of `expect` has been answered by CopyInResponse or CopyBothResponse.
    pub is_copying: bool,
    /// Its client has had it do something.
    pub is_used: bool,
    /// Messages of the extended protocol went out, and no Sync behind them yet.
    pub is_segment_open: bool,
    /// We stopped reading from it.
    pub is_paused: bool,
    /// It is closed when it comes free.
    pub is_close_needed: bool,
    /// Statements are about to go to it that need the databases of these names without sessions.
    pub clearing: Vec<Box<str>>,
    /// How the client that it served last used it; `None`: it has served nobody.
    pub usage: Option<Usage>,
    /// A reset is on its way, and its pool counts it.
    pub is_being_reset: bool,
    /// `set` is known to hold.
    pub is_set_known: bool,
    /// Its client has not been told yet what the hand-over changed of what is reported.
    pub is_report_due: bool,
    /// What its client left unfinished has been made to fail.
    pub is_doomed: bool,
    /// Its client has said goodbye: what it sent before runs to its end.
    pub is_finishing: bool,
    /// What its statements end.
    pub endings: Endings,
    /// Where names were replaced in the text of the statement bound last.
    pub bound_places: Option<Box<Places>>,
    /// Portals by name that wait to be executed and are a DEALLOCATE or DISCARD ALL, with that statement.
    pub bound_deallocates: Vec<(Box<[u8]>, Arc<Statement>)>,
    /// The statement of the last Bind, where clients do not know its columns.
    pub bound_undescribed: Option<Arc<Statement>>,
    /// Cancel connections to it under way.
    pub cancels: u32,
    /// Number of the run of messages up to a Sync that is being sent.
    pub segment: u32,
    /// Bytes sent to it and not yet written.
    pub unsent: usize,
    /// What clients have left on it beside `set`.
    pub left: Left,
    /// What there is about listening.
    pub listen: OnServer,
    /// It is none of the pool's servers, but this.
    pub(crate) apart: Option<Apart>,
    /// What its client reset and is to have again.
    pub restoring: Restoring,
    /// Since when it is in its state.
    pub since: Instant,
    /// When it is to be replaced; `Instant(u64::MAX)`: never.
    pub expires_at: Instant,
    /// Parameter values that clients have set on it, over its own defaults.
    pub set: Rc<Image>,
    /// Reported values, by their reported names.
    pub reported: Rc<Image>,
    /// The same while settings are in force that are undone at once.
    pub reported_apart: Option<Rc<Image>>,
    /// Such settings are in force.
    pub is_set_apart: bool,
    /// What it owes, in order.
    pub expect: VecDeque<Expect>,
    /// What stands between its last client and this one, and is not answered yet.
    pub hand_over: Option<Box<HandOver>>,
    /// What its client has sent, where it may be made again elsewhere.
    pub again: Option<Box<Again>>,
    /// A reply cut in two, to be decided whole.
    pub carry: Vec<u8>,
    /// Its request took too long and was cancelled: what its client is told instead of "canceled by user".
    pub late: Option<Box<Report>>,
    /// An error that an own query or the login was answered with: SQLSTATE and message.
    pub own_error: Option<(String, String)>,
    /// What is prepared on it.
    pub statements: ServerStatements,
    /// Its pool's counters.
    pub stats: Arc<LabelledPool>,
    /// Unique over workers and time.
    pub id: u64,
    /// Where it is.
    pub place: Arc<Place>,
    /// A client may have taken away what its `connect_query` has set.
    pub is_connect_query_undone: bool,
    /// The address that it was reached at; `None`: it has none.
    pub address: Option<IpAddr>,
    /// How many orders to close what was there had reached the worker that opened it.
    pub generation: u64,
    /// It is reached through the Unix socket beside that endpoint.
    pub is_local: bool,
    /// The worker that asked for it, while it is being detached.
    pub asked_by: Option<WorkerId>,
    /// `set` as it was before the parameters of the next client went out: if they are refused, it holds again.
    pub set_before: Option<(Rc<Image>, bool)>,
    /// Reported values at its login.
    pub defaults: Rc<Image>,
    /// The process on the server, and the key to cancel what it does.
    pub remote_pid: u32,
    /// 4 to 256 bytes.
    pub remote_key: Box<[u8]>,
    /// What is prepared before what needs it.
    pub ensuring: Ensuring,
    /// The look at it that is under way.
    pub probe: Option<Box<Probe>>,
    /// The catalogue that it is reading.
    pub reading: Option<Box<Reading>>,
    /// When the last of them was begun.
    pub cancel_at: Instant,
    /// What is measured of it, where `at` is not 0.
    pub(crate) measured: Measured,
    /// When it was begun to be opened; once it is let in, when that was known: its process was there by then.
    pub opened_at: Instant,
    /// What TLS negotiated.
    pub tls: Option<Box<TlsInfo>>,
    /// Present until it is logged in.
    pub login: Option<Box<crate::connect::ServerHandshake>>,
}

/// A pool, and its counters.
pub type OfPool<'a> = (PoolId, &'a Arc<LabelledPool>);

impl Server {
    /// Whether it is its pool's listener, or is to be.
    pub(crate) fn is_listener(&self) -> bool {
        self.apart == Some(Apart::Listener)
    }

    /// Whether an answer of our own has its turn, and nothing to travel with: everything before it is answered, to the last
    /// byte, and no ReadyForQuery is to come, up to which PostgreSQL keeps its answers back as well.
    pub(crate) fn is_answer_due(&self) -> bool {
        self.body_left == 0
            && matches!(self.expect.front(), Some(Expect::Answer { .. } | Expect::CopyEnd))
            && !self.owes_ready()
    }

    /// Whether its client, though it has begun a request, has had nothing to do for it yet.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.is_used && self.status == IDLE && self.expect.is_empty() && !self.is_skipping
    }

    /// A connection that has just been begun.
    pub fn new(conn: ConnId, id: u64, of: OfPool<'_>, place: Arc<Place>, empty: Rc<Image>, now: Instant) -> Self {
        Server {
            conn,
            id,
            stats: of.1.clone(),
            pool: of.0,
            place,
            is_connect_query_undone: false,
            address: None,
            generation: 0,
            is_local: false,
            state: ServerState::Connecting,
            asked_by: None,
            client: None,
            is_leased: false,
            is_used: false,
            expect: VecDeque::new(),
            hand_over: None,
            again: None,
            is_report_due: false,
            segment: 0,
            is_segment_open: false,
            is_doomed: false,
            is_finishing: false,
            is_skipping: false,
            is_copying: false,
            endings: Endings::default(),
            bound_places: None,
            bound_deallocates: Vec::new(),
            bound_undescribed: None,
            carry: Vec::new(),
            body_left: 0,
            body: Body::Drop,
            unsent: 0,
            left: Left::default(),
            listen: OnServer::default(),
            apart: None,
            restoring: Restoring::default(),
            ensuring: Ensuring::default(),
            probe: None,
            reading: None,
            is_paused: false,
            status: IDLE,
            statements: ServerStatements::default(),
            set: empty.clone(),
            set_before: None,
            is_set_known: true,
            reported: empty.clone(),
            reported_apart: None,
            is_set_apart: false,
            defaults: empty,
            remote_pid: 0,
            remote_key: Box::default(),
            cancels: 0,
            cancel_at: now,
            at: 0,
            measured: Measured::default(),
            late: None,
            opened_at: now,
            expires_at: Instant(u64::MAX),
            since: now,
            is_close_needed: false,
            clearing: Vec::new(),
            usage: None,
            is_being_reset: false,
            own_error: None,
            tls: None,
            login: None,
        }
    }

    /// Changes its state.
    pub fn enter(&mut self, state: ServerState, now: Instant) {
        self.state = state;
        self.since = now;
    }

    /// Whether it could serve anyone: nothing owed, nothing half said, no transaction (R14).
    pub fn is_clean(&self) -> bool {
        (self.expect.is_empty() || planted(Bug::ReplyToWrongClient))
            && (self.status == IDLE || planted(Bug::CheckinInTransaction))
            && self.carry.is_empty()
            && self.unsent == 0
            && self.body_left == 0
            && !self.is_skipping
            && !self.is_copying
    }

    /// While it copies in, the server ignores Sync: those that went out before the end of the data, or are the
    /// last thing that went out, get no answer.
    pub fn forget_syncs_before_copy_end(&mut self) {
        let end = self.expect.iter().position(|e| matches!(e, Expect::CopyEnd));
        let end = end.unwrap_or(self.expect.len());
        let mut at = 0;
        self.expect.retain(|e| {
            at += 1;
            at > end || !matches!(e, Expect::Sync) || planted(Bug::SyncInCopyCounted)
        });
    }

    /// [`crate::session::expect::Own::Settings`] is answered: what sets them, then what undoes them.
    pub fn settings_done(&mut self) {
        self.is_set_apart = !self.is_set_apart;
        if !self.is_set_apart
            && let Some(reported) = self.reported_apart.take()
        {
            self.reported = reported;
        }
    }

    /// What it takes text for, as last reported.
    pub fn encoding(&self) -> Option<&str> {
        self.reported.get("client_encoding").map(|encoding| &**encoding)
    }

    /// Whether a ReadyForQuery is still to come.
    pub fn owes_ready(&self) -> bool {
        self.expect.iter().rev().any(|e| matches!(e, Expect::Query { .. } | Expect::Function | Expect::Sync))
    }

    /// Whether the last of what it owes comes no sooner than a Sync or a Flush that has not been sent.
    pub fn awaits_sync(&self) -> bool {
        let last = self.expect.iter().rev().find(|e| !matches!(e, Expect::Answer { .. } | Expect::CopyEnd));
        !matches!(last, None | Some(Expect::Query { .. } | Expect::Function | Expect::Sync | Expect::Own(_)))
    }

    /// The server has carried out what drops its unnamed statement.
    pub fn unnamed_is_dropped(&mut self) {
        let is_unnamed = |e: &Expect| match e {
            Expect::Parse { statement, .. } => statement.as_ref().is_none_or(|s| !s.is_shared()),
            _ => false,
        };
        if self.expect.iter().any(is_unnamed) {
            self.statements.unnamed_is_gone_for_now();
        } else {
            self.statements.unnamed_is_gone();
        }
    }

    /// Undoes what messages that the server skips would have changed, newest first, and forgets them: all
    /// up to the next Sync. Returns whether that Sync has been sent.
    pub fn skip_to_sync(&mut self, mut undo: impl FnMut(&Change)) -> bool {
        let skipped = self.expect.iter().position(|e| !e.is_skipped_after_error()).unwrap_or(self.expect.len());
        let rest = self.expect.split_off(skipped);
        let mut entries = std::mem::replace(&mut self.expect, rest);
        // PostgreSQL drops the unnamed statement before it parses another: a Parse that fails leaves none.
        if let Some(Expect::Parse { statement, change, .. }) = entries.front_mut() {
            if statement.as_ref().is_some_and(|s| !s.is_shared()) {
                self.statements.forget_unnamed();
            }
            if let Some(change) = change.as_mut().filter(|change| change.name.is_empty()) {
                change.before = None;
            }
        }
        for entry in entries.iter().rev() {
            match entry {
                Expect::Parse { statement: Some(statement), .. } => self.statements.is_gone(statement),
                Expect::Close { evicted: Some(statement), .. } => self.statements.is_there(statement),
                Expect::Query { naming: Some(naming), .. } | Expect::Execute { naming: Some(naming), .. } => {
                    for naming in naming.all() {
                        let was_there = naming.what != Does::Makes;
                        let settle = |s: &Arc<Statement>| {
                            if was_there { self.statements.is_there(s) } else { self.statements.is_gone(s) }
                        };
                        naming.statements.iter().for_each(settle);
                    }
                }
                _ => {}
            }
            entry.changes().into_iter().rev().for_each(&mut undo);
        }
        !self.expect.is_empty()
    }
}

//! The I/O of one worker: implements [`forebay_core::io::Io`] over one of two back ends.
//!
//! Layers, top down: [`turn`] is the loop that reports to core; [`output`] is what core asks for; [`connecting`]
//! and [`secure`] are the two things that take several steps; [`backend`] is what io_uring and epoll each
//! implement; [`table`] and [`buffers`] hold connections and memory. Nothing here decides anything about
//! clients, servers or pools.
//!
//! A connection's life:
//!
//! | state | flags | leaves by |
//! |---|---|---|
//! | being opened | OPEN, `connecting` | `connected`, or `closed` |
//! | open | OPEN | core's `close`, the peer, an error, `detach` |
//! | on its way out | CLOSING | all written and the peer's end seen, or the time is up |
//! | dead | DEAD | the kernel's last completion |

mod accepting;
pub(crate) mod backend;
pub(crate) mod buffers;
pub(crate) mod connecting;
pub(crate) mod epoll;
mod guard;
mod memory;
mod output;
mod secure;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod turn;
pub(crate) mod uring;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use forebay_core::event::{Event, Field, Level};
use forebay_core::ids::{ConnId, QuestionId, WorkerId};
use forebay_core::io::{ClosedBy, TlsInfo};
use forebay_core::time::Instant;
use rustc_hash::{FxHashMap, FxHashSet};
use zeroize::Zeroizing;

use self::backend::Backend;
use self::table::{Flags, Table};
use crate::hub::{Hub, Mail};
use crate::listen::Listener;
use crate::random::Random;
use crate::tls::session::Session;

/// How long a closing connection may take to write what is queued, and to see the peer's end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that can't be written to may go on delivering what it received.
const BROKEN_TIMEOUT: Duration = Duration::from_secs(1);

/// When so many connections fewer are there than there have been, memory goes back to the system.
const TRIM_CONNS: usize = 1024;
/// How long after that, as those who leave do so one after the other.
const TRIM_AFTER: Duration = Duration::from_secs(1);

/// A connection on its way to another worker or process: its descriptor and its TLS state.
#[derive(Debug)]
pub(crate) struct Handover {
    fd: OwnedFd,
    tls: Option<Box<Session>>,
    /// To be written.
    unsent: Vec<u8>,
    /// Bytes of core's that those stand for: fewer, where they are encrypted.
    unsent_plain: u32,
}

impl Handover {
    /// A connection without TLS of which nothing is to be written.
    pub(crate) fn plain(fd: OwnedFd) -> Handover {
        Handover { fd, tls: None, unsent: Vec::new(), unsent_plain: 0 }
    }

    /// A connection of another process's. None: its TLS state is none.
    pub(crate) fn arrived(fd: OwnedFd, unsent: Vec<u8>, unsent_plain: u32, tls: Option<&[u8]>) -> Option<Handover> {
        let tls = match tls {
            Some(bytes) => Some(Box::new(Session::from_bytes(bytes)?)),
            None => None,
        };
        Some(Handover { fd, tls, unsent, unsent_plain })
    }

    /// Makes it one that another process can go on with. So can this one.
    fn carry(&mut self) {
        if let Some(session) = &mut self.tls {
            session.carry(&mut self.unsent);
        }
    }

    /// Its TLS state, with the keys.
    pub(crate) fn tls(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.tls.as_ref().map(|session| session.to_bytes())
    }

    /// What is to be written.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// How many bytes of core's that stands for.
    pub(crate) fn unsent_plain(&self) -> u32 {
        self.unsent_plain
    }

    /// Its descriptor's number.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Something to tell core when its present call is over.
enum Input {
    Received(ConnId, u32, u32),
    TlsReady(ConnId, TlsInfo),
    Detached(ConnId),
    Closed(ConnId, ClosedBy),
}

/// Something to do at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Timer {
    Resolve(ConnId),
    Address(ConnId, u32),
    Close(ConnId),
    Broken(ConnId),
    Question(QuestionId),
    Accept(u16),
    Trim,
}

/// When, in which order among equals, what.
struct Due(Instant, u64, Timer);

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// The I/O of one worker. See the module's text.
pub(crate) struct Driver<B: Backend> {
    back: B,
    table: Table,
    hub: Arc<Hub>,
    id: WorkerId,
    now: Instant,
    /// Inputs that an output gave rise to.
    pending: VecDeque<Input>,
    timers: BinaryHeap<Reverse<Due>>,
    timers_set: u64,
    /// Core's one alarm.
    alarm: Option<Instant>,
    /// Questions without an answer so far.
    asked: FxHashSet<QuestionId>,
    /// Those among them that Python is known to be at work for, and until when that counts.
    extended: FxHashMap<QuestionId, Instant>,
    /// Connections with plaintext to encrypt.
    unsealed: Vec<u32>,
    /// Connections for which TLS was asked in this turn.
    held: Vec<ConnId>,
    /// By their index; `None`: closed.
    listeners: Vec<Option<Listener>>,
    /// The worker that the next client of a Unix socket goes to.
    next_worker: u16,
    is_stopping: bool,
    is_accepting_suspended: bool,
    /// The number of the first descriptor that is kept for telling clients that there are none.
    first_kept: RawFd,
    /// How long a listener rested last; how often since that was told, and when that was.
    rest: Duration,
    rests: u64,
    rests_told_at: Option<Instant>,
    /// The most connections since memory was last given back to the system.
    most_conns: usize,
    /// A timer for that is set.
    is_trim_due: bool,
    /// A first turn has begun: only then is there a time to compare with.
    has_turned: bool,
    mail: Vec<Mail>,
    random: Random,
    /// Working space for TLS.
    cipher: Vec<u8>,
    plain: Vec<u8>,
    wire: Vec<u8>,
}

impl<B: Backend> Driver<B> {
    /// The driver of worker `id`, for the calling thread. It accepts from `listeners` once it runs.
    pub(crate) fn open(
        hub: Arc<Hub>,
        id: WorkerId,
        listeners: Vec<Listener>,
        buffers: u32,
        buffer_size: u32,
    ) -> io::Result<Driver<B>> {
        let bell = hub.mailboxes[usize::from(id.0)].fd();
        let (back, table) = B::open(bell, buffers, buffer_size)?;
        Ok(Driver {
            back,
            table,
            now: hub.clock.now(),
            hub,
            id,
            pending: VecDeque::new(),
            timers: BinaryHeap::new(),
            timers_set: 0,
            alarm: None,
            asked: FxHashSet::default(),
            extended: FxHashMap::default(),
            unsealed: Vec::new(),
            held: Vec::new(),
            listeners: listeners.into_iter().map(Some).collect(),
            next_worker: 0,
            is_stopping: false,
            is_accepting_suspended: false,
            first_kept: accepting::first_kept(),
            rest: Duration::ZERO,
            rests: 0,
            rests_told_at: None,
            most_conns: 0,
            is_trim_due: false,
            has_turned: false,
            mail: Vec::new(),
            random: Random::new(),
            cipher: Vec::new(),
            plain: Vec::new(),
            wire: Vec::new(),
        })
    }

    fn set_timer(&mut self, after: Duration, timer: Timer) {
        self.timers_set += 1;
        self.timers.push(Reverse(Due(self.now + after, self.timers_set, timer)));
    }

    /// Queues the last input of a connection; nothing else of it passes from here on.
    fn report_closed(&mut self, id: ConnId, by: ClosedBy) {
        let Some(conn) = self.table.open(id) else { return };
        if !conn.is(Flags::REPORTED) {
            conn.set(Flags::REPORTED);
            self.pending.push_back(Input::Closed(id, by));
        }
    }

    /// Ends a connection after what is queued is written, or after [`CLOSE_TIMEOUT`].
    fn begin_closing(&mut self, slot: u32) {
        let id = self.table.id(slot);
        let conn = self.table.conn(slot);
        conn.clear(Flags::OPEN.and(Flags::DEPARTING));
        conn.set(Flags::CLOSING);
        if conn.queued > 0 {
            self.table.mark_dirty(slot);
        }
        self.set_timer(CLOSE_TIMEOUT, Timer::Close(id));
        self.settle(slot);
    }

    /// Ends a connection at once. Its id is dead; its slot waits for the kernel.
    fn drop_conn(&mut self, slot: u32) {
        let conn = self.table.conn(slot);
        if conn.is(Flags::DEAD) {
            return;
        }
        conn.clear(Flags::OPEN.and(Flags::CLOSING).and(Flags::DEPARTING));
        conn.set(Flags::DEAD);
        let (fd, in_flight) = (conn.fd, conn.in_flight);
        self.table.drop_pieces(slot, in_flight);
        if fd >= 0 {
            self.back.close(&mut self.table, slot);
        }
        if self.table.conn(slot).operations == 0 {
            self.table.remove(slot);
        }
    }

    /// Does what a change on a connection makes possible or necessary.
    #[inline]
    fn settle(&mut self, slot: u32) {
        let conn = self.table.conn(slot);
        if conn.is(Flags::OPEN) && !conn.is_any(Flags::LEAVING) {
            self.back.read(&mut self.table, slot);
        } else {
            self.settle_leaving(slot);
        }
    }

    fn settle_leaving(&mut self, slot: u32) {
        let id = self.table.id(slot);
        let conn = self.table.conn(slot);
        if conn.is(Flags::DEAD) || !conn.is_any(Flags::LEAVING) {
            return;
        }
        let is_written = conn.queued == 0 && !conn.is(Flags::UNSEALED);
        if conn.is(Flags::CLOSING) && is_written {
            if conn.is_any(Flags::ENDED.and(Flags::BROKEN)) {
                self.drop_conn(slot);
                return;
            }
            if !conn.is(Flags::LINGERING) {
                conn.set(Flags::LINGERING.and(Flags::READING));
                crate::socket::shutdown_write(conn.fd);
            }
        } else if conn.is(Flags::DETACHING) && (is_written || conn.is(Flags::HELD_BACK)) && conn.operations == 0 {
            self.pending.push_back(Input::Detached(id));
            return;
        }
        self.back.read(&mut self.table, slot);
    }

    /// Takes a settled connection out of the table.
    fn take_out(&mut self, slot: u32) -> Handover {
        self.back.detach(&mut self.table, slot);
        let (unsent, unsent_plain) = self.table.unsent(slot);
        let conn = self.table.conn(slot);
        let fd = std::mem::replace(&mut conn.fd, -1);
        let tls = conn.tls.take();
        self.table.remove(slot);
        // SAFETY: the slot owned the descriptor and has forgotten it.
        Handover { fd: unsafe { OwnedFd::from_raw_fd(fd) }, tls, unsent, unsent_plain }
    }

    fn event(&mut self, level: Level, name: &'static str, fields: Vec<(&'static str, Field)>) {
        let event = Event { level, name, code: None, worker: self.id, fields };
        if !self.hub.outbox.event(event) {
            self.hub.stats[usize::from(self.id.0)].events_dropped.add(1);
        }
    }
}

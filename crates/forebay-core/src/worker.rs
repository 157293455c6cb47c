//! The loop: bytes → frame → classify → checkout → relay → checkin, for one thread's clients and servers.

use std::sync::Arc;

use crate::command::{Command, CommandId};
use crate::ids::{BufId, ConnId, QuestionId, WorkerId};
use crate::io::{ClosedBy, Io, Peer, TlsInfo};
use crate::question::Answer;
use crate::stats::WorkerStats;
use crate::tables::Tables;
use crate::time::Instant;

/// What workers tell each other.
#[derive(Debug)]
pub enum Message<H> {
    /// A connection given away.
    Lend(H),
}

/// State that all workers of an engine share: permits, statements, tickets.
#[derive(Debug, Default)]
pub struct Shared {}

/// One thread's clients, servers and pools.
pub struct Worker<I: Io> {
    _io: std::marker::PhantomData<I>,
}

impl<I: Io> Worker<I> {
    /// A worker without connections. `workers`: how many there are.
    pub fn new(
        _id: WorkerId,
        _workers: u16,
        _tables: Arc<Tables>,
        _shared: Arc<Shared>,
        _stats: Arc<WorkerStats>,
    ) -> Self {
        Worker { _io: std::marker::PhantomData }
    }

    /// Begins a turn of the loop: `now` holds until the next call. Fires what is due. Called at every turn, before its inputs.
    pub fn tick(&mut self, _io: &mut I, _now: Instant) {}
    /// Ends a turn: called after its inputs, before the driver waits.
    pub fn turn_end(&mut self, _io: &mut I) {}
    /// A client connected.
    pub fn accepted(&mut self, _io: &mut I, _conn: ConnId, _peer: Peer) {}
    /// Bytes came. `data` are the bytes of `buf`; core owes one `release(buf)`, now or later.
    pub fn received(&mut self, _io: &mut I, _conn: ConnId, _buf: BufId, _data: &[u8]) {}
    /// `bytes` more of what was sent on `conn` are written.
    pub fn sent(&mut self, _io: &mut I, _conn: ConnId, _bytes: usize) {}
    /// `Io::connect` succeeded.
    pub fn connected(&mut self, _io: &mut I, _conn: ConnId) {}
    /// A connection ended, or did not come about.
    pub fn closed(&mut self, _io: &mut I, _conn: ConnId, _by: ClosedBy) {}
    /// `Io::start_tls` succeeded; what is received from here on is plaintext.
    pub fn tls_ready(&mut self, _io: &mut I, _conn: ConnId, _info: TlsInfo) {}
    /// `Io::detach` succeeded; the id is dead.
    pub fn detached(&mut self, _io: &mut I, _conn: ConnId, _handover: I::Handover) {}
    /// A question was answered.
    pub fn answer(&mut self, _io: &mut I, _id: QuestionId, _answer: Answer) {}
    /// Another worker's message.
    pub fn told(&mut self, _io: &mut I, _from: WorkerId, _message: Message<I::Handover>) {}
    /// Python's order; [`Io::reply`] answers it, now or later.
    pub fn command(&mut self, _io: &mut I, _id: CommandId, _command: Command) {}
}

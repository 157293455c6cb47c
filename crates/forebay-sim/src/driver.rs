//! The simulator's [`Io`]: records what core asks for, and enforces the rules of the border.
//!
//! A call here changes nothing but this worker's tables; the world carries out the recorded [`Op`]s afterwards. What
//! core may not do (release twice, use a released buffer, talk on a dead id) becomes a violation.

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_core::command::{CommandId, Reply};
use forebay_core::event::Event;
use forebay_core::ids::{BufId, ConnId, QuestionId, WorkerId};
use forebay_core::io::{Close, Endpoint, Io, Slice, TlsRole};
use forebay_core::moving::State;
use forebay_core::question::Question;
use forebay_core::time::Instant;
use forebay_core::worker::Message;

use crate::net::LinkId;
use crate::rng::Rng;

/// A connection between two workers. The world closes it when the last clone is dropped without an `adopt`.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) link: LinkId,
    pub(crate) alive: Arc<()>,
    /// Written, and not reported yet.
    pub(crate) unreported: usize,
}

/// What core asked for, in order.
#[derive(Debug)]
pub(crate) enum Op {
    Send {
        link: LinkId,
        conn: ConnId,
        bytes: Vec<u8>,
    },
    Resume {
        conn: ConnId,
    },
    Connect {
        conn: ConnId,
        endpoint: Endpoint,
    },
    Tls {
        conn: ConnId,
    },
    Close {
        link: LinkId,
        how: Close,
    },
    /// A connection that was closed before it came about.
    Forget,
    Wake(Instant),
    Ask(QuestionId, Question),
    Tell(WorkerId, Box<Message<Handover>>),
    Detach {
        conn: ConnId,
    },
    HandOn {
        number: u64,
        state: State,
        connections: Vec<Handover>,
    },
    Adopt {
        conn: ConnId,
        handover: Handover,
    },
    Log(Event),
    Reply(CommandId, Reply),
}

/// Where a connection of a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    Open,
    Detaching,
}

#[derive(Debug)]
pub(crate) struct Slot {
    generation: u32,
    pub(crate) live: Option<Live>,
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) link: Option<LinkId>,
    pub(crate) stage: Stage,
    pub(crate) is_paused: bool,
    /// Lengths of the pieces not yet written, and the buffers they hold.
    pieces: VecDeque<(usize, Option<BufId>)>,
    pub(crate) unsent: usize,
    /// Written, but not yet reported.
    pub(crate) unreported: usize,
}

#[derive(Clone, Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Core has not released it.
    is_lent: bool,
    /// Pieces of sends that name it.
    holds: u32,
}

/// One worker's driver.
#[derive(Debug)]
pub(crate) struct SimIo {
    worker: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    buffers: Vec<Buffer>,
    idle_buffers: Vec<u32>,
    pub(crate) ops: Vec<Op>,
    /// Broken rules, in words.
    pub(crate) violations: Vec<String>,
    luck: Rng,
    /// No input arrives for a worker that is gone.
    pub(crate) buffers_lent_max: usize,
}

impl SimIo {
    pub(crate) fn new(worker: usize, buffers: usize, luck: Rng) -> SimIo {
        SimIo {
            worker,
            slots: Vec::new(),
            free: Vec::new(),
            buffers: vec![Buffer::default(); buffers],
            idle_buffers: (0..buffers as u32).rev().collect(),
            ops: Vec::new(),
            violations: Vec::new(),
            luck,
            buffers_lent_max: 0,
        }
    }

    /// A new connection. `link`: `None` while it is being made.
    pub(crate) fn open(&mut self, link: Option<LinkId>) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, live: None });
            self.slots.len() as u32 - 1
        });
        let entry = &mut self.slots[slot as usize];
        entry.generation += 1;
        entry.live = Some(Live {
            link,
            stage: if link.is_some() { Stage::Open } else { Stage::Connecting },
            is_paused: false,
            pieces: VecDeque::new(),
            unsent: 0,
            unreported: 0,
        });
        ConnId { slot, generation: entry.generation }
    }

    /// The connection, if the id is still good.
    pub(crate) fn live(&mut self, conn: ConnId) -> Option<&mut Live> {
        let slot = self.slots.get_mut(conn.slot as usize)?;
        if slot.generation == conn.generation { slot.live.as_mut() } else { None }
    }

    /// The id is dead from here on; its pieces give their buffers back.
    pub(crate) fn retire(&mut self, conn: ConnId) -> Option<Live> {
        let slot = self.slots.get_mut(conn.slot as usize)?;
        if slot.generation != conn.generation {
            return None;
        }
        let live = slot.live.take()?;
        self.free.push(conn.slot);
        for (_, buf) in &live.pieces {
            self.drop_hold(*buf);
        }
        Some(live)
    }

    /// A connection has come from elsewhere, with so many bytes to be written, and others to be reported.
    pub(crate) fn bring(&mut self, conn: ConnId, unsent: usize, unreported: usize) {
        if let Some(live) = self.live(conn) {
            live.unsent += unsent;
            live.unreported += unreported;
            // What was asked for since stands behind it.
            live.pieces.push_front((unsent, None));
        }
    }

    /// `n` bytes of what was sent went out: frees the buffers that they were in.
    pub(crate) fn written(&mut self, conn: ConnId, mut n: usize) {
        let mut done = Vec::new();
        let Some(live) = self.live(conn) else { return };
        live.unsent -= n;
        live.unreported += n;
        while n > 0 {
            let Some((length, buf)) = live.pieces.front_mut() else { break };
            let part = n.min(*length);
            *length -= part;
            n -= part;
            if *length == 0 {
                done.push(*buf);
                live.pieces.pop_front();
            }
        }
        for buf in done {
            self.drop_hold(buf);
        }
    }

    /// Lends a buffer with these bytes to core; `None` when all are lent.
    pub(crate) fn lend(&mut self, bytes: &[u8]) -> Option<BufId> {
        let id = self.idle_buffers.pop()?;
        let buffer = &mut self.buffers[id as usize];
        buffer.bytes = bytes.to_vec();
        buffer.is_lent = true;
        self.buffers_lent_max = self.buffers_lent_max.max(self.buffers.len() - self.idle_buffers.len());
        Some(BufId(id))
    }

    /// Buffers that core holds, or that wait in sends.
    pub(crate) fn buffers_out(&self) -> usize {
        self.buffers.len() - self.idle_buffers.len()
    }

    /// Buffers that core has not released.
    pub(crate) fn buffers_lent(&self) -> usize {
        self.buffers.iter().filter(|b| b.is_lent).count()
    }

    /// Connections in use.
    pub(crate) fn connections(&self) -> usize {
        self.slots.iter().filter(|s| s.live.is_some()).count()
    }

    fn drop_hold(&mut self, buf: Option<BufId>) {
        if let Some(BufId(id)) = buf {
            self.buffers[id as usize].holds -= 1;
            self.reclaim(id);
        }
    }

    fn reclaim(&mut self, id: u32) {
        let buffer = &mut self.buffers[id as usize];
        if !buffer.is_lent && buffer.holds == 0 {
            buffer.bytes.clear();
            self.idle_buffers.push(id);
        }
    }

    fn broken(&mut self, words: String) {
        self.violations.push(format!("border rule broken by worker {}: {words}", self.worker));
    }

    /// The open connection behind an id, or a violation.
    fn used(&mut self, conn: ConnId, verb: &str) -> Option<&mut Live> {
        if self.live(conn).is_none() {
            self.broken(format!("{verb} on {conn:?}, whose id is dead"));
        }
        self.live(conn)
    }
}

impl Io for SimIo {
    type Handover = Handover;

    fn send(&mut self, conn: ConnId, slices: &[Slice<'_>]) {
        let mut bytes = Vec::new();
        let mut pieces = Vec::new();
        for slice in slices {
            match *slice {
                Slice::Bytes(b) => {
                    bytes.extend_from_slice(b);
                    pieces.push((b.len(), None));
                }
                Slice::Received { buf, start, end } => {
                    let Some(part) = self.part_of(buf, start, end) else { return };
                    bytes.extend_from_slice(&part);
                    pieces.push((part.len(), Some(buf)));
                }
            }
        }
        let Some(live) = self.used(conn, "send") else { return };
        let (stage, link) = (live.stage, live.link);
        let Some(link) = link.filter(|_| stage == Stage::Open) else {
            return self.broken(format!("send on {conn:?} while it is {stage:?}"));
        };
        for (length, buf) in pieces {
            if length == 0 {
                continue;
            }
            if let Some(BufId(id)) = buf {
                self.buffers[id as usize].holds += 1;
            }
            if let Some(live) = self.live(conn) {
                live.pieces.push_back((length, buf));
                live.unsent += length;
            }
        }
        if !bytes.is_empty() {
            self.ops.push(Op::Send { link, conn, bytes });
        }
    }

    fn release(&mut self, buf: BufId) {
        match self.buffers.get_mut(buf.0 as usize) {
            Some(buffer) if buffer.is_lent => {
                buffer.is_lent = false;
                self.reclaim(buf.0);
            }
            _ => self.broken(format!("release of {buf:?}, which is not lent")),
        }
    }

    fn pause_read(&mut self, conn: ConnId) {
        if let Some(live) = self.used(conn, "pause_read") {
            live.is_paused = true;
        }
    }

    fn resume_read(&mut self, conn: ConnId) {
        if let Some(live) = self.used(conn, "resume_read") {
            live.is_paused = false;
            self.ops.push(Op::Resume { conn });
        }
    }

    fn connect(&mut self, endpoint: &Endpoint) -> ConnId {
        let conn = self.open(None);
        self.ops.push(Op::Connect { conn, endpoint: endpoint.clone() });
        conn
    }

    /// What is there shows when it is tried.
    fn remote_address(&mut self, _conn: ConnId) -> Option<std::net::IpAddr> {
        None
    }

    fn has_local_socket(&self, _port: u16) -> bool {
        true
    }

    /// The network of the simulator loses no packet: who is cut off is told so.
    fn is_overdue(&self, _conn: ConnId) -> bool {
        false
    }

    fn unacknowledged(&self, _conn: ConnId) -> usize {
        0
    }

    fn socket(&self, _conn: ConnId) -> Option<forebay_core::io::Socket> {
        None
    }

    fn start_tls(&mut self, conn: ConnId, _role: TlsRole, unread: &[u8]) {
        if !unread.is_empty() {
            self.broken(format!("start_tls on {conn:?} with bytes that no TLS client sent"));
        }
        if self.used(conn, "start_tls").is_some() {
            self.ops.push(Op::Tls { conn });
        }
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        if self.used(conn, "close").is_none() {
            return;
        }
        if let Some(live) = self.retire(conn) {
            self.ops.push(match live.link {
                Some(link) => Op::Close { link, how },
                None => Op::Forget,
            });
        }
    }

    fn wake_at(&mut self, at: Instant) {
        self.ops.push(Op::Wake(at));
    }

    fn ask(&mut self, id: QuestionId, question: Question) {
        self.ops.push(Op::Ask(id, question));
    }

    fn tell(&mut self, worker: WorkerId, message: Message<Handover>) {
        self.ops.push(Op::Tell(worker, Box::new(message)));
    }

    fn detach(&mut self, conn: ConnId) {
        let Some(live) = self.used(conn, "detach") else { return };
        if live.stage != Stage::Open {
            let words = format!("detach of {conn:?}, {:?}", live.stage);
            return self.broken(words);
        }
        live.stage = Stage::Detaching;
        self.ops.push(Op::Detach { conn });
    }

    fn stay(&mut self, conn: ConnId) {
        let Some(live) = self.used(conn, "stay") else { return };
        live.stage = Stage::Open;
        self.ops.push(Op::Resume { conn });
    }

    fn hand_on(&mut self, number: u64, state: State, connections: Vec<Handover>) {
        self.ops.push(Op::HandOn { number, state, connections });
    }

    fn adopt(&mut self, handover: Handover) -> ConnId {
        let conn = self.open(Some(handover.link));
        self.ops.push(Op::Adopt { conn, handover });
        conn
    }

    fn log(&mut self, event: Event) {
        self.ops.push(Op::Log(event));
    }

    fn reply(&mut self, id: CommandId, reply: Reply) {
        self.ops.push(Op::Reply(id, reply));
    }

    fn fill_random(&mut self, out: &mut [u8]) {
        self.luck.fill(out);
    }
}

impl SimIo {
    /// The bytes of a range, or a violation.
    fn part_of(&mut self, buf: BufId, start: u32, end: u32) -> Option<Vec<u8>> {
        let found = self.buffers.get(buf.0 as usize).filter(|b| b.is_lent);
        let part = found.and_then(|b| b.bytes.get(start as usize..end as usize)).map(<[u8]>::to_vec);
        if part.is_none() {
            self.broken(format!("send names {buf:?} {start}..{end}, which is released or shorter"));
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver() -> (SimIo, ConnId) {
        let mut io = SimIo::new(0, 2, Rng::new(1));
        let conn = io.open(Some(LinkId(0)));
        (io, conn)
    }

    /// A buffer given back while its bytes are on their way would send another client's bytes.
    #[test]
    fn a_buffer_is_free_only_when_released_and_written() {
        let (mut io, conn) = driver();
        let buf = io.lend(b"abcd").expect("two are idle");
        io.send(conn, &[Slice::Received { buf, start: 1, end: 4 }]);
        io.release(buf);
        assert_eq!(io.buffers_out(), 1);
        io.written(conn, 2);
        assert_eq!(io.buffers_out(), 1);
        io.written(conn, 1);
        assert_eq!(io.buffers_out(), 0);
        assert!(io.violations.is_empty());
    }

    /// Each of these is memory corruption or a foreign reply in a real driver.
    #[test]
    fn breaking_a_rule_of_the_border_is_reported() {
        let (mut io, conn) = driver();
        let buf = io.lend(b"abcd").expect("two are idle");
        io.release(buf);
        io.release(buf);
        io.send(conn, &[Slice::Received { buf, start: 0, end: 1 }]);
        io.close(conn, Close::Now);
        io.send(conn, &[Slice::Bytes(b"x")]);
        assert_eq!(io.violations.len(), 3);
    }
}

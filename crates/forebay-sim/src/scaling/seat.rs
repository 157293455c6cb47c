//! A worker, its driver, and what its turns cost: a turn takes all inputs that are there when it begins, what it sends goes
//! out when it ends, and what comes meanwhile waits for the next. That is how the real drivers go about it.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use forebay_core::ids::{ConnId, WorkerId};
use forebay_core::io::Peer as Address;
use forebay_core::stats::WorkerStats;
use forebay_core::tables::Tables;
use forebay_core::time::Instant;
use forebay_core::worker::{Message, Shared, Worker};

use super::US;
use super::setup::BUFFERS_A_WORKER;
use super::world::{Event, Peer, World};
use crate::driver::{Handover, Op, SimIo, Stage};
use crate::net::LinkId;
use crate::rng::Rng;

/// How long a connection to a server takes to come about.
const CONNECT_NS: u64 = 100 * US;

/// Something to tell a worker.
pub(super) enum Input {
    Accepted(ConnId),
    Received(ConnId, Vec<u8>),
    Connected(ConnId),
    Detached(ConnId),
    Told(WorkerId, Box<Message<Handover>>),
}

/// A worker and its driver.
pub(super) struct Seat {
    worker: Worker<SimIo>,
    pub(super) io: SimIo,
    inbox: VecDeque<Input>,
    /// Connections to servers that it has.
    pub(super) servers: u32,
    /// Written, but not yet reported.
    sent: Vec<ConnId>,
    is_turn_due: bool,
    /// The turn under way ends then.
    free_at: u64,
    alarm: u64,
    /// What goes out at the end of the turn.
    outgoing: Vec<(LinkId, ConnId, Vec<u8>)>,
    /// When messages to each other worker arrive: none overtakes.
    told_at: Vec<u64>,
}

impl Seat {
    pub(super) fn new(w: usize, workers: usize, tables: &Arc<Tables>, shared: &Arc<Shared>, luck: Rng) -> Seat {
        let stats = Arc::new(WorkerStats::default());
        Seat {
            worker: Worker::new(WorkerId(w as u16), tables.clone(), shared.clone(), stats),
            io: SimIo::new(w, BUFFERS_A_WORKER, luck),
            inbox: VecDeque::new(),
            servers: 0,
            sent: Vec::new(),
            is_turn_due: false,
            free_at: 0,
            alarm: 0,
            outgoing: Vec::new(),
            told_at: vec![0; workers],
        }
    }
}

impl World<'_> {
    /// Puts an input before a worker.
    pub(super) fn input(&mut self, w: usize, input: Input) {
        self.seats[w].inbox.push_back(input);
        self.rouse(w);
    }

    fn rouse(&mut self, w: usize) {
        let seat = &mut self.seats[w];
        if !seat.is_turn_due {
            seat.is_turn_due = true;
            self.agenda.put(seat.free_at.max(self.now), Event::Turn(w));
        }
    }

    pub(super) fn wake(&mut self, w: usize, number: u64) {
        if self.seats[w].alarm == number {
            self.rouse(w);
        }
    }

    pub(super) fn turn(&mut self, w: usize) {
        let begins = self.now;
        let mut at = begins + self.plan.turn_ns;
        let seat = &mut self.seats[w];
        seat.is_turn_due = false;
        seat.worker.tick(&mut seat.io, Instant(begins / US));
        for conn in std::mem::take(&mut seat.sent) {
            let bytes = seat.io.live(conn).map_or(0, |live| std::mem::take(&mut live.unreported));
            if bytes > 0 {
                seat.worker.sent(&mut seat.io, conn, bytes);
            }
        }
        self.carry_out_ops(w, at);
        for input in std::mem::take(&mut self.seats[w].inbox) {
            at += self.plan.input_ns;
            self.deliver(w, input);
            self.carry_out_ops(w, at);
        }
        let seat = &mut self.seats[w];
        seat.worker.turn_end(&mut seat.io);
        self.carry_out_ops(w, at);
        self.send_outgoing(w, at);
        self.seats[w].free_at = at;
        self.tally.worked(w, begins, at);
    }

    fn deliver(&mut self, w: usize, input: Input) {
        let seat = &mut self.seats[w];
        match input {
            Input::Accepted(conn) => {
                let address = Address::Tcp(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1)), 40_000);
                seat.worker.accepted(&mut seat.io, conn, address);
            }
            Input::Received(conn, bytes) => {
                let Some(live) = seat.io.live(conn) else { return };
                if live.stage == Stage::Detaching {
                    live.stage = Stage::Open;
                }
                let buf = seat.io.lend(&bytes).expect("there are more buffers than a turn has inputs");
                seat.worker.received(&mut seat.io, conn, buf, &bytes);
            }
            Input::Connected(conn) if seat.io.live(conn).is_some() => seat.worker.connected(&mut seat.io, conn),
            Input::Detached(conn) => self.detached(w, conn),
            Input::Told(from, message) => seat.worker.told(&mut seat.io, from, *message),
            Input::Connected(_) => {}
        }
    }

    fn detached(&mut self, w: usize, conn: ConnId) {
        let seat = &mut self.seats[w];
        let Some(live) = seat.io.live(conn) else { return };
        let (Stage::Detaching, Some(link)) = (live.stage, live.link) else { return };
        self.links[link.0].holder = None;
        seat.servers -= 1;
        seat.io.retire(conn);
        seat.worker.detached(&mut seat.io, conn, Handover { link, alive: Arc::new(()), unreported: 0 });
    }

    fn carry_out_ops(&mut self, w: usize, at: u64) {
        let io = &mut self.seats[w].io;
        assert!(io.violations.is_empty(), "{:?}", io.violations);
        for op in std::mem::take(&mut io.ops) {
            self.carry_out_op(w, at, op);
        }
    }

    fn carry_out_op(&mut self, w: usize, at: u64, op: Op) {
        let seat = &mut self.seats[w];
        match op {
            Op::Send { link, conn, bytes } => seat.outgoing.push((link, conn, bytes)),
            Op::Connect { conn, .. } => self.agenda.put(at + CONNECT_NS, Event::Connected(w, conn)),
            Op::Close { link, .. } => {
                let link = &mut self.links[link.0];
                link.holder = None;
                seat.servers -= u32::from(matches!(link.peer, Peer::Process(_)));
            }
            Op::Wake(until) => {
                seat.alarm += 1;
                self.agenda.put((until.0 * US).max(at), Event::Wake(w, seat.alarm));
            }
            Op::Tell(to, message) => self.tell(w, at, to, message),
            // The kernel gives the receive back at once; that it has is an input of a later turn.
            Op::Detach { conn } => self.agenda.put(at, Event::Input(w, Input::Detached(conn))),
            Op::Adopt { conn, handover } => {
                let link = &mut self.links[handover.link.0];
                (link.holder, link.is_lent) = (Some((w, conn)), true);
                seat.servers += 1;
            }
            Op::Log(event) => panic!("worker {w} logs {} {:?}", event.name, event.fields),
            Op::Forget | Op::Resume { .. } => {}
            Op::HandOn { .. } | Op::Tls { .. } | Op::Ask(..) | Op::Reply(..) => panic!("worker {w} wants {op:?}"),
        }
    }

    fn tell(&mut self, w: usize, at: u64, to: WorkerId, message: Box<Message<Handover>>) {
        self.tally.told(at, |messages| match &*message {
            Message::Lend(..) => messages.lend += 1,
            Message::Want(_) => messages.want += 1,
            Message::NoneIdle(_) => messages.none_idle += 1,
            _ => messages.other += 1,
        });
        let before = &mut self.seats[w].told_at[usize::from(to.0)];
        *before = (at + self.plan.message_ns).max(*before);
        let from = WorkerId(w as u16);
        self.agenda.put(*before, Event::Told(usize::from(to.0), from, message));
    }

    fn send_outgoing(&mut self, w: usize, at: u64) {
        for (link, conn, bytes) in std::mem::take(&mut self.seats[w].outgoing) {
            let seat = &mut self.seats[w];
            seat.io.written(conn, bytes.len());
            seat.sent.push(conn);
            self.agenda.put(at + self.plan.link_ns, Event::Outward(link, bytes));
        }
    }
}

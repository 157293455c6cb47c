//! The workers' part of the world: turns, inputs in an order that the seed draws, and what core asked for.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use forebay_core::command::{Command, CommandId, Reply, Snapshot};
use forebay_core::event::{Event as LogEvent, Field, Level};
use forebay_core::ids::{ConnId, QuestionId, WorkerId};
use forebay_core::io::{Close, ClosedBy, Peer, TlsInfo};
use forebay_core::question::Answer;
use forebay_core::stats::WorkerStats;
use forebay_core::tables::Tables;
use forebay_core::time::Instant;
use forebay_core::worker::{Message, Shared, Worker};

use crate::client::actor::Stage as ClientStage;
use crate::driver::{Handover, Op, SimIo, Stage};
use crate::net::{End, LinkId};
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::world::{Event, World};

/// Something to tell a worker.
#[derive(Debug)]
pub(crate) enum Input {
    Accepted(ConnId, Peer),
    /// Something may be there to read.
    Readable(ConnId),
    /// Progress of a send, in the driver's table.
    Sent(ConnId),
    Connected(ConnId),
    Refused(ConnId),
    /// End of file, or an error.
    Ended(ConnId, bool),
    Tls(ConnId),
    Detached(ConnId),
    Answer(QuestionId, Answer),
    Told(WorkerId, Box<Message<Handover>>),
    Command(CommandId, Box<Command>),
}

/// Inputs of one lane keep their order; lanes overtake each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Connection(u32),
    Worker(u16),
    Question(u64),
    Commands,
}

impl Input {
    fn lane(&self) -> Lane {
        match self {
            Input::Accepted(c, _)
            | Input::Readable(c)
            | Input::Sent(c)
            | Input::Connected(c)
            | Input::Refused(c)
            | Input::Ended(c, _)
            | Input::Tls(c)
            | Input::Detached(c) => Lane::Connection(c.slot),
            Input::Answer(id, _) => Lane::Question(id.0),
            Input::Told(from, _) => Lane::Worker(from.0),
            Input::Command(..) => Lane::Commands,
        }
    }
}

/// Why a server may be closed where nothing goes wrong; anything else costs a connection that could have been cleaned.
const NEEDFUL: [&str; 8] = [
    "not through its local socket",
    "lifetime",
    "idle",
    "not needed",
    "custom settings that the next client has not met",
    "room for",
    "login refused: 53300",
    "its client left in the middle of a message",
];

/// Port of the first client.
const PORT: u16 = 40_000;

/// A worker is looked into at the end of one turn in about so many.
const LOOK_EVERY: u64 = 16;

/// What it shows is searched for secrets at one look in so many.
const LOOKS_PER_SEARCH: u64 = 8;

/// A worker and its driver.
pub(crate) struct Seat {
    pub(crate) worker: Worker<SimIo>,
    pub(crate) io: SimIo,
    stats: Arc<WorkerStats>,
    inbox: VecDeque<Input>,
    is_turn_due: bool,
    alarm: u64,
    /// It gets no processor before that time.
    pub(crate) starved_until: u64,
    /// When messages to each other worker arrive: none overtakes.
    told_at: Vec<u64>,
}

impl Seat {
    pub(crate) fn new(w: usize, scenario: &Scenario, tables: Arc<Tables>, shared: Arc<Shared>, rng: Rng) -> Seat {
        let id = WorkerId(w as u16);
        let stats = Arc::new(WorkerStats::default());
        Seat {
            worker: Worker::new(id, tables, shared, stats.clone()),
            stats,
            io: SimIo::new(w, scenario.buffers, rng),
            inbox: VecDeque::new(),
            is_turn_due: false,
            alarm: 0,
            starved_until: 0,
            told_at: vec![0; scenario.workers],
        }
    }
}

impl Seat {
    /// What the worker says of itself at this moment.
    pub(crate) fn look(&mut self) -> Snapshot {
        self.worker.command(&mut self.io, CommandId(0), Command::Snapshot);
        let snapshots = std::mem::take(&mut self.io.ops).into_iter().filter_map(|op| match op {
            Op::Reply(_, Reply::Snapshot(snapshot)) => Some(*snapshot),
            _ => None,
        });
        snapshots.last().unwrap_or_default()
    }

    /// What its metrics are made of, as text.
    pub(crate) fn metrics(&self, out: &mut String) {
        let _ = write!(out, "{:?}", self.stats);
    }
}

impl World {
    /// Puts an input before a worker; it takes it in one of its next turns.
    pub(crate) fn input(&mut self, w: usize, input: Input) {
        self.seats[w].inbox.push_back(input);
        self.wake_worker(w);
    }

    fn wake_worker(&mut self, w: usize) {
        if !self.seats[w].is_turn_due {
            self.seats[w].is_turn_due = true;
            let after = self.draw(30);
            self.schedule(after, Event::Turn(w));
        }
    }

    pub(crate) fn wake(&mut self, w: usize, number: u64) {
        if self.seats[w].alarm == number {
            self.wake_worker(w);
        }
    }

    pub(crate) fn turn(&mut self, w: usize) {
        let starved_until = self.seats[w].starved_until;
        if starved_until > self.now {
            return self.schedule(starved_until - self.now, Event::Turn(w));
        }
        let now = Instant(self.now);
        let seat = &mut self.seats[w];
        seat.is_turn_due = false;
        self.trace.note(b't', w as u64, &self.now.to_le_bytes());
        seat.worker.tick(&mut seat.io, now);
        self.carry_out_ops(w);
        let mut budget = 1 + self.draw(20);
        while budget > 0 && !self.seats[w].inbox.is_empty() && !self.checks.has_failed() {
            budget -= 1;
            let input = self.draw_input(w);
            self.deliver(w, input);
            self.carry_out_ops(w);
        }
        let seat = &mut self.seats[w];
        seat.worker.turn_end(&mut seat.io);
        self.carry_out_ops(w);
        if self.trace.events().is_multiple_of(LOOK_EVERY) {
            let snapshot = self.seats[w].look();
            self.checks.one_server_each(&snapshot);
            if self.seats[w].inbox.is_empty() {
                self.check_pins(&snapshot);
            }
            if self.trace.events().is_multiple_of(LOOK_EVERY * LOOKS_PER_SEARCH) {
                self.check_shown(w, &snapshot);
            }
        }
        self.drop_abandoned_handovers();
        if !self.seats[w].inbox.is_empty() {
            self.wake_worker(w);
        }
    }

    /// The first input of a lane that the seed picks.
    fn draw_input(&mut self, w: usize) -> Input {
        let inbox = &mut self.seats[w].inbox;
        let lane = inbox[self.rng.index(inbox.len())].lane();
        let first = inbox.iter().position(|input| input.lane() == lane).unwrap_or(0);
        inbox.remove(first).expect("the position was just found")
    }

    fn deliver(&mut self, w: usize, input: Input) {
        let seat = &mut self.seats[w];
        match input {
            Input::Accepted(conn, peer) if seat.io.live(conn).is_some() => {
                self.trace.note(b'a', w as u64, &[]);
                seat.worker.accepted(&mut seat.io, conn, peer);
            }
            Input::Readable(conn) => self.deliver_bytes(w, conn),
            Input::Sent(conn) => {
                let Some(live) = seat.io.live(conn) else { return };
                let bytes = std::mem::take(&mut live.unreported);
                if bytes > 0 {
                    seat.worker.sent(&mut seat.io, conn, bytes);
                }
            }
            Input::Connected(conn) if seat.io.live(conn).is_some() => seat.worker.connected(&mut seat.io, conn),
            Input::Refused(conn) if seat.io.retire(conn).is_some() => {
                let by = ClosedBy::Error("connection refused".into());
                seat.worker.closed(&mut seat.io, conn, by);
            }
            Input::Ended(conn, is_broken) => self.deliver_end(w, conn, is_broken),
            Input::Tls(conn) if seat.io.live(conn).is_some() => {
                seat.worker.tls_ready(&mut seat.io, conn, TlsInfo::default());
            }
            Input::Detached(conn) => self.deliver_detached(w, conn),
            Input::Answer(id, answer) => seat.worker.answer(&mut seat.io, id, answer),
            Input::Told(from, message) => seat.worker.told(&mut seat.io, from, *message),
            Input::Command(id, command) => {
                self.checks.regimes.told(w, &command, self.now);
                self.told_roles(w, &command);
                let seat = &mut self.seats[w];
                seat.worker.command(&mut seat.io, id, (*command).clone());
                self.carry_out_ops(w);
                self.obeyed(w, &command);
            }
            _ => {}
        }
    }

    fn deliver_bytes(&mut self, w: usize, conn: ConnId) {
        let most = 1 + self.rng.index(self.scenario.buffer_size);
        // A few reads may complete after a pause, as with a receive already under way.
        let is_late_read = self.rng.one_in(8);
        let seat = &mut self.seats[w];
        let Some(live) = seat.io.live(conn) else { return };
        let Some(link) = live.link else { return };
        if live.is_paused && !is_late_read {
            return;
        }
        let side = self.side_of(link, w);
        let bytes = self.links[link.0].halves[1 - side].read(most);
        self.made_room(link, 1 - side);
        if bytes.is_empty() {
            return self.tell_end(link, 1 - side);
        }
        let seat = &mut self.seats[w];
        let Some(buf) = seat.io.lend(&bytes) else {
            let half = &mut self.links[link.0].halves[1 - side];
            bytes.iter().rev().for_each(|&b| half.arrived.push_front(b));
            return self.schedule(200, Event::Arrive(link, 1 - side));
        };
        if let Some(live) = seat.io.live(conn) {
            live.stage = Stage::Open;
        }
        self.trace.note(b'r', w as u64 * 1000 + link.0 as u64, &bytes);
        self.trace.say(self.now, || {
            let peer = self.links[link.0].ends[1 - side];
            format!("worker {w} ← {peer:?}: {}", printable(&bytes))
        });
        match self.links[link.0].ends[1 - side] {
            End::Canceller(number) => {
                self.note_aims(number);
            }
            End::Client(i)
                if self.clients[i].stage == ClientStage::Ready
                    && !self.clients[i].mirror.tags_under_way().is_empty() =>
            {
                let who = &self.clients[i].who;
                self.checks.demanded(i, w, &who.database, &who.user);
            }
            _ => {}
        }
        let seat = &mut self.seats[w];
        seat.worker.received(&mut seat.io, conn, buf, &bytes);
        self.seats[w].inbox.push_back(Input::Readable(conn));
    }

    fn deliver_end(&mut self, w: usize, conn: ConnId, is_broken: bool) {
        let Some(live) = self.seats[w].io.retire(conn) else { return };
        let by = if is_broken { ClosedBy::Error("connection reset".into()) } else { ClosedBy::Peer };
        self.trace.note(b'e', w as u64, &[u8::from(is_broken)]);
        if let Some(link) = live.link {
            let side = self.side_of(link, w);
            self.checks.closed(link);
            self.leave(link, side, true);
        }
        let seat = &mut self.seats[w];
        seat.worker.closed(&mut seat.io, conn, by);
    }

    fn deliver_detached(&mut self, w: usize, conn: ConnId) {
        let seat = &mut self.seats[w];
        let Some(live) = seat.io.live(conn) else { return };
        let (Stage::Detaching, Some(link)) = (live.stage, live.link) else { return };
        let (is_reading, unreported) = (!live.is_paused, live.unreported);
        let side = self.side_of(link, w);
        let half = &self.links[link.0].halves[1 - side];
        // Something arrived first: it will be told, and the connection stays.
        if is_reading && (!half.arrived.is_empty() || half.fin != crate::net::Fin::No) {
            return;
        }
        let alive = Arc::new(());
        self.transit.insert(link, Arc::downgrade(&alive));
        self.links[link.0].ends[side] = End::Transit;
        let seat = &mut self.seats[w];
        seat.io.retire(conn);
        self.trace.note(b'd', w as u64, &[]);
        seat.worker.detached(&mut seat.io, conn, Handover { link, alive, unreported });
    }

    /// A connection on its way that nobody holds any more is closed, as a dropped descriptor is.
    fn drop_abandoned_handovers(&mut self) {
        let dropped: Vec<LinkId> =
            self.transit.iter().filter(|(_, alive)| alive.strong_count() == 0).map(|(link, _)| *link).collect();
        for link in dropped {
            self.transit.remove(&link);
            if let Some(side) = self.links[link.0].ends.iter().position(|e| *e == End::Transit) {
                self.checks.closed(link);
                self.leave(link, side, false);
            }
        }
    }

    /// Which side of a link a worker holds.
    fn side_of(&self, link: LinkId, w: usize) -> usize {
        let ends = &self.links[link.0].ends;
        usize::from(!matches!(ends[0], End::Worker(holder, _) if holder == w))
    }

    fn carry_out_ops(&mut self, w: usize) {
        for violation in std::mem::take(&mut self.seats[w].io.violations) {
            self.checks.fail(violation);
        }
        for op in std::mem::take(&mut self.seats[w].io.ops) {
            self.carry_out_op(w, op);
        }
    }

    fn carry_out_op(&mut self, w: usize, op: Op) {
        match op {
            Op::Send { link, conn, bytes } => self.send(w, link, conn, &bytes),
            Op::Resume { conn } => self.input(w, Input::Readable(conn)),
            Op::Connect { conn, endpoint } => self.connect(w, conn, &endpoint),
            Op::Tls { conn } => {
                let after = self.draw(2_000);
                self.schedule(after, Event::TlsDone(w, conn));
            }
            Op::Close { link, how } => {
                self.trace.note(b'c', w as u64 * 1000 + link.0 as u64, &[]);
                self.trace.say(self.now, || format!("worker {w} closes link {} {how:?}", link.0));
                self.checks.closed(link);
                let side = self.side_of(link, w);
                if let End::Client(i) = self.links[link.0].ends[1 - side]
                    && self.clients[i].link == Some(link)
                {
                    self.checks.session_ends(i, self.clients[i].mirror.tags_under_way());
                }
                self.leave(link, side, how == Close::Now);
            }
            Op::Forget => {}
            Op::Wake(at) => {
                self.seats[w].alarm += 1;
                let late = if self.rng.one_in(20) { self.draw(20_000) } else { self.draw(300) };
                let number = self.seats[w].alarm;
                self.schedule(at.0.saturating_sub(self.now) + late, Event::Wake(w, number));
            }
            Op::Ask(id, question) => self.ask(w, id, &question),
            Op::Tell(to, message) => self.tell(w, to, message),
            Op::Detach { conn } => {
                let after = self.draw(500);
                self.schedule(after, Event::Detached(w, conn));
            }
            Op::HandOn { number, state, connections } => self.hand_on(w, number, state, connections),
            Op::Adopt { conn, handover } => self.adopt(w, conn, handover),
            Op::Log(event) => self.log(w, &event),
            Op::Reply(id, reply) => self.answered_order(w, id, reply),
        }
    }

    fn send(&mut self, w: usize, link: LinkId, conn: ConnId, bytes: &[u8]) {
        self.trace.note(b's', w as u64 * 1000 + link.0 as u64, bytes);
        let side = self.side_of(link, w);
        self.trace.say(self.now, || {
            let peer = self.links[link.0].ends[1 - side];
            format!("worker {w} → {peer:?}: {}", printable(bytes))
        });
        match self.links[link.0].ends[1 - side] {
            End::Process(p) => self.check_lease(w, link, p, bytes),
            End::Client(i) => self.check_parting(i, bytes),
            End::Gone => self.sent_in_vain(bytes),
            _ => {}
        }
        let limit =
            self.scenario.config.limits.relay_bytes_max as usize + self.scenario.buffers * self.scenario.buffer_size;
        let unsent = self.seats[w].io.live(conn).map_or(0, |live| live.unsent);
        if unsent > limit + (64 << 10) {
            self.checks.fail(format!("worker {w} has {unsent} bytes unsent on one connection"));
        }
        self.write(link, side, bytes);
    }

    fn tell(&mut self, w: usize, to: WorkerId, message: Box<Message<Handover>>) {
        self.trace.say(self.now, || format!("worker {w} tells worker {}: {message:?}", to.0));
        let after = self.draw(400);
        let at = (self.now + after).max(self.seats[w].told_at[usize::from(to.0)]);
        self.seats[w].told_at[usize::from(to.0)] = at;
        self.schedule(at - self.now, Event::Told(usize::from(to.0), WorkerId(w as u16), message));
    }

    fn adopt(&mut self, w: usize, conn: ConnId, handover: Handover) {
        let Handover { link, alive, unreported } = handover;
        self.transit.remove(&link);
        drop(alive);
        let Some(side) = self.links[link.0].ends.iter().position(|e| *e == End::Transit) else {
            return self.checks.fail(format!("worker {w} adopts link {}, which is not on its way", link.0));
        };
        self.links[link.0].ends[side] = End::Worker(w, conn);
        self.server_arrives(w, link);
        if self.seats[w].io.live(conn).is_none() {
            // Closed in the same breath: what was sent, and that it is closed, is still to be carried out.
            return;
        }
        if self.links[link.0].is_reset {
            self.input(w, Input::Ended(conn, true));
        }
        let unsent = self.links[link.0].halves[side].queue.len();
        if unsent + unreported > 0 {
            self.seats[w].io.bring(conn, unsent, unreported);
            self.input(w, Input::Sent(conn));
        }
        self.notify(link, 1 - side);
    }

    fn log(&mut self, w: usize, event: &LogEvent) {
        self.trace.note(b'l', w as u64, event.name.as_bytes());
        self.check_logged(event);
        self.check_outcome(w, event);
        self.trace.say(self.now, || format!("worker {w} log {:?} {} {:?}", event.level, event.name, event.fields));
        if event.name == "server_closed" && self.scenario.faults.is_calm() {
            let may_fail = self.scenario.failing_reset_one_in > 0;
            if let Some((_, Field::Text(reason))) = event.fields.iter().find(|(name, _)| *name == "reason")
                && !(may_fail && reason.contains("57014"))
                && !(self.checks.cancels.is_any() && reason.contains("due to user request"))
                && !NEEDFUL.iter().any(|needful| reason.starts_with(needful))
            {
                self.checks.fail(format!("worker {w} gave up a server without need: {reason}"));
            }
        }
        if event.level == Level::Error && event.name.contains("panic") {
            self.checks.fail(format!("worker {w} panicked: {:?}", event.fields));
        }
    }

    /// A client knocks at a worker.
    pub(crate) fn knock(&mut self, end: End) -> LinkId {
        if self.is_direct {
            let p = self.processes.len();
            let link = self.link([end, End::Process(p)]);
            self.new_process(link, 0);
            return link;
        }
        let w = self.rng.index(self.seats.len());
        let link = self.link([end, End::Gone]);
        let conn = self.seats[w].io.open(Some(link));
        self.links[link.0].ends[1] = End::Worker(w, conn);
        let peer = Peer::Tcp(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1)), port_of(link));
        self.input(w, Input::Accepted(conn, peer));
        link
    }
}

/// The port from which the client of a link comes.
pub(crate) fn port_of(link: LinkId) -> u16 {
    PORT + (link.0 % 20_000) as u16
}

/// The session of the client that comes from this port.
pub(crate) fn session_at(port: u16) -> u64 {
    u64::from(port - PORT)
}

fn printable(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(300).map(|&b| if (32..127).contains(&b) { b as char } else { '.' });
    format!("{} bytes {}", bytes.len(), shown.collect::<String>())
}

//! Virtual time: one queue of events, and everything that they happen to.
//!
//! No threads. An event is drawn from the queue, carried out, and may put others there; the seed decides all delays.

mod clients;
mod failover;
mod faults;
mod hearing;
#[cfg(test)]
mod hour;
mod moves;
mod network;
mod orders;
mod pins;
mod principals;
mod processes;
mod questions;
mod reaching;
mod secrecy;
mod waiting;
mod workers;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use forebay_core::command::{Command, CommandId};
use forebay_core::ids::{QuestionId, WorkerId};
use forebay_core::question::Answer;
use forebay_core::tables::Tables;
use forebay_core::worker::{Message, Shared};

use crate::Options;
use crate::check::Checks;
use crate::client::actor::{Actor, Stage};
use crate::driver::Handover;
use crate::hearing::Hearing;
use crate::net::{Link, LinkId};
use crate::queue::Queue;
use crate::regime::{Edition, Regimes};
use crate::rng::Rng;
use crate::scenario::{ClientPlan, Faults, Scenario};
use crate::secrets::Secrets;
use crate::server::process::Process;
use crate::trace::Trace;
use crate::world::failover::{Failover, SERVED_US};
use crate::world::faults::Fault;
use crate::world::orders::{Unanswered, first_offers};
pub(crate) use crate::world::questions::DENIAL_KEPT_US;
use crate::world::reaching::Reached;
use crate::world::workers::Seat;

/// What happens next.
#[derive(Debug)]
pub(crate) enum Event {
    /// A sender's kernel takes bytes.
    Pump(LinkId, usize),
    /// Bytes reach the receiver's kernel.
    Arrive(LinkId, usize),
    /// A worker runs a turn.
    Turn(usize),
    /// A worker's alarm, if it is still the newest.
    Wake(usize, u64),
    /// A connection of a worker comes about, or does not.
    Connected(usize, forebay_core::ids::ConnId, Reached),
    Detached(usize, forebay_core::ids::ConnId),
    TlsDone(usize, forebay_core::ids::ConnId),
    Told(usize, WorkerId, Box<Message<Handover>>),
    /// A group that a worker handed on may have been taken.
    Moved(usize, u64, Vec<Weak<()>>),
    Answered(usize, QuestionId, Answer),
    Ordered(usize, CommandId, Box<Command>),
    /// A client goes on with its program.
    Client(usize),
    /// A client's cancel request sets out.
    Cancel(usize, bool),
    /// A process goes on with its inbox, or is done with a message.
    Process(usize),
    /// The process that took a cancel request gets to signalling.
    Signal(usize, i32, Vec<u8>),
    Fault(Fault),
    /// Something of a cluster.
    Cluster(failover::Step),
    /// A server comes up again.
    Up(usize),
}

/// A fake server: the processes of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Server {
    pub(crate) is_down: bool,
    /// How often it has been started again.
    pub(crate) starts: u32,
    pub(crate) processes_max: usize,
}

/// The simulated world.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    /// How late signals are.
    pub(crate) signal_luck: Rng,
    pub(crate) trace: Trace,
    pub(crate) scenario: Scenario,
    pub(crate) tables: Arc<Tables>,
    queue: Queue<Event>,
    pub(crate) links: Vec<Link>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) clients: Vec<Actor>,
    pub(crate) processes: Vec<Process>,
    pub(crate) servers: Vec<Server>,
    /// Connections between workers, by link: closed when nobody holds them any more.
    pub(crate) transit: BTreeMap<LinkId, std::sync::Weak<()>>,
    pub(crate) checks: Checks,
    pub(crate) hearing: Hearing,
    pub(crate) secrets: Secrets,
    /// What was searched for them last.
    shown: String,
    pub(crate) shared: Arc<Shared>,
    unanswered: Unanswered,
    /// Users that Python has said do not exist, and how long that may be heard of.
    denials: BTreeMap<(String, String), u64>,
    /// What the operator does, and Python.
    order_luck: Rng,
    /// When connections move, and where.
    move_luck: Rng,
    /// They do.
    is_moving: bool,
    /// Endpoints that change their roles.
    pub(crate) failover: Option<Box<Failover>>,
    /// Clients talk to servers without a worker between: the simulator's test of itself.
    pub(crate) is_direct: bool,
}

/// The servers of a scenario: those of a cluster, or one for each database.
fn servers_of(scenario: &Scenario) -> Vec<Server> {
    let server = |processes_max| Server { processes_max, ..Server::default() };
    match &scenario.cluster {
        Some(plan) => (0..plan.nodes).map(|_| server(100)).collect(),
        None => scenario.targets.iter().map(|target| server(target.processes_max)).collect(),
    }
}

/// Events of one run at most: a loop that feeds itself is a bug.
const EVENTS_MAX: u64 = 1_000_000;

/// After the last fault, every client has to be through by then.
const LIVENESS_US: u64 = 60_000_000;

/// After the last client has gone, the workers are left alone for so long before the last look.
const REST_US: u64 = 8_000_000;

impl World {
    pub(crate) fn new(mut rng: Rng, options: Options) -> Result<World, String> {
        let mut luck = rng.fork(1);
        let scenario = if options.is_cluster {
            Scenario::draw_cluster(&mut luck, options.commit_check)
        } else {
            Scenario::draw(&mut luck)
        };
        World::of(scenario, rng, options)
    }

    /// The world of a scenario, whoever made it.
    pub(crate) fn of(mut scenario: Scenario, mut rng: Rng, options: Options) -> Result<World, String> {
        if options.is_direct {
            scenario.faults = Faults::default();
            for ClientPlan { who, .. } in &mut scenario.clients {
                who.is_impostor = false;
                who.server_user.clone_from(&who.user);
            }
        }
        let mut luck = rng.fork(2);
        let tables = Tables::build(scenario.config.clone(), None, &mut |out| luck.fill(out));
        let tables = Arc::new(tables.map_err(|e| format!("{e:?}"))?);
        let shared = Arc::new(Shared::with_names_of(scenario.workers as u16, rng.aside(3).next()));
        let seats = (0..scenario.workers)
            .map(|w| Seat::new(w, &scenario, tables.clone(), shared.clone(), rng.fork(10 + w as u64)))
            .collect();
        let clients = scenario.clients.iter().map(|plan| {
            let mut program = vec![crate::client::program::Step::Return];
            program.extend(plan.program.iter().cloned());
            Actor::new(plan.who.clone(), program, luck.fork(u64::from(plan.who.id)))
        });
        let failover = Failover::new(&scenario, rng.aside(11));
        let servers = servers_of(&scenario);
        let names = scenario.targets.iter().map(|t| t.name.clone()).collect();
        let first = Edition { tables: tables.clone(), offers: first_offers(&scenario.config) };
        let mut world = World {
            now: 1_000,
            signal_luck: rng.aside(1),
            order_luck: rng.aside(2),
            move_luck: rng.aside(4),
            is_moving: options.is_moving || failover.as_ref().is_some_and(|failover| failover.is_moving()),
            failover,
            rng,
            trace: Trace::new(options.is_verbose),
            clients: clients.collect::<Result<_, _>>()?,
            servers,
            tables,
            queue: Queue::default(),
            links: Vec::new(),
            seats,
            processes: Vec::new(),
            transit: BTreeMap::new(),
            checks: Checks::new(Regimes::new(scenario.workers, names, first)),
            shared,
            unanswered: Unanswered::default(),
            denials: BTreeMap::new(),
            hearing: Hearing::default(),
            secrets: Secrets::of(&scenario.credential),
            shown: String::new(),
            is_direct: options.is_direct,
            scenario,
        };
        for (i, plan) in world.scenario.clients.clone().iter().enumerate() {
            world.schedule(plan.starts_at, Event::Client(i));
        }
        for w in 0..world.scenario.workers {
            world.schedule(0, Event::Turn(w));
        }
        world.trace.say(0, || {
            let s = &world.scenario;
            let pools: Vec<_> = s.config.databases.iter().map(|d| &d.pool).collect();
            format!("{} workers, {:?}, {:?}, {:?}, heals at {}", s.workers, s.targets, s.faults, pools, s.heals_at)
        });
        for client in &world.scenario.clients {
            world.trace.say(0, || format!("{:?}", client.who));
        }
        world.plan_faults();
        world.begin_failover();
        Ok(world)
    }

    /// Puts an event `after` microseconds into the future.
    pub(crate) fn schedule(&mut self, after: u64, event: Event) {
        self.queue.push(self.now + after, event);
    }

    /// A number below `n`, from the seed.
    pub(crate) fn draw(&mut self, n: u64) -> u64 {
        self.rng.below(n)
    }

    /// Runs until every client is through and the workers have come to rest, or a check fails.
    pub(crate) fn run(&mut self) {
        let patience = if self.failover.is_some() { SERVED_US } else { LIVENESS_US };
        let deadline = self.scenario.heals_at + patience;
        let mut rests_at = None;
        while let Some((at, event)) = self.queue.pop() {
            self.now = at.max(self.now);
            self.carry_out(event);
            if self.checks.has_failed() {
                return;
            }
            if self.trace.events() > EVENTS_MAX {
                return self.checks.fail(format!("{EVENTS_MAX} events and no end"));
            }
            let are_done = self.clients.iter().all(|c| c.stage == Stage::Done && c.link.is_none());
            if are_done && self.now > self.scenario.heals_at {
                if rests_at.is_none() {
                    self.checks.at_rest.clear();
                    if self.scenario.faults.ends_paused {
                        self.schedule(REST_US / 8, Event::Fault(Fault::LastPause));
                    }
                    self.schedule(REST_US - 100_000, Event::Fault(Fault::Look));
                }
                let at = *rests_at.get_or_insert(self.now + REST_US);
                if self.now > at {
                    break;
                }
            }
            if !are_done && self.now > deadline {
                return self.report_stuck();
            }
        }
        if !self.clients.iter().all(|c| c.stage == Stage::Done) {
            return self.report_stuck();
        }
        self.check_rest();
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Pump(link, side) => self.pump(link, side),
            Event::Arrive(link, side) => self.arrive(link, side),
            Event::Turn(w) => self.turn(w),
            Event::Wake(w, number) => self.wake(w, number),
            Event::Connected(w, conn, reached) => self.connected(w, conn, reached),
            Event::Detached(w, conn) => self.input(w, workers::Input::Detached(conn)),
            Event::TlsDone(w, conn) => self.input(w, workers::Input::Tls(conn)),
            Event::Told(w, from, message) => self.input(w, workers::Input::Told(from, message)),
            Event::Moved(w, number, under_way) => self.moved(w, number, under_way),
            Event::Answered(w, id, answer) => self.input(w, workers::Input::Answer(id, answer)),
            Event::Ordered(w, id, command) => self.input(w, workers::Input::Command(id, command)),
            Event::Client(i) => self.client(i),
            Event::Cancel(i, is_forged) => self.send_cancel(i, is_forged),
            Event::Process(p) => self.process(p),
            Event::Signal(p, pid, key) => self.signal(p, pid, &key),
            Event::Fault(fault) => self.fault(fault),
            Event::Cluster(step) => self.cluster_step(step),
            Event::Up(s) => self.servers[s].is_down = false,
        }
    }

    fn report_stuck(&mut self) {
        let stuck = self.clients.iter().filter(|c| c.stage != Stage::Done);
        let words: Vec<String> =
            stuck.map(|c| format!("client {} is {:?} and {}", c.who.id, c.stage, c.mirror.awaited())).collect();
        let waits: Vec<String> = self
            .processes
            .iter()
            .filter(|p| !p.is_dead)
            .map(|p| {
                let owner = self.checks.owner(p.link);
                format!("process {} of endpoint {} (last used by {owner:?}) clean: {}", p.pid, p.endpoint, p.is_clean())
            })
            .collect();
        self.checks.fail(format!("no end: {}; servers: {}", words.join("; "), waits.join("; ")));
    }
}

//! How the core scales over workers, where no machine at hand has that many processors.
//!
//! Real workers over virtual time and a network without luck: nothing fails, every delay is what the plan says. Clients
//! send a short request, wait for the answer, think, and send the next. The same requests, with the same service times,
//! then go through one queue for all servers ([`ideal`]), which is the best that any spread over workers could reach.
//!
//! | part | what it is |
//! |---|---|
//! | `world` | the queue of events, the links, and what is measured |
//! | `seat` | a worker, its driver, and what its turns cost |
//! | `peers` | clients, and the processes of the fake server |
//! | `setup` | the configuration of the workers |
//! | `ideal` | one queue, first come, first served: no line of forebay-core |
//! | `figures` | percentiles, shares, fairness |
//! | `report` | tables, and JSON lines |
//! | `command` | `forebay-sim scaling` |
//!
//! A worker is a processor of its own here: each turn and each input take it a while ([`Plan::turn_ns`],
//! [`Plan::input_ns`]), whatever the others do. Caches, memory and the kernel's locks, which real workers share, cost
//! nothing.

mod agenda;
pub mod command;
pub mod figures;
pub mod ideal;
mod peers;
mod report;
mod seat;
mod setup;
mod world;

use crate::rng::Rng;
use figures::Figures;

/// Nanoseconds in a microsecond.
const US: u64 = 1_000;

/// Clients for each server where there are fewer clients than servers, in quarters.
const FEW_QUARTERS: usize = 3;

/// Load of the servers where clients think between their requests, in percent.
const LIGHT_PERCENT: u64 = 70;

/// How many clients there are, how they are spread over workers, and how much they want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// All of them without a pause, the same number at each worker.
    Even,
    /// The same, but the first worker has half of them.
    Half,
    /// Three clients to four servers.
    Few,
    /// Spread as in [`Case::Even`], with pauses by which the servers are busy for 70 % of the time.
    Light,
}

impl Case {
    /// All, in the order in which they are played.
    pub const ALL: [Case; 4] = [Case::Even, Case::Half, Case::Few, Case::Light];

    /// As options and reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Case::Even => "even",
            Case::Half => "half",
            Case::Few => "few",
            Case::Light => "light",
        }
    }
}

/// How long requests take a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Drawn for each, exponentially distributed.
    Exponential,
    /// All the same.
    Constant,
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How clients are spread.
    pub case: Case,
    /// Workers.
    pub workers: usize,
    /// Clients, in [`Case::Few`] unused.
    pub clients: usize,
    /// `pool_size`.
    pub servers: usize,
    /// How service times are distributed.
    pub service: Service,
    /// Their mean.
    pub service_ns: u64,
    /// Mean of the pauses between an answer and the next request, in [`Case::Light`] unused.
    pub think_ns: u64,
    /// From one end of a connection to the other.
    pub link_ns: u64,
    /// From one worker to another.
    pub message_ns: u64,
    /// What each input takes a worker.
    pub input_ns: u64,
    /// What each turn takes it beside.
    pub turn_ns: u64,
    /// Nothing is counted before that time.
    pub from_ns: u64,
    /// Nothing is counted from that time on.
    pub until_ns: u64,
    /// Decides service times, pauses, and who begins when.
    pub seed: u64,
}

impl Plan {
    /// A thousand clients over twenty servers, counted from half a second on for one second.
    pub fn new(case: Case, workers: usize) -> Plan {
        Plan {
            case,
            workers,
            clients: 1000,
            servers: 20,
            service: Service::Exponential,
            service_ns: 500 * US,
            think_ns: 0,
            link_ns: 10 * US,
            message_ns: 5 * US,
            input_ns: 5 * US,
            turn_ns: 2 * US,
            from_ns: 500_000 * US,
            until_ns: 1_500_000 * US,
            seed: 1,
        }
    }

    /// How many clients there really are.
    pub fn clients_in_all(&self) -> usize {
        match self.case {
            Case::Few => (self.servers * FEW_QUARTERS / 4).max(1),
            _ => self.clients,
        }
    }

    /// The worker of a client.
    fn worker_of(&self, client: usize) -> usize {
        let clients = self.clients_in_all();
        match self.case {
            Case::Half if self.workers == 1 || client < clients / 2 => 0,
            Case::Half => 1 + client % (self.workers - 1),
            _ => client % self.workers,
        }
    }

    /// When a client sends its first request.
    fn begins_at(&self, client: usize) -> u64 {
        draw(self.seed, client, 0, Use::Start, self.think_mean().max(self.service_ns))
    }

    /// How long a server takes for a request of a client.
    fn service_of(&self, client: usize, request: u32) -> u64 {
        match self.service {
            Service::Exponential => draw(self.seed, client, request, Use::Service, self.service_ns),
            Service::Constant => self.service_ns,
        }
    }

    /// How long a client pauses after a request's answer.
    fn think_after(&self, client: usize, request: u32) -> u64 {
        draw(self.seed, client, request, Use::Think, self.think_mean())
    }

    fn think_mean(&self) -> u64 {
        if self.case != Case::Light {
            return self.think_ns;
        }
        // Little's law: clients = rate × (pause + service), the wait left out.
        let cycle = self.clients as u64 * self.service_ns * 100 / (self.servers as u64 * LIGHT_PERCENT);
        cycle.saturating_sub(self.service_ns)
    }
}

/// What a time is drawn for.
#[derive(Clone, Copy)]
enum Use {
    Start,
    Service,
    Think,
}

/// An exponentially distributed time with this mean. It hangs on nothing but its arguments, so that one queue and any
/// number of workers draw the same, whoever comes first.
fn draw(seed: u64, client: usize, request: u32, usage: Use, mean_ns: u64) -> u64 {
    let mut luck = Rng::new(seed).fork(client as u64).fork(u64::from(request)).fork(usage as u64);
    let part = (luck.next() >> 11) as f64 / (1u64 << 53) as f64;
    (-(1.0 - part).ln() * mean_ns as f64) as u64
}

/// Plays a plan with real workers.
///
/// Panics when a worker breaks a rule of its driver, or tells a client anything but its answer.
pub fn play(plan: &Plan) -> Figures {
    world::World::new(plan).run()
}

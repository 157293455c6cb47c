//! Faults: what goes wrong, when, and whom it hits. And the last look, when all is over.

use forebay_core::command::Command;

use crate::client::actor::Stage;
use crate::net::{End, LinkId};
use crate::server::replies::report;
use crate::world::{Event, World};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Terminate,
    BreakServer,
    BreakClient,
    Crash,
    Stall,
    Doze,
    Starve,
    Pause,
    Resume,
    Reload,
    Reconnect,
    KillClient,
    KillDatabase,
    Change,
    Drain,
    /// Connections move to other workers, for a while.
    HandOn,
    Stay,
    /// PAUSE, to stay.
    LastPause,
    /// No fault: every worker is asked what it holds.
    Look,
}

/// How long a client that was hit may still hear of it.
pub(crate) const ECHO_US: u64 = 20_000_000;

impl World {
    /// Draws when faults happen, up to the time at which all heals.
    pub(crate) fn plan_faults(&mut self) {
        let f = self.scenario.faults.clone();
        let kinds = [
            (Fault::Terminate, f.terminate),
            (Fault::BreakServer, f.break_server),
            (Fault::BreakClient, f.break_client),
            (Fault::Crash, f.crash),
            (Fault::Stall, f.stall),
            (Fault::Doze, f.doze),
            (Fault::Starve, f.starve),
            (Fault::Pause, f.pause),
            (Fault::Reload, f.reload),
            (Fault::Reconnect, f.reconnect),
            (Fault::KillClient, f.kill_client),
            (Fault::KillDatabase, f.kill_database),
            (Fault::Change, f.change),
        ];
        for (fault, mean) in kinds.into_iter().filter(|(_, mean)| *mean > 0) {
            let mut at = self.draw(mean * 2);
            while at < self.scenario.heals_at {
                self.schedule(at, Event::Fault(fault));
                at += 1 + self.draw(mean * 2);
            }
        }
        if self.is_moving {
            self.plan_moves();
        }
        if let Some(at) = f.drain_at {
            self.schedule(at, Event::Fault(Fault::Drain));
        }
        self.schedule(self.scenario.heals_at, Event::Fault(Fault::Resume));
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.trace.note(b'f', fault as u64, &[]);
        match fault {
            Fault::Terminate => self.terminate_one(),
            Fault::BreakServer => {
                if let Some(p) = self.pick_process() {
                    let link = self.processes[p].link;
                    self.hit(link);
                    self.checks.closed(link);
                    self.break_link(link);
                }
            }
            Fault::BreakClient => {
                let i = self.rng.index(self.clients.len());
                if let Some(link) = self.clients[i].link {
                    self.break_link(link);
                }
            }
            Fault::Crash => self.crash(),
            Fault::Stall => self.stall(),
            Fault::Doze => {
                let (i, pause) = (self.rng.index(self.clients.len()), self.rng.below(300_000));
                self.clients[i].dozes_until = self.now + pause;
                self.trace.say(self.now, || format!("client {i} reads nothing for {pause} µs"));
            }
            Fault::Starve => {
                let (w, pause) = (self.rng.index(self.seats.len()), self.rng.below(200_000));
                self.seats[w].starved_until = self.now + pause;
            }
            Fault::Pause => {
                self.order(&Command::Pause(None));
                let after = self.draw(200_000) + 3_000;
                self.schedule(after, Event::Fault(Fault::Resume));
            }
            Fault::Resume => self.order(&Command::Resume(None)),
            Fault::Reload => {
                let tables = self.tables.clone();
                self.order(&Command::Reload(tables));
            }
            Fault::Reconnect => self.order(&Command::Reconnect(None)),
            Fault::KillDatabase => self.kill_database(),
            Fault::Change => self.change(),
            Fault::Drain => self.order(&Command::Drain),
            Fault::HandOn => self.begin_moves(),
            Fault::Stay => self.order(&Command::Stay),
            Fault::LastPause => self.order(&Command::Pause(None)),
            Fault::Look => self.order(&Command::Snapshot),
            Fault::KillClient => {
                let id = self.checks.pick_known_client(&mut self.rng);
                self.order(&Command::Snapshot);
                if let Some(id) = id {
                    self.order(&Command::KillClient(id));
                }
            }
        }
    }

    fn pick_process(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.processes.len()).filter(|&p| !self.processes[p].is_dead).collect();
        (!alive.is_empty()).then(|| *self.rng.pick(&alive))
    }

    fn terminate_one(&mut self) {
        let Some(p) = self.pick_process().filter(|&p| !self.processes[p].is_signaller) else { return };
        let link = self.processes[p].link;
        self.hit(link);
        let words = "terminating connection due to administrator command";
        self.write(link, 1, &report(b'E', "FATAL", "57P01", words).encode());
        self.end_process(p);
    }

    fn crash(&mut self) {
        let s = self.rng.index(self.servers.len());
        self.trace.say(self.now, || format!("server {s} crashes"));
        self.servers[s].is_down = true;
        self.servers[s].starts += 1;
        for p in 0..self.processes.len() {
            if !self.processes[p].is_dead && self.processes[p].endpoint == s {
                let link = self.processes[p].link;
                self.hit(link);
                self.checks.closed(link);
                self.break_link(link);
            }
        }
        let after = self.draw(400_000);
        self.schedule(after, Event::Up(s));
    }

    fn stall(&mut self) {
        if self.links.is_empty() {
            return;
        }
        let (link, pause) = (self.rng.index(self.links.len()), self.rng.below(400_000));
        self.links[link].stalled_until = self.now + pause;
        self.trace.say(self.now, || format!("link {link} stands still for {pause} µs"));
    }

    /// A server is lost: the client that it serves, if any, may hear of it, and of a listener all that listen.
    pub(crate) fn hit(&mut self, link: LinkId) {
        self.trace.say(self.now, || format!("the server at link {} is lost", link.0));
        let owner = self.checks.owner(link);
        let is_listener = self.checks.is_listener(link);
        for client in &mut self.clients {
            // A request without a tag may be anywhere, and in a cluster one whose tag is on its way.
            let is_hidden =
                !client.mirror.is_settled() && (self.failover.is_some() || client.mirror.tags_under_way().is_empty());
            if owner == Some(client.who.id) || is_hidden || (is_listener && client.mirror.is_listening()) {
                client.hit_until = self.now + ECHO_US;
            }
        }
    }

    /// When nobody is left: nothing may be left of them.
    pub(crate) fn check_rest(&mut self) {
        if let Some(words) = self.checks.unkept_promise() {
            return self.checks.fail(words);
        }
        self.check_ledger();
        for w in 0..self.seats.len() {
            if let Some(words) = self.checks.at_rest.get(&w).filter(|words| !words.is_empty()) {
                let words = format!("worker {w} says at rest: {words}");
                return self.checks.fail(words);
            }
            let io = &self.seats[w].io;
            let (lent, out, open) = (io.buffers_lent(), io.buffers_out(), io.connections());
            if lent > 0 || out > 0 {
                self.checks.fail(format!("worker {w} holds {lent} buffers at rest, {out} are not back"));
            }
            let to_clients = self.links.iter().filter(|l| matches!(l.ends, [_, End::Worker(holder, _)] if holder == w));
            let left = to_clients.count();
            if left > 0 {
                self.checks.fail(format!("worker {w} keeps {left} of {open} connections for clients that are gone"));
            }
        }
        debug_assert!(self.clients.iter().all(|c| c.stage == Stage::Done));
        if let Some(words) = self.unanswered() {
            return self.checks.fail(words);
        }
        self.check_pools();
    }
}

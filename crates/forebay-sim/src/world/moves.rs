//! An online restart, in little: connections are written out by one worker and read in by another, or by itself.
//!
//! To a worker that does not hold them, nothing but the bytes tells what they are. All rules hold as if they had never moved:
//! that is what says that a state is whole.

use std::sync::{Arc, Weak};

use forebay_core::command::Command;
use forebay_core::ids::WorkerId;
use forebay_core::moving::{Arrival, State};
use forebay_core::worker::Message;

use crate::driver::Handover;
use crate::world::faults::Fault;
use crate::world::{Event, World};

/// Mean time between two restarts, in microseconds.
const EVERY_US: u64 = 60_000;

/// Longest time that one takes until it is called off.
const LASTS_US: u64 = 60_000;

/// Time between two looks whether a group has been taken.
const ASKS_AGAIN_US: u64 = 100;

impl World {
    /// Draws when connections move: up to the time at which all heals.
    pub(crate) fn plan_moves(&mut self) {
        let mut at = self.move_luck.below(EVERY_US);
        while at < self.scenario.heals_at {
            self.schedule(at, Event::Fault(Fault::HandOn));
            at += 1 + self.move_luck.below(EVERY_US * 2);
        }
    }

    /// All that can move does, until that is called off.
    pub(crate) fn begin_moves(&mut self) {
        self.order(&Command::HandOn);
        let after = 3_000 + self.move_luck.below(LASTS_US);
        self.schedule(after, Event::Fault(Fault::Stay));
    }

    /// A worker hands a group on: it comes back, or goes to any worker as from another process.
    pub(crate) fn hand_on(&mut self, w: usize, number: u64, state: State, connections: Vec<Handover>) {
        self.trace.note(b'h', w as u64, &state);
        self.trace.say(self.now, || {
            let links: Vec<usize> = connections.iter().map(|handover| handover.link.0).collect();
            format!("worker {w} hands on group {number} of links {links:?}, {} bytes", state.len())
        });
        match forebay_core::moving::examine(&state) {
            Ok(count) if count == connections.len() => {}
            other => self.checks.fail(format!("worker {w} wrote a group that says {other:?} of its connections")),
        }
        let comes_back = !self.may_change_worker() || self.move_luck.one_in(3);
        let to = if comes_back { w } else { self.move_luck.index(self.seats.len()) };
        let counted = comes_back.then_some(number);
        let under_way = connections.iter().map(|handover| Arc::downgrade(&handover.alive)).collect();
        let arrival = Box::new(Arrival { state, connections, counted, is_refused: false });
        let from = WorkerId(w as u16);
        let after = self.move_luck.below(600);
        self.schedule(after, Event::Told(to, from, Box::new(Message::Group(arrival))));
        if !comes_back {
            let after = after + self.move_luck.below(600);
            self.schedule(after, Event::Moved(w, number, under_way));
        }
    }

    /// Whoever takes a group has counted its servers by then: another process expects them from the start.
    pub(crate) fn moved(&mut self, w: usize, number: u64, under_way: Vec<Weak<()>>) {
        if under_way.iter().any(|alive| alive.strong_count() > 0) {
            return self.schedule(ASKS_AGAIN_US, Event::Moved(w, number, under_way));
        }
        self.schedule(0, Event::Told(w, WorkerId(w as u16), Box::new(Message::Arrived(number))));
    }

    /// An order holds for the clients of a worker: who comes from another was not there to hear it.
    fn may_change_worker(&self) -> bool {
        let f = &self.scenario.faults;
        let orders = [f.pause, f.kill_database, f.change, f.reconnect, f.kill_client];
        orders.iter().all(|rate| *rate == 0) && f.drain_at.is_none() && !f.ends_paused
    }
}

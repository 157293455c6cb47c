//! NOTIFY in the world: what a process has committed reaches all that listen, and the checker of what clients hear.

use std::collections::BTreeSet;

use crate::client::actor::Stage;
use crate::hearing::Listening;
use crate::world::{Event, World};

/// Who listens to nothing for so long after a notification has lost it, where nothing is slow.
const HEARD_US: u64 = 3_000_000;

impl World {
    /// A process has committed notifications: those of its endpoint that listen are told, soon.
    pub(crate) fn spread(&mut self, p: usize, told: &[(String, String)]) {
        for (channel, payload) in told {
            self.note_notification(p, channel, payload);
            let (endpoint, pid) = (self.processes[p].endpoint, self.processes[p].pid);
            for q in (0..self.processes.len()).filter(|q| *q != p) {
                if self.processes[q].endpoint != endpoint || self.processes[q].is_dead {
                    continue;
                }
                self.processes[q].hear(pid, channel, payload);
                if !self.processes[q].heard.is_empty() {
                    let most = *self.signal_luck.pick(&[1, 1, 100, 3_000]);
                    let after = self.signal_luck.below(most);
                    self.schedule(after, Event::Process(q));
                }
            }
        }
    }

    /// A session that is between transactions is told what it has heard.
    pub(crate) fn tell_heard(&mut self, p: usize) {
        let process = &mut self.processes[p];
        let is_between = process.busy.is_none() && process.is_idle_but_for_input();
        if !process.is_dead && is_between && !process.heard.is_empty() {
            let (link, bytes) = (process.link, process.take_heard());
            if !bytes.is_empty() {
                self.write(link, 1, &bytes);
            }
        }
    }

    /// Who must hear it, and who must not?
    fn note_notification(&mut self, p: usize, channel: &str, payload: &str) {
        let endpoint = self.processes[p].endpoint;
        self.hearing.said(endpoint, channel, payload, self.now);
        for i in 0..self.clients.len() {
            if self.clients[i].stage == Stage::Ready && self.endpoint_of(i) == Some(endpoint) {
                let state = self.clients[i].mirror.listens(channel);
                self.hearing.note(i, endpoint, channel, state);
            }
        }
    }

    /// Clients that listen to all that a process listens to.
    pub(crate) fn listeners_like(&self, p: usize) -> BTreeSet<u32> {
        let Some(session) = &self.processes[p].session else { return BTreeSet::new() };
        let clients = self.clients.iter().filter(|client| client.mirror.hears_all(session));
        clients.map(|client| client.who.id).collect()
    }

    fn endpoint_of(&self, i: usize) -> Option<usize> {
        if self.is_direct {
            return Some(0);
        }
        self.checks.regimes.target(&self.clients[i].who.database)
    }

    /// A client was told that somebody notified.
    pub(crate) fn client_hears(&mut self, i: usize, channel: &str, payload: &str) {
        let Some(endpoint) = self.endpoint_of(i) else { return };
        if let Err(words) = self.hearing.heard(i, endpoint, channel, payload) {
            self.checks.fail(format!("client {i}: {words}"));
        }
    }

    /// A client that ends its session in peace has been told everything by then.
    pub(crate) fn check_heard(&mut self, i: usize) {
        let (client, now) = (&self.clients[i], self.now);
        let is_undisturbed = client.hit_until < now && client.dozes_until + HEARD_US < now;
        let is_calm = now > self.scenario.heals_at + HEARD_US || self.is_direct;
        if is_undisturbed && is_calm && client.mirror.listens("") != Listening::Unknown {
            let until = now.saturating_sub(HEARD_US);
            if let Some(words) = self.hearing.missing(i, until) {
                self.checks.fail(format!("client {i}: {words}"));
            }
        }
    }
}

//! What pins a server to a client must be there, and is gone from the pin when it has gone.
//!
//! The fake server holds what nine of the ten reasons stand for. The tenth, an unknown state, is that a server could not be
//! asked: nothing in a session shows it, so all that is demanded is that a question was stopped there.

use forebay_core::command::Snapshot;
use forebay_spec::pins;

use crate::server::language::Question;
use crate::world::World;

/// What tells of each pin but the last, in their order.
const QUESTIONS: [Question; pins::ALL.len() - 1] = [
    Question::Temp,
    Question::Lock,
    Question::Cursor,
    Question::Prepared,
    Question::Channel,
    Question::Authorization,
    Question::Seed,
    Question::Library,
    Question::Sequence,
];

/// The last.
const UNKNOWN: &str = "unknown state";

impl World {
    /// Looks at the pins of a worker's clients, once nothing is under way. A cancel may put the look at a server off.
    pub(crate) fn check_pins(&mut self, snapshot: &Snapshot) {
        for client in &snapshot.clients {
            let server = snapshot.servers.iter().find(|server| server.client == Some(client.id));
            let pid = server.map(|server| server.remote_pid as i32);
            let found = self.processes.iter().position(|p| Some(p.pid) == pid && !p.is_dead);
            let Some(p) = found.filter(|p| self.is_quiet(self.processes[*p].link, *p)) else { continue };
            let Some(session) = self.processes[p].session.as_ref() else { continue };
            // What was stopped may have left what no query tells of: of a setval() lastval() does not.
            let is_untold = |q| matches!(q, Question::Library | Question::Seed | Question::Sequence);
            let may_be = |question| self.processes[p].was_stopped && is_untold(question);
            let mut pins = pins::ALL.iter().zip(QUESTIONS).filter(|(row, _)| client.pin.contains(&row.name));
            let stale = pins.find(|(_, question)| !session.has(*question) && !may_be(*question));
            let stale = stale.map(|(row, _)| row.name);
            let is_known = client.pin.contains(&UNKNOWN) && !self.processes[p].was_stopped;
            self.checks.pinned_by_nothing(client.id, stale.or(is_known.then_some(UNKNOWN)), self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reason that changes its place would be held against the wrong thing.
    #[test]
    fn every_reason_has_its_question() {
        let names = pins::ALL.map(|row| row.name);
        let due = [
            "temporary object",
            "advisory lock",
            "cursor with hold",
            "prepared statement",
            "listen",
            "session authorization",
            "seed",
            "library",
            "sequence",
            UNKNOWN,
        ];
        assert_eq!(names, due);
    }
}

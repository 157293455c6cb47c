//! Python's part of the world: it answers the workers' questions, late, wrongly, or never.

use forebay_core::auth::salt_password;
use forebay_core::ids::QuestionId;
use forebay_core::question::{Answer, Question};

use crate::world::{Event, World};

/// A denial is remembered by workers for as long as they are told, and heard of a little later.
pub(crate) const DENIAL_KEPT_US: u64 = 100_000;
const DENIAL_HEARD_US: u64 = 5_000_000;

impl World {
    pub(crate) fn ask(&mut self, w: usize, id: QuestionId, question: &Question) {
        let after = if self.rng.one_in(10) { self.draw(500_000) } else { self.draw(3_000) };
        match question {
            Question::Secret { database, user } => self.ask_secret(w, id, database, user, after),
            Question::Verdict { .. } => self.schedule(after, Event::Answered(w, id, Answer::Verdict(false))),
            Question::OsUser { .. } => self.schedule(after, Event::Answered(w, id, Answer::OsUser(None))),
            // Nobody waits for an answer.
            Question::Suspect { database } => self.suspected(database),
            // There is no statement that waits.
            Question::CallOff { .. } => {}
            Question::Console { .. } => {
                self.schedule(after, Event::Answered(w, id, Answer::Failed("no console here".into())));
            }
            Question::SaltPassword { password, salt, iterations, .. } => {
                let salted = salt_password(password, salt, *iterations);
                self.schedule(after, Event::Answered(w, id, Answer::SaltedPassword(salted)));
            }
        }
    }

    fn ask_secret(&mut self, w: usize, id: QuestionId, database: &str, user: &str, after: u64) {
        let one_in = if self.now < self.scenario.heals_at { self.scenario.faults.bad_answer_one_in } else { 0 };
        let is_bad = self.order_luck.one_in(one_in);
        let known = Answer::Secret(Some(self.scenario.credential.clone()));
        self.trace.say(self.now, || format!("worker {w} asks for the secret of {user}, is answered badly: {is_bad}"));
        if !is_bad {
            return self.schedule(after, Event::Answered(w, id, known));
        }
        let name = (database.to_owned(), user.to_owned());
        match self.order_luck.below(4) {
            0 => {
                self.denials.insert(name, self.now + after + DENIAL_HEARD_US);
                self.schedule(after, Event::Answered(w, id, Answer::Secret(None)));
            }
            1 => self.schedule(after, Event::Answered(w, id, Answer::Failed("nobody answers".into()))),
            // The client has been told by then, or has gone.
            2 => {
                let late = self.order_luck.between(1_000_000, 6_000_000);
                self.schedule(late, Event::Answered(w, id, known));
            }
            _ => {}
        }
    }

    /// Whether Python has said lately that there is no such user.
    pub(crate) fn was_denied(&self, database: &str, user: &str) -> bool {
        let until = self.denials.get(&(database.to_owned(), user.to_owned()));
        until.is_some_and(|until| *until > self.now)
    }
}

//! Programs out of a seed: who is next, and with which feature.
//!
//! No client may have to wait for another one, whatever the pool's size: while as many clients hold servers as the
//! planned pool has, only those go on. What a client holds is foreseen here and known after the direct run; a run whose
//! clients hold more than was foreseen takes a larger pool.

use crate::feature::{Cell, FAST, Feature};
use crate::grammar::{self, Session};
use crate::program::{Action, CLIENTS_MAX, POOLS, Program, Step};

/// Most steps of a program, not counting those that end it.
const STEPS_MAX: usize = 60;

/// Makes the program of a seed for a cell, from the features given.
pub(crate) fn generate(seed: u64, cell: Cell, level: &str, features: &[Feature]) -> Program {
    let mut rng = fastrand::Rng::with_seed(seed);
    let theme = theme(&mut rng, cell, level, features);
    let clients: Vec<_> = (0..rng.usize(2..=CLIENTS_MAX))
        .map(|_| if theme.contains(&Feature::Startup) { grammar::startup(&mut rng) } else { Vec::new() })
        .collect();
    let may_set = theme.iter().any(|feature| grammar::SETTERS.contains(feature));
    let mut draft = Draft {
        sessions: (0..clients.len()).map(|client| Session::new(client, may_set, level == FAST)).collect(),
        pool: POOLS[cell.pool],
        theme,
        steps: Vec::new(),
    };
    let wanted = rng.usize(5..=STEPS_MAX).min(rng.usize(5..=STEPS_MAX));
    let mut first = vec![cell.first, cell.second];
    while draft.steps.len() < wanted || !first.is_empty() {
        draft.add(&mut rng, &mut first);
        if draft.steps.len() > STEPS_MAX {
            break;
        }
    }
    draft.finish();
    let superuser = is_superuser(&mut rng, &draft.theme);
    Program { level: level.to_owned(), pool: draft.pool, superuser, tls: rng.bool(), clients, steps: draft.steps }
}

/// Others are refused what only superusers may do; that has to look the same too.
fn is_superuser(rng: &mut fastrand::Rng, theme: &[Feature]) -> bool {
    let may = rng.u8(..100);
    theme.contains(&Feature::Authorization) && may < 75 || theme.contains(&Feature::Load) && may < 35
}

/// What a program is about: its cell's pair and some more, since defects hide between features.
fn theme(rng: &mut fastrand::Rng, cell: Cell, level: &str, features: &[Feature]) -> Vec<Feature> {
    let features: Vec<_> = features.iter().filter(|feature| feature.is_drawn_at(level)).collect();
    let mut theme = vec![cell.first, cell.second];
    for _ in 0..rng.usize(1..7) {
        theme.push(*features[rng.usize(..features.len())]);
    }
    theme.dedup();
    theme
}

struct Draft {
    sessions: Vec<Session>,
    pool: usize,
    theme: Vec<Feature>,
    steps: Vec<Step>,
}

impl Draft {
    /// Adds what one client does next. `first`: features that have not had their turn.
    fn add(&mut self, rng: &mut fastrand::Rng, first: &mut Vec<Feature>) {
        let client = self.next_client(rng);
        let session = &mut self.sessions[client];
        if let Some((feature, action)) = session.pending.pop_front() {
            self.steps.push(Step { client, feature, action });
            return;
        }
        if !session.is_connected {
            session.is_connected = true;
            let asks = self.theme.contains(&Feature::Startup);
            let startup = if asks { grammar::startup(rng) } else { Vec::new() };
            self.steps.push(Step { client, feature: Feature::Leave, action: Action::Connect(startup) });
            return;
        }
        let is_crowded = self.pool == 1 && self.sessions.len() > 1;
        let session = &mut self.sessions[client];
        if session.is_holding() && rng.u8(..100) < if is_crowded { 30 } else { 18 } {
            let done = grammar::release(rng, session);
            self.extend(client, done);
            return;
        }
        let feature = match first.pop() {
            Some(feature) => feature,
            None => self.theme[rng.usize(..self.theme.len())],
        };
        let done = if first.is_empty() && rng.u8(..100) < 25 {
            grammar::look(rng, session, feature)
        } else {
            grammar::act(rng, session, feature)
        };
        self.extend(client, done);
    }

    /// The first action is a step at once; the others follow when the client is next.
    fn extend(&mut self, client: usize, actions: Vec<(Feature, Action)>) {
        let mut actions = actions.into_iter();
        if let Some((feature, action)) = actions.next() {
            let client = if matches!(action, Action::Noise { .. }) { self.sessions.len() + client } else { client };
            self.steps.push(Step { client, feature, action });
        }
        self.sessions[client].pending.extend(actions);
    }

    fn next_client(&self, rng: &mut fastrand::Rng) -> usize {
        let is_holding = |session: &Session| session.is_holding();
        let holders = self.sessions.iter().filter(|session| is_holding(session)).count();
        loop {
            let client = rng.usize(..self.sessions.len());
            if holders < self.pool || is_holding(&self.sessions[client]) {
                return client;
            }
        }
    }

    /// What was begun is ended; who listens hears what there is.
    fn finish(&mut self) {
        for client in 0..self.sessions.len() {
            while let Some((feature, action)) = self.sessions[client].pending.pop_front() {
                self.steps.push(Step { client, feature, action });
            }
            if self.sessions[client].is_listening && !self.sessions[client].is_in_transaction {
                self.steps.push(Step { client, feature: Feature::Notify, action: Action::Listen });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Coverage;

    /// A divergence that can't be made again can't be understood.
    #[test]
    fn a_seed_gives_the_same_program_again() {
        let cell = Coverage::new(Feature::ALL, &["safe", "strict"], 3).cell(77);
        let once = generate(5, cell, "safe", Feature::ALL);
        assert_eq!(once, generate(5, cell, "safe", Feature::ALL));
        assert_ne!(once, generate(6, cell, "safe", Feature::ALL));
    }

    /// A program made for a pair that lacks it would leave the pair out for ever.
    #[test]
    fn a_program_has_the_features_that_it_was_made_for() {
        let coverage = Coverage::new(Feature::ALL, &[""], 3);
        for number in 0..3000 {
            let cell = coverage.cell(number);
            let program = generate(number, cell, "", Feature::ALL);
            for feature in [cell.first, cell.second] {
                assert!(program.steps.iter().any(|step| step.feature == feature), "{number}: no {feature}");
            }
            assert!((5..=90).contains(&program.steps.len()), "{number}: {} steps", program.steps.len());
        }
    }
}

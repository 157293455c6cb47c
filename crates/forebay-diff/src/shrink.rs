//! The smallest program that still differs in the same way.

use std::io;
use std::time::{Duration, Instant};

use crate::compare::Uses;
use crate::lane::Lane;
use crate::program::{Action, Message, POOLS, Program, Step};
use crate::trial::{Servers, Trial, attempt};

/// Most runs that one divergence is worth.
const ATTEMPTS_MAX: usize = 400;

/// Longest that one divergence is made smaller; one that ends a wait takes the wait's time with every attempt.
const SHRINKING_MAX: Duration = Duration::from_secs(20);

/// How often a divergence is run again to see whether it always comes.
pub(crate) const REPEATS: usize = 3;

/// Tries smaller programs as long as they differ with the same signature.
pub(crate) struct Shrinker<'a> {
    lane: &'a mut Lane,
    signature: &'a str,
    attempts: usize,
    since: Instant,
    best: (Program, Trial),
}

/// How often a program differs with its signature, out of [`REPEATS`] runs on fresh servers.
pub(crate) fn repeats(lane: &mut Lane, program: &Program, signature: &str) -> io::Result<(usize, Option<Trial>)> {
    let (mut count, mut last) = (0, None);
    for _ in 0..REPEATS {
        let trial = attempt(lane, program, Servers::Fresh, &Uses::default())?;
        if trial.difference.as_ref().is_some_and(|difference| difference.signature == signature) {
            count += 1;
            last = Some(trial);
        }
    }
    Ok((count, last))
}

impl<'a> Shrinker<'a> {
    /// From a program that always differs.
    pub(crate) fn new(lane: &'a mut Lane, program: Program, trial: Trial, signature: &'a str) -> Shrinker<'a> {
        Shrinker { lane, signature, attempts: 0, since: Instant::now(), best: (program, trial) }
    }

    /// Drops clients, noise, steps, messages and parts of texts.
    pub(crate) fn shrink(mut self) -> io::Result<(Program, Trial)> {
        let mut length = usize::MAX;
        while length > weight(&self.best.0) && !self.is_over() {
            length = weight(&self.best.0);
            self.cut_tail()?;
            self.drop_clients()?;
            self.drop_steps()?;
            self.drop_startup()?;
            self.simplify_steps()?;
            self.narrow()?;
        }
        Ok(self.best)
    }

    fn is_over(&self) -> bool {
        self.attempts >= ATTEMPTS_MAX || self.since.elapsed() > SHRINKING_MAX
    }

    /// Takes the candidate if it still differs in the same way.
    fn try_out(&mut self, candidate: Program) -> io::Result<bool> {
        if candidate == self.best.0 || self.is_over() {
            return Ok(false);
        }
        self.attempts += 1;
        let trial = attempt(self.lane, &candidate, Servers::Fresh, &Uses::default())?;
        let is_same = trial.difference.as_ref().is_some_and(|difference| difference.signature == self.signature);
        if is_same {
            self.best = (candidate, trial);
        }
        Ok(is_same)
    }

    fn with(&self, change: impl FnOnce(&mut Program)) -> Program {
        let mut program = self.best.0.clone();
        change(&mut program);
        program
    }

    /// What comes after the first difference has no part in it.
    fn cut_tail(&mut self) -> io::Result<()> {
        if let Some(crate::compare::Place::Step(at)) = self.best.1.difference.as_ref().map(|found| found.place) {
            let candidate = self.with(|program| program.steps.truncate(at + 1));
            self.try_out(candidate)?;
        }
        Ok(())
    }

    fn drop_clients(&mut self) -> io::Result<()> {
        let candidate = self.with(|program| program.steps.retain(|step| !step.is_noise()));
        self.try_out(candidate)?;
        for client in (0..self.best.0.clients.len()).rev() {
            if self.best.0.clients.len() > 1 {
                let candidate = self.with(|program| drop_client(program, client));
                self.try_out(candidate)?;
            }
        }
        Ok(())
    }

    /// Zeller's ddmin: chunks of half the steps, then of a quarter, down to one.
    fn drop_steps(&mut self) -> io::Result<()> {
        let mut chunk = self.best.0.steps.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < self.best.0.steps.len() {
                let end = (at + chunk).min(self.best.0.steps.len());
                let candidate = self.with(|program| drop(program.steps.drain(at..end)));
                if !self.try_out(candidate)? {
                    at = end;
                }
            }
            if chunk == 1 {
                return Ok(());
            }
            chunk = chunk.div_ceil(2);
        }
    }

    fn drop_startup(&mut self) -> io::Result<()> {
        for client in 0..self.best.0.clients.len() {
            for at in (0..self.best.0.clients[client].len()).rev() {
                let candidate = self.with(|program| drop(program.clients[client].remove(at)));
                self.try_out(candidate)?;
            }
        }
        Ok(())
    }

    fn simplify_steps(&mut self) -> io::Result<()> {
        for at in 0..self.best.0.steps.len() {
            for simpler in simpler(&self.best.0.steps[at]) {
                let candidate = self.with(|program| program.steps[at] = simpler);
                if self.try_out(candidate)? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn narrow(&mut self) -> io::Result<()> {
        for pool in POOLS {
            if pool >= self.best.0.pool {
                break;
            }
            let candidate = self.with(|program| program.pool = pool);
            if self.try_out(candidate)? {
                break;
            }
        }
        Ok(())
    }
}

/// What shrinking makes less of.
fn weight(program: &Program) -> usize {
    let texts =
        |step: &Step| step.messages().iter().map(|message| 10 + message.sql().map_or(0, str::len)).sum::<usize>();
    let startup: usize = program.clients.iter().map(|startup| 10 + 10 * startup.len()).sum();
    program.steps.iter().map(|step| 100 + texts(step)).sum::<usize>() + startup
}

/// Takes a client out; those after it move up.
fn drop_client(program: &mut Program, client: usize) {
    program.clients.remove(client);
    program.steps.retain(|step| step.client != client);
    for step in &mut program.steps {
        step.client -= usize::from(step.client > client);
    }
}

/// Simpler steps, the simplest first.
fn simpler(step: &Step) -> Vec<Step> {
    let Action::Send(messages) = &step.action else { return Vec::new() };
    let with = |messages: Vec<Message>| Step { action: Action::Send(messages), ..step.clone() };
    let mut list = Vec::new();
    if let [Message::Parse { sql, .. }, .., Message::Sync] = messages.as_slice() {
        list.push(with(vec![Message::Query(sql.clone())]));
    }
    if let [Message::Query(sql)] = messages.as_slice() {
        let parts: Vec<_> = sql.split("; ").collect();
        for at in 0..parts.len() {
            if parts.len() > 1 {
                let rest: Vec<_> = parts.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, part)| *part).collect();
                list.push(with(vec![Message::Query(rest.join("; "))]));
            }
        }
    } else {
        for at in 0..messages.len() {
            // Without its Sync or Flush, a batch would be answered by nobody.
            if !matches!(messages[at], Message::Sync | Message::Flush) || at + 1 < messages.len() {
                let mut rest = messages.clone();
                rest.remove(at);
                list.push(with(rest));
            }
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Feature;

    fn step(client: usize, messages: Vec<Message>) -> Step {
        Step { client, feature: Feature::Dml, action: Action::Send(messages) }
    }

    #[test]
    fn a_batch_becomes_a_query_first() {
        let parse = Message::Parse { name: String::new(), sql: "SELECT 1".into() };
        let list = simpler(&step(0, vec![parse, Message::Sync]));
        assert_eq!(list[0], step(0, vec![Message::Query("SELECT 1".into())]));
    }

    #[test]
    fn a_query_of_several_statements_loses_one_at_a_time() {
        let list = simpler(&step(0, vec![Message::Query("A; B; C".into())]));
        let texts: Vec<_> = list.iter().map(|step| step.messages()[0].sql().unwrap_or_default()).collect();
        assert_eq!(texts, ["B; C", "A; C", "A; B"]);
    }

    #[test]
    fn the_clients_after_a_dropped_one_move_up() {
        let steps = [0, 1, 2].map(|client| step(client, Vec::new())).to_vec();
        let mut program = Program { pool: 1, clients: vec![Vec::new(); 3], steps, ..Program::default() };
        drop_client(&mut program, 1);
        let left: Vec<_> = program.steps.iter().map(|step| step.client).collect();
        assert_eq!((program.clients.len(), left), (2, vec![0, 1]));
    }
}

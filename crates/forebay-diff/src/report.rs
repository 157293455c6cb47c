//! What is kept of a divergence: a file that can be replayed, and a transcript that can be read.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::compare::{Difference, Place};
use crate::event::Event;
use crate::program::{Action, Message, Program, Step};
use crate::trial::Trial;

/// A program and why it is kept; also the form of regressions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seed {
    /// What differed, or what a regression guards, in words.
    pub(crate) signature: String,
    /// How it was found: seed and number of the program.
    #[serde(default)]
    pub(crate) origin: String,
    /// How often it differed when it was run again on fresh servers: `3 of 3`.
    #[serde(default)]
    pub(crate) repeats: String,
    /// What PostgreSQL said.
    #[serde(default)]
    pub(crate) direct: String,
    /// What forebay said instead.
    #[serde(default)]
    pub(crate) pooled: String,
    /// Programs to run before it on the same servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) before: Vec<Program>,
    /// The program.
    pub(crate) program: Program,
}

impl Seed {
    /// Reads one from a file.
    pub(crate) fn read(path: &Path) -> io::Result<Seed> {
        let text = fs::read_to_string(path)?;
        serde_json::from_str(&text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    }

    /// Writes it with its transcript into `folder` and returns where.
    pub(crate) fn write(&self, folder: &Path, transcript: &str) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let letters = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let stem: String = self.signature.chars().map(letters).collect();
        let path = folder.join(format!("{stem}.json"));
        fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(path.with_extension("txt"), transcript)?;
        Ok(path)
    }
}

/// Both sides of a program, step by step, as far as the first difference.
pub(crate) fn transcript(program: &Program, trial: &Trial) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "level {:?}, pool of {}", program.level, trial.pool);
    for (client, startup) in program.clients.iter().enumerate() {
        let _ = writeln!(text, "client {client}: {startup:?}");
        if trial.difference.as_ref().is_some_and(|found| found.place == Place::Login(client)) {
            both(&mut text, &trial.direct.logins[client], &trial.pooled.logins[client]);
        }
    }
    for (at, step) in program.steps.iter().enumerate() {
        write_step(&mut text, at, step);
        if let (Some(left), Some(right)) = (trial.direct.outcomes.get(at), trial.pooled.outcomes.get(at)) {
            both(&mut text, &left.events, &right.events);
        }
    }
    if let Some(Difference { place: Place::Contents(_), direct, pooled, .. }) = &trial.difference {
        let _ = writeln!(text, "tables at the end\n  direct   {direct}\n  pooled   {pooled}");
    }
    text
}

fn write_step(text: &mut String, at: usize, step: &Step) {
    let _ = match &step.action {
        Action::Send(messages) => {
            writeln!(text, "\n{at}. client {} [{}]: {}", step.client, step.feature, words(messages))
        }
        Action::Noise { messages, leave } => {
            writeln!(text, "\n{at}. noise {}: {} {leave:?}", step.client, words(messages))
        }
        other => writeln!(text, "\n{at}. client {} [{}]: {other:?}", step.client, step.feature),
    };
}

fn words(messages: &[Message]) -> String {
    let word = |message: &Message| match message {
        Message::Query(sql) => format!("Query {sql}"),
        Message::Parse { name, sql } => format!("Parse {name:?} {sql}"),
        other => format!("{other:?}"),
    };
    messages.iter().map(word).collect::<Vec<_>>().join(" · ")
}

/// What both sides said the same, then what each said from the first difference on.
fn both(text: &mut String, direct: &[Event], pooled: &[Event]) {
    let same = direct.iter().zip(pooled).take_while(|(left, right)| left == right).count();
    for event in &direct[..same] {
        let _ = writeln!(text, "           {event}");
    }
    for (side, events) in [("direct", &direct[same..]), ("pooled", &pooled[same..])] {
        for event in events {
            let _ = writeln!(text, "  {side}   {event}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_tells_the_sides_apart_from_where_they_differ() {
        let (done, idle) = (Event::Done("SET".into()), Event::Ready('I'));
        let mut text = String::new();
        both(&mut text, &[done.clone(), idle.clone()], &[done, Event::Closed]);
        assert_eq!(text, "           C SET\n  direct   Z I\n  pooled   closed\n");
    }
}

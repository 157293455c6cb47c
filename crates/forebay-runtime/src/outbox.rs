//! What the engine hands to Python: events, questions, replies. One descriptor tells that somebody waits for an answer
//! or has to be told of trouble at once; another one that there are lines for the log, which can be fetched many at a time.
//!
//! Events are dropped, and counted, when nobody fetches them; questions and replies never are: each has a
//! client or a caller that waits, and both are bounded by those.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use forebay_core::command::{CommandId, Reply};
use forebay_core::event::{Event, Level};
use forebay_core::ids::{QuestionId, WorkerId};
use forebay_core::question::Question;

use crate::mailbox::Bell;

/// Events kept for a log that is slow to fetch them.
pub const EVENTS_MAX: usize = 8192;

/// All that came since the last [`Outbox::take`].
#[derive(Debug, Default)]
pub struct Batch {
    /// Events, oldest first, and when they happened by the wall clock.
    pub events: Vec<(SystemTime, Event)>,
    /// Events that were dropped since the last batch because [`EVENTS_MAX`] were waiting.
    pub events_dropped: u64,
    /// Questions to be answered with `Engine::answer`.
    pub questions: Vec<(WorkerId, QuestionId, Question)>,
    /// Replies to `Engine::command`.
    pub replies: Vec<(WorkerId, CommandId, Reply)>,
}

/// The engine's side of the border to Python.
#[derive(Debug)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    bell: Bell,
    log_bell: Bell,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<(SystemTime, Event)>,
    dropped: u64,
    questions: Vec<(WorkerId, QuestionId, Question)>,
    replies: Vec<(WorkerId, CommandId, Reply)>,
}

impl Outbox {
    pub(crate) fn new() -> io::Result<Outbox> {
        Ok(Outbox { waiting: Mutex::default(), bell: Bell::new()?, log_bell: Bell::new()? })
    }

    /// Readable when something waits that is to be taken at once; level-triggered until [`Outbox::take`].
    pub fn fd(&self) -> RawFd {
        self.bell.fd()
    }

    /// Readable when events of the levels debug and info wait, the same way.
    pub fn log_fd(&self) -> RawFd {
        self.log_bell.fd()
    }

    /// All that waits. Never blocks for longer than a list takes to be swapped.
    pub fn take(&self) -> Batch {
        self.bell.hush();
        self.log_bell.hush();
        let waiting = std::mem::take(&mut *self.lock());
        Batch {
            events: waiting.events.into(),
            events_dropped: waiting.dropped,
            questions: waiting.questions,
            replies: waiting.replies,
        }
    }

    /// Keeps an event for the log. False: it was dropped.
    pub(crate) fn event(&self, event: Event) -> bool {
        let bell = if event.level >= Level::Warn { &self.bell } else { &self.log_bell };
        let mut waiting = self.lock();
        if waiting.events.len() >= EVENTS_MAX {
            waiting.dropped += 1;
            return false;
        }
        waiting.events.push_back((SystemTime::now(), event));
        drop(waiting);
        bell.ring();
        true
    }

    pub(crate) fn question(&self, worker: WorkerId, id: QuestionId, question: Question) {
        self.lock().questions.push((worker, id, question));
        self.bell.ring();
    }

    pub(crate) fn reply(&self, worker: WorkerId, id: CommandId, reply: Reply) {
        self.lock().replies.push((worker, id, reply));
        self.bell.ring();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event { level: Level::Info, name: "test", code: None, worker: WorkerId(0), fields: Vec::new() }
    }

    /// A log that hangs would otherwise eat the machine's memory, or lose an answer that a client waits for.
    #[test]
    fn events_beyond_the_limit_are_counted_and_replies_are_kept() {
        let outbox = Outbox::new().expect("eventfd");
        for _ in 0..EVENTS_MAX + 3 {
            outbox.event(event());
        }
        outbox.reply(WorkerId(0), CommandId(1), Reply::Done);
        let batch = outbox.take();
        assert_eq!((batch.events.len(), batch.events_dropped, batch.replies.len()), (EVENTS_MAX, 3, 1));
        assert_eq!(outbox.take().events_dropped, 0);
    }
}

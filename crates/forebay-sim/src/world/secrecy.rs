//! What forebay tells people, held against all that it must not tell (I14): its log, what SHOW is made of, metrics, and its
//! own errors.

use std::fmt::Write as _;

use forebay_core::command::Snapshot;
use forebay_core::event::Event as LogEvent;

use crate::world::World;

impl World {
    /// A line of the log.
    pub(crate) fn check_logged(&mut self, event: &LogEvent) {
        let text = format!("{} {:?} {:?}", event.name, event.code, event.fields);
        self.check_told("the log", &text);
    }

    /// What SHOW prints of a worker, and what its metrics are labelled and count.
    pub(crate) fn check_shown(&mut self, w: usize, snapshot: &Snapshot) {
        let mut text = std::mem::take(&mut self.shown);
        text.clear();
        let _ = write!(text, "{snapshot:?}");
        self.check_figures("SHOW", &text);
        text.clear();
        self.seats[w].metrics(&mut text);
        self.check_figures("a metric", &text);
        self.shown = text;
    }

    /// What is found is looked for once more where it can't be a time.
    fn check_figures(&mut self, place: &str, text: &str) {
        if self.secrets.found_in(text).is_some() {
            self.check_told(place, &without_times(text));
        }
    }

    /// An error of forebay's own.
    pub(crate) fn check_said(&mut self, words: &str) {
        self.check_told("an error", words);
    }

    fn check_told(&mut self, place: &str, text: &str) {
        if let Some(secret) = self.secrets.found_in(text) {
            self.checks.fail(format!("{place} tells {secret}: {text}"));
        }
    }
}

/// Without the figures that are times, which sooner or later are the same as some key.
fn without_times(text: &str) -> String {
    text.split(", ").filter(|part| !part.contains("_us: ")).collect::<Vec<_>>().join(", ")
}

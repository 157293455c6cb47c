//! Pins: what keeps a server with its client between transactions, for as long as it is there and no longer.

use forebay_spec::pins;
use forebay_sql::shape::{Shape, Verb};
use forebay_sql::traces::Traces;

use super::PINNING;
use crate::moving::part::part_struct;
use crate::planted::{Bug, planted};
use crate::time::Instant;

/// Why a client keeps its server.
#[derive(Clone, Debug)]
pub struct Pin {
    /// What is there: never empty.
    pub reasons: Traces,
    /// Since when.
    pub since: Instant,
    /// The kind of statement that brought each about, in the order of [`REASONS`].
    verbs: [Option<Verb>; REASONS.len()],
}

part_struct!(Pin { reasons: Traces, since: Instant, verbs: [Option<Verb>; REASONS.len()] });
part_struct!(Causes { verbs: [Option<Verb>; REASONS.len()], sure: Traces });

/// Which statements may have brought about what is there, since a server was last looked at: the first of each kind of trace,
/// but one that is sure to have goes before those that may have.
#[derive(Clone, Debug, Default)]
pub struct Causes {
    /// In the order of [`REASONS`].
    verbs: [Option<Verb>; REASONS.len()],
    /// Traces that the one noted leaves for sure.
    sure: Traces,
}

impl Causes {
    /// Notes a text that is about to run. `traces`: what it may leave, with what only the catalogue tells. `is_first`: nothing
    /// that could pin has run since the last look.
    pub(crate) fn note(&mut self, shape: &Shape, traces: Traces, is_first: bool) {
        if is_first {
            *self = Causes::default();
        }
        for (reason, verb) in REASONS.iter().zip(&mut self.verbs) {
            let is_sure = shape.pins.has(*reason) && !self.sure.has(*reason);
            if !traces.has(*reason) || (verb.is_some() && !is_sure) {
                continue;
            }
            *verb = cause(shape, *reason);
            if is_sure {
                self.sure |= *reason;
            }
        }
    }

    /// Notes that something runs of which nothing is known.
    pub(crate) fn note_unknown(&mut self, is_first: bool) {
        if is_first {
            *self = Causes::default();
        }
        if let Some(last) = self.verbs.last_mut() {
            last.get_or_insert(Verb::Other);
        }
    }

    /// What may have brought the reason at `index` about: what cannot be seen through may have done anything.
    fn of(&self, index: usize) -> Option<Verb> {
        self.verbs[index].or(self.verbs[REASONS.len() - 1])
    }
}

/// The statement of a text that leaves `reason`: the first whose own words say so; else one that runs functions, since the
/// catalogue says that some function does.
fn cause(shape: &Shape, reason: Traces) -> Option<Verb> {
    let makes = |verb: Verb| {
        let is_undoing =
            matches!(verb, Verb::Discard | Verb::DiscardAll | Verb::Reset | Verb::Close | Verb::Deallocate);
        !is_undoing && verb != Verb::Unlisten
    };
    let runs = |verb: Verb| !matches!(verb, Verb::Begin | Verb::Commit | Verb::Set | Verb::SetLocal) && makes(verb);
    let own = shape.statements.iter().find(|s| s.traces.has(reason) && makes(s.verb));
    let any = || shape.statements.iter().find(|s| runs(s.verb));
    own.or_else(any).map(|statement| statement.verb)
}

/// Reasons in the order of [`pins::ALL`].
pub const REASONS: [Traces; pins::ALL.len()] = [
    Traces::TEMP,
    Traces::LOCK,
    Traces::CURSOR,
    Traces::PREPARED,
    Traces::LISTEN,
    Traces::AUTHORIZATION,
    Traces::SEED,
    Traces::LIBRARY,
    Traces::SEQUENCE,
    Traces::OPAQUE,
];

/// Names, and what ends each.
fn rows(reasons: Traces) -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = REASONS.iter().zip(&pins::ALL);
    all.filter(move |(reason, _)| reasons.has(**reason)).map(|(_, row)| (row.name, row.ends))
}

/// The names of `reasons`.
pub fn names(reasons: Traces) -> Vec<&'static str> {
    rows(reasons).map(|(name, _)| name).collect()
}

/// The names of `reasons`, and what ends them, as sentences have it.
pub(crate) fn words(reasons: Traces) -> (String, String) {
    let ends: Vec<_> = rows(reasons).map(|(_, ends)| ends).collect();
    (names(reasons).join(", "), ends.join("; "))
}

impl Pin {
    /// The pin of a client after a look at its server: `found` is there, of what was `asked`; what was not asked for
    /// is as before. `None`: nothing keeps the server.
    pub(crate) fn after(
        before: Option<&Pin>,
        asked: Traces,
        found: Traces,
        causes: &Causes,
        now: Instant,
    ) -> Option<Pin> {
        let gone = if planted(Bug::PinNeverReleased) { Traces::NONE } else { asked };
        let unseen = Traces::AUTHORIZATION.with(Traces::SEQUENCE);
        let gone = if planted(Bug::UnseenPinKept) { gone.without(unseen) } else { gone };
        let kept = before.map_or(Traces::NONE, |pin| pin.reasons.without(gone));
        let reasons = Traces::of_bits((kept | found).bits() & PINNING.bits());
        if reasons.is_none() {
            return None;
        }
        let mut verbs = [None; REASONS.len()];
        for (index, reason) in REASONS.iter().enumerate().filter(|(_, reason)| reasons.has(**reason)) {
            // What was there before was brought about then.
            let held = before.filter(|pin| pin.reasons.has(*reason)).and_then(|pin| pin.verbs[index]);
            verbs[index] = held.or_else(|| causes.of(index));
        }
        Some(Pin { reasons, since: before.map_or(now, |pin| pin.since), verbs })
    }

    /// The kinds of statements that brought its reasons about, in their order, each once.
    pub fn statements(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (reason, verb) in REASONS.iter().zip(self.verbs).filter_map(|(reason, verb)| Some((*reason, verb?))) {
            let name = if verb == Verb::Schema && reason == Traces::TEMP { "CREATE" } else { verb.name() };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use forebay_sql::cache::ShapeCache;
    use forebay_sql::lexer::Backslash;

    use super::*;

    #[test]
    fn every_pinning_trace_has_a_name() {
        let all = REASONS.iter().fold(Traces::NONE, |all, reason| all | *reason);
        assert_eq!(all, PINNING);
    }

    fn causes(texts: &[&str]) -> Causes {
        let (mut causes, mut shapes) = (Causes::default(), ShapeCache::new(16));
        for (at, text) in texts.iter().enumerate() {
            let shape = shapes.shape(text.as_bytes(), Backslash::Plain);
            causes.note(&shape, shape.traces, at == 0);
        }
        causes
    }

    /// A pin that outlives its cause takes a server from everybody else.
    #[test]
    fn a_pin_ends_when_none_of_its_reasons_is_left() {
        let (now, none) = (Instant(5), Causes::default());
        let pin = Pin::after(None, Traces::TEMP | Traces::LOCK, Traces::TEMP, &none, now).expect("pinned");
        assert_eq!(names(pin.reasons), ["temporary object"]);
        let both = Pin::after(Some(&pin), Traces::LOCK, Traces::LOCK, &none, Instant(9)).expect("pinned");
        assert_eq!((both.reasons, both.since), (Traces::TEMP | Traces::LOCK, now));
        let one = Pin::after(Some(&both), Traces::TEMP, Traces::NONE, &none, now).expect("pinned");
        assert_eq!(one.reasons, Traces::LOCK);
        assert!(Pin::after(Some(&one), Traces::LOCK, Traces::NONE, &none, now).is_none());
    }

    /// Who is sent to a statement that did nothing looks for the leak in the wrong place.
    #[test]
    fn a_pin_names_the_statements_that_pinned() {
        let now = Instant(5);
        let asked = Traces::TEMP | Traces::LOCK;
        let first =
            causes(&["DISCARD TEMP", "create temp table t (a int)", "INSERT INTO t VALUES (1)", "show timezone"]);
        let pin = Pin::after(None, asked, Traces::TEMP, &first, now).expect("pinned");
        assert_eq!(pin.statements(), "CREATE");
        let second = causes(&["SELECT pg_advisory_lock(1)", "UPDATE t SET a = 2", "SELECT pg_advisory_unlock(2)"]);
        let pin = Pin::after(Some(&pin), asked, asked, &second, now).expect("pinned");
        assert_eq!(pin.statements(), "CREATE, SELECT");
        let pin = Pin::after(Some(&pin), Traces::TEMP, Traces::NONE, &causes(&["DROP TABLE t"]), now).expect("pinned");
        assert_eq!(pin.statements(), "SELECT", "what is left");
    }

    #[test]
    fn in_a_text_of_several_statements_the_one_that_leaves_it_is_named() {
        let text = "begin; declare k cursor with hold for select 1; set a.b to 'c'; commit";
        let pin = Pin::after(None, Traces::CURSOR, Traces::CURSOR, &causes(&[text]), Instant(5)).expect("pinned");
        assert_eq!(pin.statements(), "DECLARE");
        let seen = causes(&["begin; do 'begin perform pg_advisory_lock(1); end'; commit", "select 1"]);
        let pin = Pin::after(None, Traces::LOCK, Traces::LOCK, &seen, Instant(5)).expect("pinned");
        assert_eq!(pin.statements(), "DO");
    }
}

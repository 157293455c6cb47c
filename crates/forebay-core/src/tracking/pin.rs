//! Pins: what keeps a server with its client between transactions, for as long as it is there and no longer.

use forebay_spec::pins;
use forebay_sql::shape::Verb;
use forebay_sql::traces::Traces;

use super::PINNING;
use crate::planted::{Bug, planted};
use crate::time::Instant;

/// Why a client keeps its server.
#[derive(Clone, Debug)]
pub struct Pin {
    /// What is there: never empty.
    pub reasons: Traces,
    /// Since when.
    pub since: Instant,
    /// The statement that brought it about.
    pub verb: Verb,
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
    pub(crate) fn after(before: Option<&Pin>, asked: Traces, found: Traces, verb: Verb, now: Instant) -> Option<Pin> {
        let gone = if planted(Bug::PinNeverReleased) { Traces::NONE } else { asked };
        let kept = before.map_or(Traces::NONE, |pin| pin.reasons.without(gone));
        let reasons = Traces::of_bits((kept | found).bits() & PINNING.bits());
        if reasons.is_none() {
            return None;
        }
        let (since, verb) = before.map_or((now, verb), |pin| (pin.since, pin.verb));
        Some(Pin { reasons, since, verb })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pinning_trace_has_a_name() {
        let all = REASONS.iter().fold(Traces::NONE, |all, reason| all | *reason);
        assert_eq!(all, PINNING);
    }

    /// A pin that outlives its cause takes a server from everybody else.
    #[test]
    fn a_pin_ends_when_none_of_its_reasons_is_left() {
        let now = Instant(5);
        let pin = Pin::after(None, Traces::TEMP | Traces::LOCK, Traces::TEMP, Verb::Schema, now).expect("pinned");
        assert_eq!(names(pin.reasons), ["temporary object"]);
        let both = Pin::after(Some(&pin), Traces::LOCK, Traces::LOCK, Verb::Select, Instant(9)).expect("pinned");
        assert_eq!((both.reasons, both.since, both.verb), (Traces::TEMP | Traces::LOCK, now, Verb::Schema));
        let one = Pin::after(Some(&both), Traces::TEMP, Traces::NONE, Verb::Schema, now).expect("pinned");
        assert_eq!(one.reasons, Traces::LOCK);
        assert!(Pin::after(Some(&one), Traces::LOCK, Traces::NONE, Verb::Select, now).is_none());
    }
}

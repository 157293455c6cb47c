//! What happens when, in virtual nanoseconds; what was put down first happens first.

use std::collections::BTreeMap;

/// Events by time.
pub(super) struct Agenda<E> {
    events: BTreeMap<(u64, u64), E>,
    count: u64,
}

impl<E> Agenda<E> {
    pub(super) fn new() -> Agenda<E> {
        Agenda { events: BTreeMap::new(), count: 0 }
    }

    pub(super) fn put(&mut self, at: u64, event: E) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    /// The next event, and when it happens.
    pub(super) fn take(&mut self) -> Option<(u64, E)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}

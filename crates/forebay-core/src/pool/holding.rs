//! What a worker's servers of a pool do, as the others are told it.

use std::sync::Arc;

use forebay_spec::pins;

use crate::time::Instant;

/// A lease that others wait for.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Since when.
    pub since: Instant,
    /// Who holds it, and how, in words.
    pub holder: Arc<str>,
}

/// What a worker's servers of a pool do, for those who wait for one.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    /// The longest lease.
    pub lease: Option<Lease>,
    /// Servers that clients have.
    pub leased: u32,
    /// Servers that nobody has.
    pub idle: u32,
    /// Servers that do something else, by what it is, and since when the first of them.
    pub doing: [(u32, Instant); Holding::DOINGS],
    /// Servers that clients keep between their transactions.
    pub pinned: u32,
    /// The same by reason, in the order of [`pins::ALL`]; one may have several.
    pub pins: [u32; pins::ALL.len()],
    /// Clients that wait.
    pub waiting: u32,
    /// As of when.
    pub told_at: Instant,
}

impl Holding {
    /// Kinds of what servers do.
    pub const DOINGS: usize = 9;

    /// Counts a server that a client has.
    pub fn add_lease(&mut self, lease: Lease) {
        self.leased += 1;
        self.lease = self.lease.take().into_iter().chain([lease]).min_by_key(|lease| lease.since);
    }

    /// Counts a server, counted as a lease before, that its client keeps: for which reasons?
    pub fn add_pin(&mut self, reasons: [bool; pins::ALL.len()]) {
        self.pinned += 1;
        self.pins.iter_mut().zip(reasons).for_each(|(count, is_there)| *count += u32::from(is_there));
    }

    /// Whether pins are why there are no servers.
    pub fn are_most_pinned(&self) -> bool {
        self.pinned > 0 && self.pinned * 2 >= self.leased
    }

    /// Counts a server that does something else.
    pub fn add_doing(&mut self, doing: usize, since: Instant) {
        let (count, first) = self.doing[doing];
        self.doing[doing] = (count + 1, if count == 0 { since } else { first.min(since) });
    }

    /// The same of several workers.
    pub fn and(mut self, others: impl Iterator<Item = Holding>) -> Holding {
        for other in others {
            self.lease = self.lease.take().into_iter().chain(other.lease).min_by_key(|lease| lease.since);
            self.leased += other.leased;
            self.idle += other.idle;
            self.waiting += other.waiting;
            self.pinned += other.pinned;
            self.pins.iter_mut().zip(other.pins).for_each(|(mine, count)| *mine += count);
            for (mine, (count, since)) in self.doing.iter_mut().zip(other.doing).filter(|(_, (count, _))| *count > 0) {
                *mine = (mine.0 + count, if mine.0 == 0 { since } else { mine.1.min(since) });
            }
        }
        self
    }

    /// Servers that are told of.
    pub fn known(&self) -> u32 {
        self.leased + self.idle + self.doing.iter().map(|(count, _)| count).sum::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A count of one worker's pins says that two of twenty servers are pinned when eight are.
    #[test]
    fn pins_are_counted_over_all_workers() {
        let lease = || Lease { since: Instant(1), holder: "somebody".into() };
        let mut mine = Holding::default();
        (0..3).for_each(|_| mine.add_lease(lease()));
        mine.add_pin(std::array::from_fn(|i| i == 0));
        assert!(!mine.are_most_pinned());
        let mut other = Holding::default();
        other.add_lease(lease());
        other.add_pin(std::array::from_fn(|i| i <= 1));
        let all = mine.and([other].into_iter());
        assert_eq!((all.pinned, all.leased, all.pins[0], all.pins[1]), (2, 4, 2, 1));
        assert!(all.are_most_pinned());
    }
}

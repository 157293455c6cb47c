//! Traces: what a statement may leave behind in its session.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of things that a statement may leave in its session, or do that others must know of.
///
/// Always an upper bound: what is not in it does not happen.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Traces(u32);

impl Traces {
    /// Nothing.
    pub const NONE: Traces = Traces(0);
    /// Settings of the session, by names that the text tells (`Shape::settings`); `role` is one of them.
    pub const SETTING: Traces = Traces(1);
    /// Settings of the session by names that the text does not tell: RESET ALL, a computed name in set_config.
    pub const ANY_SETTING: Traces = Traces(1 << 1);
    /// Settings up to the end of the transaction: SET LOCAL, set_config(…, true), SET TRANSACTION.
    pub const LOCAL_SETTING: Traces = Traces(1 << 2);
    /// SET SESSION AUTHORIZATION.
    pub const AUTHORIZATION: Traces = Traces(1 << 3);
    /// A temporary object is made, changed or dropped; any DROP may drop one.
    pub const TEMP: Traces = Traces(1 << 4);
    /// A session's advisory lock is taken or let go.
    pub const LOCK: Traces = Traces(1 << 5);
    /// LISTEN or UNLISTEN.
    pub const LISTEN: Traces = Traces(1 << 6);
    /// A cursor WITH HOLD is made, or any is closed.
    pub const CURSOR: Traces = Traces(1 << 7);
    /// PREPARE or DEALLOCATE.
    pub const PREPARED: Traces = Traces(1 << 8);
    /// A sequence is advanced or set: currval and lastval have a value then.
    pub const SEQUENCE: Traces = Traces(1 << 9);
    /// currval or lastval is asked for.
    pub const READS_SEQUENCE: Traces = Traces(1 << 10);
    /// The session's random numbers are seeded.
    pub const SEED: Traces = Traces(1 << 11);
    /// A library is loaded.
    pub const LIBRARY: Traces = Traces(1 << 12);
    /// Objects that other sessions see are made, changed or dropped.
    pub const SCHEMA: Traces = Traces(1 << 13);
    /// Data are written.
    pub const WRITES: Traces = Traces(1 << 14);
    /// NOTIFY, or pg_notify.
    pub const NOTIFY: Traces = Traces(1 << 15);
    /// Anything: what is run can't be told from the text and the catalogue.
    pub const OPAQUE: Traces = Traces(1 << 16);
    /// Nothing is left, but a replica would refuse it, or answer otherwise than the primary does.
    pub const PRIMARY: Traces = Traces(1 << 17);

    const NAMES: [(Traces, &'static str); 18] = [
        (Traces::SETTING, "setting"),
        (Traces::ANY_SETTING, "any setting"),
        (Traces::LOCAL_SETTING, "local setting"),
        (Traces::AUTHORIZATION, "session authorization"),
        (Traces::TEMP, "temporary object"),
        (Traces::LOCK, "advisory lock"),
        (Traces::LISTEN, "listen"),
        (Traces::CURSOR, "cursor with hold"),
        (Traces::PREPARED, "prepared statement"),
        (Traces::SEQUENCE, "sequence"),
        (Traces::READS_SEQUENCE, "reads a sequence"),
        (Traces::SEED, "seed"),
        (Traces::LIBRARY, "library"),
        (Traces::SCHEMA, "schema"),
        (Traces::WRITES, "writes"),
        (Traces::NOTIFY, "notify"),
        (Traces::OPAQUE, "opaque"),
        (Traces::PRIMARY, "for the primary"),
    ];

    /// Whether all of `other` are in it.
    pub const fn has(self, other: Traces) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in it.
    pub const fn has_any(self, other: Traces) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it is empty.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Both.
    pub const fn with(self, other: Traces) -> Traces {
        Traces(self.0 | other.0)
    }

    /// Without those of `other`.
    pub const fn without(self, other: Traces) -> Traces {
        Traces(self.0 & !other.0)
    }

    /// Its bits, to be kept somewhere.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The set of these bits; bits that mean nothing are dropped.
    pub const fn of_bits(bits: u32) -> Traces {
        Traces(bits & ((1 << 18) - 1))
    }

    /// The names of what is in it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Traces::NAMES.into_iter().filter(move |(trace, _)| self.has(*trace)).map(|(_, name)| name)
    }
}

impl BitOr for Traces {
    type Output = Traces;

    fn bitor(self, other: Traces) -> Traces {
        self.with(other)
    }
}

impl BitOrAssign for Traces {
    fn bitor_assign(&mut self, other: Traces) {
        *self = self.with(other);
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trace_has_a_name_and_survives_its_bits() {
        let mut all = Traces::NONE;
        for (trace, name) in Traces::NAMES {
            assert!(!all.has_any(trace), "{name} has a bit of its own");
            all |= trace;
        }
        assert_eq!(all.names().count(), Traces::NAMES.len());
        assert_eq!(Traces::of_bits(all.bits()), all);
        assert_eq!(Traces::of_bits(u32::MAX), all);
        assert!(all.without(Traces::TEMP).has(Traces::LOCK) && !all.without(Traces::TEMP).has_any(Traces::TEMP));
    }
}

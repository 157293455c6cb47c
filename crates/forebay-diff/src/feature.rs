//! Features of the grammar, and which pairs of them have been seen together.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

macro_rules! features {
    ($($(#[doc = $words:literal])+ $feature:ident $name:literal,)+) => {
        /// Something that programs do. A step belongs to one of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub(crate) enum Feature {
            $($(#[doc = $words])+ #[serde(rename = $name)] $feature,)+
        }

        impl Feature {
            /// All of them.
            pub(crate) const ALL: &[Feature] = &[$(Feature::$feature,)+];

            /// As options and reports spell it.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Feature::$feature => $name,)+ }
            }
        }
    };
}

features! {
    /// Queries, and changes of a client's own rows.
    Dml "dml",
    /// Transactions: levels, chains, read-only ones, failed ones.
    Transaction "txn",
    /// Savepoints.
    Savepoint "savepoint",
    /// Statements that fail.
    Error "err",
    /// Several statements in one Query.
    Multi "multi",
    /// Protocol statements, named and unnamed.
    Prepare "prep",
    /// Batches of several Syncs, with errors, with Flush.
    Pipeline "pipeline",
    /// Portals, row limits.
    Portal "portal",
    /// COPY to and from the client.
    Copy "copy",
    /// A COPY that the client leaves unfinished or fails.
    CopyFail "copy_fail",
    /// Connections that end.
    Leave "drop",
    /// Startup parameters.
    Startup "startup",
    /// Cancel requests.
    Cancel "cancel",
    /// Notices.
    Notice "notice",
    /// SET, RESET and SHOW of settings that the session keeps.
    Set "set",
    /// SET inside transactions and savepoints.
    SetStack "set_stack",
    /// SET LOCAL.
    SetLocal "set_local",
    /// SET SESSION CHARACTERISTICS and default_transaction_*.
    Characteristics "characteristics",
    /// set_config() in queries.
    SetConfig "set_config",
    /// Settings that have a dot.
    Custom "custom",
    /// search_path.
    SearchPath "search_path",
    /// client_encoding.
    Encoding "encoding",
    /// SET ROLE.
    Role "role",
    /// Row security that asks settings.
    RowSecurity "rls",
    /// DISCARD.
    Discard "discard",
    /// Functions, DO blocks and procedures that set.
    Opaque "opaque",
    /// Triggers that set.
    Trigger "trigger",
    /// Literals whose meaning depends on settings.
    Literal "literal",
    /// PREPARE, EXECUTE and DEALLOCATE.
    SqlPrepare "sql_prep",
    /// Temporary objects.
    Temp "temp",
    /// Temporary tables that shadow real ones.
    Shadow "shadow",
    /// Temporary tables that go with the transaction.
    TempOnCommit "temp_on_commit",
    /// CREATE, ALTER and DROP.
    Ddl "ddl",
    /// Statements whose tables change.
    Replan "replan",
    /// Sequences.
    Sequence "seq",
    /// setseed() and random().
    Seed "seed",
    /// Session advisory locks.
    Lock "lock",
    /// Advisory locks of transactions.
    LockXact "lock_xact",
    /// LISTEN and NOTIFY.
    Notify "notify",
    /// Cursors.
    Cursor "cursor",
    /// Cursors that outlive their transactions.
    Hold "hold",
    /// Libraries that a session loads.
    Load "load",
    /// SET SESSION AUTHORIZATION.
    Authorization "session_auth",
    /// Transactions that are prepared, and ended by whoever comes by.
    TwoPhase "two_phase",
    /// FunctionCall messages.
    Call "call",
    /// Values in binary: parameters, results, copies, cursors.
    Binary "binary",
    /// Other sessions that leave things behind.
    Noise "noise",
}

/// The level at which only what texts say is looked for.
pub(crate) const FAST: &str = "fast";

impl Feature {
    /// Whether programs of a level are made of it. What functions and triggers set unseen reaches other clients at `fast`,
    /// as the documentation says.
    pub(crate) fn is_drawn_at(self, level: &str) -> bool {
        level != FAST || !matches!(self, Feature::Opaque | Feature::Trigger)
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Feature> {
        Feature::ALL.iter().copied().find(|feature| feature.name() == name)
    }
}

impl Display for Feature {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A pair of features at a level and a size of pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// One feature.
    pub(crate) first: Feature,
    /// Another one, or the same.
    pub(crate) second: Feature,
    /// Index of the level.
    pub(crate) level: usize,
    /// Index of the pool's size.
    pub(crate) pool: usize,
}

/// How often programs are made on purpose for a pair that none has covered: what clients hold may make its pool larger
/// than it was planned.
const TRIES_MAX: u8 = 50;

/// All cells of the features that are drawn from, and which of them programs have run in.
#[derive(Clone)]
pub(crate) struct Coverage {
    features: Vec<Feature>,
    levels: usize,
    pools: usize,
    /// Those that programs are made for, in the order in which they are.
    order: Vec<Cell>,
    seen: Vec<bool>,
    tries: Vec<u8>,
}

impl Coverage {
    /// Nothing seen yet, at these levels.
    pub(crate) fn new(features: &[Feature], levels: &[impl AsRef<str>], pools: usize) -> Coverage {
        let count = features.len() * features.len() * levels.len() * pools;
        let is_drawn = |cell: &Cell| {
            let level = levels[cell.level].as_ref();
            cell.first.is_drawn_at(level) && cell.second.is_drawn_at(level)
        };
        let order = (0..count).map(|number| cell(features, levels.len(), pools, number)).filter(is_drawn).collect();
        Coverage {
            features: features.to_vec(),
            levels: levels.len(),
            pools,
            order,
            seen: vec![false; count],
            tries: vec![0; count],
        }
    }

    /// The cell that program `number` is made for where pairs that no program has covered go first: every second
    /// program takes the next such pair, so that the others stay as varied as ever.
    pub(crate) fn steered_cell(&mut self, number: u64) -> Cell {
        let plain = self.cell(number);
        if !number.is_multiple_of(2) {
            return plain;
        }
        for ahead in 0..self.order.len() as u64 {
            let cell = self.cell(number + ahead);
            let at = self.at_of(cell);
            if !self.seen[at] && self.tries[at] < TRIES_MAX {
                self.tries[at] += 1;
                return cell;
            }
        }
        plain
    }

    fn at_of(&self, cell: Cell) -> usize {
        let place = |feature| self.features.iter().position(|own| *own == feature).unwrap_or(0);
        self.at(place(cell.first), place(cell.second), cell.level, cell.pool)
    }

    /// The cell that program `number` is made for: as many programs in a row as there are cells take one each.
    pub(crate) fn cell(&self, number: u64) -> Cell {
        let at = number % self.order.len() as u64;
        self.order[usize::try_from(at).expect("a remainder of a usize is one")]
    }

    /// Notes that a program with these features ran. Returns the pairs that none has covered before, in the order of
    /// [`Feature::ALL`].
    pub(crate) fn note(&mut self, features: &[Feature], level: usize, pool: usize) -> Vec<(Feature, Feature)> {
        let mut places: Vec<_> =
            features.iter().filter_map(|f| self.features.iter().position(|own| own == f)).collect();
        places.sort_unstable();
        places.dedup();
        let mut added = Vec::new();
        for &first in &places {
            for &second in &places {
                let at = self.at(first, second, level, pool);
                if !std::mem::replace(&mut self.seen[at], true) && first <= second {
                    added.push((self.features[first], self.features[second]));
                }
            }
        }
        added
    }

    /// Notes a pair that was covered earlier.
    pub(crate) fn cover(&mut self, first: Feature, second: Feature, level: usize, pool: usize) {
        for (first, second) in [(first, second), (second, first)] {
            let at = self.at_of(Cell { first, second, level, pool });
            self.seen[at] |= self.features.contains(&first) && self.features.contains(&second);
        }
    }

    /// Pairs that no program has covered, with indices of level and size.
    pub(crate) fn missing(&self) -> impl Iterator<Item = Cell> {
        self.pairs().filter(|cell| !self.seen[self.at_of(*cell)])
    }

    fn pairs(&self) -> impl Iterator<Item = Cell> {
        self.order.iter().copied().filter(|cell| cell.first <= cell.second)
    }

    fn at(&self, first: usize, second: usize, level: usize, pool: usize) -> usize {
        ((first * self.features.len() + second) * self.levels + level) * self.pools + pool
    }

    /// Unordered pairs seen and all, over all levels and sizes.
    pub(crate) fn count(&self) -> (usize, usize) {
        let all = self.pairs().count();
        (all - self.missing().count(), all)
    }
}

/// Cell `number` of all. Features turn fastest, so that a short run has met them all.
fn cell(features: &[Feature], levels: usize, pools: usize, number: usize) -> Cell {
    let count = features.len();
    let (lap, at) = (number / count, number % count);
    let shift = lap % count;
    let rest = lap / count;
    // The index of the pair moves along with the lap, so that neighbours differ in pool and level too.
    let variant = (rest + at + shift) % (levels * pools);
    Cell {
        first: features[at],
        second: features[(at + shift) % count],
        level: variant % levels,
        pool: variant / levels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise some pair would never be run on purpose, however long the tool runs.
    #[test]
    fn a_lap_of_programs_is_made_for_every_cell_once() {
        let mut coverage = Coverage::new(&Feature::ALL[..7], &["safe", "strict"], 3);
        for number in 0..7 * 7 * 2 * 3 {
            let cell = coverage.cell(number);
            coverage.note(&[cell.first, cell.second], cell.level, cell.pool);
        }
        let (seen, all) = coverage.count();
        assert_eq!((seen, all), (7 * 8 / 2 * 6, 7 * 8 / 2 * 6));
    }

    /// What is not looked for at a level would be found there as differences, for ever.
    #[test]
    fn a_level_has_only_the_pairs_that_are_drawn_at_it() {
        let coverage = Coverage::new(&[Feature::Dml, Feature::Opaque], &["safe", FAST], 1);
        assert_eq!(coverage.count(), (0, 3 + 1));
        let cells: Vec<_> = (0..100).map(|number| coverage.cell(number)).collect();
        assert!(cells.iter().any(|cell| cell.level == 1));
        assert!(cells.iter().all(|cell| cell.level == 0 || (cell.first, cell.second) == (Feature::Dml, Feature::Dml)));
    }

    /// Otherwise the last pairs would wait for chance.
    #[test]
    fn what_is_not_covered_goes_first_but_not_for_ever() {
        let mut coverage = Coverage::new(&[Feature::Dml], &[""], 3);
        assert_eq!(coverage.note(&[Feature::Dml], 0, 0), [(Feature::Dml, Feature::Dml)]);
        assert!(coverage.note(&[Feature::Dml, Feature::Dml], 0, 0).is_empty());
        coverage.note(&[Feature::Dml], 0, 2);
        let missing: Vec<_> = coverage.missing().collect();
        assert_eq!(missing.iter().map(|cell| cell.pool).collect::<Vec<_>>(), [1]);
        for turn in 0..u64::from(TRIES_MAX) {
            assert_eq!(coverage.steered_cell(2 * turn), missing[0]);
        }
        assert!((0..6).all(|number| coverage.steered_cell(number) == coverage.cell(number)));
    }

    #[test]
    fn a_feature_is_found_by_its_name() {
        for feature in Feature::ALL {
            assert_eq!(Feature::named(feature.name()), Some(*feature));
        }
        assert_eq!(Feature::named("none such"), None);
    }
}

//! Errors of servers, by the class of their SQLSTATE.

use crate::stats::Cell;

/// PostgreSQL's classes of errors (its appendix A); the last stands for all others.
pub const CLASSES: [&str; 40] = [
    "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23", "24", "25", "26", "27", "28",
    "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57", "58", "F0", "HV",
    "P0", "other",
];

/// A count for each of [`CLASSES`].
#[derive(Debug)]
pub struct ByClass([Cell; CLASSES.len()]);

impl Default for ByClass {
    fn default() -> ByClass {
        ByClass(std::array::from_fn(|_| Cell::default()))
    }
}

impl ByClass {
    /// Counts an error.
    #[cold]
    pub fn count(&self, sqlstate: &[u8]) {
        let class = sqlstate.get(..2).unwrap_or_default();
        let at = CLASSES.iter().position(|known| known.as_bytes() == class).unwrap_or(CLASSES.len() - 1);
        self.0[at].add(1);
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.0.iter()
    }

    /// Those that there were, by class.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(self.0.iter().map(Cell::get)).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An extension may raise what it likes; a short SQLSTATE is a hostile server's.
    #[test]
    fn an_error_is_counted_under_its_class_or_as_another() {
        let counts = ByClass::default();
        for sqlstate in [&b"23505"[..], b"23503", b"57014", b"XX000", b"", b"2"] {
            counts.count(sqlstate);
        }
        assert_eq!(counts.counts().collect::<Vec<_>>(), [("23", 2), ("57", 1), ("other", 3)]);
    }
}

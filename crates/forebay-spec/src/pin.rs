//! A reason why a session holds its server.

/// A row of spec/pins.toml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinRow {
    /// What stands in SHOW PINS, in notices and in the label of a metric.
    pub name: &'static str,
    /// What releases the server, as the end of "released by …".
    pub ends: &'static str,
}

/// What releases servers that are held for `reasons`, each once; the words of [`crate::errors::pinned`].
///
/// A name that is no row's is left out.
pub fn released_by<'a>(reasons: impl IntoIterator<Item = &'a str>) -> String {
    let mut found: Vec<&'static str> = Vec::new();
    for reason in reasons {
        let row = crate::pins::ALL.iter().find(|row| row.name == reason);
        if let Some(row) = row.filter(|row| !found.contains(&row.ends)) {
            found.push(row.ends);
        }
    }
    found.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two locks and a table are released by two things, not by three.
    #[test]
    fn what_releases_several_is_told_once_each() {
        assert_eq!(released_by(["seed", "sequence"]), "the end of the session, or pin_idle_limit");
        assert!(released_by(["cursor with hold", "listen"]).contains("session; UNLISTEN"));
        assert_eq!(released_by(["no such reason"]), "");
    }

    /// Counters are arrays in this order, and `pinned` is a sentence.
    #[test]
    fn every_reason_has_its_own_name_and_an_end() {
        let mut names: Vec<_> = crate::pins::ALL.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), crate::pins::ALL.len());
        assert!(crate::pins::ALL.iter().all(|row| !row.ends.is_empty() && !row.ends.ends_with('.')));
    }
}

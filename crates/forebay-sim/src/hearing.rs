//! The checker of notifications: each client hears what was committed while it listened, once, in the order of commits.
//!
//! While a request of a client is under way, nobody can say whether it listens; what is committed then it may hear or
//! not.

use std::collections::{BTreeMap, BTreeSet};

/// Whether a client listens to a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listening {
    Yes,
    No,
    Unknown,
}

/// An endpoint's channel.
type Place = (usize, String);

/// What one client has heard, and has still to hear, by places in the order of commits.
#[derive(Debug, Default)]
struct Ear {
    /// The first that it may hear next.
    next: BTreeMap<Place, usize>,
    must: BTreeMap<Place, BTreeSet<usize>>,
    must_not: BTreeMap<Place, BTreeSet<usize>>,
    /// A fault has left it open what its session is.
    is_in_doubt: bool,
}

/// All notifications, and who has heard them.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    /// Payloads, no two of them alike, and when they were committed.
    said: BTreeMap<Place, Vec<(String, u64)>>,
    ears: BTreeMap<usize, Ear>,
}

impl Hearing {
    /// A client begins a session.
    pub(crate) fn begins(&mut self, client: usize) {
        self.ears.insert(client, Ear::default());
    }

    /// Nobody can say any more what it must hear.
    pub(crate) fn doubts(&mut self, client: usize) {
        self.ears.entry(client).or_default().is_in_doubt = true;
    }

    /// It is about to listen to less: what it has not heard yet it may not hear at all.
    pub(crate) fn unlistens(&mut self, client: usize) {
        self.ears.entry(client).or_default().must.clear();
    }

    pub(crate) fn said(&mut self, endpoint: usize, channel: &str, payload: &str, now: u64) {
        self.said.entry((endpoint, channel.to_owned())).or_default().push((payload.to_owned(), now));
    }

    /// What the notification that was said last means to a client.
    pub(crate) fn note(&mut self, client: usize, endpoint: usize, channel: &str, state: Listening) {
        let place = (endpoint, channel.to_owned());
        let index = self.said[&place].len() - 1;
        let ear = self.ears.entry(client).or_default();
        match state {
            _ if ear.is_in_doubt => {}
            Listening::Yes => drop(ear.must.entry(place).or_default().insert(index)),
            Listening::No => drop(ear.must_not.entry(place).or_default().insert(index)),
            Listening::Unknown => {}
        }
    }

    /// A client hears a notification; `Err`: in words why it should not.
    pub(crate) fn heard(&mut self, client: usize, endpoint: usize, channel: &str, payload: &str) -> Result<(), String> {
        let place = (endpoint, channel.to_owned());
        let said = self.said.get(&place).map_or(&[][..], |said| said);
        let ear = self.ears.entry(client).or_default();
        let next = ear.next.entry(place.clone()).or_default();
        let later = said.iter().enumerate().skip(*next).find(|(_, (text, _))| text == payload);
        let Some((index, _)) = later else {
            let is_old = said.iter().any(|(text, _)| text == payload);
            let why = if is_old { "twice, or behind a later one" } else { "which nobody has said" };
            return Err(format!("it hears {payload} on {channel}, {why}"));
        };
        *next = index + 1;
        if ear.must_not.get(&place).is_some_and(|barred| barred.contains(&index)) {
            return Err(format!("it hears {payload} on {channel}, to which it did not listen"));
        }
        let must = ear.must.entry(place).or_default();
        must.remove(&index);
        match must.first().filter(|first| **first < index) {
            Some(first) => Err(format!("it hears {payload} on {channel}, but has not heard {}", said[*first].0)),
            None => Ok(()),
        }
    }

    /// What a client should have heard of all that was said until then.
    pub(crate) fn missing(&self, client: usize, until: u64) -> Option<String> {
        let ear = self.ears.get(&client).filter(|ear| !ear.is_in_doubt)?;
        ear.must.iter().find_map(|(place, indices)| {
            let (payload, _) = indices.iter().map(|index| &self.said[place][*index]).find(|(_, at)| *at < until)?;
            Some(format!("it has never heard {payload} on {}", place.1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checker that can't fail proves nothing.
    #[test]
    fn what_is_lost_doubled_reordered_or_leaked_is_told() {
        let mut hearing = Hearing::default();
        for payload in ["a", "b", "c"] {
            hearing.said(0, "n", payload, 5);
            hearing.note(1, 0, "n", Listening::Yes);
            hearing.note(2, 0, "n", Listening::No);
        }
        assert!(hearing.heard(1, 0, "n", "a").is_ok());
        assert!(hearing.heard(1, 0, "n", "a").expect_err("told").contains("twice"));
        assert!(hearing.missing(1, 9).expect("told").contains("never heard b"));
        assert!(hearing.heard(1, 0, "n", "c").expect_err("told").contains("not heard b"));
        assert!(hearing.heard(1, 0, "n", "b").expect_err("told").contains("behind"));
        assert!(hearing.heard(1, 0, "n", "x").expect_err("told").contains("nobody"));
        assert!(hearing.heard(2, 0, "n", "b").expect_err("told").contains("did not listen"));
        hearing.unlistens(1);
        assert!(hearing.missing(1, 9).is_none());
    }
}

//! Who waits for a server, and who was served meanwhile: the first first.

use std::collections::BTreeMap;

/// A client whose request has reached a worker, but no server.
#[derive(Debug)]
struct Wait {
    worker: usize,
    database: String,
    user: String,
    /// Requests that came later and were served before.
    overtaken: u32,
    number: u64,
}

/// A client whom too many have passed by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    pub(crate) client: u32,
    pub(crate) times: u32,
    /// The last that did.
    pub(crate) by: u32,
}

/// All that wait, by client.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    all: BTreeMap<u32, Wait>,
    demands: u64,
    passed: Vec<Passed>,
}

impl Waits {
    /// A client's request has reached a worker.
    pub(crate) fn begins(&mut self, client: u32, worker: usize, database: &str, user: &str) {
        self.demands += 1;
        let (database, user, number) = (database.to_owned(), user.to_owned(), self.demands);
        self.all.entry(client).or_insert(Wait { worker, database, user, overtaken: 0, number });
    }

    /// It waits no more.
    pub(crate) fn ends(&mut self, client: u32) {
        self.all.remove(&client);
    }

    /// A client is given a server, which it had not: it has passed by all that came before. `most` times is allowed where
    /// both were at one worker.
    pub(crate) fn is_served(&mut self, client: u32, most: u32) {
        let Some(wait) = self.all.remove(&client) else { return };
        let peers = self.all.iter_mut().filter(|(_, w)| w.database == wait.database && w.user == wait.user);
        for (other, peer) in peers.filter(|(_, w)| w.number < wait.number) {
            peer.overtaken += 1;
            if peer.overtaken > if peer.worker == wait.worker { most } else { most * 3 } {
                self.passed.push(Passed { client: *other, times: peer.overtaken, by: client });
            }
        }
    }

    /// Whom too many have passed by since this was last asked.
    pub(crate) fn take_passed(&mut self) -> Vec<Passed> {
        std::mem::take(&mut self.passed)
    }

    /// A client that seems to wait for a server has one: nobody can pass it by.
    pub(crate) fn has_server(&mut self, client: u32) {
        if let Some(wait) = self.all.get_mut(&client) {
            wait.overtaken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(waits: &mut Waits) -> Vec<(u32, u32, u32)> {
        waits.take_passed().into_iter().map(|passed| (passed.client, passed.times, passed.by)).collect()
    }

    /// If who came later counted as passed by, or who holds a server as waiting, every busy pool would be a finding.
    #[test]
    fn only_who_came_first_and_has_no_server_is_passed_by() {
        let mut waits = Waits::default();
        let come = |waits: &mut Waits, client| waits.begins(client, 0, "db0", "app");
        (1..=4).for_each(|client| come(&mut waits, client));
        waits.begins(5, 0, "db1", "app");
        waits.is_served(2, 1);
        assert!(passed(&mut waits).is_empty(), "once is allowed");
        waits.is_served(5, 0);
        assert!(passed(&mut waits).is_empty(), "of another pool");
        waits.is_served(3, 1);
        assert_eq!(passed(&mut waits), [(1, 2, 3)]);
        waits.has_server(1);
        waits.is_served(4, 1);
        assert!(passed(&mut waits).is_empty(), "it did not wait");
    }
}

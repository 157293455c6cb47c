//! Clients that wait: whether they do, their workers know. And what is done for them.

use forebay_core::cluster::roles::Serves;
use forebay_core::command::{Command, PoolRow, Snapshot};
use forebay_core::config::Role;

use crate::waits::Passed;
use crate::world::World;
use crate::world::workers::{Seat, port_of};

impl World {
    /// Clients were served: has somebody been passed by who came before?
    ///
    /// From outside, a client whose server is being asked what it has left there is like one that has none.
    pub(crate) fn check_passed(&mut self) {
        for Passed { client, times, by } in self.checks.waits.take_passed() {
            if self.is_in_doubt(client) {
                // It waits for what became of its COMMIT, and what it has sent behind that waits with it.
                self.checks.waits.has_server(client);
                continue;
            }
            match self.has_server(client as usize) {
                Some(false) => {
                    let words =
                        format!("client {client} waits while {times} later requests were served, last client {by}'s");
                    self.checks.fail(words);
                }
                Some(true) => self.checks.waits.has_server(client),
                // It is on its way to another worker.
                None => {}
            }
        }
    }

    /// A worker has been told of roles: has it done something for those who waited for an endpoint, if there is one?
    ///
    /// It looks at its pools once a second anyway, and whenever somebody else comes to wait: nobody waits for ever.
    pub(crate) fn check_supplied(&mut self, command: &Command, snapshot: &Snapshot) {
        let Command::Roles(database, found, _) = command else { return };
        let mut configured = self.scenario.config.databases.iter().filter(|one| one.name == *database);
        let Some(cluster) = configured.find_map(|one| one.cluster) else { return };
        let is_served = found.iter().any(|found| match cluster.role {
            Role::Primary => found.serves == Serves::Writes,
            Role::Replica => found.serves == Serves::Reads,
            Role::Any => matches!(found.serves, Serves::Writes | Serves::Reads),
        });
        // A server that moves, or is lent, may be all that there may be: both ends count it for a while.
        if !is_served || self.is_moving || !self.transit.is_empty() || !snapshot.paused.is_empty() {
            return;
        }
        let of_pool = |row: &&PoolRow| row.database == *database;
        let waits = |row: &PoolRow| row.cl_waiting > 0 && row.sick.is_none();
        let mut clients = snapshot.clients.iter().filter(|client| client.database == *database);
        let is_any_waiting = snapshot.pools.iter().filter(of_pool).any(waits)
            && clients.any(|client| client.state == "waiting" && client.server.is_none());
        if !is_any_waiting {
            return;
        }
        let snapshots: Vec<Snapshot> = self.seats.iter_mut().map(Seat::look).collect();
        let has_server = |row: &PoolRow| {
            row.sv_active + row.sv_idle + row.sv_used + row.sv_tested + row.sv_login + row.sv_being_canceled > 0
        };
        if !snapshots.iter().flat_map(|snapshot| &snapshot.pools).filter(of_pool).any(has_server) {
            let words =
                format!("worker {} does nothing for who waits in {database}, now that it is served", snapshot.worker);
            self.checks.fail(words);
        }
    }

    /// Whether a client holds a server, as its worker says; `None`: no worker has it.
    fn has_server(&mut self, i: usize) -> Option<bool> {
        let port = port_of(self.clients[i].link?);
        let mut rows = self.seats.iter_mut().flat_map(|seat| seat.look().clients);
        rows.find(|row| row.port == port).map(|row| row.server.is_some())
    }
}

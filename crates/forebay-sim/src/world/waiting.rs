//! Clients that wait: whether they do, their workers know.

use crate::waits::Passed;
use crate::world::World;
use crate::world::workers::port_of;

impl World {
    /// Clients were served: has somebody been passed by who came before?
    ///
    /// From outside, a client whose server is being asked what it has left there is like one that has none.
    pub(crate) fn check_passed(&mut self) {
        for Passed { client, times, by } in self.checks.waits.take_passed() {
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

    /// Whether a client holds a server, as its worker says; `None`: no worker has it.
    fn has_server(&mut self, i: usize) -> Option<bool> {
        let port = port_of(self.clients[i].link?);
        let mut rows = self.seats.iter_mut().flat_map(|seat| seat.look().clients);
        rows.find(|row| row.port == port).map(|row| row.server.is_some())
    }
}

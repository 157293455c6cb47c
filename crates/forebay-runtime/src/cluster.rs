//! What those who watch clusters need of the engine.

use crate::engine::Engine;

impl Engine {
    /// When the engine's time begins, in microseconds of the system's monotonic clock.
    pub fn clock_origin(&self) -> u64 {
        self.hub.clock.origin()
    }

    /// Whether a replica has refused a text of the database `dbname`, which was taken for a reading one.
    pub fn was_refused(&self, endpoint: &str, dbname: &str, text: &[u8]) -> bool {
        self.shared.known(endpoint, dbname).is_some_and(|known| known.was_refused(text))
    }
}

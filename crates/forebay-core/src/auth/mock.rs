//! What an unknown user's login is checked against, so that it looks and lasts like a known user's with a wrong
//! password (reliability rule R3).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::md5;
use super::scram::{ScramVerifier, affordable_iterations, sign};
use super::secret::SecretKey;
use super::{ITERATIONS_DEFAULT, Random, SALT_BYTES};

/// Kept per engine, and over reloads: the salt shown for a name must not change between two tries.
#[derive(Clone, Debug)]
pub struct MockSecret {
    key: SecretKey,
    /// Iterations shown for unknown users; those of most known ones hide best.
    iterations: u32,
    /// Under the method `md5`, unknown users are sent to SCRAM, as are those with a verifier.
    is_scram_under_md5: bool,
}

impl MockSecret {
    /// A new one.
    pub fn new(random: Random<'_>) -> MockSecret {
        let mut key = [0; 32];
        random(&mut key);
        MockSecret { key: SecretKey::new(key), iterations: ITERATIONS_DEFAULT, is_scram_under_md5: false }
    }

    /// The same key with another disguise. Iterations that we would not compute are not shown either.
    pub fn disguised(&self, iterations: u32, is_scram_under_md5: bool) -> MockSecret {
        let iterations = affordable_iterations(iterations).unwrap_or(ITERATIONS_DEFAULT);
        MockSecret { key: self.key.clone(), iterations, is_scram_under_md5 }
    }

    /// See [`MockSecret::disguised`].
    pub(super) fn is_scram_under_md5(&self) -> bool {
        self.is_scram_under_md5
    }

    /// A verifier that no password passes: always the same for the same name.
    pub(super) fn verifier(&self, user: &str) -> ScramVerifier {
        let salt = self.derive("salt", user);
        ScramVerifier {
            iterations: self.iterations,
            salt: salt.expose()[..SALT_BYTES].into(),
            stored_key: self.derive("stored key", user),
            server_key: self.derive("server key", user),
        }
    }

    /// The digits that no MD5 answer passes: always the same for the same name.
    pub(super) fn md5(&self, user: &str) -> SecretKey {
        let key = self.derive("md5", user);
        md5::stored_hash(user, &BASE64.encode(key.expose()))
    }

    fn derive(&self, purpose: &str, user: &str) -> SecretKey {
        sign(self.key.expose(), format!("{purpose}\0{user}").as_bytes())
    }
}

//! Proof of identity, both ways: towards clients ([`client`]) and towards servers ([`server`]).
//!
//! State machines without I/O; the source of random bytes is an argument. Each message is legal in exactly the
//! states that the table in its module lists.

use std::sync::Arc;

/// A secret text. Not printable, wiped when the last holder drops it.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes a secret text.
    pub fn new(text: &str) -> Secret {
        Secret(text.into())
    }
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a user's login is checked against.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A plain password.
    Plain(Secret),
}

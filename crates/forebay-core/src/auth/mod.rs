//! Proof of identity, both ways: towards clients ([`client`]) and towards servers ([`server`]).
//!
//! State machines without I/O; the source of random bytes is an argument. Each message is legal in exactly the
//! states that the table in its module lists. No call here computes PBKDF2, but for [`scram::salt_password`] and
//! those that say so: where a login needs one, it asks, and the driver's side thread answers.

pub mod access;
pub mod client;
pub mod credential;
pub mod mock;
pub mod scram;
pub mod server;

mod md5;
mod proving;
mod secret;
mod verifying;

pub use client::{Account, ClientLogin, Proof, Refusal, Step};
pub use credential::{Credential, CredentialError};
pub use mock::MockSecret;
pub use scram::{ScramKeys, ScramVerifier, salt_password};
pub use secret::{Secret, SecretKey};
pub use server::{LoginRules, ServerLogin, ServerSecret, ServerStep};

/// Bytes of a login message's body, from either side, above which it is refused unread (PostgreSQL's own limit).
pub const MESSAGE_BYTES_MAX: usize = 65_535;
/// Bytes of a peer's nonce.
pub const NONCE_BYTES_MAX: usize = 1_024;
/// Bytes of a salt.
pub const SALT_BYTES_MAX: usize = 1_024;
/// Iterations of PBKDF2 that we are ready to compute; a hostile peer could ask for 2³¹.
pub const ITERATIONS_MAX: u32 = 100_000;
/// Iterations of verifiers that we derive; PostgreSQL's default.
pub const ITERATIONS_DEFAULT: u32 = 4_096;
/// Bytes of the salt of verifiers that we derive; PostgreSQL's length.
pub const SALT_BYTES: usize = 16;

#[cfg(test)]
mod tests;

/// A source of unpredictable bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// A message as bytes of its own.
fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

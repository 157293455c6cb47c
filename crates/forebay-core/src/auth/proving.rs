//! The client's half of a SCRAM exchange: we log in to a server (RFC 5802, section 7).
//!
//! | after | legal next |
//! |---|---|
//! | `new` | `first`, then `challenge` |
//! | `challenge` | `answer`, once the keys are there |
//! | `answer` | `conclude` |
//!
//! The caller's own state keeps that order.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::SecretKey;
use super::scram::{ScramKeys, decode_key, decode_salt, hash, is_nonce, parse_iterations, sign, take_attribute, xor};

/// How the exchange is tied to the TLS connection below it.
#[derive(Clone, Debug)]
pub(super) enum Binding {
    /// It isn't, and the server is told that we could not.
    Unsupported,
    /// It isn't, and the server is told that we could, had it offered: a server that did knows of the downgrade.
    NotOffered,
    /// By the hash of the server's certificate.
    Certificate(Arc<[u8]>),
}

impl Binding {
    fn header(&self) -> &'static str {
        match self {
            Binding::Unsupported => "n,,",
            Binding::NotOffered => "y,,",
            Binding::Certificate(_) => "p=tls-server-end-point,,",
        }
    }
}

/// What the server set us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) salt: Arc<[u8]>,
    pub(super) iterations: u32,
}

/// One exchange.
#[derive(Debug)]
pub(super) struct Proving {
    binding: Binding,
    /// Our part at first, the whole once the server's is known.
    nonce: String,
    first_bare: String,
    server_first: String,
    server_signature: Option<SecretKey>,
}

impl Proving {
    pub(super) fn new(binding: Binding, nonce: String) -> Proving {
        let first_bare = format!("n=,r={nonce}");
        Proving { binding, nonce, first_bare, server_first: String::new(), server_signature: None }
    }

    /// The client-first-message.
    pub(super) fn first(&self) -> String {
        format!("{}{}", self.binding.header(), self.first_bare)
    }

    /// The server-first-message came.
    pub(super) fn challenge(&mut self, message: &[u8]) -> Result<Challenge, &'static str> {
        let message = std::str::from_utf8(message).map_err(|_| "its SCRAM challenge is not a text")?;
        let (nonce, rest) = take_attribute(message, 'r').ok_or("its SCRAM challenge has no nonce")?;
        let (salt, rest) = take_attribute(rest.unwrap_or(""), 's').ok_or("its SCRAM challenge has no salt")?;
        let (iterations, rest) =
            take_attribute(rest.unwrap_or(""), 'i').ok_or("its SCRAM challenge has no iterations")?;
        if rest.is_some() {
            return Err("its SCRAM challenge has an unknown end");
        }
        if !is_nonce(nonce) || nonce.len() == self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err("its SCRAM nonce does not extend ours");
        }
        let salt = decode_salt(salt).ok_or("its SCRAM salt is not base64 of 1 to 1,024 bytes")?;
        let iterations = parse_iterations(iterations).ok_or("its SCRAM iterations are no positive number")?;
        self.nonce = nonce.to_owned();
        self.server_first = message.to_owned();
        Ok(Challenge { salt, iterations })
    }

    /// The client-final-message.
    pub(super) fn answer(&mut self, keys: &ScramKeys) -> String {
        let mut bound = self.binding.header().as_bytes().to_vec();
        if let Binding::Certificate(certificate_hash) = &self.binding {
            bound.extend_from_slice(certificate_hash);
        }
        let without_proof = format!("c={},r={}", BASE64.encode(bound), self.nonce);
        let signed = format!("{},{},{without_proof}", self.first_bare, self.server_first);
        let signature = sign(hash(keys.client_key.expose()).expose(), signed.as_bytes());
        let proof = xor(&keys.client_key, &signature);
        self.server_signature = Some(sign(keys.server_key.expose(), signed.as_bytes()));
        format!("{without_proof},p={}", BASE64.encode(proof.expose()))
    }

    /// The server-final-message came: does the server know the password too?
    pub(super) fn conclude(&self, message: &[u8]) -> Result<(), &'static str> {
        let message = std::str::from_utf8(message).map_err(|_| "its SCRAM verdict is not a text")?;
        if message.starts_with("e=") {
            return Err("it refused the SCRAM proof");
        }
        let given = message.strip_prefix("v=").and_then(decode_key).ok_or("its SCRAM signature is malformed")?;
        match &self.server_signature {
            Some(expected) if expected.is_same(&given) => Ok(()),
            _ => Err("its SCRAM signature is wrong: it does not know the password's verifier"),
        }
    }
}

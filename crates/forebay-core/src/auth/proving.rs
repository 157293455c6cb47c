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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Secret, salt_password};

    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn rfc_exchange() -> Proving {
        let mut proving = Proving::new(Binding::Unsupported, String::from("rOprNGfwEbeRWgbNEkqO"));
        proving.first_bare = String::from("n=user,r=rOprNGfwEbeRWgbNEkqO");
        proving
    }

    /// With a wrong proof no login to any server succeeds.
    #[test]
    fn the_example_of_rfc_7677_is_answered_as_printed_there() {
        let mut proving = rfc_exchange();
        assert_eq!(proving.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = proving.challenge(SERVER_FIRST.as_bytes()).expect("the challenge is well formed");
        let salted = salt_password(&Secret::new("pencil"), &challenge.salt, challenge.iterations);
        let keys = ScramKeys::from_salted(&salted, &challenge.salt, challenge.iterations);
        assert_eq!(
            proving.answer(&keys),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(proving.conclude(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert!(proving.conclude(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_err());
        assert!(proving.conclude(b"e=other-error").is_err());
    }

    /// A server that chooses the nonce alone could replay an old exchange; one that sets no limits could stall us.
    #[test]
    fn a_challenge_out_of_bounds_is_refused() {
        let long_nonce = format!("r=rOprNGfwEbeRWgbNEkqO{},s=AAAA,i=1", "x".repeat(1_005));
        let long_salt = format!("r=rOprNGfwEbeRWgbNEkqOx,s={},i=1", "A".repeat(1_372));
        for message in [
            "",
            "r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=1",
            "r=xOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1",
            "r=rOprNGfwEbeRWgbNEkqO\u{7f},s=AAAA,i=1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=,i=1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAA,i=1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=+1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=2147483648",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1,",
            "m=x,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1",
            &long_nonce,
            &long_salt,
        ] {
            assert!(rfc_exchange().challenge(message.as_bytes()).is_err(), "{message}");
        }
        assert!(rfc_exchange().challenge(b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1").is_ok());
    }
}

//! The server's half of a SCRAM exchange: we check a client (RFC 5802, section 7).
//!
//! | after | legal next |
//! |---|---|
//! | `new` | `choose` |
//! | `choose` | `challenge` |
//! | `challenge` | `conclude` |
//!
//! The caller's own state keeps that order.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Random;
use super::scram::{
    BINDING_TYPE, PLAIN_MECHANISM, PLUS_MECHANISM, ScramKeys, ScramVerifier, decode_key, hash, is_nonce, nonce, sign,
    take_attribute, xor,
};

/// Why an exchange ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The message is not what RFC 5802 allows.
    Malformed(&'static str),
    /// Well formed, but no proof. The words are for the log, not for the peer.
    Rejected(&'static str),
}

/// One exchange.
#[derive(Debug)]
pub(super) struct Verifying {
    verifier: ScramVerifier,
    /// Why no proof can pass, where the verifier is a mock.
    doomed: Option<&'static str>,
    /// Of the certificate that the client saw; `None`: no -PLUS.
    certificate_hash: Option<Arc<[u8]>>,
    /// Our part at first, the whole once the client's is known.
    nonce: String,
    is_bound: bool,
    /// The client's channel-binding header, once it is known.
    header: &'static str,
    client_first_bare: String,
    server_first: String,
}

impl Verifying {
    pub(super) fn new(
        verifier: ScramVerifier,
        doomed: Option<&'static str>,
        certificate_hash: Option<Arc<[u8]>>,
        random: Random<'_>,
    ) -> Verifying {
        Verifying {
            verifier,
            doomed,
            certificate_hash: certificate_hash.filter(|hash| !hash.is_empty()),
            nonce: nonce(random),
            is_bound: false,
            header: "",
            client_first_bare: String::new(),
            server_first: String::new(),
        }
    }

    /// Replaces the verifier, before the first message.
    pub(super) fn expect(&mut self, verifier: ScramVerifier) {
        self.verifier = verifier;
    }

    /// The list of mechanisms, as message AuthenticationSASL carries it.
    pub(super) fn mechanisms(&self) -> Vec<u8> {
        let plus = if self.certificate_hash.is_some() { &[PLUS_MECHANISM][..] } else { &[] };
        let mut list = Vec::new();
        for mechanism in plus.iter().chain(&[PLAIN_MECHANISM]) {
            list.extend_from_slice(mechanism.as_bytes());
            list.push(0);
        }
        list.push(0);
        list
    }

    /// The client chose a mechanism.
    pub(super) fn choose(&mut self, mechanism: &[u8]) -> Result<(), Fault> {
        self.is_bound = mechanism == PLUS_MECHANISM.as_bytes() && self.certificate_hash.is_some();
        if self.is_bound || mechanism == PLAIN_MECHANISM.as_bytes() {
            Ok(())
        } else {
            Err(Fault::Malformed("client chose a SASL mechanism that was not offered"))
        }
    }

    /// The client-first-message came; gives the server-first-message.
    pub(super) fn challenge(&mut self, message: &[u8]) -> Result<&str, Fault> {
        let message = text(message)?;
        let bare = self.take_header(message)?;
        if bare.starts_with("m=") {
            return Err(Fault::Malformed("client requires an unsupported SCRAM extension"));
        }
        // The name is ignored, as in PostgreSQL: the startup message said who it is, and libpq leaves it empty.
        let (_name, rest) = take_attribute(bare, 'n').ok_or(Fault::Malformed("SCRAM user name expected"))?;
        let (client_nonce, _extensions) =
            take_attribute(rest.unwrap_or(""), 'r').ok_or(Fault::Malformed("SCRAM nonce expected"))?;
        if !is_nonce(client_nonce) {
            return Err(Fault::Malformed("SCRAM nonce is empty, too long or not printable"));
        }
        self.nonce.insert_str(0, client_nonce);
        self.client_first_bare = bare.to_owned();
        let salt = BASE64.encode(&self.verifier.salt);
        self.server_first = format!("r={},s={salt},i={}", self.nonce, self.verifier.iterations);
        Ok(&self.server_first)
    }

    /// Takes the channel-binding header off, and holds it against the mechanism that was chosen.
    fn take_header<'a>(&mut self, message: &'a str) -> Result<&'a str, Fault> {
        let (flag, rest) = message.split_once(',').ok_or(Fault::Malformed("SCRAM header expected"))?;
        self.header = match (flag, self.is_bound) {
            ("n", false) => "n,,",
            ("y", false) if self.certificate_hash.is_some() => {
                return Err(Fault::Rejected("client saw no channel binding offered, though it was: downgrade attempt"));
            }
            ("y", false) => "y,,",
            (bound, true) if bound.strip_prefix("p=") == Some(BINDING_TYPE) => "p=tls-server-end-point,,",
            (_, true) => return Err(Fault::Malformed("SCRAM channel binding is not tls-server-end-point")),
            (_, false) => return Err(Fault::Malformed("SCRAM channel-binding flag does not fit the mechanism")),
        };
        if rest.starts_with("a=") {
            return Err(Fault::Malformed("client names an authorization identity, which is not supported"));
        }
        rest.strip_prefix(',').ok_or(Fault::Malformed("SCRAM header is not closed"))
    }

    /// The client-final-message came; gives the server-final-message and what the client's proof revealed.
    pub(super) fn conclude(&self, message: &[u8]) -> Result<(String, ScramKeys), Fault> {
        let message = text(message)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(Fault::Malformed("SCRAM proof expected"))?;
        let (binding, rest) =
            take_attribute(without_proof, 'c').ok_or(Fault::Malformed("SCRAM channel binding expected"))?;
        let (nonce, _extensions) =
            take_attribute(rest.unwrap_or(""), 'r').ok_or(Fault::Malformed("SCRAM nonce expected"))?;
        let proof = decode_key(proof).ok_or(Fault::Malformed("SCRAM proof is not base64 of 32 bytes"))?;
        if verify_slices_are_equal(nonce.as_bytes(), self.nonce.as_bytes()).is_err() {
            return Err(Fault::Malformed("SCRAM nonce does not match"));
        }
        if verify_slices_are_equal(binding.as_bytes(), self.expected_binding().as_bytes()).is_err() {
            return Err(Fault::Rejected("SCRAM channel binding does not match: another certificate on the way"));
        }
        let signed = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let signature = sign(self.verifier.stored_key.expose(), signed.as_bytes());
        let client_key = xor(&proof, &signature);
        let is_proved = hash(client_key.expose()).is_same(&self.verifier.stored_key);
        // Signed before the verdict, so that a mock takes the same time.
        let server_signature = sign(self.verifier.server_key.expose(), signed.as_bytes());
        match (self.doomed, is_proved) {
            (Some(reason), _) => Err(Fault::Rejected(reason)),
            (None, false) => Err(Fault::Rejected("wrong password")),
            (None, true) => Ok((format!("v={}", BASE64.encode(server_signature.expose())), self.keys(client_key))),
        }
    }

    fn expected_binding(&self) -> String {
        let mut data = self.header.as_bytes().to_vec();
        if self.is_bound {
            data.extend_from_slice(self.certificate_hash.as_deref().unwrap_or_default());
        }
        BASE64.encode(data)
    }

    fn keys(&self, client_key: super::SecretKey) -> ScramKeys {
        ScramKeys {
            iterations: self.verifier.iterations,
            salt: self.verifier.salt.clone(),
            client_key,
            server_key: self.verifier.server_key.clone(),
        }
    }
}

fn text(message: &[u8]) -> Result<&str, Fault> {
    match std::str::from_utf8(message) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Fault::Malformed("SCRAM message is not a text")),
    }
}

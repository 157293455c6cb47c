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

    /// What we offer, the stronger first.
    pub(super) fn mechanisms(&self) -> &'static [&'static str] {
        if self.certificate_hash.is_some() { &[PLUS_MECHANISM, PLAIN_MECHANISM] } else { &[PLAIN_MECHANISM] }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;

    /// Without TLS, or with the certificate hash `[7; 32]`.
    fn rfc_exchange(is_encrypted: bool) -> Verifying {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("the RFC's salt is base64");
        let verifier = ScramVerifier::derive(&Secret::new("pencil"), &salt, 4_096);
        let certificate_hash = is_encrypted.then(|| Arc::from([7; 32]));
        let mut verifying = Verifying::new(verifier, None, certificate_hash, &mut |out| out.fill(0));
        verifying.nonce = String::from("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        verifying
    }

    /// With a wrong challenge or signature no client can log in.
    #[test]
    fn the_example_of_rfc_7677_is_checked_as_printed_there() {
        let mut verifying = rfc_exchange(false);
        assert_eq!(verifying.choose(b"SCRAM-SHA-256"), Ok(()));
        assert_eq!(
            verifying.challenge(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"),
            Ok("r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
        );
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let (verdict, keys) = verifying.conclude(last.as_bytes()).expect("the proof is right");
        assert_eq!(verdict, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(keys.opens(&verifying.verifier), "the recovered ClientKey serves for pass-through");
        let other = last.replace("c=biws", "c=eSws");
        assert!(matches!(verifying.conclude(other.as_bytes()), Err(Fault::Rejected(_))));
    }

    /// The proof of one who knows the password, over a nonce of its own or for an account that is closed.
    #[test]
    fn a_right_proof_is_refused_over_another_nonce_and_for_a_mock() {
        let conclude = |nonce: &str, doomed: Option<&'static str>| {
            let mut verifying = rfc_exchange(false);
            verifying.doomed = doomed;
            verifying.choose(b"SCRAM-SHA-256").expect("it is offered");
            let challenge = verifying.challenge(b"n,,n=,r=abc").expect("it is well formed").to_owned();
            let salt = verifying.verifier.salt.clone();
            let salted = crate::auth::salt_password(&Secret::new("pencil"), &salt, 4_096);
            let keys = ScramKeys::from_salted(&salted, &salt, 4_096);
            let without_proof = format!("c=biws,r={nonce}");
            let signed = format!("n=,r=abc,{challenge},{without_proof}");
            let signature = sign(hash(keys.client_key.expose()).expose(), signed.as_bytes());
            let proof = BASE64.encode(xor(&keys.client_key, &signature).expose());
            verifying.conclude(format!("{without_proof},p={proof}").as_bytes()).map(|_| ())
        };
        let nonce = "abc%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        assert_eq!(conclude(nonce, None), Ok(()));
        assert_eq!(conclude(nonce, Some("closed")), Err(Fault::Rejected("closed")));
        assert_eq!(conclude("abc%", None), Err(Fault::Malformed("SCRAM nonce does not match")));
    }

    /// Each line is an attack or a broken driver that PostgreSQL refuses as well.
    #[test]
    fn a_first_message_that_breaks_the_rules_is_refused() {
        let long = format!("n,,n=,r={}", "x".repeat(1_025));
        for (is_encrypted, mechanism, message) in [
            (false, "SCRAM-SHA-256", ""),
            (false, "SCRAM-SHA-256", "n"),
            (false, "SCRAM-SHA-256", "n,n=,r=x"),
            (false, "SCRAM-SHA-256", "n,a=ops,n=,r=x"),
            (false, "SCRAM-SHA-256", "n,,m=,n=,r=x"),
            (false, "SCRAM-SHA-256", "n,,r=x"),
            (false, "SCRAM-SHA-256", "n,,n=x"),
            (false, "SCRAM-SHA-256", "n,,n=,r="),
            (false, "SCRAM-SHA-256", "n,,n=,r=\u{e4}"),
            (false, "SCRAM-SHA-256", "n,,n=\0,r=x"),
            (false, "SCRAM-SHA-256", "p=tls-server-end-point,,n=,r=x"),
            (false, "SCRAM-SHA-256", "x,,n=,r=x"),
            (false, "SCRAM-SHA-256", &long),
            (true, "SCRAM-SHA-256", "y,,n=,r=x"),
            (true, "SCRAM-SHA-256", "p=tls-server-end-point,,n=,r=x"),
            (true, "SCRAM-SHA-256-PLUS", "n,,n=,r=x"),
            (true, "SCRAM-SHA-256-PLUS", "y,,n=,r=x"),
            (true, "SCRAM-SHA-256-PLUS", "p=tls-unique,,n=,r=x"),
        ] {
            let mut verifying = rfc_exchange(is_encrypted);
            assert_eq!(verifying.choose(mechanism.as_bytes()), Ok(()));
            assert!(verifying.challenge(message.as_bytes()).is_err(), "{mechanism} {message}");
        }
    }

    /// A client without TLS that says `y` is right: nothing was offered.
    #[test]
    fn a_mechanism_or_flag_is_legal_only_where_it_was_offered() {
        assert_eq!(rfc_exchange(false).mechanisms(), ["SCRAM-SHA-256"]);
        assert_eq!(rfc_exchange(true).mechanisms(), ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        assert!(rfc_exchange(false).choose(b"SCRAM-SHA-256-PLUS").is_err());
        assert!(rfc_exchange(true).choose(b"SCRAM-SHA-1").is_err());
        let mut verifying = rfc_exchange(false);
        assert_eq!(verifying.choose(b"SCRAM-SHA-256"), Ok(()));
        assert!(verifying.challenge(b"y,,n=,r=x,e=an extension to ignore").is_ok());
    }
}

//! SCRAM-SHA-256 (RFC 5802, RFC 7677): keys, verifiers, signatures, and the text form of a verifier.
//!
//! The two halves of an exchange are in `verifying` (we check a client) and `proving` (we log in to a server).

use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::credential::CredentialError;
use super::secret::{Secret, SecretKey};
use super::{ITERATIONS_MAX, SALT_BYTES_MAX};

/// The mechanism without channel binding.
pub(super) const PLAIN_MECHANISM: &str = "SCRAM-SHA-256";
/// The mechanism with it.
pub(super) const PLUS_MECHANISM: &str = "SCRAM-SHA-256-PLUS";
/// The only channel binding we speak (RFC 5929).
pub(super) const BINDING_TYPE: &str = "tls-server-end-point";
/// Random bytes in a nonce of ours; 24 characters of base64, as PostgreSQL's.
const NONCE_RANDOM_BYTES: usize = 18;

/// What a server keeps to check a SCRAM login: proves nothing by itself, yet lets its holder pose as the server.
#[derive(Clone, Debug)]
pub struct ScramVerifier {
    /// Iterations of PBKDF2.
    pub iterations: u32,
    /// 1 to [`SALT_BYTES_MAX`] bytes.
    pub salt: Arc<[u8]>,
    /// H(ClientKey).
    pub stored_key: SecretKey,
    /// Signs the server's side.
    pub server_key: SecretKey,
}

/// What a login with SCRAM needs instead of the password, for one salt and count of iterations.
#[derive(Clone, Debug)]
pub struct ScramKeys {
    /// Iterations of PBKDF2.
    pub iterations: u32,
    /// As the server stores it.
    pub salt: Arc<[u8]>,
    /// Proves who we are.
    pub client_key: SecretKey,
    /// Checks who the server is.
    pub server_key: SecretKey,
}

impl ScramVerifier {
    /// Derives the verifier of `password`, which is normalized here. Costs a PBKDF2: never called on a loop.
    pub fn derive(password: &Secret, salt: &[u8], iterations: u32) -> ScramVerifier {
        let salted = salt_password(&normalize(password), salt, iterations);
        ScramKeys::from_salted(&salted, salt, iterations).verifier()
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as `pg_authid.rolpassword` holds it.
    pub fn parse(text: &str) -> Result<ScramVerifier, CredentialError> {
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(CredentialError::Verifier)?;
        let (head, keys) = rest.split_once('$').ok_or(CredentialError::Verifier)?;
        let (iterations, salt) = head.split_once(':').ok_or(CredentialError::Verifier)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(CredentialError::Verifier)?;
        let salt = decode_salt(salt).ok_or(CredentialError::Salt)?;
        Ok(ScramVerifier {
            iterations: parse_iterations(iterations).ok_or(CredentialError::Iterations)?,
            salt,
            stored_key: decode_key(stored_key).ok_or(CredentialError::Verifier)?,
            server_key: decode_key(server_key).ok_or(CredentialError::Verifier)?,
        })
    }

    /// The text form, as PostgreSQL stores it. A method and not `Display`, so that no log prints it by accident.
    pub fn to_secret(&self) -> Secret {
        Secret::new(&format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key.expose()),
            BASE64.encode(self.server_key.expose())
        ))
    }
}

impl ScramKeys {
    /// The keys of a salted password ([`salt_password`]).
    pub fn from_salted(salted: &[u8; 32], salt: &[u8], iterations: u32) -> ScramKeys {
        ScramKeys {
            iterations,
            salt: salt.into(),
            client_key: sign(salted, b"Client Key"),
            server_key: sign(salted, b"Server Key"),
        }
    }

    /// Whether these are the keys that `verifier` came from; salt and iterations are taken for granted.
    pub(super) fn opens(&self, verifier: &ScramVerifier) -> bool {
        hash(self.client_key.expose()).is_same(&verifier.stored_key)
    }

    /// The verifier that these keys pass.
    pub fn verifier(&self) -> ScramVerifier {
        ScramVerifier {
            iterations: self.iterations,
            salt: self.salt.clone(),
            stored_key: hash(self.client_key.expose()),
            server_key: self.server_key.clone(),
        }
    }
}

/// PBKDF2 over a password that is normalized already. Milliseconds: for a side thread, never for a loop.
///
/// `iterations` is above 0, as in every question that core asks.
pub fn salt_password(password: &Secret, salt: &[u8], iterations: u32) -> [u8; 32] {
    let iterations = NonZeroU32::new(iterations).expect("a count of iterations is above 0");
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.expose().as_bytes(), &mut salted);
    salted
}

/// SASLprep (RFC 4013) as PostgreSQL applies it: a password that it prohibits is used as it is.
pub fn normalize(password: &Secret) -> Secret {
    match stringprep::saslprep(password.expose()) {
        Ok(prepared) if !prepared.is_empty() => Secret::new(&zeroize::Zeroizing::new(prepared.into_owned())),
        _ => password.clone(),
    }
}

/// HMAC-SHA-256.
pub(super) fn sign(key: &[u8], message: &[u8]) -> SecretKey {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    SecretKey::new(tag.as_ref().try_into().expect("an HMAC-SHA-256 has 32 bytes"))
}

/// SHA-256.
pub(super) fn hash(message: &[u8]) -> SecretKey {
    let hash = digest::digest(&digest::SHA256, message);
    SecretKey::new(hash.as_ref().try_into().expect("a SHA-256 has 32 bytes"))
}

/// A proof is the client's key XOR the signature; this turns one into the other, both ways.
pub(super) fn xor(one: &SecretKey, other: &SecretKey) -> SecretKey {
    let mut out = *one.expose();
    for (byte, with) in out.iter_mut().zip(other.expose()) {
        *byte ^= with;
    }
    SecretKey::new(out)
}

/// A fresh nonce: printable, without a comma.
pub(super) fn nonce(random: super::Random<'_>) -> String {
    let mut bytes = [0; NONCE_RANDOM_BYTES];
    random(&mut bytes);
    BASE64.encode(bytes)
}

/// Takes `<name>=<value>` from the front of a message, and the comma after it. The rest is `None` at the end.
pub(super) fn take_attribute(message: &str, name: char) -> Option<(&str, Option<&str>)> {
    let value = message.strip_prefix(name)?.strip_prefix('=')?;
    match value.split_once(',') {
        Some((value, rest)) => Some((value, Some(rest))),
        None => Some((value, None)),
    }
}

/// Whether a nonce is what RFC 5802 calls printable, and of a sane length.
pub(super) fn is_nonce(text: &str) -> bool {
    let printable = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b',';
    !text.is_empty() && text.len() <= super::NONCE_BYTES_MAX && text.bytes().all(printable)
}

/// Digits only, above 0, within PostgreSQL's own type.
pub(super) fn parse_iterations(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: i32 = if is_number { text.parse().ok()? } else { return None };
    u32::try_from(number).ok().filter(|&number| number > 0)
}

/// The iterations, if we are ready to compute them.
pub(super) fn affordable_iterations(iterations: u32) -> Option<u32> {
    (1..=ITERATIONS_MAX).contains(&iterations).then_some(iterations)
}

/// A salt in base64, its length checked before it is decoded.
pub(super) fn decode_salt(text: &str) -> Option<Arc<[u8]>> {
    if text.len() > SALT_BYTES_MAX.div_ceil(3) * 4 {
        return None;
    }
    let salt = BASE64.decode(text).ok()?;
    (1..=SALT_BYTES_MAX).contains(&salt.len()).then(|| salt.into())
}

/// 32 bytes in base64.
pub(super) fn decode_key(text: &str) -> Option<SecretKey> {
    // 44 digits hold 33 bytes before the padding is read.
    let mut bytes = zeroize::Zeroizing::new([0; 33]);
    if text.len() != 44 || BASE64.decode_slice(text, &mut bytes[..]).ok()? != 32 {
        return None;
    }
    Some(SecretKey::new(bytes[..32].try_into().expect("the slice has 32 bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passwords beyond ASCII would work in psql and fail here.
    #[test]
    fn passwords_are_normalized_as_rfc_4013_and_postgresql_do() {
        for (password, normalized) in [
            ("I\u{ad}X", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u{aa}", "a"),
            ("\u{2168}", "IX"),
            ("a\u{a0}b", "a b"),
            // Prohibited, bidirectional, empty after mapping: PostgreSQL takes the bytes as they are.
            ("\u{7}", "\u{7}"),
            ("\u{627}1", "\u{627}1"),
            ("\u{ad}", "\u{ad}"),
        ] {
            assert_eq!(normalize(&Secret::new(password)).expose(), normalized);
        }
    }

    /// The oracle is the code that rust-postgres sends to ALTER ROLE.
    #[test]
    fn a_derived_verifier_is_the_one_that_others_derive() {
        for password in
            ["pencil", "I\u{ad}X", "\u{7}", "a password of more than sixty-four bytes, which HMAC hashes first ...."]
        {
            let theirs = postgres_protocol::password::scram_sha_256(password.as_bytes());
            let parsed = ScramVerifier::parse(&theirs).expect("their verifier is well formed");
            let ours = ScramVerifier::derive(&Secret::new(password), &parsed.salt, parsed.iterations);
            assert_eq!(ours.to_secret().expose(), theirs);
        }
    }

    /// A verifier read wrongly locks its user out; one accepted without bounds is a way to stall a login.
    #[test]
    fn a_malformed_verifier_is_refused_and_says_why() {
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let long_salt = BASE64.encode([1; 1_025]);
        for (text, error) in [
            (format!("SCRAM-SHA-256$4096:AAAA${key}"), CredentialError::Verifier),
            (format!("SCRAM-SHA-256$4096:AAAA${key}:{key}:"), CredentialError::Verifier),
            (format!("SCRAM-SHA-256$4096:AAAA${key}:AAAA"), CredentialError::Verifier),
            (format!("SCRAM-SHA-1$4096:AAAA${key}:{key}"), CredentialError::Verifier),
            (format!("SCRAM-SHA-256$4096:${key}:{key}"), CredentialError::Salt),
            (format!("SCRAM-SHA-256$4096:A${key}:{key}"), CredentialError::Salt),
            (format!("SCRAM-SHA-256$4096:{long_salt}${key}:{key}"), CredentialError::Salt),
            (format!("SCRAM-SHA-256$0:AAAA${key}:{key}"), CredentialError::Iterations),
            (format!("SCRAM-SHA-256$-1:AAAA${key}:{key}"), CredentialError::Iterations),
            (format!("SCRAM-SHA-256$99999999999:AAAA${key}:{key}"), CredentialError::Iterations),
        ] {
            assert_eq!(ScramVerifier::parse(&text).map(|_| ()), Err(error), "{text}");
        }
        assert!(ScramVerifier::parse(&format!("SCRAM-SHA-256$4096:AAAA${key}:{key}")).is_ok());
        let longest_salt = BASE64.encode([1; 1_024]);
        assert!(ScramVerifier::parse(&format!("SCRAM-SHA-256$1:{longest_salt}${key}:{key}")).is_ok());
    }
}

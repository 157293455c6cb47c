//! What a user's login is checked against, and how it is written.

use std::fmt;

use super::scram::ScramVerifier;
use super::secret::{Secret, SecretKey};
use super::{Random, SALT_BYTES, ServerSecret};

/// What a user's login is checked against.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A plain password. Serves every method, and every server.
    Plain {
        /// As configured.
        password: Secret,
        /// Derived beforehand, so that no login pays for it; `None`: a SCRAM login asks for a PBKDF2 first.
        verifier: Option<ScramVerifier>,
    },
    /// The 32 hexadecimal digits of `md5(password + user)`. As good as the password where MD5 is accepted.
    Md5(SecretKey),
    /// A SCRAM verifier. Serves servers with the same verifier once a client proved itself against it.
    Scram(ScramVerifier),
}

/// Why a text is no credential. Holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// No text at all.
    Empty,
    /// A NUL byte, which no client could send.
    Nul,
    /// `SCRAM-SHA-256$` with something else behind it than a verifier.
    Verifier,
    /// The salt is empty, longer than 1,024 bytes, or no base64.
    Salt,
    /// The iterations are no number from 1 to 2,147,483,647.
    Iterations,
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CredentialError::Empty => "the secret is empty",
            CredentialError::Nul => "the secret contains a NUL byte",
            CredentialError::Verifier => {
                "the SCRAM verifier is malformed; expected SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>"
            }
            CredentialError::Salt => "the salt of the SCRAM verifier is not base64 of 1 to 1,024 bytes",
            CredentialError::Iterations => "the iterations of the SCRAM verifier are not from 1 to 2,147,483,647",
        })
    }
}

impl std::error::Error for CredentialError {}

impl Credential {
    /// Reads a secret text: `md5` with 32 digits, a SCRAM verifier, else a plain password. Costs no PBKDF2.
    ///
    /// PostgreSQL takes a malformed verifier for a password; that hides a typing error until the first login, so
    /// it is an error here.
    pub fn parse(text: &str) -> Result<Credential, CredentialError> {
        if text.is_empty() {
            return Err(CredentialError::Empty);
        }
        if text.contains('\0') {
            return Err(CredentialError::Nul);
        }
        if let Some(hash) = parse_md5(text) {
            return Ok(Credential::Md5(hash));
        }
        if text.starts_with("SCRAM-SHA-256$") {
            return ScramVerifier::parse(text).map(Credential::Scram);
        }
        Ok(Credential::Plain { password: Secret::new(text), verifier: None })
    }

    /// Reads a secret text and derives what logins need. Costs a PBKDF2 for a plain password: never on a loop.
    pub fn prepare(text: &str, iterations: u32, random: Random<'_>) -> Result<Credential, CredentialError> {
        let mut credential = Credential::parse(text)?;
        if let Credential::Plain { password, verifier } = &mut credential {
            let mut salt = [0; SALT_BYTES];
            random(&mut salt);
            *verifier = Some(ScramVerifier::derive(password, &salt, iterations));
        }
        Ok(credential)
    }

    /// What this alone is worth towards servers. `None` for a verifier: there the client's proof decides
    /// ([`super::Proof::server_secret`]).
    pub fn server_secret(&self) -> Option<ServerSecret> {
        match self {
            Credential::Plain { password, .. } => Some(ServerSecret::Plain { password: password.clone(), keys: None }),
            Credential::Md5(hash) => Some(ServerSecret::Md5(hash.clone())),
            Credential::Scram(_) => None,
        }
    }
}

/// The digits of `md5<32 lower-case hexadecimal digits>`, PostgreSQL's own test for that form.
fn parse_md5(text: &str) -> Option<SecretKey> {
    let digits: [u8; 32] = text.strip_prefix("md5")?.as_bytes().try_into().ok()?;
    let is_hex = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| SecretKey::new(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A password taken for a hash, or a hash for a password, locks its user out.
    #[test]
    fn the_form_of_a_secret_tells_what_it_is() {
        let hash = format!("md5{}", "0123456789abcdef".repeat(2));
        assert!(matches!(Credential::parse(&hash), Ok(Credential::Md5(_))));
        for password in ["secret", "md5", "md50123", &hash.to_uppercase(), &hash.replace("abc", "ABC"), "SCRAM-SHA-1$"]
        {
            assert!(matches!(Credential::parse(password), Ok(Credential::Plain { .. })), "{password}");
        }
        let verifier = ScramVerifier::derive(&Secret::new("secret"), &[1; 16], 2).to_secret();
        assert!(matches!(Credential::parse(verifier.expose()), Ok(Credential::Scram(_))));
        assert_eq!(Credential::parse("").map(|_| ()), Err(CredentialError::Empty));
        assert_eq!(Credential::parse("a\0b").map(|_| ()), Err(CredentialError::Nul));
        assert_eq!(Credential::parse("SCRAM-SHA-256$").map(|_| ()), Err(CredentialError::Verifier));
    }

    /// Were it not prepared, every SCRAM login would wait for a PBKDF2.
    #[test]
    fn a_prepared_password_has_its_verifier_beside_it() {
        let credential =
            Credential::prepare("secret", 4_096, &mut |out| out.fill(9)).expect("a password is well formed");
        let Credential::Plain { verifier: Some(verifier), .. } = credential else {
            panic!("no verifier was derived");
        };
        assert_eq!((verifier.iterations, &*verifier.salt), (4_096, &[9; SALT_BYTES][..]));
    }
}

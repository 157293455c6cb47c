//! The rule of secrets (I14): no password, no key and nothing of a statement stands in what is meant for people.
//!
//! Whatever could give a secret away is known here, in the spellings that it could be printed in.

use std::collections::BTreeSet;

use forebay_core::auth::scram::normalize;
use forebay_core::auth::{Credential, ScramKeys, ScramVerifier, Secret, salt_password};

use crate::rng::Rng;
use crate::wire::Tag;

/// Of every user.
pub(crate) const PASSWORD: &str = "hush-4711.";

/// Of those that are not to get in.
pub(crate) const OTHER_PASSWORD: &str = "wrong-hush-0815.";

/// Numbers of fewer digits are taken for figures: a time, or a count.
const DIGITS_MIN: usize = 9;

/// What must not be told.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    /// Found wherever they stand.
    phrases: BTreeSet<String>,
    /// Keys as numbers and in hexadecimal: found between other characters than letters and digits.
    words: BTreeSet<String>,
    /// No shorter word needs to be looked for among them.
    word_bytes_min: usize,
    /// Keys as Rust prints bytes.
    lists: BTreeSet<String>,
}

impl Secrets {
    /// Those that are there from the start: passwords, and what servers and clients derive from them.
    pub(crate) fn of(credential: &Credential) -> Secrets {
        let mut secrets = Secrets {
            phrases: [PASSWORD, OTHER_PASSWORD].map(str::to_owned).into(),
            words: BTreeSet::new(),
            word_bytes_min: usize::MAX,
            lists: BTreeSet::new(),
        };
        let verifier = match credential {
            Credential::Scram(verifier) => Some(verifier),
            Credential::Plain { verifier, .. } => verifier.as_ref(),
            _ => None,
        };
        if let Some(verifier) = verifier {
            secrets.add_verifier(verifier);
        }
        secrets
    }

    fn add_verifier(&mut self, verifier: &ScramVerifier) {
        let salted = salt_password(&normalize(&Secret::new(PASSWORD)), &verifier.salt, verifier.iterations);
        let keys = ScramKeys::from_salted(&salted, &verifier.salt, verifier.iterations);
        for key in [&keys.client_key, &verifier.stored_key, &verifier.server_key] {
            self.add_key(key.expose());
            // The text of a verifier is where base64 is at hand.
            let spelt = ScramVerifier { stored_key: key.clone(), ..verifier.clone() }.to_secret();
            let text = spelt.expose().rsplit('$').next().unwrap_or_default();
            self.phrases.extend(text.split(':').map(str::to_owned));
        }
    }

    /// Some key's bytes, as a cancel request carries them.
    pub(crate) fn add_key(&mut self, key: &[u8]) {
        let hexadecimal: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        if hexadecimal.len() >= DIGITS_MIN || hexadecimal.contains(|c: char| c.is_ascii_alphabetic()) {
            self.add_word(hexadecimal);
        }
        self.lists.insert(key.iter().map(u8::to_string).collect::<Vec<_>>().join(", "));
        if let Ok(bytes) = <[u8; 4]>::try_from(key) {
            let numbers = [u32::from_be_bytes(bytes), i32::from_be_bytes(bytes).unsigned_abs()].map(|n| n.to_string());
            numbers.into_iter().filter(|n| n.len() >= DIGITS_MIN).for_each(|number| self.add_word(number));
        }
    }

    fn add_word(&mut self, word: String) {
        self.word_bytes_min = self.word_bytes_min.min(word.len());
        self.words.insert(word);
    }

    /// A secret that stands in `text`, and what kind it is of.
    pub(crate) fn found_in(&self, text: &str) -> Option<String> {
        if let Some(phrase) = self.phrases.iter().find(|phrase| text.contains(phrase.as_str())) {
            return Some(format!("a password or what is derived of one, {phrase}"));
        }
        if let Some(tag) = Tag::first_in(text.as_bytes()) {
            return Some(format!("a part of a statement or of its parameters, {tag}"));
        }
        let words = text.as_bytes().split(|byte| !byte.is_ascii_alphanumeric());
        let key = words.filter(|word| word.len() >= self.word_bytes_min).find_map(|word| self.word(word));
        let list = || text.split('[').filter_map(|part| part.split(']').next()).find(|list| self.has_list(list));
        key.or_else(|| list().map(str::to_owned)).map(|key| format!("a key, {key}"))
    }

    /// A word of letters and digits, if it is one of those that are known: numbers, in whatever base.
    fn word(&self, word: &[u8]) -> Option<String> {
        if !word.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let word = std::str::from_utf8(word).ok()?.to_ascii_lowercase();
        self.words.contains(&word).then_some(word)
    }

    /// Most of what stands in brackets begins with no number.
    fn has_list(&self, list: &str) -> bool {
        list.starts_with(|c: char| c.is_ascii_digit()) && self.lists.contains(list)
    }
}

/// The users' secret as configured, and as their servers have it: the password, or a verifier that is cheap to check.
pub(crate) fn secret(rng: &mut Rng) -> (String, Credential) {
    let mut salt = [0; 16];
    rng.fill(&mut salt);
    let password = Secret::new(PASSWORD);
    let verifier = ScramVerifier::derive(&password, &salt, 64);
    if rng.one_in(2) {
        return (verifier.to_secret().expose().to_owned(), Credential::Scram(verifier));
    }
    (PASSWORD.to_owned(), Credential::Plain { password, verifier: Some(verifier) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A spelling that is not known is a leak that nobody sees.
    #[test]
    fn a_secret_is_found_in_every_spelling() {
        let verifier = ScramVerifier::derive(&Secret::new(PASSWORD), b"0123456789abcdef", 64);
        let mut secrets = Secrets::of(&Credential::Scram(verifier.clone()));
        secrets.add_key(&[0x9a, 0xbc, 0xde, 0xf0]);
        let stored = verifier.to_secret();
        for text in [
            format!("reason=\"password {PASSWORD} refused\""),
            format!("verifier={}", stored.expose()),
            format!("{:?}", verifier.stored_key.expose()),
            "key=9ABCDEF0".to_owned(),
            "key=2596069104".to_owned(),
            "key=-1698898192".to_owned(),
            "Client { cancel: [154, 188, 222, 240] }".to_owned(),
            "query=\"select 'c1-r2'\"".to_owned(),
        ] {
            assert!(secrets.found_in(&text).is_some(), "{text}");
        }
        assert_eq!(secrets.found_in("client=9abcdef01 application_name=\"client 1\" took_us=12345 [1, 2]"), None);
        assert_eq!(secrets.found_in(&format!("{verifier:?}")).as_deref(), None, "keys are not printable");
    }
}

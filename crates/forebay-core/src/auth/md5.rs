//! PostgreSQL's MD5 method: `"md5" + hex(md5(hex(md5(password + user)) + salt))`.
//!
//! The stored hash is as good as the password (reliability rule R19); the method is off unless asked for.

use md5::{Digest, Md5};

use super::secret::SecretKey;

/// The 32 digits that a server stores for `password`: `hex(md5(password + user))`.
pub(super) fn stored_hash(user: &str, password: &str) -> SecretKey {
    hash_hex(password.as_bytes(), user.as_bytes())
}

/// The 32 digits that prove knowledge of `stored` for this login's `salt`.
pub(super) fn answer(stored: &SecretKey, salt: [u8; 4]) -> SecretKey {
    hash_hex(stored.expose(), &salt)
}

fn hash_hex(first: &[u8], second: &[u8]) -> SecretKey {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let hash = Md5::new().chain_update(first).chain_update(second).finalize();
    let mut hex = [0; 32];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(hash.iter()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    SecretKey::new(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wrong hash locks out every user of an older server.
    #[test]
    fn the_stored_hash_is_that_of_postgresql() {
        // select 'md5' || md5('secret' || 'app');
        let hash = stored_hash("app", "secret");
        assert_eq!(hash.expose(), &postgres_protocol_hash("app", "secret", None)[..]);
        let answer = answer(&hash, [1, 2, 3, 4]);
        assert_eq!(answer.expose(), &postgres_protocol_hash("app", "secret", Some([1, 2, 3, 4]))[..]);
    }

    /// The oracle: with a salt the wire form, without one the stored form (both less their `md5`).
    fn postgres_protocol_hash(user: &str, password: &str, salt: Option<[u8; 4]>) -> Vec<u8> {
        let text = match salt {
            Some(salt) => postgres_protocol::authentication::md5_hash(user.as_bytes(), password.as_bytes(), salt),
            None => postgres_protocol::password::md5(password.as_bytes(), user),
        };
        text.as_bytes()[3..].to_vec()
    }
}

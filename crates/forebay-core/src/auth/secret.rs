//! Values that are never printed and are wiped when their last holder drops them.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use zeroize::{Zeroize, Zeroizing};

/// A secret text. Not printable, wiped when the last holder drops it.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes a secret text.
    pub fn new(text: &str) -> Secret {
        // Exactly sized: a String that grew would leave its former bytes unwiped.
        Secret(Arc::new(Zeroizing::new(String::from(text))))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether both are the same text. Hashes are compared, so that the time tells nothing, not even lengths.
    pub fn is_same(&self, other: &Secret) -> bool {
        let hash = |secret: &Secret| digest::digest(&digest::SHA256, secret.expose().as_bytes());
        verify_slices_are_equal(hash(self).as_ref(), hash(other).as_ref()).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// 32 secret bytes: a SCRAM key or the digits of an MD5 hash. Not printable, wiped on drop.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// Takes secret bytes, and wipes the copy that they came in.
    pub fn new(mut bytes: [u8; 32]) -> SecretKey {
        let key = SecretKey(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether both are the same bytes, in constant time.
    pub fn is_same(&self, other: &SecretKey) -> bool {
        verify_slices_are_equal(self.expose(), other.expose()).is_ok()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A secret left in freed memory turns up in a core dump. The wiping itself is zeroize's to test.
    #[test]
    fn secrets_are_held_by_types_that_wipe_and_clones_share_the_text() {
        fn is_wiped_on_drop<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let secret = Secret::new("s3cret");
        let Secret(held) = &secret;
        is_wiped_on_drop::<Zeroizing<String>>(held);
        assert_eq!(held.capacity(), held.len(), "no room that a wipe would miss");
        assert!(std::ptr::eq(secret.expose(), secret.clone().expose()));
        let SecretKey(held) = SecretKey::new([1; 32]);
        is_wiped_on_drop(&held);
    }

    /// Two secrets that differ in length or in a byte are not the same.
    #[test]
    fn only_the_same_text_is_the_same() {
        let secret = Secret::new("s3cret");
        assert!(secret.is_same(&Secret::new("s3cret")));
        for other in ["", "s3cre", "s3crets", "S3cret"] {
            assert!(!secret.is_same(&Secret::new(other)));
        }
        assert!(!SecretKey::new([1; 32]).is_same(&SecretKey::new([2; 32])));
    }
}

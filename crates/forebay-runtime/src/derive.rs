//! The side thread for what is slow on purpose: salted passwords (PBKDF2), so that no loop pays for them.

use std::num::NonZeroU32;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::pbkdf2;
use forebay_core::auth::Secret;
use forebay_core::ids::{QuestionId, WorkerId};
use forebay_core::question::Answer;

/// Longest salt and most rounds that are derived; a server that asks for more is refused.
const SALT_BYTES_MAX: usize = 1024;
const ITERATIONS_MAX: u32 = 100_000;

/// One password to derive.
pub(crate) struct Derivation {
    pub(crate) worker: WorkerId,
    pub(crate) id: QuestionId,
    pub(crate) password: Secret,
    pub(crate) salt: Arc<[u8]>,
    pub(crate) iterations: u32,
}

/// The thread's inbox.
pub(crate) struct Deriver(Mutex<Sender<Derivation>>);

impl Deriver {
    /// Starts the thread; each answer goes through `report`. It ends when this is dropped.
    pub(crate) fn start(report: impl Fn(WorkerId, QuestionId, Answer) + Send + 'static) -> std::io::Result<Deriver> {
        let (sender, queue) = channel::<Derivation>();
        crate::engine::spawn("forebay-derive".to_owned(), move || {
            for derivation in queue {
                let answer = derive(&derivation);
                report(derivation.worker, derivation.id, answer);
            }
        })?;
        Ok(Deriver(Mutex::new(sender)))
    }

    pub(crate) fn ask(&self, derivation: Derivation) {
        // The thread lives as long as the sender does: an error can't happen, and the asker has a deadline.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(derivation);
    }
}

fn derive(derivation: &Derivation) -> Answer {
    let rounds = NonZeroU32::new(derivation.iterations).filter(|n| n.get() <= ITERATIONS_MAX);
    let Some(rounds) = rounds else { return Answer::Failed("iteration count out of range".into()) };
    if derivation.salt.len() > SALT_BYTES_MAX {
        return Answer::Failed("salt is longer than 1,024 bytes".into());
    }
    let mut key = [0; 32];
    let password = derivation.password.expose().as_bytes();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &derivation.salt, password, &mut key);
    Answer::SaltedPassword(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derivation(iterations: u32) -> Derivation {
        let salt: Arc<[u8]> = Arc::from(*b"salt");
        Derivation { worker: WorkerId(0), id: QuestionId(1), password: Secret::new("password"), salt, iterations }
    }

    /// A wrong key is a refused login at every server. (RFC 7914, section 11, PBKDF2-HMAC-SHA-256 by the same test set)
    #[test]
    fn a_password_is_derived_as_the_published_vector_says() {
        let Answer::SaltedPassword(key) = derive(&derivation(4096)) else { panic!("derived") };
        assert_eq!(key[..8], [0xc5, 0xe4, 0x78, 0xd5, 0x92, 0x88, 0xc8, 0x41]);
    }

    /// A hostile server would keep the thread busy for hours.
    #[test]
    fn too_many_iterations_are_refused() {
        assert!(matches!(derive(&derivation(100_001)), Answer::Failed(_)));
        assert!(matches!(derive(&derivation(0)), Answer::Failed(_)));
    }
}

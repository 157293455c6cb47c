//! The side thread for what is slow on purpose: salted passwords (PBKDF2), so that no loop pays for them.
//!
//! Sources take turns: whoever asks for thousands waits for its own, and nobody else does. Our own logins to servers go first,
//! sources from which many logins have failed lately last.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::pbkdf2;
use forebay_core::auth::Secret;
use forebay_core::ids::{QuestionId, WorkerId};
use forebay_core::question::{Answer, Turn};
use rustc_hash::FxHashMap;

/// Longest salt and most rounds that are derived; a server that asks for more is refused.
const SALT_BYTES_MAX: usize = 1024;
const ITERATIONS_MAX: u32 = 100_000;

/// Passwords of one source that may wait; more of them fail at once. At a millisecond or two each, the last of them would be
/// answered when its client has long given up.
const WAITING_MAX: usize = 256;

/// One password to derive.
pub(crate) struct Derivation {
    pub(crate) worker: WorkerId,
    pub(crate) id: QuestionId,
    pub(crate) password: Secret,
    pub(crate) salt: Arc<[u8]>,
    pub(crate) iterations: u32,
    pub(crate) turn: Turn,
}

/// What waits, by whose turn it is.
#[derive(Default)]
struct Queue {
    waiting: FxHashMap<Turn, VecDeque<Derivation>>,
    /// Those that have something waiting, in the order of their turns: of our own logins, of sources, of suspects.
    turns: [VecDeque<Turn>; 3],
    is_over: bool,
}

fn rank(turn: Turn) -> usize {
    match turn {
        Turn::Own => 0,
        Turn::Of(_) => 1,
        Turn::OfSuspect(_) => 2,
    }
}

impl Queue {
    /// Puts one behind those of its own; gives it back if they are too many.
    fn put(&mut self, derivation: Derivation) -> Option<Derivation> {
        let turn = derivation.turn;
        let own = self.waiting.entry(turn).or_default();
        if own.len() >= WAITING_MAX && turn != Turn::Own {
            return Some(derivation);
        }
        if own.is_empty() {
            self.turns[rank(turn)].push_back(turn);
        }
        own.push_back(derivation);
        None
    }

    /// The next: of the first that has its turn, who goes to the end.
    fn take(&mut self) -> Option<Derivation> {
        let rank = self.turns.iter().position(|turns| !turns.is_empty())?;
        let turn = self.turns[rank].pop_front()?;
        let own = self.waiting.get_mut(&turn)?;
        let next = own.pop_front();
        if own.is_empty() {
            self.waiting.remove(&turn);
        } else {
            self.turns[rank].push_back(turn);
        }
        next
    }
}

#[derive(Default)]
struct Inbox {
    queue: Mutex<Queue>,
    bell: Condvar,
}

impl Inbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next; `None`: it is over.
    fn next(&self) -> Option<Derivation> {
        let mut queue = self.queue();
        loop {
            if queue.is_over {
                return None;
            }
            if let Some(next) = queue.take() {
                return Some(next);
            }
            queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells a worker an answer.
type Report = Box<dyn Fn(WorkerId, QuestionId, Answer) + Send + Sync>;

/// The thread's inbox.
pub(crate) struct Deriver {
    inbox: Arc<Inbox>,
    report: Arc<Report>,
}

impl Deriver {
    /// Starts the thread; each answer goes through `report`. It ends when this is dropped.
    pub(crate) fn start(
        report: impl Fn(WorkerId, QuestionId, Answer) + Send + Sync + 'static,
    ) -> std::io::Result<Deriver> {
        let (inbox, report) = (Arc::<Inbox>::default(), Arc::new(Box::new(report) as Report));
        let (thread_inbox, thread_report) = (inbox.clone(), report.clone());
        crate::engine::spawn("forebay-derive".to_owned(), move || {
            while let Some(derivation) = thread_inbox.next() {
                let answer = derive(&derivation);
                thread_report(derivation.worker, derivation.id, answer);
            }
        })?;
        Ok(Deriver { inbox, report })
    }

    pub(crate) fn ask(&self, derivation: Derivation) {
        let refused = self.inbox.queue().put(derivation);
        match refused {
            None => self.inbox.bell.notify_one(),
            Some(refused) => {
                let cause = "too many logins of the same address are being checked".into();
                (self.report)(refused.worker, refused.id, Answer::Failed(cause));
            }
        }
    }
}

impl Drop for Deriver {
    fn drop(&mut self) {
        self.inbox.queue().is_over = true;
        self.inbox.bell.notify_all();
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
    use forebay_core::misses::Source;

    fn derivation(iterations: u32) -> Derivation {
        one(1, iterations, Turn::Own)
    }

    fn one(id: u64, iterations: u32, turn: Turn) -> Derivation {
        let (salt, password): (Arc<[u8]>, _) = (Arc::from(*b"salt"), Secret::new("password"));
        Derivation { worker: WorkerId(0), id: QuestionId(id), password, salt, iterations, turn }
    }

    /// A storm of logins with wrong passwords must not be in front of one with the right one.
    #[test]
    fn sources_take_turns_and_suspects_come_last() {
        let address = |last: u8| Source::Address(std::net::IpAddr::from([127, 0, 0, last]));
        let mut queue = Queue::default();
        let turns = [
            (1, Turn::OfSuspect(address(9))),
            (2, Turn::Of(address(1))),
            (3, Turn::Of(address(1))),
            (4, Turn::Of(address(1))),
            (5, Turn::Of(address(2))),
            (6, Turn::Own),
        ];
        for (id, turn) in turns {
            assert!(queue.put(one(id, 1, turn)).is_none());
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.take()).map(|next| next.id.0).collect();
        assert_eq!(order, [6, 2, 5, 3, 4, 1]);
        assert!(queue.waiting.is_empty(), "who has nothing waiting leaves nothing behind");
        let full = (0..=WAITING_MAX as u64).filter_map(|id| queue.put(one(id, 1, Turn::Of(address(1)))));
        assert_eq!(full.count(), 1);
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

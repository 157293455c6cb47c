//! CancelRequests that name nobody, by whom they come from: who guesses keys is soon not listened to. Logins that fail are
//! counted by the same rule ([`crate::admission`]).
//!
//! PostgreSQL answers no CancelRequest, right or wrong, so that only their number gives a guesser away. A source may miss
//! `limits.cancel_misses_max` times within [`WINDOW`]; what it asks beyond that is closed unread. Requests with the right key
//! are free. Over all workers, by a lock that only cancels take.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::io::Peer;
use crate::time::Instant;

/// The time within which misses are counted.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Sources that are kept apart. When there are more that have missed lately, the rest share one count.
const SOURCES_MAX: usize = 4096;

/// Where a request comes from, as far as one can't be taken for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An address; of IPv6, the 64 bits that name a network, as its holder has all addresses in it.
    Address(IpAddr),
    /// A user of this host, by a Unix socket.
    User(Option<u32>),
    /// Any, once too many are known.
    Others,
}

impl Source {
    /// That of a client.
    pub fn of(peer: &Peer) -> Source {
        match peer {
            Peer::Unix(user) => Source::User(*user),
            Peer::Tcp(address, _) => match address.to_canonical() {
                IpAddr::V6(v6) => Source::Address(IpAddr::V6((v6.to_bits() >> 64 << 64).into())),
                v4 => Source::Address(v4),
            },
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Address(address) => write!(f, "{address}"),
            Source::User(Some(user)) => write!(f, "unix, user id {user}"),
            Source::User(None) => f.write_str("unix"),
            Source::Others => f.write_str("many addresses"),
        }
    }
}

/// What has come of one source.
#[derive(Clone, Copy, Debug)]
struct Count {
    /// When all its misses will be forgotten: each puts it off by its share of the window.
    free_at: Instant,
    /// It has been refused since.
    is_refused: bool,
}

/// Whether a request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Heard,
    /// It is not; the first that is not since the source was last heard.
    FirstRefused,
    /// It is not.
    Refused,
}

/// The counts.
#[derive(Debug, Default)]
pub struct Misses(Mutex<FxHashMap<Source, Count>>);

impl Misses {
    /// Whether a request of `source` is looked at, where a source may miss `limit` times; 0: any number of times.
    pub fn judge(&self, source: Source, limit: u32, now: Instant) -> Verdict {
        let mut counts = self.counts();
        let source = known(&counts, source);
        let Some(count) = counts.get_mut(&source).filter(|_| limit > 0) else { return Verdict::Heard };
        if count.free_at + share(limit) <= now + WINDOW {
            count.is_refused = false;
            return Verdict::Heard;
        }
        if std::mem::replace(&mut count.is_refused, true) { Verdict::Refused } else { Verdict::FirstRefused }
    }

    /// A request of `source` named nobody.
    pub fn note(&self, source: Source, limit: u32, now: Instant) {
        if limit == 0 {
            return;
        }
        let mut counts = self.counts();
        if counts.len() >= SOURCES_MAX && !counts.contains_key(&source) {
            counts.retain(|_, count| count.free_at > now);
        }
        let source = known(&counts, source);
        let count = counts.entry(source).or_insert(Count { free_at: now, is_refused: false });
        count.free_at = count.free_at.max(now) + share(limit);
    }

    fn counts(&self) -> MutexGuard<'_, FxHashMap<Source, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `source`, or what stands for it.
fn known(counts: &FxHashMap<Source, Count>, source: Source) -> Source {
    if counts.len() < SOURCES_MAX || counts.contains_key(&source) { source } else { Source::Others }
}

/// What one miss is of the window.
fn share(limit: u32) -> Duration {
    WINDOW / limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(&Peer::Tcp(text.parse().expect("an address"), 1))
    }

    /// Keys of protocol 3.0 have 32 bits: who may try as often as the network lets him finds one.
    #[test]
    fn who_misses_too_often_is_refused_until_the_window_has_passed() {
        let (misses, guesser, now) = (Misses::default(), source("10.0.0.1"), Instant(1_000_000));
        for _ in 0..3 {
            assert_eq!(misses.judge(guesser, 3, now), Verdict::Heard);
            misses.note(guesser, 3, now);
        }
        assert_eq!(misses.judge(guesser, 3, now), Verdict::FirstRefused);
        assert_eq!(misses.judge(guesser, 3, now), Verdict::Refused);
        assert_eq!(misses.judge(source("10.0.0.2"), 3, now), Verdict::Heard, "another has missed nothing");
        // A third of the window makes room for one miss of three.
        let later = now + WINDOW / 3;
        assert_eq!(misses.judge(guesser, 3, later), Verdict::Heard);
        misses.note(guesser, 3, later);
        assert_eq!(misses.judge(guesser, 3, later), Verdict::FirstRefused);
        assert_eq!(misses.judge(guesser, 0, later), Verdict::Heard, "no limit");
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_a_mapped_address_is_its_own() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    }

    #[test]
    fn sources_beyond_those_kept_apart_share_a_count() {
        let (misses, now) = (Misses::default(), Instant(1_000_000));
        for i in 0..SOURCES_MAX as u32 {
            misses.note(Source::Address(IpAddr::V4(i.into())), 2, now);
        }
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        misses.note(a, 2, now);
        misses.note(b, 2, now);
        assert_eq!(misses.judge(a, 2, now), Verdict::FirstRefused);
        // Those that have missed nothing lately make room.
        let later = now + WINDOW;
        misses.note(a, 2, later);
        assert_eq!(misses.judge(b, 2, later), Verdict::Heard);
    }
}

//! What a client's cancel key says: whose client it is, and where to find it. The secret in it is what proves anything.
//!
//! | bytes | without peers | with a `peer_id`, as PgBouncer lays it out |
//! |---|---|---|
//! | 0 and 3 | tenant of its place, worker and place | its number: 15 bits, of which the remainder by workers is its worker |
//! | 1 and 2 | worker and place | the peer that it is a client of, low byte first |
//! | 4 to 7, or to 35 | secret | secret; the low two bits of byte 7 are the hops that are left, 3 when it was made |

use crate::session::client::ClientKey;

/// Bits of a virtual process id that name the client's place: more than `max_client_conn` may be.
const PLACE_BITS: u32 = 20;
/// Bits above them, that name its worker.
const WORKER_BITS: u32 = 8;
/// Of this many tenants of a place each has another process id. Drivers take it for a signed number of 32 bits, and
/// none may be 0: what remains are the numbers 1 to 7.
const TENANTS: u32 = 7;

/// Numbers that a process id has room for beside the peer.
const NUMBERS: u32 = 1 << 15;
/// Apart by this much are the numbers of those who have one place after the other.
const STRIDE: u32 = 4_099;

/// Where the hops left stand in a secret, and which bits of that byte they are.
const HOPS_AT: usize = 3;
const HOPS: u8 = 3;

/// The process id of a client without peers.
pub(crate) fn pid(key: ClientKey, worker: u16) -> u32 {
    let tenant = key.generation() % TENANTS + 1;
    let worker = u32::from(worker) & ((1 << WORKER_BITS) - 1);
    tenant << (WORKER_BITS + PLACE_BITS) | worker << PLACE_BITS | (key.index() & ((1 << PLACE_BITS) - 1))
}

/// The worker and the place that such a process id names.
pub(crate) fn place(pid: u32) -> (u32, u32) {
    (pid >> PLACE_BITS & ((1 << WORKER_BITS) - 1), pid & ((1 << PLACE_BITS) - 1))
}

/// The `attempt`th process id that a client of the peer `own` may have: those of another attempt or of another tenant
/// of its place differ.
pub(crate) fn peer_pid(key: ClientKey, worker: u16, workers: u16, own: u16, attempt: u32) -> u32 {
    let of_worker = (NUMBERS / u32::from(workers)).max(1);
    let number = key.index().wrapping_add(key.generation().wrapping_mul(STRIDE)).wrapping_add(attempt) % of_worker;
    let number = number * u32::from(workers) + u32::from(worker);
    let [low, high] = own.to_le_bytes();
    u32::from_be_bytes([(number >> 8) as u8 & 0x7f, low, high, number as u8])
}

/// The peer that a process id names, and the worker there.
pub(crate) fn peer_and_worker(pid: u32, workers: u16) -> (u16, u16) {
    let [top, low, high, bottom] = pid.to_be_bytes();
    let number = u16::from_be_bytes([top & 0x7f, bottom]);
    (u16::from_le_bytes([low, high]), number % workers)
}

/// Makes a secret that may be passed on by as many peers as is usual.
pub(crate) fn give_all_hops(secret: &mut [u8]) {
    if let Some(byte) = secret.get_mut(HOPS_AT) {
        *byte |= HOPS;
    }
}

/// The secret as it was when it was made.
pub(crate) fn with_all_hops(secret: &[u8]) -> Vec<u8> {
    let mut whole = secret.to_vec();
    give_all_hops(&mut whole);
    whole
}

/// The secret with a hop less, or none where none is left.
pub(crate) fn with_a_hop_less(secret: &[u8]) -> Option<Vec<u8>> {
    let mut less = secret.to_vec();
    let byte = less.get_mut(HOPS_AT)?;
    if *byte & HOPS == 0 {
        return None;
    }
    *byte -= 1;
    Some(less)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    fn keys(count: usize) -> Vec<ClientKey> {
        let mut places = Slab::<()>::default();
        (0..count).map(|_| ClientKey::from_unique(places.insert(()).unique())).collect()
    }

    /// A sibling finds the peer by these two bytes, as PgBouncer writes them; a process id is never negative.
    #[test]
    fn bytes_1_and_2_are_the_peer_and_the_rest_is_the_clients() {
        let mut seen = std::collections::BTreeSet::new();
        for (worker, key) in keys(500).into_iter().flat_map(|key| [(0, key), (1, key), (2, key)]) {
            let pid = peer_pid(key, worker, 3, 0x1234, 0);
            assert_eq!(pid.to_be_bytes()[1..3], [0x34, 0x12]);
            assert_eq!(peer_and_worker(pid, 3), (0x1234, worker));
            assert_eq!(pid >> 31, 0);
            assert!(seen.insert(pid), "two clients of a process have one process id");
        }
        let key = keys(1)[0];
        let again = ClientKey::from_unique(key.unique() ^ 1 << 32);
        assert_ne!(again.generation(), key.generation());
        assert_ne!(peer_pid(again, 0, 3, 7, 0), peer_pid(key, 0, 3, 7, 0), "the next tenant of the place");
        assert_ne!(peer_pid(key, 0, 3, 7, 1), peer_pid(key, 0, 3, 7, 0), "another attempt");
        assert_eq!(peer_and_worker(peer_pid(key, 255, 256, 65_535, 0), 256), (65_535, 255));
    }

    #[test]
    fn a_key_has_three_hops() {
        let made = with_all_hops(&[1, 2, 3, 0xf0]);
        assert_eq!(made, [1, 2, 3, 0xf3]);
        let hops: Vec<_> = std::iter::successors(Some(made), |secret| with_a_hop_less(secret)).collect();
        assert_eq!(hops.len(), 4);
        assert_eq!(hops.last().map(Vec::as_slice), Some(&[1, 2, 3, 0xf0][..]));
        assert_eq!(with_all_hops(&hops[2]), hops[0]);
        assert_eq!(with_a_hop_less(&[0xff; 3]), None, "too short for a key");
    }
}

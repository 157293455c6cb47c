//! A table with dense reuse of places. Grows by whole chunks, so that ten thousand idle clients cost
//! ten thousand entries and not the next power of two; those at the end that everybody has left go again.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

const CHUNK: usize = 128;

/// A place in a [`Slab`], and the generation that tells its tenants apart.
pub struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.generation == other.generation
    }
}
impl<T> Eq for Key<T> {}
impl<T> std::fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

impl<T> Key<T> {
    /// The place, without the generation.
    pub fn index(self) -> u32 {
        self.index
    }
    /// How many tenants the place has had before.
    pub fn generation(self) -> u32 {
        self.generation
    }
    /// A number that no other tenant of the slab ever has.
    pub fn unique(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
    /// The key that [`Key::unique`] came from.
    pub fn from_unique(n: u64) -> Self {
        Key { index: n as u32, generation: (n >> 32) as u32, of: PhantomData }
    }
}

struct Place<T> {
    generation: u32,
    tenant: Option<T>,
}

/// Free places beyond which chunks without tenants go: who leaves and comes back must not make them come and go.
const SPARE: usize = 2 * CHUNK;

/// What is known of a chunk, also when it is gone.
#[derive(Clone, Copy, Default)]
struct Tally {
    tenants: u32,
    /// What its places begin with when they are made again: no key of an earlier tenant has it.
    generation: u32,
}

/// A table whose entries are found by [`Key`] in constant time.
pub struct Slab<T> {
    chunks: Vec<Box<[Place<T>; CHUNK]>>,
    /// One for each chunk that there has been.
    tallies: Vec<Tally>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), tallies: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts `tenant` into a free place.
    pub fn insert(&mut self, tenant: T) -> Key<T> {
        if self.free.is_empty() {
            self.grow();
        }
        let index = self.free.pop().expect("refilled above");
        let place = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        place.tenant = Some(tenant);
        self.tallies[index as usize / CHUNK].tenants += 1;
        self.len += 1;
        Key { index, generation: place.generation, of: PhantomData }
    }

    fn grow(&mut self) {
        let at = self.chunks.len();
        if at == self.tallies.len() {
            self.tallies.push(Tally::default());
        }
        let generation = self.tallies[at].generation;
        let chunk: Box<[Place<T>]> = (0..CHUNK).map(|_| Place { generation, tenant: None }).collect();
        self.chunks.push(chunk.try_into().ok().expect("as many places as a chunk has"));
        let first = at * CHUNK;
        let last = u32::try_from(first + CHUNK).expect("under 2^32 places");
        self.free.extend((first as u32..last).rev());
    }

    /// A chunk has lost its last tenant: those at the end go, if there is room enough without them.
    #[cold]
    fn shrink(&mut self) {
        let before = self.chunks.len();
        let mut spare = self.free.len();
        while spare > SPARE
            && let Some(tally) = self.chunks.len().checked_sub(1).map(|at| &mut self.tallies[at])
            && tally.tenants == 0
        {
            let chunk = self.chunks.pop();
            let generations = chunk.iter().flat_map(|places| places.iter()).map(|place| place.generation);
            tally.generation = generations.max().unwrap_or_default();
            spare -= CHUNK;
        }
        if self.chunks.len() < before {
            let end = self.chunks.len() * CHUNK;
            self.free.retain(|index| (*index as usize) < end);
            self.free.shrink_to(2 * self.free.len());
        }
    }

    /// Takes the tenant out; its key is dead.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let at = key.index as usize / CHUNK;
        let place = &mut self.chunks.get_mut(at)?[key.index as usize % CHUNK];
        if place.generation != key.generation {
            return None;
        }
        let tenant = place.tenant.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.index);
        self.len -= 1;
        self.tallies[at].tenants -= 1;
        if self.tallies[at].tenants == 0 {
            self.shrink();
        }
        Some(tenant)
    }

    /// The tenant, if it is still there.
    #[inline]
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        let place = &self.chunks.get(key.index as usize / CHUNK)?[key.index as usize % CHUNK];
        if place.generation == key.generation { place.tenant.as_ref() } else { None }
    }

    /// The tenant, if it is still there.
    #[inline]
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let place = &mut self.chunks.get_mut(key.index as usize / CHUNK)?[key.index as usize % CHUNK];
        if place.generation == key.generation { place.tenant.as_mut() } else { None }
    }

    /// The key of whoever is at `index`, if anyone is.
    pub fn key_at(&self, index: u32) -> Option<Key<T>> {
        let place = &self.chunks.get(index as usize / CHUNK)?[index as usize % CHUNK];
        place.tenant.as_ref()?;
        Some(Key { index, generation: place.generation, of: PhantomData })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All tenants with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).enumerate().filter_map(|(index, place)| {
            let key = Key { index: index as u32, generation: place.generation, of: PhantomData };
            place.tenant.as_ref().map(|tenant| (key, tenant))
        })
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.chunks.iter_mut().flat_map(|chunk| chunk.iter_mut()).filter_map(|place| place.tenant.as_mut())
    }
}

impl<T> Index<Key<T>> for Slab<T> {
    type Output = T;
    #[inline]
    fn index(&self, key: Key<T>) -> &T {
        self.get(key).expect("a key in use names a tenant")
    }
}

impl<T> IndexMut<Key<T>> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, key: Key<T>) -> &mut T {
        self.get_mut(key).expect("a key in use names a tenant")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A late event for an earlier tenant must not reach the one that took its place.
    #[test]
    fn a_key_dies_with_its_tenant() {
        let mut slab = Slab::default();
        let a = slab.insert("a");
        assert_eq!(slab.remove(a), Some("a"));
        let b = slab.insert("b");
        assert_eq!(a.index(), b.index());
        assert_eq!(slab.get(a), None);
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab[b], "b");
        assert_eq!(slab.len(), 1);
    }

    /// Ten thousand clients that have gone must not cost what they cost while they were there.
    #[test]
    fn chunks_at_the_end_go_with_their_last_tenants_and_no_old_key_finds_a_new_one() {
        let mut slab = Slab::default();
        let old: Vec<_> = (0..1000).map(|i| slab.insert(i)).collect();
        assert!(old.iter().rev().all(|key| slab.remove(*key).is_some()));
        assert!(slab.chunks.len() <= SPARE / CHUNK, "{} chunks are left", slab.chunks.len());
        assert_eq!(slab.iter().count(), 0);
        let new: Vec<_> = (0..1000).map(|i| slab.insert(-i)).collect();
        assert_eq!(slab.chunks.len(), 1000_usize.div_ceil(CHUNK));
        assert!(old.iter().all(|key| slab.get(*key).is_none() && slab.remove(*key).is_none()));
        assert!(new.iter().enumerate().all(|(i, key)| slab[*key] == -(i as i32)));
        assert!(slab.iter().all(|(key, tenant)| slab[key] == *tenant));
        assert_eq!(slab.len(), 1000);
    }

    #[test]
    fn every_place_is_found_again_over_many_chunks() {
        let mut slab = Slab::default();
        let keys: Vec<_> = (0..1000).map(|i| slab.insert(i)).collect();
        assert!(keys.iter().enumerate().all(|(i, k)| slab[*k] == i));
        assert_eq!(slab.iter().count(), 1000);
    }
}

//! A table with dense reuse of places. Grows by whole chunks, so that ten thousand idle clients cost
//! ten thousand entries and not the next power of two; chunks that everybody has left go again.

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

/// Free places beyond which a chunk without tenants goes: who leaves and comes back must not make it come and go.
const SPARE: usize = 2 * CHUNK;

struct Chunk<T> {
    places: Option<Box<[Place<T>; CHUNK]>>,
    tenants: u32,
    /// What its places begin with when they are made again: no key of an earlier tenant has it.
    generation: u32,
}

impl<T> Chunk<T> {
    fn place(&self, index: u32) -> Option<&Place<T>> {
        self.places.as_ref().map(|places| &places[index as usize % CHUNK])
    }

    fn place_mut(&mut self, index: u32) -> Option<&mut Place<T>> {
        self.places.as_mut().map(|places| &mut places[index as usize % CHUNK])
    }

    fn make_places(&mut self) {
        let generation = self.generation;
        let places: Box<[Place<T>]> = (0..CHUNK).map(|_| Place { generation, tenant: None }).collect();
        self.places = Some(places.try_into().ok().expect("as many places as a chunk has"));
    }

    fn drop_places(&mut self) {
        assert!(self.tenants == 0, "tenants keep their chunk");
        let places = self.places.take();
        self.generation = places.iter().flat_map(|p| p.iter()).map(|p| p.generation).max().unwrap_or(self.generation);
    }
}

/// A table whose entries are found by [`Key`] in constant time.
pub struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    /// Chunks without places.
    gone: Vec<u32>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), gone: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts `tenant` into a free place.
    pub fn insert(&mut self, tenant: T) -> Key<T> {
        if self.free.is_empty() {
            self.grow();
        }
        let index = self.free.pop().expect("refilled above");
        let chunk = &mut self.chunks[index as usize / CHUNK];
        chunk.tenants += 1;
        let place = chunk.place_mut(index).expect("a free place is in a chunk that has places");
        place.tenant = Some(tenant);
        self.len += 1;
        Key { index, generation: place.generation, of: PhantomData }
    }

    fn grow(&mut self) {
        let at = self.gone.pop().unwrap_or_else(|| {
            self.chunks.push(Chunk { places: None, tenants: 0, generation: 0 });
            (self.chunks.len() - 1) as u32
        });
        self.chunks[at as usize].make_places();
        let first = at as usize * CHUNK;
        let last = u32::try_from(first + CHUNK).expect("under 2^32 places");
        self.free.extend((first as u32..last).rev());
    }

    /// A chunk has lost its last tenant.
    #[cold]
    fn shrink(&mut self, at: usize) {
        if self.free.len() > SPARE {
            self.chunks[at].drop_places();
            self.free.retain(|index| *index as usize / CHUNK != at);
            self.free.shrink_to(2 * self.free.len());
            self.gone.push(at as u32);
        }
    }

    /// Takes the tenant out; its key is dead.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let at = key.index as usize / CHUNK;
        let chunk = self.chunks.get_mut(at)?;
        let place = chunk.place_mut(key.index)?;
        if place.generation != key.generation {
            return None;
        }
        let tenant = place.tenant.take()?;
        place.generation = place.generation.wrapping_add(1);
        chunk.tenants -= 1;
        let is_empty = chunk.tenants == 0;
        self.free.push(key.index);
        self.len -= 1;
        if is_empty {
            self.shrink(at);
        }
        Some(tenant)
    }

    /// The tenant, if it is still there.
    #[inline]
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        let place = self.chunks.get(key.index as usize / CHUNK)?.place(key.index)?;
        if place.generation == key.generation { place.tenant.as_ref() } else { None }
    }

    /// The tenant, if it is still there.
    #[inline]
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let place = self.chunks.get_mut(key.index as usize / CHUNK)?.place_mut(key.index)?;
        if place.generation == key.generation { place.tenant.as_mut() } else { None }
    }

    /// The key of whoever is at `index`, if anyone is.
    pub fn key_at(&self, index: u32) -> Option<Key<T>> {
        let place = self.chunks.get(index as usize / CHUNK)?.place(index)?;
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
        let places = self.chunks.iter().enumerate().flat_map(|(at, chunk)| {
            let indexes = (at * CHUNK) as u32..;
            indexes.zip(chunk.places.iter().flat_map(|places| places.iter()))
        });
        places.filter_map(|(index, place)| {
            let key = Key { index, generation: place.generation, of: PhantomData };
            place.tenant.as_ref().map(|tenant| (key, tenant))
        })
    }
}

impl<T> Index<Key<T>> for Slab<T> {
    type Output = T;
    fn index(&self, key: Key<T>) -> &T {
        self.get(key).expect("a key in use names a tenant")
    }
}

impl<T> IndexMut<Key<T>> for Slab<T> {
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
    fn chunks_go_with_their_last_tenants_and_no_old_key_finds_a_new_one() {
        let mut slab = Slab::default();
        let old: Vec<_> = (0..1000).map(|i| slab.insert(i)).collect();
        assert!(old.iter().rev().all(|key| slab.remove(*key).is_some()));
        let chunks = |slab: &Slab<i32>| slab.chunks.iter().filter(|chunk| chunk.places.is_some()).count();
        assert!(chunks(&slab) <= SPARE / CHUNK + 1, "{} chunks are left", chunks(&slab));
        assert_eq!(slab.iter().count(), 0);
        let new: Vec<_> = (0..1000).map(|i| slab.insert(-i)).collect();
        assert_eq!(chunks(&slab), 1000_usize.div_ceil(CHUNK));
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

//! Memory that bytes pass through: buffers the kernel fills, pages for bytes that core makes, and copies of
//! what a slow reader has not taken.
//!
//! All are named by one kind of id and counted: core holds one reference from `received` to `release`, each
//! queued piece of a send holds one, the driver holds one while an input runs. This file is the only place
//! that turns an id into an address.

use std::io;
use std::ptr::NonNull;

use forebay_core::ids::BufId;

use super::memory::{Mapping, allocate, free};

/// Bytes of a page that short sends of core share.
const PAGE_BYTES: u32 = 8 * 1024;
/// Each provided buffer begins this much further on in its page than the one before. Else the first bytes of all of
/// them, mostly the only ones that are filled, would compete for the same few places of the processor's caches.
const CACHE_LINE: usize = 64;
/// Empty pages kept for the next send.
const SPARE_PAGES_MAX: usize = 64;
/// Smallest and largest copy made for a slow reader in one piece, unless the bytes at hand are more.
const BACKLOG_BYTES_MIN: u32 = 1024;
const BACKLOG_BYTES_MAX: u32 = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// No memory; the id is free.
    Vacant,
    /// One of the buffers the kernel picks for a receive; its id is the kernel's.
    Provided,
    /// The one big buffer that epoll reads into.
    Scratch,
    /// A page that sends of several connections share.
    Page,
    /// Bytes of one owner.
    Heap,
}

struct Entry {
    memory: NonNull<u8>,
    capacity: u32,
    /// Bytes written so far.
    used: u32,
    refs: u32,
    kind: Kind,
    /// Core holds one of `refs`.
    is_lent: bool,
    /// Counts lendings. A part of core's id, so that a buffer is not released, or read, by an id of an earlier one.
    lending: u32,
}

impl Entry {
    fn is_lent_as(&self, id: BufId) -> bool {
        self.is_lent && self.lending == id.0 & !INDEX_MASK
    }
}

/// Bits of core's id that are the index; the rest is the lending.
const INDEX_BITS: u32 = 22;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

/// The index of a buffer that core names.
fn index(id: BufId) -> u32 {
    id.0 & INDEX_MASK
}

/// All buffers of one worker.
pub(crate) struct Buffers {
    entries: Vec<Entry>,
    vacant: Vec<u32>,
    /// Provided buffers that nobody holds, to be offered to the kernel again; the warmest last.
    returned: Vec<u16>,
    /// Provided buffers that core or a send holds.
    provided_held: u32,
    provided: u32,
    page: Option<u32>,
    spare_pages: Vec<NonNull<u8>>,
    /// Bytes copied so far.
    pub(crate) copied: u64,
    /// What provided buffers, or the scratch buffer, are cut from; unmapped after the rest is gone.
    _slab: Mapping,
}

// SAFETY: the raw pointers lead to memory that this value owns.
unsafe impl Send for Buffers {}

impl Buffers {
    /// Buffers for a driver whose kernel picks one of `count` for each receive.
    pub(crate) fn provided(count: u32, size: u32) -> io::Result<Buffers> {
        let stride = size as usize + CACHE_LINE;
        let slab = Mapping::new(count as usize * stride)?;
        let entry = |i: u32| Entry {
            memory: slab.at(i as usize * stride),
            capacity: size,
            used: 0,
            refs: 0,
            kind: Kind::Provided,
            is_lent: false,
            lending: 0,
        };
        let entries = (0..count).map(entry).collect();
        let mut buffers = Buffers::empty(slab);
        buffers.entries = entries;
        buffers.returned = (0..count).rev().map(|i| i as u16).collect();
        buffers.provided = count;
        Ok(buffers)
    }

    /// Buffers for a driver that reads into one place.
    pub(crate) fn scratch(size: u32) -> io::Result<Buffers> {
        let slab = Mapping::new(size as usize)?;
        let memory = slab.at(0);
        let mut buffers = Buffers::empty(slab);
        buffers.entries.push(Entry {
            memory,
            capacity: size,
            used: 0,
            refs: 0,
            kind: Kind::Scratch,
            is_lent: false,
            lending: 0,
        });
        Ok(buffers)
    }

    fn empty(slab: Mapping) -> Buffers {
        Buffers {
            entries: Vec::new(),
            vacant: Vec::new(),
            returned: Vec::new(),
            provided_held: 0,
            provided: 0,
            page: None,
            spare_pages: Vec::new(),
            copied: 0,
            _slab: slab,
        }
    }

    /// Marks `id` as filled with `len` bytes and lends it to core. The driver's own reference comes on top: it ends
    /// with [`Buffers::drop_ref`] after the input, and with it the use of the bytes.
    ///
    /// # Safety
    /// The caller keeps its reference for as long as it uses the slice: memory is neither offered to the kernel nor
    /// freed nor written to while one is held.
    #[inline]
    pub(crate) unsafe fn lend<'a>(&mut self, id: u32, len: u32) -> (BufId, &'a [u8]) {
        let entry = &mut self.entries[id as usize];
        assert!(!entry.is_lent && entry.kind != Kind::Vacant && len <= entry.capacity);
        entry.is_lent = true;
        entry.used = len;
        entry.refs += 2;
        entry.lending = entry.lending.wrapping_add(1 << INDEX_BITS);
        // SAFETY: what was received is initialized, and within the capacity, as asserted; see above for the lifetime.
        let bytes = unsafe { std::slice::from_raw_parts(entry.memory.as_ptr(), len as usize) };
        (BufId(entry.lending | id), bytes)
    }

    /// Core gives a buffer back. One that it does not hold, any more, changes nothing.
    #[inline]
    pub(crate) fn release(&mut self, id: BufId) {
        if let Some(entry) = self.entries.get_mut(index(id) as usize)
            && entry.is_lent_as(id)
        {
            entry.is_lent = false;
            self.drop_ref(index(id));
        }
    }

    /// The index of a buffer that core names in a send. Panics if core does not hold it.
    #[inline]
    pub(crate) fn held_by_core(&self, id: BufId) -> u32 {
        let is_held = self.entries.get(index(id) as usize).is_some_and(|entry| entry.is_lent_as(id));
        assert!(is_held, "a send names a buffer that was released");
        index(id)
    }

    /// Holds bytes `start..end` of a buffer that somebody else holds as well. Panics outside of what was written.
    #[inline]
    pub(crate) fn hold(&mut self, id: u32, start: u32, end: u32) {
        let entry = &mut self.entries[id as usize];
        assert!(entry.refs > 0 && start <= end && end <= entry.used);
        entry.refs += 1;
    }

    pub(crate) fn add_ref(&mut self, id: u32) {
        self.hold(id, 0, 0);
    }

    #[inline]
    pub(crate) fn drop_ref(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        assert!(entry.refs > 0);
        entry.refs -= 1;
        if entry.refs == 0 {
            self.reuse(id);
        }
    }

    /// Nobody holds the buffer any more.
    fn reuse(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        match entry.kind {
            Kind::Provided => {
                self.provided_held -= 1;
                self.returned.push(id as u16);
            }
            Kind::Scratch => {}
            Kind::Page if self.page == Some(id) => entry.used = 0,
            Kind::Page => self.vacate(id, true),
            Kind::Heap => self.vacate(id, false),
            Kind::Vacant => unreachable!("a vacant entry has no references"),
        }
    }

    fn vacate(&mut self, id: u32, is_page: bool) {
        let entry = &mut self.entries[id as usize];
        let (memory, capacity) = (entry.memory, entry.capacity);
        entry.kind = Kind::Vacant;
        entry.is_lent = false;
        self.vacant.push(id);
        if is_page && self.spare_pages.len() < SPARE_PAGES_MAX {
            self.spare_pages.push(memory);
        } else {
            free(memory, capacity);
        }
    }

    /// The address of bytes `start..end` of a buffer that somebody holds. Panics outside of what was written.
    pub(crate) fn range(&self, id: u32, start: u32, end: u32) -> *const u8 {
        let entry = &self.entries[id as usize];
        assert!(entry.refs > 0 && start <= end && end <= entry.used);
        // SAFETY: `start` lies within the entry's memory, as `used` never exceeds `capacity`.
        unsafe { entry.memory.as_ptr().add(start as usize) }
    }

    /// The whole memory of a buffer that only the driver uses at the moment, to fill it or decrypt in it.
    pub(crate) fn memory(&mut self, id: u32) -> &mut [u8] {
        let entry = &mut self.entries[id as usize];
        assert!(!entry.is_lent && entry.refs == 0 && matches!(entry.kind, Kind::Provided | Kind::Scratch));
        // SAFETY: the mapping is initialized (zeroed by the system), `capacity` long here, and nobody else reads
        // it: nobody holds a reference, and the borrow keeps this value from handing one out.
        unsafe { std::slice::from_raw_parts_mut(entry.memory.as_ptr(), entry.capacity as usize) }
    }

    /// Takes a provided buffer that the kernel just filled.
    pub(crate) fn take_provided(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        assert!(entry.kind == Kind::Provided && entry.refs == 0);
        self.provided_held += 1;
    }

    /// Gives a buffer back that was filled and is of no use to anybody.
    pub(crate) fn discard(&mut self, id: u32) {
        let entry = &self.entries[id as usize];
        assert!(entry.refs == 0);
        if entry.kind == Kind::Provided {
            self.provided_held -= 1;
            self.returned.push(id as u16);
        }
    }

    /// A provided buffer to offer to the kernel, with its address and size.
    pub(crate) fn next_to_provide(&mut self) -> Option<(u16, u64, u32)> {
        let id = self.returned.pop()?;
        let entry = &self.entries[usize::from(id)];
        Some((id, entry.memory.as_ptr() as u64, entry.capacity))
    }

    /// Provided buffers that wait to be offered.
    #[cfg(test)]
    pub(crate) fn returned(&self) -> usize {
        self.returned.len()
    }

    /// Whether more than half of the provided buffers are held. From here on what a slow reader does not take
    /// is copied, so that it holds up nobody but itself.
    pub(crate) fn is_scarce(&self) -> bool {
        self.provided_held * 2 > self.provided
    }

    /// Whether a slow reader's share of this buffer is better copied than held.
    pub(crate) fn is_better_copied(&self, id: u32) -> bool {
        match self.entries[id as usize].kind {
            Kind::Scratch => true,
            Kind::Provided => self.is_scarce(),
            _ => false,
        }
    }

    /// Whether a piece that names this buffer keeps it from the kernel.
    pub(crate) fn is_shared(&self, id: u32) -> bool {
        matches!(self.entries[id as usize].kind, Kind::Provided | Kind::Scratch)
    }

    /// Copies `bytes` to where sends of this turn gather; returns buffer and offset, with one reference.
    pub(crate) fn stage(&mut self, bytes: &[u8]) -> (u32, u32) {
        let len = size_u32(bytes);
        if len > PAGE_BYTES / 2 {
            return self.copy_to_heap(bytes, len);
        }
        let id = match self.page {
            Some(id) if self.entries[id as usize].used + len <= PAGE_BYTES => id,
            _ => self.turn_page(),
        };
        self.entries[id as usize].refs += 1;
        (id, self.write(id, bytes))
    }

    fn turn_page(&mut self) -> u32 {
        if let Some(old) = self.page.take()
            && self.entries[old as usize].refs == 0
        {
            self.vacate(old, true);
        }
        let memory = self.spare_pages.pop().unwrap_or_else(|| allocate(PAGE_BYTES));
        let id = self.enter(memory, PAGE_BYTES, Kind::Page);
        self.page = Some(id);
        id
    }

    /// Copies `bytes` behind what a slow reader has yet to take: into the room behind `last`, its last buffer,
    /// if that ends at `end` and is its own; else into new memory. `Some`: new memory, with one reference.
    pub(crate) fn backlog(&mut self, bytes: &[u8], last: Option<(u32, u32)>) -> Option<u32> {
        let len = size_u32(bytes);
        let mut capacity = BACKLOG_BYTES_MIN;
        if let Some((id, end)) = last {
            let entry = &self.entries[id as usize];
            if entry.kind == Kind::Heap && entry.used == end && !entry.is_lent {
                if entry.capacity - entry.used >= len {
                    self.write(id, bytes);
                    return None;
                }
                capacity = entry.capacity * 2;
            }
        }
        Some(self.copy_to_heap(bytes, capacity.min(BACKLOG_BYTES_MAX).max(len)).0)
    }

    /// Copies `bytes` into memory of their own, with one reference.
    pub(crate) fn copy_to_heap(&mut self, bytes: &[u8], capacity: u32) -> (u32, u32) {
        let id = self.enter(allocate(capacity), capacity, Kind::Heap);
        self.entries[id as usize].refs = 1;
        (id, self.write(id, bytes))
    }

    /// After an input: whoever still holds the scratch buffer gets a copy under the same id, and the scratch
    /// memory is free for the next read. Returns the id to read into.
    #[inline]
    pub(crate) fn retire_scratch(&mut self, id: u32) -> u32 {
        if self.entries[id as usize].refs == 0 { id } else { self.part_with_scratch(id) }
    }

    fn part_with_scratch(&mut self, id: u32) -> u32 {
        let entry = &mut self.entries[id as usize];
        assert!(entry.kind == Kind::Scratch);
        let (memory, capacity, used) = (entry.memory, entry.capacity, entry.used);
        let copy = allocate(used);
        // SAFETY: both are at least `used` bytes long, initialized, and apart from each other.
        unsafe { std::ptr::copy_nonoverlapping(memory.as_ptr(), copy.as_ptr(), used as usize) };
        (entry.memory, entry.capacity, entry.kind) = (copy, used, Kind::Heap);
        self.enter(memory, capacity, Kind::Scratch)
    }

    fn enter(&mut self, memory: NonNull<u8>, capacity: u32, kind: Kind) -> u32 {
        let mut entry = Entry { memory, capacity, used: 0, refs: 0, kind, is_lent: false, lending: 0 };
        match self.vacant.pop() {
            Some(id) => {
                entry.lending = self.entries[id as usize].lending;
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                let id = self.entries.len() - 1;
                assert!(id <= INDEX_MASK as usize, "4 million buffers are in use");
                id as u32
            }
        }
    }

    fn write(&mut self, id: u32, bytes: &[u8]) -> u32 {
        let entry = &mut self.entries[id as usize];
        let start = entry.used;
        assert!(bytes.len() <= (entry.capacity - start) as usize);
        // SAFETY: the room behind `used` is the entry's own, as asserted, and no piece names it yet.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), entry.memory.as_ptr().add(start as usize), bytes.len());
        }
        entry.used += bytes.len() as u32;
        self.copied += bytes.len() as u64;
        start
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for entry in &self.entries {
            if matches!(entry.kind, Kind::Page | Kind::Heap) {
                free(entry.memory, entry.capacity);
            }
        }
        for page in self.spare_pages.drain(..) {
            free(page, PAGE_BYTES);
        }
    }
}

fn size_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("core sends less than 4 GB in one slice")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer given back too early would be overwritten by the kernel while a client still reads from it.
    #[test]
    fn a_buffer_returns_when_core_and_every_send_are_done_with_it() {
        let mut buffers = Buffers::provided(4, 1024).expect("memory");
        let (id, _, _) = buffers.next_to_provide().expect("a fresh buffer");
        let id = u32::from(id);
        buffers.take_provided(id);
        // SAFETY: the bytes are not used.
        let (lent, _) = unsafe { buffers.lend(id, 10) };
        buffers.add_ref(id);
        buffers.release(lent);
        buffers.release(lent);
        buffers.drop_ref(id);
        assert_eq!(buffers.returned(), 3);
        buffers.drop_ref(id);
        assert_eq!(buffers.returned(), 4);
    }

    /// Core may keep a request while its client waits; the next read must not overwrite it.
    #[test]
    fn a_held_scratch_buffer_keeps_its_bytes_under_its_id() {
        let mut buffers = Buffers::scratch(64).expect("memory");
        buffers.memory(0)[..5].copy_from_slice(b"hello");
        // SAFETY: the bytes are not used.
        let (lent, _) = unsafe { buffers.lend(0, 5) };
        buffers.drop_ref(0);
        let next = buffers.retire_scratch(0);
        assert_ne!(next, 0);
        buffers.memory(next)[..5].copy_from_slice(b"other");
        // SAFETY: core's reference is still held, and `range` checks the bounds.
        assert_eq!(unsafe { std::slice::from_raw_parts(buffers.range(0, 0, 5), 5) }, b"hello");
        buffers.release(lent);
        assert_eq!(buffers.retire_scratch(next), next);
    }

    /// A slow reader's small messages would otherwise take a page each.
    #[test]
    fn a_backlog_is_dense() {
        let mut buffers = Buffers::scratch(64).expect("memory");
        let first = buffers.backlog(&[1; 100], None).expect("new memory");
        let mut end = 100;
        for _ in 0..9 {
            assert_eq!(buffers.backlog(&[2; 100], Some((first, end))), None);
            end += 100;
        }
        assert!(buffers.backlog(&[3; 100], Some((first, end))).is_some());
    }
}

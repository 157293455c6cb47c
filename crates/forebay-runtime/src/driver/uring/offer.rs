//! The ring through which io_uring is offered buffers to receive into.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::driver::buffers::Buffers;
use crate::driver::memory::Mapping;

/// Buffers offered at first; doubled when they run out. Few, so that they stay in the cache.
const OFFERED_FIRST: u32 = 32;

/// The ring through which buffers are offered to the kernel.
pub(super) struct Offer {
    memory: Mapping,
    mask: u16,
    tail: u16,
    /// Offered and not yet filled.
    count: u32,
    /// How many to keep offered.
    wanted: u32,
    most: u32,
    /// Since they were last filled up. One wait may end the receives of many sockets for want of a buffer: that is one reason.
    ran_out: bool,
}

impl Offer {
    pub(super) fn new(buffers: u32) -> io::Result<Offer> {
        let memory = Mapping::new(buffers as usize * size_of::<BufRingEntry>())?;
        let wanted = buffers.min(OFFERED_FIRST);
        Ok(Offer { memory, mask: (buffers - 1) as u16, tail: 0, count: 0, wanted, most: buffers, ran_out: false })
    }

    /// Where the ring lies, page-aligned.
    pub(super) fn address(&self) -> u64 {
        self.memory.at(0).as_ptr() as u64
    }

    /// The kernel filled one.
    pub(super) fn taken(&mut self) {
        self.count -= 1;
    }

    /// Whether the kernel has none left.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// They ran out: from the next time on more are offered.
    pub(super) fn offer_more(&mut self) {
        self.ran_out = true;
    }

    /// Offers what was returned, up to what is wanted.
    pub(super) fn fill(&mut self, buffers: &mut Buffers) {
        if std::mem::take(&mut self.ran_out) {
            self.wanted = (self.wanted * 2).min(self.most);
        }
        let before = self.tail;
        while self.count < self.wanted {
            let Some((id, address, len)) = buffers.next_to_provide() else { break };
            let at = self.memory.at(usize::from(self.tail & self.mask) * size_of::<BufRingEntry>());
            // SAFETY: `at` lies in the ring, aligned; the kernel does not read this entry before the tail moves.
            let entry = unsafe { &mut *at.cast::<BufRingEntry>().as_ptr() };
            entry.set_addr(address);
            entry.set_len(len);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            self.count += 1;
        }
        if self.tail != before {
            // SAFETY: the ring's first entry holds the tail; the mapping is page-aligned and initialized.
            let tail = unsafe { BufRingEntry::tail(self.memory.at(0).as_ptr().cast()) };
            // SAFETY: the kernel reads the tail as one aligned 16-bit value; Release orders the entries before it.
            unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
        }
    }
}

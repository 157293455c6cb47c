//! The ring through which io_uring is offered buffers to receive into.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::driver::buffers::Buffers;
use crate::driver::memory::Mapping;

/// Buffers offered at first; doubled when they run out. The kernel fills each in turn, so all of them are gone through
/// again and again: few stay in the cache.
const OFFERED_FIRST: u32 = 32;
/// After so many times they were filled up, and never a quarter of them taken in between, half of them are offered.
const FILLS_BEFORE_FEWER: u32 = 256;

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
    /// Taken since they were last filled up, and of these the ones that the kernel filled to the brim.
    taken: u32,
    full: u32,
    /// Most taken between two fillings, and how many fillings ago that count began.
    most_taken: u32,
    fills: u32,
}

impl Offer {
    pub(super) fn new(buffers: u32) -> io::Result<Offer> {
        let memory = Mapping::new(buffers as usize * size_of::<BufRingEntry>())?;
        let wanted = buffers.min(OFFERED_FIRST);
        Ok(Offer {
            memory,
            mask: (buffers - 1) as u16,
            tail: 0,
            count: 0,
            wanted,
            most: buffers,
            ran_out: false,
            taken: 0,
            full: 0,
            most_taken: 0,
            fills: 0,
        })
    }

    /// Where the ring lies, page-aligned.
    pub(super) fn address(&self) -> u64 {
        self.memory.at(0).as_ptr() as u64
    }

    /// The kernel filled one, to the brim or not.
    #[inline]
    pub(super) fn taken(&mut self, is_full: bool) {
        self.count -= 1;
        self.taken += 1;
        self.full += u32::from(is_full);
    }

    /// Whether the kernel has none left.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// They ran out.
    pub(super) fn ran_out(&mut self) {
        self.ran_out = true;
    }

    /// More, if many connections took them all; as many, if a few long streams did, which are read sooner from the
    /// cache; fewer, if most lay idle for long.
    fn adjust(&mut self) {
        let (taken, full) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.full));
        self.most_taken = self.most_taken.max(taken);
        self.fills += 1;
        if std::mem::take(&mut self.ran_out) && full * 2 <= taken {
            self.wanted = (self.wanted * 2).min(self.most);
        } else if self.fills >= FILLS_BEFORE_FEWER {
            if self.most_taken * 4 < self.wanted && self.wanted / 2 >= OFFERED_FIRST {
                self.wanted /= 2;
            }
        } else {
            return;
        }
        (self.most_taken, self.fills) = (0, 0);
    }

    /// Offers what was returned, up to what is wanted.
    pub(super) fn fill(&mut self, buffers: &mut Buffers) {
        self.adjust();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `count` buffers of one filling, as many to the brim, and gives them back.
    fn take(offer: &mut Offer, buffers: &mut Buffers, count: u32, full: u32) {
        offer.fill(buffers);
        let first = offer.tail.wrapping_sub(offer.count as u16);
        for i in 0..count {
            let at = usize::from(first.wrapping_add(i as u16) & offer.mask) * size_of::<BufRingEntry>();
            // SAFETY: `at` lies in the ring, aligned, and nobody else uses it.
            let id = unsafe { offer.memory.at(at).cast::<BufRingEntry>().as_ref() }.bid();
            offer.taken(i < full);
            buffers.take_provided(u32::from(id));
            buffers.discard(u32::from(id));
        }
        if offer.is_empty() {
            offer.ran_out();
        }
    }

    /// A crowd that found no buffers must not find none again and again; nor may a long result, or a crowd of once,
    /// spread what is received over memory that no cache holds.
    #[test]
    fn many_are_offered_to_a_crowd_and_few_to_long_streams() {
        let mut buffers = Buffers::provided(256, 4096).expect("memory");
        let mut offer = Offer::new(256).expect("memory");
        for _ in 0..10 {
            take(&mut offer, &mut buffers, OFFERED_FIRST, OFFERED_FIRST);
        }
        assert_eq!(offer.wanted, OFFERED_FIRST);
        for _ in 0..10 {
            let all = offer.wanted;
            take(&mut offer, &mut buffers, all, 0);
        }
        assert_eq!(offer.wanted, 256);
        for _ in 0..FILLS_BEFORE_FEWER * 5 {
            take(&mut offer, &mut buffers, 8, 0);
        }
        assert_eq!(offer.wanted, OFFERED_FIRST);
    }
}

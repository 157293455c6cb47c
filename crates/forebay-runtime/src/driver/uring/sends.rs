//! Writing: the sends of a turn, one operation a connection, and which of them succeeded.

use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::places::SENDS_BEFORE_PLACE;
use super::{HEADERS, SEND, Uring, VECTORS, gone, name};
use crate::driver::backend::Completion;
use crate::driver::table::{Flags, NOWHERE, Table};

/// Pieces that one send covers.
const PIECES_PER_SEND: u32 = 64;
/// Longest time that core waits for the report of a send when nothing else happens. Above the scheduler's tick,
/// so that the timer's hardware is not set anew each turn.
const SILENCE_MAX: Duration = Duration::from_millis(5);
/// A send of this many bytes may be what core waits for to read on, where it reads something no more.
const URGENT_BYTES: usize = 4 * 1024;

impl Uring {
    /// Writes what is queued on a connection, unless a write is under way.
    pub(super) fn send(&mut self, table: &mut Table, slot: u32) {
        let conn = &table.conns[slot as usize];
        let hindrances = Flags::SENDING.and(Flags::DEAD).and(Flags::CONNECTING).and(Flags::HELD_BACK);
        if conn.is_any(hindrances) || conn.queued == 0 {
            return;
        }
        // Without waiting first: a send that must wait is told apart, and its bytes can be moved.
        if conn.is(Flags::BLOCKED) {
            self.send_waiting(table, slot);
        } else {
            self.send_trying(table, slot);
        }
    }

    /// All or an error (MSG_WAITALL), so that success needs no completion, which would end the wait that follows at
    /// once.
    fn send_trying(&mut self, table: &mut Table, slot: u32) {
        let conn = &table.conns[slot as usize];
        let (fd, place) = if conn.is(Flags::SEATED) {
            (Fd(conn.place as i32), squeue::Flags::FIXED_FILE)
        } else {
            (Fd(conn.fd), squeue::Flags::empty())
        };
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
        let (entry, count, bytes) = self.entry(table, slot, fd, flags);
        let entry = entry.user_data(name(SEND, table, slot)).flags(place | squeue::Flags::SKIP_SUCCESS);
        self.push(&entry);
        self.tried.push(slot);
        let is_awaited = table.paused > 0 && bytes >= URGENT_BYTES;
        let conn = table.conn(slot);
        conn.set(Flags::SENDING.and(Flags::TRIED));
        conn.in_flight = count;
        conn.operations += 1;
        self.is_urgent |= is_awaited || conn.queued > count || conn.is_any(Flags::LEAVING);
        if !conn.is(Flags::SEATED) {
            conn.sends = conn.sends.wrapping_add(1);
            if conn.sends.is_multiple_of(SENDS_BEFORE_PLACE) && conn.place == NOWHERE {
                self.seat(table, slot);
            }
        }
    }

    /// For a slow reader: completes when it took something.
    fn send_waiting(&mut self, table: &mut Table, slot: u32) {
        let fd = Fd(table.conn(slot).fd);
        let (entry, count, _) = self.entry(table, slot, fd, libc::MSG_NOSIGNAL);
        self.push(&entry.user_data(name(SEND, table, slot)));
        let conn = table.conn(slot);
        conn.set(Flags::SENDING);
        conn.in_flight = count;
        conn.operations += 1;
    }

    /// An operation that sends what is queued, with the pieces and bytes that it covers. Inlined, as it is 64 bytes
    /// long.
    #[inline(always)]
    fn entry(&mut self, table: &Table, slot: u32, fd: Fd, flags: i32) -> (squeue::Entry, u32, usize) {
        let count = table.conns[slot as usize].queued.min(PIECES_PER_SEND);
        if count == 1 {
            let piece = table.first_piece(slot);
            let bytes = table.buffers.range(piece.buf, piece.start, piece.start + piece.len);
            (opcode::Send::new(fd, bytes, piece.len).flags(flags).build(), 1, piece.len as usize)
        } else {
            let (header, bytes) = self.gather(table, slot, count);
            (opcode::SendMsg::new(fd, header).flags(flags as u32).build(), count, bytes)
        }
    }

    /// Lists the first `count` pieces for one send; the kernel copies the list when it is submitted. Returns also how
    /// many bytes they are.
    fn gather(&mut self, table: &Table, slot: u32, count: u32) -> (*const libc::msghdr, usize) {
        // Neither list may move while operations that point to it are unsubmitted. Nor may it be cleared, which is what
        // happens if the queue has no room for the operation that is being made here.
        let has_room = self.vectors.len() + count as usize <= VECTORS && self.headers.len() < HEADERS;
        if !has_room || self.ring.submission().is_full() {
            self.submit();
        }
        let start = self.vectors.len();
        let mut len = 0;
        for piece in table.pieces(slot, count) {
            let bytes = table.buffers.range(piece.buf, piece.start, piece.start + piece.len);
            self.vectors.push(libc::iovec { iov_base: bytes.cast_mut().cast(), iov_len: piece.len as usize });
            len += piece.len as usize;
        }
        // SAFETY: msghdr is pointers and integers, for which all bits zero is a value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.vectors[start..].as_mut_ptr();
        header.msg_iovlen = count as _;
        self.headers.push(header);
        (self.headers.last().expect("just pushed"), len)
    }

    /// Lists of pieces are needed until the kernel has taken the operation.
    pub(super) fn forget_lists(&mut self) {
        if self.ring.submission().is_empty() {
            self.vectors.clear();
            self.headers.clear();
        }
    }

    /// How long to wait, given that sends which succeed are silent.
    pub(super) fn longest_wait(&mut self, timeout: Duration) -> Duration {
        let is_urgent = std::mem::take(&mut self.is_urgent) || !self.starved.is_empty();
        match (self.tried.is_empty(), is_urgent) {
            (true, _) => timeout,
            (false, true) => Duration::ZERO,
            (false, false) => timeout.min(SILENCE_MAX),
        }
    }

    /// After a submission: tells the sends that failed, or went out in part, from those that succeeded.
    pub(super) fn settle_tried(&mut self, table: &mut Table) {
        if self.tried.is_empty() {
            return;
        }
        for entry in &self.batch[self.at..] {
            if entry.user_data() >> 56 == SEND {
                table.conn(entry.user_data() as u32).clear(Flags::TRIED);
            }
        }
        let queue = self.ring.submission();
        // Before all are submitted, and all completions seen, silence means nothing.
        if queue.is_empty() && !queue.cq_overflow() {
            self.settled.append(&mut self.tried);
        }
    }

    /// A send that may have succeeded without a completion.
    #[inline(always)]
    pub(super) fn on_settled(&mut self, table: &mut Table, slot: u32) -> Option<Completion> {
        let conn = table.conn(slot);
        if !conn.is(Flags::TRIED) {
            return None;
        }
        conn.operations -= 1;
        conn.clear(Flags::SENDING.and(Flags::TRIED));
        if conn.is(Flags::DEAD) {
            return gone(table, slot);
        }
        let count = std::mem::take(&mut conn.in_flight);
        let plain = table.advance_whole(slot, count);
        if table.conn(slot).queued > 0 {
            table.mark_dirty(slot);
        }
        Some(Completion::Sent { slot, plain })
    }

    /// A send that waited has succeeded, or one of either kind did not, or in part.
    pub(super) fn on_sent(&mut self, table: &mut Table, slot: u32, result: Result<usize, i32>) -> Option<Completion> {
        let conn = table.conn(slot);
        conn.operations -= 1;
        conn.clear(Flags::SENDING.and(Flags::TRIED));
        let in_flight = std::mem::take(&mut conn.in_flight);
        if conn.is(Flags::DEAD) {
            return gone(table, slot);
        }
        match result {
            Ok(bytes) => {
                let before = table.conn(slot).queued;
                let plain = table.advance(slot, bytes);
                let conn = table.conn(slot);
                if before - conn.queued == in_flight {
                    conn.clear(Flags::BLOCKED)
                } else {
                    self.block(table, slot)
                }
                if table.conn(slot).queued > 0 {
                    table.mark_dirty(slot);
                }
                Some(Completion::Sent { slot, plain })
            }
            // Also one that was called off: what it would have written is still queued.
            Err(libc::EAGAIN | libc::EINTR | libc::ECANCELED) => {
                self.block(table, slot);
                table.mark_dirty(slot);
                table.conn(slot).is(Flags::HELD_BACK).then_some(Completion::Done { slot })
            }
            Err(errno) => Some(Completion::SendFailed { slot, errno }),
        }
    }

    /// The reader is slow: its next send waits, and what it has yet to take moves if buffers are needed.
    fn block(&mut self, table: &mut Table, slot: u32) {
        table.conn(slot).set(Flags::BLOCKED);
        if table.buffers.is_scarce() {
            table.unpin(slot);
        }
    }
}

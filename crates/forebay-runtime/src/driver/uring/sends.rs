//! Writing: the sends of a turn, one operation a connection, and which of them succeeded.

use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::{HEADERS, SEND, Uring, VECTORS, gone, name};
use crate::driver::backend::Completion;
use crate::driver::table::{Flags, Table};

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
        if conn.is_any(Flags::SENDING.and(Flags::DEAD).and(Flags::CONNECTING)) || conn.queued == 0 {
            return;
        }
        let (fd, count) = (Fd(conn.fd), conn.queued.min(PIECES_PER_SEND));
        // Without waiting first: a send that must wait is told apart, and its bytes can be moved. All or an error
        // (MSG_WAITALL), so that success needs no completion, which would end the wait that follows at once.
        let is_try = !conn.is(Flags::BLOCKED);
        let flags = libc::MSG_NOSIGNAL | if is_try { libc::MSG_DONTWAIT | libc::MSG_WAITALL } else { 0 };
        let entry = if count == 1 {
            let piece = table.pieces(slot, 1).next().expect("one is queued");
            let bytes = table.buffers.range(piece.buf, piece.start, piece.start + piece.len);
            opcode::Send::new(fd, bytes, piece.len).flags(flags).build()
        } else {
            let header = self.gather(table, slot, count);
            opcode::SendMsg::new(fd, header).flags(flags as u32).build()
        };
        let entry = entry.user_data(name(SEND, table, slot));
        self.push(&if is_try { entry.flags(squeue::Flags::SKIP_SUCCESS) } else { entry });
        let bytes: usize = table.pieces(slot, count).map(|piece| piece.len as usize).sum();
        let is_awaited = table.paused > 0 && bytes >= URGENT_BYTES;
        let conn = table.conn(slot);
        conn.set(Flags::SENDING);
        if is_try {
            conn.set(Flags::TRIED);
            self.is_urgent |= conn.queued > count || conn.is_any(Flags::CLOSING.and(Flags::DETACHING));
            self.is_urgent |= is_awaited;
            self.tried.push(slot);
        }
        conn.in_flight = count;
        conn.operations += 1;
    }

    /// Lists the first `count` pieces for one send; the kernel copies the list when it is submitted.
    fn gather(&mut self, table: &Table, slot: u32, count: u32) -> *const libc::msghdr {
        if self.vectors.len() + count as usize > VECTORS || self.headers.len() == HEADERS {
            // Neither list may move while operations that point to it are unsubmitted.
            self.submit();
        }
        let start = self.vectors.len();
        for piece in table.pieces(slot, count) {
            let bytes = table.buffers.range(piece.buf, piece.start, piece.start + piece.len);
            self.vectors.push(libc::iovec { iov_base: bytes.cast_mut().cast(), iov_len: piece.len as usize });
        }
        // SAFETY: msghdr is pointers and integers, for which all bits zero is a value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.vectors[start..].as_mut_ptr();
        header.msg_iovlen = count as _;
        self.headers.push(header);
        self.headers.last().expect("just pushed")
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

    /// A send that succeeded without a completion.
    pub(super) fn on_settled(&mut self, table: &mut Table, slot: u32) -> Option<Completion> {
        let conn = table.conn(slot);
        if !conn.is(Flags::TRIED) {
            return None;
        }
        let count = conn.in_flight;
        let bytes = table.pieces(slot, count).map(|piece| piece.len as usize).sum();
        self.on_sent(table, slot, Ok(bytes))
    }

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
            Err(libc::EAGAIN | libc::EINTR) => {
                self.block(table, slot);
                table.mark_dirty(slot);
                None
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

//! The connections of one worker: slots with generations, and what each has yet to write.

use std::os::fd::RawFd;

use forebay_core::ids::ConnId;

use super::buffers::Buffers;
use super::connecting::Connecting;
use crate::tls::session::Session;

/// What a connection is up to: a set, not a sequence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u32);

impl Flags {
    pub(crate) const NONE: Flags = Flags(0);
    /// Core knows its id; inputs and outputs pass.
    pub(crate) const OPEN: Flags = Flags(1);
    /// Core wants to read.
    pub(crate) const READING: Flags = Flags(1 << 1);
    /// The kernel has a receive under way.
    pub(crate) const ARMED: Flags = Flags(1 << 2);
    /// The receive under way is being cancelled.
    pub(crate) const CANCELLING: Flags = Flags(1 << 3);
    /// A send is under way.
    pub(crate) const SENDING: Flags = Flags(1 << 4);
    /// The peer takes less than we have.
    pub(crate) const BLOCKED: Flags = Flags(1 << 5);
    /// On the list of connections with something to write.
    pub(crate) const DIRTY: Flags = Flags(1 << 6);
    /// Core asked to take it out of this driver.
    pub(crate) const DETACHING: Flags = Flags(1 << 7);
    /// Core closed it, or its peer did: what is queued goes out, then it ends.
    pub(crate) const CLOSING: Flags = Flags(1 << 8);
    /// Our end of the stream is shut; we wait for the peer's, so that a reset does not eat what we wrote.
    pub(crate) const LINGERING: Flags = Flags(1 << 9);
    /// Its descriptor is gone; the slot waits for the kernel's last completions.
    pub(crate) const DEAD: Flags = Flags(1 << 10);
    /// A connect is under way.
    pub(crate) const CONNECTING: Flags = Flags(1 << 11);
    /// TLS was asked for in this turn, and nothing was written since: bytes that come now are an injection.
    pub(crate) const TLS_HELD: Flags = Flags(1 << 12);
    /// Plaintext waits to be encrypted at the end of the input.
    pub(crate) const UNSEALED: Flags = Flags(1 << 13);
    /// The last word was said: `closed` is queued for core.
    pub(crate) const REPORTED: Flags = Flags(1 << 14);
    /// The peer ended its side of the stream.
    pub(crate) const ENDED: Flags = Flags(1 << 15);
    /// epoll: the socket may have something to read.
    pub(crate) const READABLE: Flags = Flags(1 << 16);
    /// epoll: on the list of sockets to read from.
    pub(crate) const LISTED: Flags = Flags(1 << 17);
    /// io_uring: no buffer was left; on the list of those to start again.
    pub(crate) const STARVED: Flags = Flags(1 << 18);

    /// epoll: the peer ended its side or failed; reading goes on until that shows.
    pub(crate) const HUNG_UP: Flags = Flags(1 << 19);

    /// Writing failed; what can still be read comes before the end.
    pub(crate) const BROKEN: Flags = Flags(1 << 20);

    /// Core stopped reading, and may wait for the report of a send to go on.
    pub(crate) const PAUSED: Flags = Flags(1 << 21);
    /// io_uring: its send under way has no completion if it succeeds.
    pub(crate) const TRIED: Flags = Flags(1 << 22);
    /// io_uring: the kernel has its socket at `place`.
    pub(crate) const SEATED: Flags = Flags(1 << 23);
    /// io_uring: it took a whole buffer since it last lacked one.
    pub(crate) const STREAMING: Flags = Flags(1 << 24);

    /// Taken out with what is queued: that is written where it goes to.
    pub(crate) const HELD_BACK: Flags = Flags(1 << 25);
    /// All that a connection which is being taken out has.
    pub(crate) const DEPARTING: Flags = Flags::DETACHING.and(Flags::HELD_BACK);

    /// On its way out, or to another worker, as soon as all is written.
    pub(crate) const LEAVING: Flags = Flags::CLOSING.and(Flags::DETACHING);

    pub(crate) const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// No piece.
const NOTHING: u32 = u32::MAX;

/// No place among the registered files.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// One connection. Small, as there may be 10,000 of them, idle: one line of the processor's cache.
#[repr(align(64))]
pub(crate) struct Conn {
    pub(crate) fd: RawFd,
    pub(crate) generation: u32,
    flags: Flags,
    /// Operations that the kernel has under way for this slot.
    pub(crate) operations: u32,
    first: u32,
    last: u32,
    /// Pieces queued.
    pub(crate) queued: u32,
    /// Of these, the ones that the send under way covers.
    pub(crate) in_flight: u32,
    /// io_uring: sends before it had a place, and its place among the registered files.
    pub(crate) sends: u32,
    pub(crate) place: u32,
    pub(crate) tls: Option<Box<Session>>,
    pub(crate) connecting: Option<Box<Connecting>>,
}

impl Conn {
    #[inline]
    pub(crate) fn is(&self, flags: Flags) -> bool {
        self.flags.0 & flags.0 == flags.0
    }

    #[inline]
    pub(crate) fn is_any(&self, flags: Flags) -> bool {
        self.flags.0 & flags.0 != 0
    }

    pub(crate) fn set(&mut self, flags: Flags) {
        self.flags.0 |= flags.0;
    }

    pub(crate) fn clear(&mut self, flags: Flags) {
        self.flags.0 &= !flags.0;
    }

    /// Whether what comes is core's as it is: no TLS, now or soon, and not on its way out.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        let deciding = Flags::OPEN.and(Flags::REPORTED).and(Flags::TLS_HELD);
        self.flags.0 & deciding.0 == Flags::OPEN.0 && self.tls.is_none()
    }

    /// Whether all is as it was before a receive that others follow: there is nothing to settle.
    #[inline]
    pub(crate) fn is_reading_on(&self) -> bool {
        let deciding = Flags::OPEN.and(Flags::READING).and(Flags::ARMED).and(Flags::LEAVING);
        self.flags.0 & deciding.0 == Flags::OPEN.and(Flags::READING).and(Flags::ARMED).0
    }

    /// Whether the driver should be reading: core wants to, or a lingering close waits for the end.
    pub(crate) fn wants_read(&self) -> bool {
        self.is(Flags::READING) && !self.is_any(Flags::DETACHING.and(Flags::DEAD).and(Flags::CONNECTING))
    }
}

/// A range of a buffer that waits to be written.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) buf: u32,
    pub(crate) start: u32,
    pub(crate) len: u32,
    /// Bytes of core's that it stands for: `len` for plain bytes, less for a TLS record, reported when it is out.
    pub(crate) plain: u32,
    next: u32,
}

/// Connections, buffers, and the pieces that tie them.
pub(crate) struct Table {
    pub(crate) conns: Vec<Conn>,
    free: Vec<u32>,
    pieces: Vec<Piece>,
    free_piece: u32,
    pub(crate) buffers: Buffers,
    /// Connections with something to write, each once.
    pub(crate) dirty: Vec<u32>,
    /// Connections that are [`Flags::PAUSED`].
    pub(crate) paused: u32,
}

impl Table {
    pub(crate) fn new(buffers: Buffers) -> Table {
        Table {
            conns: Vec::new(),
            free: Vec::new(),
            pieces: Vec::new(),
            free_piece: NOTHING,
            buffers,
            dirty: Vec::new(),
            paused: 0,
        }
    }

    /// A slot for a new connection: open, reading.
    pub(crate) fn insert(&mut self, fd: RawFd) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(Conn {
                fd: -1,
                generation: 0,
                flags: Flags::NONE,
                operations: 0,
                first: NOTHING,
                last: NOTHING,
                queued: 0,
                in_flight: 0,
                sends: 0,
                place: NOWHERE,
                tls: None,
                connecting: None,
            });
            u32::try_from(self.conns.len() - 1).expect("descriptors are 31 bits")
        });
        let conn = &mut self.conns[slot as usize];
        assert!(conn.queued == 0 && conn.operations == 0 && conn.flags == Flags::NONE);
        conn.fd = fd;
        conn.generation = conn.generation.wrapping_add(1);
        conn.flags = Flags::OPEN.and(Flags::READING);
        conn.sends = 0;
        ConnId { slot, generation: conn.generation }
    }

    /// Frees a slot that neither core nor the kernel knows any more.
    pub(crate) fn remove(&mut self, slot: u32) {
        self.drop_pieces(slot, 0);
        let conn = &mut self.conns[slot as usize];
        assert!(conn.operations == 0 && conn.fd < 0 && conn.place == NOWHERE);
        self.paused -= u32::from(conn.is(Flags::PAUSED));
        conn.flags = Flags::NONE;
        conn.tls = None;
        conn.connecting = None;
        self.free.push(slot);
    }

    #[inline]
    pub(crate) fn conn(&mut self, slot: u32) -> &mut Conn {
        &mut self.conns[slot as usize]
    }

    pub(crate) fn id(&self, slot: u32) -> ConnId {
        ConnId { slot, generation: self.conns[slot as usize].generation }
    }

    /// The connection of an id that core may use; `None` once it is dead.
    #[inline]
    pub(crate) fn open(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.slot as usize).filter(|c| c.generation == id.generation && c.is(Flags::OPEN))
    }

    /// The descriptor of a connection that core may use.
    pub(crate) fn fd_of(&self, id: ConnId) -> Option<RawFd> {
        let is_it = |c: &&Conn| c.generation == id.generation && c.is(Flags::OPEN) && c.fd >= 0;
        self.conns.get(id.slot as usize).filter(is_it).map(|c| c.fd)
    }

    /// The connection of an id, open or on its way out.
    pub(crate) fn same(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.slot as usize).filter(|c| c.generation == id.generation)
    }

    /// How many slots are in use.
    pub(crate) fn len(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    /// Slots in use, for the end.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> + use<> {
        let used: Vec<u32> =
            self.conns.iter().enumerate().filter(|(_, c)| c.flags != Flags::NONE).map(|(i, _)| i as u32).collect();
        used.into_iter()
    }

    /// Puts the connection on the list of those with something to write.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, slot: u32) {
        let conn = &mut self.conns[slot as usize];
        if !conn.is(Flags::DIRTY) {
            conn.set(Flags::DIRTY);
            self.dirty.push(slot);
        }
    }

    /// Queues a range of a buffer that is held by somebody; the piece holds it too.
    #[inline]
    pub(crate) fn push_range(&mut self, slot: u32, buf: u32, start: u32, end: u32) {
        self.buffers.hold(buf, start, end);
        let conn = &self.conns[slot as usize];
        if conn.is(Flags::BLOCKED) || conn.queued > conn.in_flight {
            self.push_range_behind(slot, buf, start, end);
        } else {
            let len = end - start;
            self.push(slot, Piece { buf, start, len, plain: len, next: NOTHING });
        }
    }

    /// Queues a range that is held by now, for a slow reader or behind another piece.
    fn push_range_behind(&mut self, slot: u32, buf: u32, start: u32, end: u32) {
        let len = end - start;
        let is_blocked = self.conns[slot as usize].is(Flags::BLOCKED);
        if is_blocked && (len < BACKLOG_COPY_BELOW || self.buffers.is_better_copied(buf)) {
            // SAFETY: the reference is dropped below; `backlog` writes to other memory, as a buffer that is lent, or
            // that the kernel provides, is never the backlog's own.
            let bytes = unsafe { std::slice::from_raw_parts(self.buffers.range(buf, start, end), len as usize) };
            self.push_backlog(slot, bytes);
            self.buffers.drop_ref(buf);
        } else if let Some(last) = self.last_unsent(slot)
            && last.buf == buf
            && last.start + last.len == start
        {
            last.len += len;
            last.plain += len;
            self.buffers.drop_ref(buf);
        } else {
            self.push(slot, Piece { buf, start, len, plain: len, next: NOTHING });
        }
    }

    /// Queues a copy of `bytes`; `plain` says how many of core's bytes they stand for.
    pub(crate) fn push_bytes(&mut self, slot: u32, bytes: &[u8], plain: u32) {
        let conn = &self.conns[slot as usize];
        if conn.is(Flags::BLOCKED) && plain as usize == bytes.len() {
            self.push_backlog(slot, bytes);
            return;
        }
        let (buf, start) = self.buffers.stage(bytes);
        let len = bytes.len() as u32;
        if plain == len
            && let Some(last) = self.last_unsent(slot)
            && last.buf == buf
            && last.start + last.len == start
            && last.plain == last.len
        {
            last.len += len;
            last.plain += len;
            self.buffers.drop_ref(buf);
            return;
        }
        self.push(slot, Piece { buf, start, len, plain, next: NOTHING });
    }

    fn push_backlog(&mut self, slot: u32, bytes: &[u8]) {
        let len = bytes.len() as u32;
        let last = self.last_unsent(slot).map(|p| (p.buf, p.start + p.len));
        match self.buffers.backlog(bytes, last) {
            None => {
                let last = self.last_unsent(slot).expect("the bytes went behind it");
                last.len += len;
                last.plain += len;
            }
            Some(buf) => self.push(slot, Piece { buf, start: 0, len, plain: len, next: NOTHING }),
        }
    }

    /// The last piece, if the send under way does not cover it.
    fn last_unsent(&mut self, slot: u32) -> Option<&mut Piece> {
        let conn = &self.conns[slot as usize];
        (conn.queued > conn.in_flight).then(|| &mut self.pieces[conn.last as usize])
    }

    #[inline]
    fn push(&mut self, slot: u32, piece: Piece) {
        let at = self.free_piece;
        let at = match self.pieces.get_mut(at as usize) {
            Some(free) => {
                self.free_piece = free.next;
                *free = piece;
                at
            }
            None => {
                self.pieces.push(piece);
                u32::try_from(self.pieces.len() - 1).expect("fewer than 2^32 pieces fit in memory")
            }
        };
        let conn = &mut self.conns[slot as usize];
        if conn.queued == 0 {
            conn.first = at;
        } else {
            self.pieces[conn.last as usize].next = at;
        }
        conn.last = at;
        conn.queued += 1;
    }

    /// The first piece; there is one.
    #[inline]
    pub(crate) fn first_piece(&self, slot: u32) -> Piece {
        let conn = &self.conns[slot as usize];
        debug_assert!(conn.queued > 0);
        self.pieces[conn.first as usize]
    }

    /// The first `max` pieces, in order.
    pub(crate) fn pieces(&self, slot: u32, max: u32) -> impl Iterator<Item = Piece> + '_ {
        let conn = &self.conns[slot as usize];
        let mut at = conn.first;
        (0..conn.queued.min(max)).map(move |_| {
            let piece = self.pieces[at as usize];
            at = piece.next;
            piece
        })
    }

    /// A copy of all that is queued, and how many bytes of core's that stands for.
    pub(crate) fn unsent(&self, slot: u32) -> (Vec<u8>, u32) {
        let (mut bytes, mut plain) = (Vec::new(), 0);
        for piece in self.pieces(slot, u32::MAX) {
            let from = self.buffers.range(piece.buf, piece.start, piece.start + piece.len);
            // SAFETY: `range` checked the bounds, and the piece holds the bytes.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(from, piece.len as usize) });
            plain += piece.plain;
        }
        (bytes, plain)
    }

    /// Takes `written` bytes off the queue; returns how many bytes of core's they stood for.
    pub(crate) fn advance(&mut self, slot: u32, written: usize) -> usize {
        // What comes from here on may answer what was written.
        self.conns[slot as usize].clear(Flags::TLS_HELD);
        let mut left = written;
        let mut plain = 0;
        while left > 0 {
            let conn = &self.conns[slot as usize];
            assert!(conn.queued > 0, "more was written than was queued");
            let piece = &mut self.pieces[conn.first as usize];
            if left < piece.len as usize {
                let is_plain = piece.plain == piece.len;
                piece.start += left as u32;
                piece.len -= left as u32;
                if is_plain {
                    piece.plain -= left as u32;
                    plain += left;
                }
                return plain;
            }
            left -= piece.len as usize;
            plain += piece.plain as usize;
            self.pop(slot);
        }
        plain
    }

    /// Takes the first `count` pieces, all written, off the queue; returns how many bytes of core's they stood for.
    #[inline]
    pub(crate) fn advance_whole(&mut self, slot: u32, count: u32) -> usize {
        // What comes from here on may answer what was written.
        self.conns[slot as usize].clear(Flags::TLS_HELD);
        (0..count).map(|_| self.pop(slot).plain as usize).sum()
    }

    #[inline]
    fn pop(&mut self, slot: u32) -> Piece {
        let conn = &mut self.conns[slot as usize];
        let at = conn.first;
        let here = &mut self.pieces[at as usize];
        let piece = *here;
        here.next = self.free_piece;
        self.free_piece = at;
        conn.first = piece.next;
        conn.queued -= 1;
        conn.in_flight = conn.in_flight.saturating_sub(1);
        self.buffers.drop_ref(piece.buf);
        piece
    }

    /// Drops what waits behind the first `keep` pieces, which the kernel still reads from.
    pub(crate) fn drop_pieces(&mut self, slot: u32, keep: u32) {
        let kept: Vec<Piece> = self.pieces(slot, keep).collect();
        for piece in &kept {
            self.buffers.add_ref(piece.buf);
        }
        while self.conns[slot as usize].queued > 0 {
            self.pop(slot);
        }
        let count = kept.len() as u32;
        for piece in kept {
            self.push(slot, Piece { next: NOTHING, ..piece });
        }
        self.conns[slot as usize].in_flight = count;
    }

    /// Copies what the connection has yet to write out of buffers that others need.
    pub(crate) fn unpin(&mut self, slot: u32) {
        let mut at = self.conns[slot as usize].first;
        for _ in 0..self.conns[slot as usize].queued {
            let piece = self.pieces[at as usize];
            if self.buffers.is_shared(piece.buf) {
                let from = self.buffers.range(piece.buf, piece.start, piece.start + piece.len);
                // SAFETY: the piece holds its buffer until `drop_ref` below.
                let bytes = unsafe { std::slice::from_raw_parts(from, piece.len as usize) };
                let (buf, start) = self.buffers.copy_to_heap(bytes, piece.len);
                self.buffers.drop_ref(piece.buf);
                let here = &mut self.pieces[at as usize];
                (here.buf, here.start) = (buf, start);
            }
            at = piece.next;
        }
    }
}

/// A received range shorter than this is copied if its reader is slow: it would pin a buffer many times its size.
const BACKLOG_COPY_BELOW: u32 = 8 * 1024;

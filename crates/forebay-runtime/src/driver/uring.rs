//! The io_uring back end: one ring a worker, one system call a turn.
//!
//! Receives are multishot and land in buffers that the kernel picks; sends of a turn are merged into one
//! operation a connection and tried without waiting first, so that an operation which waits for a slow reader
//! exists only where there is one. Everything of a turn is submitted with the wait that ends it.
//!
//! [`sends`] is writing, [`places`] the sockets that the kernel knows without their descriptors, [`offer`] the buffers
//! that it may fill, [`ring`] what a kernel must offer for all this.

mod offer;
mod places;
mod ring;
mod sends;

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use self::offer::Offer;
use self::places::Places;
use super::backend::{Backend, Completion};
use super::buffers::Buffers;
use super::table::{Flags, Table};

/// Room for the lists of pieces of one turn's sends.
const VECTORS: usize = 8 * 1024;
const HEADERS: usize = 1024;
const GROUP: u16 = 0;

const ACCEPT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const CONNECT: u64 = 4;
const WAKE: u64 = 5;
const SEAT: u64 = 6;
/// Of no interest, whatever comes of it.
const IGNORE: u64 = 0;

/// Names an operation: what, of which generation, in which slot.
fn name(operation: u64, table: &Table, slot: u32) -> u64 {
    let generation = table.conns[slot as usize].generation & 0x00ff_ffff;
    operation << 56 | u64::from(generation) << 32 | u64::from(slot)
}

/// See the module's text.
pub(crate) struct Uring {
    // Dropped first: the kernel stops using what follows when the ring is closed.
    ring: IoUring,
    offer: Offer,
    places: Places,
    batch: Vec<cqueue::Entry>,
    at: usize,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::msghdr>,
    /// Connections whose receive ended for want of a buffer; those that had taken whole ones wait behind the others.
    starved: Vec<u32>,
    starved_streams: Vec<u32>,
    /// Bytes in each buffer.
    buffer_size: i32,
    /// See [`Backend::calls`].
    calls: u64,
    /// Connections whose send is tried without waiting: without a completion of its own, it succeeded.
    tried: Vec<u32>,
    /// Of these, the ones that the kernel has tried.
    settled: Vec<u32>,
    /// Something can't go on before the sends of this turn are known to have succeeded.
    is_urgent: bool,
    listeners: Vec<RawFd>,
    bell: RawFd,
    bell_count: Box<[u8; 8]>,
}

impl Uring {
    /// Whether this kernel and this process may use it: builds one as a worker does. The error says why not.
    pub(crate) fn probe(buffers: u32, buffer_size: u32) -> io::Result<()> {
        let bell = crate::mailbox::Bell::new()?;
        let (uring, _table) = Uring::open(bell.fd(), buffers.min(64), buffer_size)?;
        ring::check(&uring.ring)
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what the operation points to lives until it completes: buffers are held by their pieces,
            // the bell's count and addresses of connects are boxed, lists of pieces are needed until submission.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            self.submit();
        }
    }

    /// Hands over what is queued without waiting.
    fn submit(&mut self) {
        self.calls += 1;
        while let Err(error) = self.ring.submit() {
            self.calls += 1;
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // The kernel wants its completions fetched first.
                Some(libc::EBUSY | libc::EAGAIN) => self.fetch(),
                _ => panic!("io_uring refuses submissions: {error}"),
            }
        }
        self.forget_lists();
    }

    fn fetch(&mut self) {
        if self.at == self.batch.len() {
            self.batch.clear();
            self.at = 0;
        }
        self.batch.extend(self.ring.completion());
    }

    fn arm_bell(&mut self) {
        let at = self.bell_count.as_mut_ptr();
        let entry = opcode::Read::new(Fd(self.bell), at, 8).build().user_data(WAKE << 56);
        self.push(&entry);
    }

    fn cancel(&mut self, operation: u64) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(operation)).build();
        self.push(&entry.user_data(IGNORE).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Begins to receive, or stops.
    fn change_read(&mut self, table: &mut Table, slot: u32) {
        let conn = table.conn(slot);
        if conn.is(Flags::ARMED) {
            if !conn.is(Flags::CANCELLING) {
                conn.set(Flags::CANCELLING);
                self.cancel(name(RECEIVE, table, slot));
            }
        } else if !conn.is_any(Flags::STARVED.and(Flags::ENDED)) {
            conn.set(Flags::ARMED);
            conn.operations += 1;
            let entry = opcode::RecvMulti::new(Fd(conn.fd), GROUP).build();
            self.push(&entry.user_data(name(RECEIVE, table, slot)));
        }
    }

    fn revive_starved(&mut self, table: &mut Table) {
        let streams = std::mem::take(&mut self.starved_streams);
        for slot in std::mem::take(&mut self.starved).into_iter().chain(streams) {
            let conn = table.conn(slot);
            if conn.is(Flags::STARVED) {
                conn.clear(Flags::STARVED);
                self.read(table, slot);
            }
        }
    }

    /// A receive ended for want of a buffer: it begins again when there are some.
    fn starves(&mut self, table: &mut Table, slot: u32) {
        let conn = table.conn(slot);
        let is_streaming = conn.is(Flags::STREAMING);
        conn.clear(Flags::STREAMING);
        if !conn.is(Flags::STARVED) {
            conn.set(Flags::STARVED);
            let list = if is_streaming { &mut self.starved_streams } else { &mut self.starved };
            list.push(slot);
        }
    }

    /// A completion of anything but a receive.
    #[inline(never)]
    fn on_rarer(&mut self, table: &mut Table, what: u64, result: i32, flags: u32) -> Option<Completion> {
        let slot = what as u32;
        match what >> 56 {
            ACCEPT => self.on_accepted(slot as u16, result, flags),
            WAKE => {
                self.arm_bell();
                Some(Completion::Woken)
            }
            IGNORE => None,
            operation => {
                // The slot is not reused before its last completion; a mismatch is a bug, not a late event.
                assert_eq!(what, name(operation, table, slot), "a completion for an earlier connection");
                match operation {
                    SEND => self.on_sent(table, slot, usize::try_from(result).map_err(|_| -result)),
                    SEAT => self.on_seated(table, slot, result),
                    _ => self.on_connected(table, slot, result),
                }
            }
        }
    }

    #[inline(always)]
    fn on_received(&mut self, table: &mut Table, slot: u32, result: i32, flags: u32) -> Option<Completion> {
        match cqueue::buffer_select(flags) {
            Some(buf) if result > 0 && cqueue::more(flags) && !table.conn(slot).is(Flags::DEAD) => {
                let buf = u32::from(buf);
                let is_full = result == self.buffer_size;
                self.offer.taken(is_full);
                if is_full {
                    table.conn(slot).set(Flags::STREAMING);
                }
                table.buffers.take_provided(buf);
                Some(Completion::Received { slot, buf, len: result as u32 })
            }
            _ => self.on_receive_ended(table, slot, result, flags),
        }
    }

    /// Bytes after which no more come, an end, an error, or anything on a dead connection.
    #[inline(never)]
    fn on_receive_ended(&mut self, table: &mut Table, slot: u32, result: i32, flags: u32) -> Option<Completion> {
        let is_last = !cqueue::more(flags);
        let buf = cqueue::buffer_select(flags).map(u32::from);
        if let Some(buf) = buf {
            self.offer.taken(result == self.buffer_size);
            table.buffers.take_provided(buf);
        }
        let conn = table.conn(slot);
        if is_last {
            conn.operations -= 1;
            conn.clear(Flags::ARMED.and(Flags::CANCELLING));
        }
        if conn.is(Flags::DEAD) {
            if let Some(buf) = buf {
                table.buffers.discard(buf);
            }
            return gone(table, slot);
        }
        match (result, buf) {
            (1.., Some(buf)) => return Some(Completion::Received { slot, buf, len: result as u32 }),
            (_, Some(buf)) => table.buffers.discard(buf),
            (_, None) => {}
        }
        match -result {
            0 => Some(Completion::ReadEnded { slot, errno: None }),
            libc::ENOBUFS => {
                self.offer.ran_out();
                self.starves(table, slot);
                // One that is being taken out has waited for this end, and none other comes.
                Some(Completion::Done { slot })
            }
            libc::ECANCELED | libc::EINTR => Some(Completion::Done { slot }),
            errno => Some(Completion::ReadEnded { slot, errno: Some(errno) }),
        }
    }

    fn on_connected(&mut self, table: &mut Table, slot: u32, result: i32) -> Option<Completion> {
        let conn = table.conn(slot);
        conn.operations -= 1;
        if conn.is(Flags::DEAD) {
            return gone(table, slot);
        }
        conn.clear(Flags::CONNECTING);
        Some(Completion::Connected { slot, errno: (result < 0).then_some(-result) })
    }

    /// Goes on accepting after the kernel stopped, unless that was our wish.
    fn accept_again(&mut self, listener: u16) {
        let fd = self.listeners[usize::from(listener)];
        if fd >= 0 {
            self.accept(listener, fd);
        }
    }

    fn on_accepted(&mut self, listener: u16, result: i32, flags: u32) -> Option<Completion> {
        match result {
            0.. => {
                if !cqueue::more(flags) {
                    self.accept_again(listener);
                }
                Some(Completion::Accepted { listener, fd: result })
            }
            _ if -result == libc::ECANCELED => None,
            // That client is gone; the next may be there.
            _ if matches!(-result, libc::ECONNABORTED | libc::EINTR) => {
                self.accept_again(listener);
                None
            }
            _ => Some(Completion::AcceptFailed { listener, errno: -result }),
        }
    }
}

fn gone(table: &Table, slot: u32) -> Option<Completion> {
    (table.conns[slot as usize].operations == 0).then_some(Completion::Gone { slot })
}

impl Backend for Uring {
    const NAME: &'static str = "io_uring";
    // A non-blocking socket makes io_uring answer EAGAIN where it would otherwise wait.
    const NONBLOCKING: bool = false;

    fn open(bell: RawFd, buffers: u32, buffer_size: u32) -> io::Result<(Uring, Table)> {
        let count = buffers.clamp(16, 1 << 15).next_power_of_two();
        let ring = ring::build()?;
        let offer = Offer::new(count)?;
        // SAFETY: the memory has room for `count` entries and outlives the ring: see the order of the fields.
        // 2^15 fits in the count's type.
        unsafe { ring.submitter().register_buf_ring_with_flags(offer.address(), count as u16, GROUP, 0)? };
        let table = Table::new(Buffers::provided(count, buffer_size)?);
        let places = Places::register(&ring);
        let mut uring = Uring {
            ring,
            offer,
            places,
            batch: Vec::with_capacity(1024),
            at: 0,
            vectors: Vec::with_capacity(VECTORS),
            headers: Vec::with_capacity(HEADERS),
            starved: Vec::new(),
            starved_streams: Vec::new(),
            buffer_size: buffer_size as i32,
            calls: 0,
            tried: Vec::new(),
            settled: Vec::new(),
            is_urgent: false,
            listeners: Vec::new(),
            bell,
            bell_count: Box::new([0; 8]),
        };
        uring.arm_bell();
        Ok((uring, table))
    }

    fn accept(&mut self, listener: u16, fd: RawFd) {
        let at = usize::from(listener);
        self.listeners.resize(self.listeners.len().max(at + 1), -1);
        self.listeners[at] = fd;
        let entry = opcode::AcceptMulti::new(Fd(fd)).flags(libc::SOCK_CLOEXEC).build();
        self.push(&entry.user_data(ACCEPT << 56 | u64::from(listener)));
    }

    fn refuse(&mut self, listener: u16, _fd: RawFd) {
        self.cancel(ACCEPT << 56 | u64::from(listener));
        self.listeners[usize::from(listener)] = -1;
    }

    fn attach(&mut self, table: &mut Table, slot: u32) {
        self.read(table, slot);
    }

    fn detach(&mut self, table: &mut Table, slot: u32) {
        assert_eq!(table.conn(slot).operations, 0);
        self.unseat(table, slot);
    }

    #[inline]
    fn read(&mut self, table: &mut Table, slot: u32) {
        let conn = &table.conns[slot as usize];
        if conn.wants_read() != conn.is(Flags::ARMED) {
            self.change_read(table, slot);
        }
    }

    fn stop_writing(&mut self, table: &mut Table, slot: u32) {
        // One that was tried without waiting ends by itself.
        let conn = table.conn(slot);
        if conn.is(Flags::SENDING) && !conn.is(Flags::TRIED) {
            self.cancel(name(SEND, table, slot));
        }
    }

    fn connect(&mut self, table: &mut Table, slot: u32) {
        let conn = &table.conns[slot as usize];
        let address = conn.connecting.as_ref().and_then(|c| c.address()).expect("a connect has an address");
        let entry = opcode::Connect::new(Fd(conn.fd), address.as_ptr(), address.len()).build();
        self.push(&entry.user_data(name(CONNECT, table, slot)));
        let conn = table.conn(slot);
        conn.set(Flags::CONNECTING);
        conn.operations += 1;
    }

    fn cancel_connect(&mut self, table: &mut Table, slot: u32) {
        self.cancel(name(CONNECT, table, slot));
    }

    fn close(&mut self, table: &mut Table, slot: u32) {
        self.unseat(table, slot);
        let conn = &table.conns[slot as usize];
        let fd = Fd(conn.fd);
        if conn.operations > 0 {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(fd).all()).build();
            self.push(&entry.user_data(IGNORE).flags(squeue::Flags::SKIP_SUCCESS));
        }
        let entry = opcode::Close::new(fd).build();
        self.push(&entry.user_data(IGNORE).flags(squeue::Flags::SKIP_SUCCESS));
        table.conn(slot).fd = -1;
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn wait(&mut self, table: &mut Table, timeout: Duration) -> io::Result<()> {
        let mut dirty = std::mem::take(&mut table.dirty);
        for &slot in &dirty {
            table.conn(slot).clear(Flags::DIRTY);
            self.send(table, slot);
        }
        dirty.clear();
        table.dirty = dirty;
        if self.at < self.batch.len() {
            return Ok(());
        }
        self.offer.fill(&mut table.buffers);
        if !self.offer.is_empty() && self.starved.len() + self.starved_streams.len() > 0 {
            self.revive_starved(table);
        }
        let timeout = Timespec::from(self.longest_wait(timeout));
        self.calls += 1;
        let result = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
        self.forget_lists();
        match result {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(error),
            },
        }
        self.fetch();
        self.settle_tried(table);
        Ok(())
    }

    #[inline(always)]
    fn next(&mut self, table: &mut Table) -> Option<Completion> {
        // First: an answer that is in the batch came after what it answers was sent.
        while let Some(slot) = self.settled.pop() {
            let completion = self.on_settled(table, slot);
            if completion.is_some() {
                return completion;
            }
        }
        while let Some(entry) = self.batch.get(self.at) {
            let (what, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            self.at += 1;
            let completion = if what >> 56 == RECEIVE {
                let slot = what as u32;
                assert_eq!(what, name(RECEIVE, table, slot), "a completion for an earlier connection");
                self.on_received(table, slot, result, flags)
            } else {
                self.on_rarer(table, what, result, flags)
            };
            if completion.is_some() {
                return completion;
            }
        }
        self.batch.clear();
        self.at = 0;
        None
    }
}

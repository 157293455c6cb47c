//! The epoll back end: for kernels and containers without io_uring.
//!
//! Edge-triggered, so that a connection costs one `epoll_ctl` in its life. One scratch buffer a thread takes
//! every read; what an input queues is written before the next read, so that bytes normally leave from the
//! buffer they came in. What a slow reader does not take is copied.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::backend::{Backend, Completion};
use super::buffers::Buffers;
use super::table::{Flags, Table};
use crate::socket;

/// The scratch buffer: big, as a wide result costs a system call for each fill.
const SCRATCH_BYTES: u32 = 256 * 1024;
/// Events fetched in one turn.
const EVENTS: usize = 512;
/// Connections accepted from one listener in one turn.
const ACCEPTS_PER_TURN: u32 = 64;
/// Pieces that one write covers.
const PIECES_PER_WRITE: u32 = 64;

/// What keeps a connection from being written to.
const HINDRANCES: Flags = Flags::BLOCKED.and(Flags::DEAD).and(Flags::CONNECTING).and(Flags::HELD_BACK);

const CONN: u64 = 0;
const LISTENER: u64 = 1;
const BELL: u64 = 2;

/// See the module's text.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    /// The id that the scratch buffer has at the moment.
    scratch: u32,
    /// Happened already; with the generation it happened to.
    done: VecDeque<(u32, Completion)>,
    /// Sockets to read from in this turn, and in the next.
    readable: VecDeque<u32>,
    again: Vec<u32>,
    /// Listeners to accept from: index, descriptor, how many more.
    accepting: Vec<(u16, RawFd, u32)>,
    listeners: Vec<RawFd>,
    is_woken: bool,
    vectors: Vec<libc::iovec>,
    /// See [`Backend::calls`].
    calls: u64,
}

impl Epoll {
    fn control(&mut self, operation: libc::c_int, fd: RawFd, events: libc::c_int, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: data };
        self.calls += 1;
        // SAFETY: `event` lives over the call.
        socket::check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &raw mut event) })
    }

    fn report(&mut self, table: &Table, slot: u32, completion: Completion) {
        self.done.push_back((table.conns[slot as usize].generation, completion));
    }

    fn list(&mut self, table: &mut Table, slot: u32) {
        let conn = table.conn(slot);
        if conn.is(Flags::READABLE) && conn.wants_read() && !conn.is(Flags::LISTED) {
            conn.set(Flags::LISTED);
            self.readable.push_back(slot);
        }
    }

    fn flush(&mut self, table: &mut Table) {
        if table.dirty.is_empty() {
            return;
        }
        let mut dirty = std::mem::take(&mut table.dirty);
        for &slot in &dirty {
            table.conn(slot).clear(Flags::DIRTY);
            self.write(table, slot);
        }
        dirty.clear();
        table.dirty = dirty;
    }

    /// Writes what is queued on a connection, as far as it goes.
    fn write(&mut self, table: &mut Table, slot: u32) {
        let mut plain = 0;
        let mut errno = None;
        loop {
            let conn = &table.conns[slot as usize];
            if conn.queued == 0 || conn.fd < 0 || conn.is_any(HINDRANCES) {
                break;
            }
            let count = conn.queued.min(PIECES_PER_WRITE);
            let (written, wanted) = self.write_once(table, slot, count);
            match written {
                Ok(written) if written == wanted => plain += table.advance_whole(slot, count),
                Ok(written) => {
                    plain += table.advance(slot, written);
                    table.conn(slot).set(Flags::BLOCKED);
                    table.unpin(slot);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => {
                        table.conn(slot).set(Flags::BLOCKED);
                        table.unpin(slot);
                    }
                    other => {
                        errno = Some(other.unwrap_or(libc::EIO));
                        break;
                    }
                },
            }
        }
        let conn = &table.conns[slot as usize];
        if plain > 0 || (conn.queued == 0 && conn.fd >= 0 && errno.is_none()) {
            self.report(table, slot, Completion::Sent { slot, plain });
        }
        if let Some(errno) = errno {
            self.report(table, slot, Completion::SendFailed { slot, errno });
        }
    }

    /// Writes the first `count` pieces; returns also how many bytes they are.
    fn write_once(&mut self, table: &Table, slot: u32, count: u32) -> (io::Result<usize>, usize) {
        let fd = table.conns[slot as usize].fd;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        self.calls += 1;
        if count == 1 {
            let piece = table.first_piece(slot);
            let bytes = table.buffers.range(piece.buf, piece.start, piece.start + piece.len);
            // SAFETY: `range` checked the bounds, and the piece holds the bytes.
            let written = unsafe { libc::send(fd, bytes.cast(), piece.len as usize, flags) };
            return (result(written), piece.len as usize);
        }
        self.vectors.clear();
        let mut wanted = 0;
        for piece in table.pieces(slot, count) {
            let bytes = table.buffers.range(piece.buf, piece.start, piece.start + piece.len);
            self.vectors.push(libc::iovec { iov_base: bytes.cast_mut().cast(), iov_len: piece.len as usize });
            wanted += piece.len as usize;
        }
        // SAFETY: msghdr is pointers and integers, for which all bits zero is a value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.vectors.as_mut_ptr();
        header.msg_iovlen = self.vectors.len() as _;
        // SAFETY: the vectors live over the call and describe bytes that pieces hold.
        let written = unsafe { libc::sendmsg(fd, &raw const header, flags) };
        (result(written), wanted)
    }

    fn on_event(&mut self, table: &mut Table, event: libc::epoll_event) {
        let (flags, data) = (event.events as libc::c_int, event.u64);
        match data >> 56 {
            BELL => self.is_woken = true,
            LISTENER => {
                let listener = data as u16;
                self.accepting.push((listener, self.listeners[usize::from(listener)], ACCEPTS_PER_TURN));
            }
            _ => self.on_conn_event(table, data, flags),
        }
    }

    fn on_conn_event(&mut self, table: &mut Table, data: u64, flags: libc::c_int) {
        let slot = data as u32;
        // One that another process holds as well goes on telling, when it is closed or moved here and its slot is free.
        if data != conn_data(table, slot) || table.conn(slot).fd < 0 {
            return;
        }
        let is_over = flags & (libc::EPOLLHUP | libc::EPOLLERR) != 0;
        let conn = table.conn(slot);
        if conn.is(Flags::CONNECTING) {
            if is_over || flags & libc::EPOLLOUT != 0 {
                let errno = socket::take_error(conn.fd).err().map(|e| e.raw_os_error().unwrap_or(libc::EIO));
                conn.clear(Flags::CONNECTING);
                self.report(table, slot, Completion::Connected { slot, errno });
            }
            return;
        }
        if conn.is(Flags::BLOCKED) && (is_over || flags & libc::EPOLLOUT != 0) {
            conn.clear(Flags::BLOCKED);
            table.mark_dirty(slot);
        }
        let conn = table.conn(slot);
        if is_over || flags & libc::EPOLLRDHUP != 0 {
            conn.set(Flags::HUNG_UP);
        }
        if is_over || flags & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0 {
            conn.set(Flags::READABLE);
            self.list(table, slot);
        }
    }

    fn accept_next(&mut self) -> Option<Completion> {
        while let Some((listener, fd, left)) = self.accepting.pop() {
            self.calls += 1;
            // SAFETY: no address is asked for.
            let client = unsafe {
                libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            };
            if client >= 0 {
                if left > 1 {
                    self.accepting.push((listener, fd, left - 1));
                }
                return Some(Completion::Accepted { listener, fd: client });
            }
            match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
                libc::EAGAIN => {}
                // That client is gone; the next may be there.
                libc::EINTR | libc::ECONNABORTED if left > 1 => self.accepting.push((listener, fd, left - 1)),
                libc::EINTR | libc::ECONNABORTED => {}
                errno => {
                    self.refuse(listener, fd);
                    return Some(Completion::AcceptFailed { listener, errno });
                }
            }
        }
        None
    }

    fn read_next(&mut self, table: &mut Table) -> Option<Completion> {
        while let Some(slot) = self.readable.pop_front() {
            let conn = table.conn(slot);
            if !conn.is(Flags::LISTED) {
                continue;
            }
            conn.clear(Flags::LISTED);
            if !conn.wants_read() {
                continue;
            }
            let (fd, is_hung_up) = (conn.fd, conn.is(Flags::HUNG_UP));
            let scratch = table.buffers.memory(self.scratch);
            self.calls += 1;
            // SAFETY: the scratch buffer is ours alone, and its length says how much may be written.
            let got = result(unsafe { libc::recv(fd, scratch.as_mut_ptr().cast(), scratch.len(), libc::MSG_DONTWAIT) });
            let conn = table.conn(slot);
            match got {
                Ok(0) => {
                    conn.clear(Flags::READABLE);
                    return Some(Completion::ReadEnded { slot, errno: None });
                }
                Ok(len) => {
                    // A read that did not fill the buffer emptied the socket; more of it comes with a new edge.
                    if len == SCRATCH_BYTES as usize || is_hung_up {
                        conn.set(Flags::LISTED);
                        self.again.push(slot);
                    } else {
                        conn.clear(Flags::READABLE);
                    }
                    return Some(Completion::Received { slot, buf: self.scratch, len: len as u32 });
                }
                Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                    libc::EAGAIN => conn.clear(Flags::READABLE),
                    libc::EINTR => self.list(table, slot),
                    errno => {
                        conn.clear(Flags::READABLE);
                        return Some(Completion::ReadEnded { slot, errno: Some(errno) });
                    }
                },
            }
        }
        None
    }
}

fn result(count: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn conn_data(table: &Table, slot: u32) -> u64 {
    let Some(conn) = table.conns.get(slot as usize) else { return u64::MAX };
    CONN << 56 | u64::from(conn.generation & 0x00ff_ffff) << 32 | u64::from(slot)
}

impl Backend for Epoll {
    const NAME: &'static str = "epoll";
    const NONBLOCKING: bool = true;

    fn open(bell: RawFd, _buffers: u32, _buffer_size: u32) -> io::Result<(Epoll, Table)> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        socket::check(fd)?;
        let mut epoll = Epoll {
            // SAFETY: just created, owned by nobody else.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS],
            scratch: 0,
            done: VecDeque::new(),
            readable: VecDeque::new(),
            again: Vec::new(),
            accepting: Vec::new(),
            listeners: Vec::new(),
            is_woken: false,
            vectors: Vec::new(),
            calls: 1,
        };
        epoll.control(libc::EPOLL_CTL_ADD, bell, libc::EPOLLIN, BELL << 56)?;
        Ok((epoll, Table::new(Buffers::scratch(SCRATCH_BYTES)?)))
    }

    fn accept(&mut self, listener: u16, fd: RawFd) {
        let at = usize::from(listener);
        self.listeners.resize(self.listeners.len().max(at + 1), -1);
        self.listeners[at] = fd;
        let data = LISTENER << 56 | u64::from(listener);
        if self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN, data).is_err() {
            self.done.push_back((0, Completion::AcceptFailed { listener, errno: libc::ENOMEM }));
        }
    }

    fn refuse(&mut self, listener: u16, fd: RawFd) {
        self.accepting.retain(|(index, ..)| *index != listener);
        // It may not be registered, when accepting failed before; then there is nothing to undo.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    fn attach(&mut self, table: &mut Table, slot: u32) {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let fd = table.conn(slot).fd;
        let data = conn_data(table, slot);
        if let Err(error) = self.control(libc::EPOLL_CTL_ADD, fd, interest, data) {
            let errno = error.raw_os_error();
            // A connection that just came about is registered already.
            if errno != Some(libc::EEXIST) {
                self.report(table, slot, Completion::ReadEnded { slot, errno });
                return;
            }
        }
        // A client is accepted with what it said; and of a connection that just came about the first edge may be taken.
        table.conn(slot).set(Flags::READABLE);
        self.list(table, slot);
    }

    fn detach(&mut self, table: &mut Table, slot: u32) {
        // It was registered by `attach`; a failure would close it in the new driver at worst.
        let _ = self.control(libc::EPOLL_CTL_DEL, table.conn(slot).fd, 0, 0);
    }

    fn read(&mut self, table: &mut Table, slot: u32) {
        self.list(table, slot);
    }

    fn stop_writing(&mut self, _: &mut Table, _: u32) {}

    fn connect(&mut self, table: &mut Table, slot: u32) {
        let conn = table.conn(slot);
        let fd = conn.fd;
        let address = conn.connecting.as_ref().and_then(|c| c.address()).expect("a connect has an address");
        let begun = socket::connect(fd, address);
        self.calls += 1;
        let errno = match begun {
            Ok(()) => None,
            Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                libc::EINPROGRESS => {
                    table.conn(slot).set(Flags::CONNECTING);
                    let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
                    match self.control(libc::EPOLL_CTL_ADD, fd, interest, conn_data(table, slot)) {
                        Ok(()) => return,
                        Err(error) => {
                            table.conn(slot).clear(Flags::CONNECTING);
                            Some(error.raw_os_error().unwrap_or(libc::EIO))
                        }
                    }
                }
                errno => Some(errno),
            },
        };
        self.report(table, slot, Completion::Connected { slot, errno });
    }

    fn cancel_connect(&mut self, table: &mut Table, slot: u32) {
        let conn = table.conn(slot);
        if conn.is(Flags::CONNECTING) {
            conn.clear(Flags::CONNECTING);
            self.report(table, slot, Completion::Connected { slot, errno: Some(libc::ETIMEDOUT) });
        }
    }

    fn close(&mut self, table: &mut Table, slot: u32) {
        let conn = table.conn(slot);
        socket::close(std::mem::replace(&mut conn.fd, -1));
        self.calls += 1;
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn wait(&mut self, table: &mut Table, timeout: Duration) -> io::Result<()> {
        self.flush(table);
        self.scratch = table.buffers.retire_scratch(self.scratch);
        self.readable.extend(self.again.drain(..));
        self.calls += 1;
        let is_busy = !(self.done.is_empty() && self.readable.is_empty());
        let millis = timeout.as_micros().div_ceil(1000).min(60_000) as libc::c_int;
        // SAFETY: the array lives over the call, and its length is given.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS as libc::c_int,
                if is_busy { 0 } else { millis },
            )
        };
        match result(count as libc::ssize_t) {
            Ok(count) => {
                for at in 0..count {
                    self.on_event(table, self.events[at]);
                }
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    #[inline(always)]
    fn next(&mut self, table: &mut Table) -> Option<Completion> {
        self.flush(table);
        self.scratch = table.buffers.retire_scratch(self.scratch);
        while let Some((generation, completion)) = self.done.pop_front() {
            let slot = match completion {
                Completion::Sent { slot, .. }
                | Completion::SendFailed { slot, .. }
                | Completion::ReadEnded { slot, .. }
                | Completion::Connected { slot, .. } => slot,
                other => return Some(other),
            };
            let conn = table.conn(slot);
            if conn.generation == generation && !conn.is(Flags::DEAD) {
                return Some(completion);
            }
        }
        if std::mem::take(&mut self.is_woken) {
            return Some(Completion::Woken);
        }
        if !self.accepting.is_empty()
            && let Some(accepted) = self.accept_next()
        {
            return Some(accepted);
        }
        self.read_next(table)
    }
}

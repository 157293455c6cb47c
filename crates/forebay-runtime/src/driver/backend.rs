//! What the two back ends have in common: the small set of verbs that [`super::Driver`] needs.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use super::table::Table;

/// What the kernel reported.
#[derive(Debug)]
pub(crate) enum Completion {
    /// A client connected.
    Accepted {
        /// Index of the listener.
        listener: u16,
        fd: RawFd,
    },
    /// Accepting failed; the listener is quiet until [`Backend::accept`].
    AcceptFailed { listener: u16, errno: i32 },
    /// Bytes came. The buffer is filled and not lent yet.
    Received { slot: u32, buf: u32, len: u32 },
    /// The peer ended its side (`None`), or the socket failed.
    ReadEnded { slot: u32, errno: Option<i32> },
    /// An operation ended without a result, such as a receive that was stopped; another may have waited for that.
    Done { slot: u32 },
    /// Bytes of core's were written; 0 where only a part of a TLS record was.
    Sent { slot: u32, plain: usize },
    /// Nothing more can be written.
    SendFailed { slot: u32, errno: i32 },
    /// A connect ended.
    Connected { slot: u32, errno: Option<i32> },
    /// A closed connection's last operation ended.
    Gone { slot: u32 },
    /// The mailbox was rung.
    Woken,
}

/// One way to do I/O.
///
/// Calls return at once and report through [`Backend::next`]. A call that changes what is queued on a
/// connection marks it dirty in the table; the back end writes from there.
pub(crate) trait Backend: Sized {
    /// As `SHOW VERSION` prints it.
    const NAME: &'static str;
    /// Whether its sockets are non-blocking.
    const NONBLOCKING: bool;

    /// A back end for this thread, with the table whose buffers it fills. `bell` wakes it.
    fn open(bell: RawFd, buffers: u32, buffer_size: u32) -> io::Result<(Self, Table)>;
    /// Begins to accept, or goes on after a failure.
    fn accept(&mut self, listener: u16, fd: RawFd);
    /// Stops accepting; the descriptor stays open.
    fn refuse(&mut self, listener: u16, fd: RawFd);
    /// A connected socket joins.
    fn attach(&mut self, table: &mut Table, slot: u32);
    /// A socket leaves, still open, with no operation under way.
    fn detach(&mut self, table: &mut Table, slot: u32);
    /// What is being written is called off, unless it ends by itself; what is queued stays.
    fn stop_writing(&mut self, table: &mut Table, slot: u32);
    /// Reading is wanted, or not any more: see [`super::table::Conn::wants_read`].
    fn read(&mut self, table: &mut Table, slot: u32);
    /// Begins a connect to the slot's current address.
    fn connect(&mut self, table: &mut Table, slot: u32);
    /// Gives up a connect; it ends with an error.
    fn cancel_connect(&mut self, table: &mut Table, slot: u32);
    /// Closes the descriptor and cancels what is under way. `Gone` follows if anything was.
    fn close(&mut self, table: &mut Table, slot: u32);
    /// Hands over what is queued and waits for something to happen.
    fn wait(&mut self, table: &mut Table, timeout: Duration) -> io::Result<()>;
    /// System calls made for connections so far.
    fn calls(&self) -> u64;
    /// The next thing that happened in this turn. The buffer of the one before is not held by the back end.
    fn next(&mut self, table: &mut Table) -> Option<Completion>;
}

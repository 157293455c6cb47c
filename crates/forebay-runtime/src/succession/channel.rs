//! The socket between two processes, and the process at its other end.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::socket::{receive_with, send_with};

/// How long the other side may be silent in the middle of a batch.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the old process may take to end once its socket has.
const END_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 2000 });

/// The process at the other end of a socket.
pub(super) struct Pid(OwnedFd);

impl Pid {
    pub(super) fn behind(socket: RawFd) -> io::Result<Pid> {
        let pid = crate::socket::peer_pid(socket)?;
        // SAFETY: no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int;
        crate::socket::check(fd)?;
        // SAFETY: just created, owned by nobody else.
        Ok(Pid(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Whether it ends, now or shortly.
    pub(super) fn has_ended(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives over the call.
        unsafe { libc::poll(&raw mut poll, 1, END_TIMEOUT.as_millis() as libc::c_int) > 0 }
    }
}

pub(super) fn set_timeout(socket: &OwnedFd) -> io::Result<()> {
    let timeout = libc::timeval { tv_sec: ANSWER_TIMEOUT.as_secs() as libc::time_t, tv_usec: 0 };
    let length = size_of::<libc::timeval>() as libc::socklen_t;
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let value = (&raw const timeout).cast();
        // SAFETY: `timeout` lives over the call and its size is given.
        crate::socket::check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length) })?;
    }
    Ok(())
}

pub(super) fn write_all(socket: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = send_with(socket, bytes, &[])?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

pub(super) fn read_exact(socket: RawFd, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match receive_with(socket, bytes, &mut Vec::new())? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => bytes = &mut bytes[got..],
        }
    }
    Ok(())
}

/// Reads the other process's answer. If there is none, there can't be one any more when this returns.
pub(super) fn answer(socket: RawFd, words: &mut [u8]) -> io::Result<()> {
    read_exact(socket, words).or_else(|error| {
        shut(socket);
        // What it said before that can still be read.
        read_exact(socket, words).map_err(|_| error)
    })
}

pub(crate) fn shut(socket: RawFd) {
    // SAFETY: no pointers. One that is shut by the other side is no less so for us.
    unsafe { libc::shutdown(socket, libc::SHUT_RDWR) };
}

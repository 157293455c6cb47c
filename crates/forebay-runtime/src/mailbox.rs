//! What other threads hand to a worker: a locked list and an eventfd that is written only when the
//! worker may be asleep.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// An eventfd that is written once until it is read.
#[derive(Debug)]
pub(crate) struct Bell {
    fd: OwnedFd,
    rung: AtomicBool,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        // SAFETY: eventfd takes no pointers; a non-negative result is a descriptor that nobody else owns.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just created and is owned by nobody else.
        Ok(Bell { fd: unsafe { OwnedFd::from_raw_fd(fd) }, rung: AtomicBool::new(false) })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Wakes whoever polls the descriptor, unless that is under way already.
    pub(crate) fn ring(&self) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` lives over the call and is 8 bytes long, as eventfd wants. A full counter still wakes.
        unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Clears the descriptor; to be called before the list is read, so that what comes later rings again.
    pub(crate) fn hush(&self) {
        let mut count = [0u8; 8];
        // SAFETY: `count` lives over the call and is 8 bytes long. An empty eventfd answers EAGAIN, which is fine.
        unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        self.rung.store(false, Ordering::Release);
    }
}

/// A many-to-one queue that keeps the order of each sender.
///
/// It has no limit of its own: what is posted is bounded by what it answers (questions, commands) or by the
/// connections that exist (hand-overs), which have limits.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    list: Mutex<Vec<T>>,
    bell: Bell,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> io::Result<Mailbox<T>> {
        Ok(Mailbox { list: Mutex::new(Vec::new()), bell: Bell::new()? })
    }

    /// The descriptor that turns readable when something was posted.
    pub(crate) fn fd(&self) -> RawFd {
        self.bell.fd()
    }

    pub(crate) fn post(&self, item: T) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        self.bell.ring();
    }

    /// Moves all that was posted into `into`, which must be empty.
    pub(crate) fn take(&self, into: &mut Vec<T>) {
        self.bell.hush();
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *list, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_readable(fd: RawFd) -> bool {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, no wait.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    /// A post that rings no bell leaves a worker asleep with a client's answer in its box.
    #[test]
    fn a_post_after_a_take_rings_again() {
        let mailbox = Mailbox::new().expect("eventfd");
        let mut got = Vec::new();
        assert!(!is_readable(mailbox.fd()));
        mailbox.post(1);
        mailbox.post(2);
        assert!(is_readable(mailbox.fd()));
        mailbox.take(&mut got);
        assert_eq!(got, [1, 2]);
        assert!(!is_readable(mailbox.fd()));
        got.clear();
        mailbox.post(3);
        assert!(is_readable(mailbox.fd()));
        mailbox.take(&mut got);
        assert_eq!(got, [3]);
    }
}

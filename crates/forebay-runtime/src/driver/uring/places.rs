//! Registered files: sockets that the kernel has at hand by place. An operation that names a place spares it the
//! look-up of a descriptor and the count of who uses it, 2 % of a transaction.
//!
//! A connection gets a place when it has lasted a while, so that a short one costs nothing more. A place keeps its
//! socket open: the operation that empties it is queued before the one that closes the descriptor, and before the
//! descriptor is handed to another worker, else the peer would see no end. Only sends that do not wait name a place:
//! before Linux 6.13, emptying one takes effect when all earlier operations that name any have ended.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, opcode, squeue};

use super::{IGNORE, SEAT, Uring, gone, name};
use crate::driver::backend::Completion;
use crate::driver::table::{Flags, NOWHERE, Table};

/// Most places of a worker: 8 bytes each here, 16 in the kernel. Connections beyond do without.
const PLACES_MAX: u32 = 16 * 1024;
/// Sends after which a connection gets a place, if there is one.
pub(super) const SENDS_BEFORE_PLACE: u32 = 16;

/// What empties a place.
static NOTHING: RawFd = -1;

/// The places of one ring.
pub(super) struct Places {
    /// What is to be put into each; the kernel reads it when the operation is submitted.
    fds: Box<[RawFd]>,
    free: Vec<u32>,
}

impl Places {
    /// Places in `ring`; none where the kernel or the limit of descriptors refuses them.
    pub(super) fn register(ring: &IoUring) -> Places {
        let limit = u32::try_from(crate::open_files::limit()).unwrap_or(u32::MAX);
        let count = PLACES_MAX.min(limit);
        let is_of_use = ring.submitter().register_files_sparse(count).is_ok() && lets_go(ring).unwrap_or(false);
        let count = if is_of_use { count } else { 0 };
        Places { fds: vec![NOTHING; count as usize].into(), free: (0..count).rev().collect() }
    }
}

/// Whether a socket is closed as soon as its place is emptied. Kernels before 6.3 may take a second.
fn lets_go(ring: &IoUring) -> io::Result<bool> {
    let (ours, mut theirs) = UnixStream::pair()?;
    ring.submitter().register_files_update(0, &[ours.as_raw_fd()])?;
    drop(ours);
    ring.submitter().register_files_update(0, &[NOTHING])?;
    theirs.set_nonblocking(true)?;
    Ok(matches!(theirs.read(&mut [0]), Ok(0)))
}

impl Uring {
    /// Gives a connection a place, if one is free; its sends name it once the kernel has agreed.
    pub(super) fn seat(&mut self, table: &mut Table, slot: u32) {
        let Some(place) = self.places.free.pop() else { return };
        let conn = table.conn(slot);
        conn.place = place;
        conn.operations += 1;
        let fd = &mut self.places.fds[place as usize];
        *fd = conn.fd;
        let entry = opcode::FilesUpdate::new(&raw const *fd, 1).offset(place as i32).build();
        self.push(&entry.user_data(name(SEAT, table, slot)));
    }

    /// As on a kernel that has none.
    #[cfg(test)]
    pub(crate) fn forget_places(&mut self) {
        self.places.free.clear();
    }

    pub(super) fn on_seated(&mut self, table: &mut Table, slot: u32, result: i32) -> Option<Completion> {
        let conn = table.conn(slot);
        conn.operations -= 1;
        if conn.is(Flags::DEAD) {
            return gone(table, slot);
        }
        if result == 1 {
            conn.set(Flags::SEATED);
        } else {
            self.places.free.push(std::mem::replace(&mut conn.place, NOWHERE));
        }
        Some(Completion::Done { slot })
    }

    /// Takes a connection's place away, in front of what is queued from here on.
    pub(super) fn unseat(&mut self, table: &mut Table, slot: u32) {
        let conn = table.conn(slot);
        let place = std::mem::replace(&mut conn.place, NOWHERE);
        conn.clear(Flags::SEATED);
        if place != NOWHERE {
            // Whoever gets the place next is put into it by an operation behind this one.
            self.places.free.push(place);
            let entry = opcode::FilesUpdate::new(&raw const NOTHING, 1).offset(place as i32).build();
            self.push(&entry.user_data(IGNORE).flags(squeue::Flags::SKIP_SUCCESS));
        }
    }
}

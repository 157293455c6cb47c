//! Names of the system's users by their numbers, off the loop: a thread that calls getpwuid_r, which may ask a
//! directory. While that is silent only those who asked wait, and each of them has a deadline.

use std::ffi::CStr;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_core::ids::{QuestionId, WorkerId};
use forebay_core::question::Answer;

/// Bytes that an entry may take; a longer one counts as none.
const ENTRY_BYTES_MAX: usize = 64 * 1024;

type Ask = (WorkerId, QuestionId, u32);

/// The thread's inbox.
pub(crate) struct OsUsers(Mutex<Sender<Ask>>);

impl OsUsers {
    /// Starts the thread; each answer goes through `report`. It ends when this is dropped.
    pub(crate) fn start(report: impl Fn(WorkerId, QuestionId, Answer) + Send + 'static) -> std::io::Result<OsUsers> {
        let (sender, queue) = channel::<Ask>();
        crate::engine::spawn("forebay-users".to_owned(), move || {
            for (worker, id, uid) in queue {
                report(worker, id, Answer::OsUser(name_of(uid)));
            }
        })?;
        Ok(OsUsers(Mutex::new(sender)))
    }

    pub(crate) fn ask(&self, worker: WorkerId, id: QuestionId, uid: u32) {
        // The thread lives as long as the sender does: an error can't happen, and the asker has a deadline.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send((worker, id, uid));
    }
}

/// The name of the user with that number; `None` where the system knows none.
fn name_of(uid: u32) -> Option<Arc<str>> {
    let mut room = vec![0_u8; 1024];
    loop {
        // SAFETY: all zeroes are a passwd; what it points to is not looked at before the call has filled it.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: each pointer is valid for the call, and `room` is as long as is said.
        let code =
            unsafe { libc::getpwuid_r(uid, &raw mut entry, room.as_mut_ptr().cast(), room.len(), &raw mut found) };
        if code == libc::ERANGE && room.len() < ENTRY_BYTES_MAX {
            room.resize(room.len() * 4, 0);
            continue;
        }
        if code != 0 || found.is_null() || entry.pw_name.is_null() {
            return None;
        }
        // SAFETY: the call has put a text that ends with NUL there, inside `room`.
        let name = unsafe { CStr::from_ptr(entry.pw_name) };
        return name.to_str().ok().map(Arc::from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wrong name would let one user of the system in as another.
    #[test]
    fn the_system_s_users_have_their_names() {
        assert_eq!(name_of(0).as_deref(), Some("root"));
        assert_eq!(name_of(4_294_967_000), None);
    }
}

//! Whether others may read the memory of the process, which holds secrets.

/// Keeps the memory out of core files, and from being traced or read by other processes of the same user. Root still
/// may. A program that is started from here is not concerned.
pub(crate) fn hide_memory() {
    // SAFETY: this call takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    /// A core file on a disk is a copy of every password.
    #[test]
    fn hidden_memory_is_dumped_nowhere() {
        let asked = || {
            // SAFETY: this call takes numbers only.
            unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }
        };
        super::hide_memory();
        assert_eq!(asked(), 0);
    }
}

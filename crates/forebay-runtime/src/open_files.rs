//! How many descriptors the process may hold: a client and a server each need one.

/// Raises the soft limit to the hard one. Most systems start a process with a soft limit of 1,024 for the sake of
/// programs that use select(2), which this one does not. Where that is refused, the limit stays as it is: connections
/// beyond it are refused with a clear error.
pub(crate) fn raise_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives both calls, which read and write nothing else.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// The soft limit in force.
pub(crate) fn limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call. It does not fail for a resource that every Linux has; if it did, 0 is safe.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur
}

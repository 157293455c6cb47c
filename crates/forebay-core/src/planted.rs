//! Bugs planted on purpose, so that the simulator can prove that it finds them.
//!
//! A hook in the code is one line that asks [`planted`]. Without the feature `planted-bugs`, which only the
//! simulator's tests turn on, the answer is a constant `false` and the hook compiles to nothing.

/// A bug that can be planted. Each is one that a pooler has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An idle server stays in the list of idle servers when it is handed out.
    ServerHandedOutTwice,
    /// A server goes back although its client's transaction is open.
    CheckinInTransaction,
    /// A waiter is taken off the queue and not told.
    LostWakeUp,
    /// A name keeps the statement that it had before it was parsed again.
    StaleStatement,
    /// A statement parsed under other settings is taken for the same.
    StatementWithoutEnvironment,
    /// A server is given to the next client while a cancel for the last one is on its way.
    CancelToWrongClient,
    /// Each worker counts its servers by itself.
    LimitPerWorker,
    /// A server is given on before the replies to a client that left have come.
    ReplyToWrongClient,
    /// A server keeps the last client's parameters.
    LeakedParameter,
    /// The newest waiter is served first.
    NewestWaiterFirst,
    /// A received buffer is given back twice.
    BufferReleasedTwice,
    /// A transaction that a client left behind is not ended, and its server never comes back.
    ServerNeverCleaned,
    /// The permit of a closed server is not given back.
    PermitLost,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 13] = [
        Bug::ServerHandedOutTwice,
        Bug::CheckinInTransaction,
        Bug::LostWakeUp,
        Bug::StaleStatement,
        Bug::StatementWithoutEnvironment,
        Bug::CancelToWrongClient,
        Bug::LimitPerWorker,
        Bug::ReplyToWrongClient,
        Bug::LeakedParameter,
        Bug::NewestWaiterFirst,
        Bug::BufferReleasedTwice,
        Bug::ServerNeverCleaned,
        Bug::PermitLost,
    ];
}

/// Whether `bug` is planted.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}

/// Whether `bug` is planted in the workers of this thread.
#[cfg(feature = "planted-bugs")]
pub fn planted(bug: Bug) -> bool {
    PLANTED.with(|planted| planted.get() == Some(bug))
}

#[cfg(feature = "planted-bugs")]
std::thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in the workers of this thread, or none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.with(|planted| planted.set(bug));
}

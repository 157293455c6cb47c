//! Bugs planted on purpose, so that the simulator can prove that it finds them.
//!
//! A hook in the code is one line that asks [`planted`]. Without the feature `planted-bugs`, which only the
//! simulator's tests turn on, the answer is a constant `false` and the hook compiles to nothing.

use std::sync::Arc;

use crate::auth::Credential;
use crate::tables::Tables;

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
    /// At `strict` a server goes to clients that have not met its custom settings.
    CustomUnmet,
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
    /// A reset leaves the role.
    ResetForgetsRole,
    /// A server whose reset failed is used.
    ResetFailureIgnored,
    /// What is gone keeps its server pinned.
    PinNeverReleased,
    /// A server goes back although it holds what only it can keep.
    PinIgnored,
    /// What a client has set is not read back.
    ProbeIgnored,
    /// A client that left in a transaction leaves its server as if it had done nothing.
    ResetSkippedInTransaction,
    /// What one client's server told becomes another client's settings.
    ProbeOfAnother,
    /// A client hears each notification twice.
    NotificationTwice,
    /// What a server says goes to its client, whoever else says it.
    CutIgnored,
    /// A server stops listening before the listener has taken over.
    ServerUnlistensEarly,
    /// A server goes on listening to what its last client listened to.
    ServerGoesOnListening,
    /// A PREPARE that failed gives its statement the name all the same.
    NameOfFailedPrepare,
    /// A reset leaves session advisory locks.
    ResetForgetsLocks,
    /// A reset leaves temporary objects.
    ResetForgetsTemp,
    /// A reset leaves what was drawn from sequences.
    ResetForgetsSequences,
    /// A reset leaves cursors that outlive their transactions.
    ResetForgetsCursors,
    /// Only what the text of a statement says is noted, and nothing of what functions and triggers do.
    FunctionsUnseen,
    /// ROLLBACK TO is taken to undo all that the transaction has set.
    RollbackToUndoesAll,
    /// ROLLBACK is taken to undo all that the transaction has left.
    RollbackUndoesAll,
    /// A Sync that the server ignores, in the middle of a copy, is taken to be answered.
    SyncInCopyCounted,
    /// A client that resets what it asked for at its start gets the server's own value.
    StartNotRestored,
    /// What a client that left has done last is not noted.
    LeftUnnoted,
    /// A reset that fails, as each one is made to, is taken to have been carried out.
    ResetFailsUnseen,
    /// No bug but a fault: each reset fails. Nobody may notice.
    ResetFails,
    /// What a hand-over sends ends in a Sync: where it fails, the client's request is not skipped.
    PrefixEndsSkipping,
    /// A statement keeps the name that it was given by a request that was skipped.
    SkippedNameKept,
    /// A client is put into the first pool of its database, whoever that logs in as.
    PoolOfAnotherUser,
    /// A server is given the settings of its next client, but not its role.
    RoleNotSet,
    /// What pins without a view that tells of it is kept when it has gone.
    UnseenPinKept,
    /// What may have been seeded counts as seeded.
    PinWithoutCause,
    /// What a client proves itself by is logged.
    ProofLogged,
    /// What a client sends is logged.
    RequestLogged,
    /// SHOW CLIENTS tells the key of a client's cancel requests.
    CancelKeyShown,
    /// A pool's metrics are labelled with the secret of its user.
    SecretInLabel,
    /// Whatever server answers at the socket beside an endpoint's port is taken for the one at the port.
    StrangerTrusted,
    /// What a client has sent is lost when it moves.
    MovedBytesLost,
    /// What a client has prepared is forgotten when it moves.
    MovedNamesLost,
    /// What a client has set since its start is forgotten when it moves.
    MovedSettingsLost,
    /// What a server owes is forgotten when it moves.
    MovedRepliesLost,
    /// A worker that knows of a primary believes no other account.
    StaleRoleBelieved,
    /// Requests do not wait while no endpoint is known to serve them.
    HoldReleasedEarly,
    /// Requests that waited for an endpoint wait on when there is one.
    HeldForgotten,
    /// Nothing is done for requests that waited for an endpoint when there is one, until their pool is looked at.
    HeldUnsupplied,
    /// What a server that was lost may have done is done again elsewhere.
    WriteRetried,
    /// A commit that may have been carried out is told as one that was not.
    CommitToldAsUndone,
    /// What can write is the primary, though a later timeline was seen.
    LowerTimelineAccepted,
    /// A replica that has not followed the new primary is read from.
    AstrayServed,
    /// Two that can write on one timeline are written to.
    ContestedServed,
    /// What is no copy of the cluster is served from.
    StrangerServed,
    /// A session reads from a replica what that has not replayed yet.
    UnreplayedRead,
    /// A session reads from a replica what is older than it has read before.
    OlderRead,
    /// Servers of an endpoint that was deposed are kept until they come free.
    DeposedServersKept,
    /// What one client has sent to a replica is made again with the request of the next.
    TrialGivenToNext,
    /// What only replicas refuse is told to the client.
    RefusalOfReplicaTold,
    /// What a server says of itself at its login is not heard.
    StandbyTakenForPrimary,
    /// What may be made again on the primary is not known where the client has moved to.
    MovedTrialLost,
    /// A request whose server was lost is made again although a function in it may write by now.
    UnsureReadMadeAgain,
    /// A transaction that begins anew is told once more that it has begun.
    BeginToldTwice,
    /// A transaction begins anew whatever was done in it, and with its COMMIT.
    CommitReplayed,
    /// The loss of a transaction that may have written is told as one of a transaction that has only read.
    WritesToldAsReads,
    /// What became of a COMMIT is told by its transaction's id alone, whatever history the server has that is asked.
    OutcomeByIdAlone,
    /// The record by which a transaction is found again is not flushed.
    AnchorNotFlushed,
    /// A transaction that may still be committed is told as one that was not.
    RunningToldAsUndone,
    /// A pool is forgotten while it has clients, if it has no server.
    UsedPoolForgotten,
}

impl Bug {
    /// Those that the simulator must find, by name.
    pub const ALL: [(&str, Bug); 41] = [
        ("used-pool-forgotten", Bug::UsedPoolForgotten),
        ("moved-bytes-lost", Bug::MovedBytesLost),
        ("moved-names-lost", Bug::MovedNamesLost),
        ("moved-settings-lost", Bug::MovedSettingsLost),
        ("moved-replies-lost", Bug::MovedRepliesLost),
        ("server-handed-out-twice", Bug::ServerHandedOutTwice),
        ("checkin-in-transaction", Bug::CheckinInTransaction),
        ("lost-wake-up", Bug::LostWakeUp),
        ("stale-statement", Bug::StaleStatement),
        ("statement-without-environment", Bug::StatementWithoutEnvironment),
        ("cancel-to-wrong-client", Bug::CancelToWrongClient),
        ("limit-per-worker", Bug::LimitPerWorker),
        ("reply-to-wrong-client", Bug::ReplyToWrongClient),
        ("leaked-parameter", Bug::LeakedParameter),
        ("newest-waiter-first", Bug::NewestWaiterFirst),
        ("buffer-released-twice", Bug::BufferReleasedTwice),
        ("server-never-cleaned", Bug::ServerNeverCleaned),
        ("permit-lost", Bug::PermitLost),
        ("reset-forgets-role", Bug::ResetForgetsRole),
        ("reset-failure-ignored", Bug::ResetFailureIgnored),
        ("pin-never-released", Bug::PinNeverReleased),
        ("pin-ignored", Bug::PinIgnored),
        ("probe-ignored", Bug::ProbeIgnored),
        ("reset-skipped-in-transaction", Bug::ResetSkippedInTransaction),
        ("probe-of-another", Bug::ProbeOfAnother),
        ("notification-twice", Bug::NotificationTwice),
        ("cut-ignored", Bug::CutIgnored),
        ("server-unlistens-early", Bug::ServerUnlistensEarly),
        ("server-goes-on-listening", Bug::ServerGoesOnListening),
        ("name-of-failed-prepare", Bug::NameOfFailedPrepare),
        ("prefix-ends-skipping", Bug::PrefixEndsSkipping),
        ("skipped-name-kept", Bug::SkippedNameKept),
        ("stranger-trusted", Bug::StrangerTrusted),
        ("pool-of-another-user", Bug::PoolOfAnotherUser),
        ("role-not-set", Bug::RoleNotSet),
        ("unseen-pin-kept", Bug::UnseenPinKept),
        ("pin-without-cause", Bug::PinWithoutCause),
        ("proof-logged", Bug::ProofLogged),
        ("request-logged", Bug::RequestLogged),
        ("cancel-key-shown", Bug::CancelKeyShown),
        ("secret-in-label", Bug::SecretInLabel),
    ];

    /// Those that the simulator must find where databases are clusters.
    pub const OF_CLUSTERS: [(&str, Bug); 21] = [
        ("stale-role-believed", Bug::StaleRoleBelieved),
        ("hold-released-early", Bug::HoldReleasedEarly),
        ("held-forgotten", Bug::HeldForgotten),
        ("held-unsupplied", Bug::HeldUnsupplied),
        ("write-retried", Bug::WriteRetried),
        ("commit-told-as-undone", Bug::CommitToldAsUndone),
        ("lower-timeline-accepted", Bug::LowerTimelineAccepted),
        ("astray-served", Bug::AstrayServed),
        ("contested-served", Bug::ContestedServed),
        ("stranger-served", Bug::StrangerServed),
        ("unreplayed-read", Bug::UnreplayedRead),
        ("older-read", Bug::OlderRead),
        ("deposed-servers-kept", Bug::DeposedServersKept),
        ("trial-given-to-next", Bug::TrialGivenToNext),
        ("refusal-of-replica-told", Bug::RefusalOfReplicaTold),
        ("standby-taken-for-primary", Bug::StandbyTakenForPrimary),
        ("moved-trial-lost", Bug::MovedTrialLost),
        ("unsure-read-made-again", Bug::UnsureReadMadeAgain),
        ("begin-told-twice", Bug::BeginToldTwice),
        ("commit-replayed", Bug::CommitReplayed),
        ("writes-told-as-reads", Bug::WritesToldAsReads),
    ];

    /// Those that the simulator must find where lost COMMITs are looked for.
    pub const OF_COMMITS: [(&str, Bug); 3] = [
        ("outcome-by-id-alone", Bug::OutcomeByIdAlone),
        ("anchor-not-flushed", Bug::AnchorNotFlushed),
        ("running-told-as-undone", Bug::RunningToldAsUndone),
    ];

    /// Those that the differential test must find beside most of the others: sessions of PostgreSQL itself show them.
    pub const OF_SESSIONS: [(&str, Bug); 13] = [
        ("reset-forgets-locks", Bug::ResetForgetsLocks),
        ("reset-forgets-temp", Bug::ResetForgetsTemp),
        ("reset-forgets-sequences", Bug::ResetForgetsSequences),
        ("reset-forgets-cursors", Bug::ResetForgetsCursors),
        ("functions-unseen", Bug::FunctionsUnseen),
        ("rollback-to-undoes-all", Bug::RollbackToUndoesAll),
        ("rollback-undoes-all", Bug::RollbackUndoesAll),
        ("sync-in-copy-counted", Bug::SyncInCopyCounted),
        ("start-not-restored", Bug::StartNotRestored),
        ("left-unnoted", Bug::LeftUnnoted),
        ("custom-unmet", Bug::CustomUnmet),
        ("reset-fails-unseen", Bug::ResetFailsUnseen),
        ("reset-fails", Bug::ResetFails),
    ];

    /// The bug of that name.
    pub fn by_name(name: &str) -> Option<Bug> {
        Bug::ALL
            .iter()
            .chain(&Bug::OF_SESSIONS)
            .chain(&Bug::OF_CLUSTERS)
            .chain(&Bug::OF_COMMITS)
            .find(|(known, _)| *known == name)
            .map(|(_, bug)| *bug)
    }
}

/// What [`Bug::SecretInLabel`] tells.
#[cold]
pub(crate) fn secret_of(tables: &Tables, user: &str) -> Arc<str> {
    match tables.user(user).and_then(|known| known.credential.as_ref()) {
        Some(Credential::Plain { password, .. }) if planted(Bug::SecretInLabel) => password.expose().into(),
        _ => user.into(),
    }
}

/// Whether `bug` is planted.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}

/// Whether `bug` is planted in the workers of this thread, or in all.
#[cfg(feature = "planted-bugs")]
pub fn planted(bug: Bug) -> bool {
    PLANTED.with(|planted| planted.get() == Some(bug)) || EVERYWHERE.get() == Some(&bug)
}

#[cfg(feature = "planted-bugs")]
static EVERYWHERE: std::sync::OnceLock<Bug> = std::sync::OnceLock::new();

/// Plants a bug in all workers of this process, for as long as it lives. The first one stays.
#[cfg(feature = "planted-bugs")]
pub fn plant_everywhere(bug: Bug) {
    let _ = EVERYWHERE.set(bug);
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

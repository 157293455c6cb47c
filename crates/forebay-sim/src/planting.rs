//! Bugs planted in core, by name.

#[cfg(feature = "planted-bugs")]
use forebay_core::planted::Bug;

/// Each bug with its name.
#[cfg(feature = "planted-bugs")]
const NAMES: [(&str, Bug); Bug::ALL.len()] = [
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
];

#[cfg(feature = "planted-bugs")]
pub(crate) fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(name, _)| *name).collect()
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn plant(name: Option<&str>) {
    let found = NAMES.iter().find(|(n, _)| Some(*n) == name);
    forebay_core::planted::plant(found.map(|(_, bug)| *bug));
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn names() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn plant(_name: Option<&str>) {}

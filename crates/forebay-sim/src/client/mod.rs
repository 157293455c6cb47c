//! Fake clients: what they do, and what they must see.

pub(crate) mod actor;
pub(crate) mod ledger;
pub(crate) mod mirror;
pub(crate) mod owner;
pub(crate) mod program;

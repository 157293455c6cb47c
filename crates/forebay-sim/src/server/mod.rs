//! The fake PostgreSQL.

pub(crate) mod language;
pub(crate) mod process;
pub(crate) mod session;
pub(crate) mod settings;

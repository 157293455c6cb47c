//! The fake PostgreSQL.
//!
//! | part | what it is |
//! |---|---|
//! | `process` | a connection, its startup, and a session that takes time |
//! | `session` | what a session remembers: transactions, requests, loss |
//! | `extended` | Parse, Bind, Describe, Execute, Close |
//! | `running` | what each statement does |
//! | `language` | what a statement's text means |
//! | `settings` | the settings of a session |
//! | `replies` | messages that go back |

mod extended;
pub(crate) mod language;
pub(crate) mod process;
pub(crate) mod replies;
mod running;
pub(crate) mod session;
pub(crate) mod settings;

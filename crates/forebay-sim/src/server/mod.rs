//! The fake PostgreSQL.
//!
//! | part | what it is |
//! |---|---|
//! | `process` | a connection, its startup, and a session that takes time |
//! | `session` | what a session remembers: transactions, requests, loss |
//! | `extended` | Parse, Bind, Describe, Execute, Close |
//! | `running` | the rows and tags of statements |
//! | `owning` | statements about the session itself |
//! | `language` | what statements there are |
//! | `grammar` | from a statement's words to what it does |
//! | `commits` | the questions of `commit_check` |
//! | `settings` | the settings of a session |
//! | `belongings` | what else a session owns |
//! | `replies` | messages that go back |

pub(crate) mod belongings;
pub(crate) mod commits;
mod extended;
mod grammar;
pub(crate) mod language;
mod owning;
pub(crate) mod process;
pub(crate) mod replies;
pub(crate) mod running;
pub(crate) mod session;
pub(crate) mod settings;

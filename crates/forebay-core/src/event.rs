//! What happened, for the log: fields, not prose. Text and JSON are made outside core.

use std::sync::Arc;

use crate::ids::WorkerId;

/// How much an event matters (style: error = someone must act, warn = it may come to that, info =
/// lifecycle, debug = decisions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Decisions.
    Debug = 0,
    /// Lifecycle.
    Info = 1,
    /// It may come to someone having to act.
    Warn = 2,
    /// Someone must act.
    Error = 3,
}

/// One line of the log to be.
#[derive(Clone, Debug)]
pub struct Event {
    /// How much it matters.
    pub level: Level,
    /// What happened, in snake case, such as `checkout_timeout`.
    pub name: &'static str,
    /// The code of `spec/errors.toml` where there is one.
    pub code: Option<&'static str>,
    /// Which worker saw it.
    pub worker: WorkerId,
    /// Names and values, in the order to print.
    pub fields: Vec<(&'static str, Field)>,
}

/// A value in an [`Event`]. Never a secret, never SQL text unless `log.statements` asks for it.
#[derive(Clone, Debug)]
pub enum Field {
    /// Text.
    Text(Arc<str>),
    /// A count, an id, a duration in the unit that the field's name ends with.
    Number(u64),
}

impl From<u64> for Field {
    fn from(n: u64) -> Field {
        Field::Number(n)
    }
}

impl From<&str> for Field {
    fn from(s: &str) -> Field {
        Field::Text(s.into())
    }
}

impl From<Arc<str>> for Field {
    fn from(s: Arc<str>) -> Field {
        Field::Text(s)
    }
}

impl From<String> for Field {
    fn from(s: String) -> Field {
        Field::Text(s.into())
    }
}

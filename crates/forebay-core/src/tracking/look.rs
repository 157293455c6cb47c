//! The query of a look at a server, and its answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_sql::traces::Traces;

use crate::parameters::{Image, is_restorable, quote_literal};
use crate::request::NOT_OURS;
use crate::statements::fixed;

/// What a probe asks, and what has come of its answer.
#[derive(Debug)]
pub struct Probe {
    /// Settings asked for by name, in the order of the first row's columns.
    names: Vec<Arc<str>>,
    /// Which of the pinning traces are asked for, in the order of [`QUESTIONS`], behind the names.
    pub(super) asked: Traces,
    /// All settings that the session has set are asked for too.
    pub(super) is_full: bool,
    pub(super) rows: Vec<Row>,
    /// How often the server was asked.
    pub(super) looks: u8,
    /// The client's own statement_timeout is lifted for the look; what it was is the first row.
    pub(super) is_unhurried: bool,
}

/// Values by lower-case name; `None`: it is not set.
pub(super) type Settings = BTreeMap<Arc<str>, Option<Arc<str>>>;

type Row = Vec<Option<Box<[u8]>>>;

/// Goes in front of a look that was cancelled. Each statement of one message has the time to itself, and what is set in
/// it for the transaction only is gone with the message.
const UNHURRIED: &str = "SELECT pg_catalog.current_setting('statement_timeout');SET LOCAL statement_timeout=0;";

/// What is lifted, and is listed with the value that the session began with instead of that.
const TIME_OUT: &str = "statement_timeout";
const SETTING_UNHURRIED: &str = "CASE WHEN name OPERATOR(pg_catalog.=) 'statement_timeout'::pg_catalog.text \
                                 THEN reset_val ELSE setting END";

/// Rows of an answer that are kept; a session has fewer settings.
const ROWS_MAX: usize = 2048;

/// What tells whether something is there: an expression that is true or false. Behind the last two goes what is to be
/// compared: see [`of_names`], and the user that the server is logged in as.
const QUESTIONS: [(Traces, &str); 6] = [
    // pg_my_temp_schema() stays when all is dropped; what depends on the schema does not. 2615 is pg_namespace.
    (
        Traces::TEMP,
        "EXISTS(SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 2615::pg_catalog.oid \
         AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())",
    ),
    (
        Traces::LOCK,
        "EXISTS(SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory'::pg_catalog.text \
         AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
    ),
    (Traces::LISTEN, "EXISTS(SELECT FROM pg_catalog.pg_listening_channels())"),
    (Traces::CURSOR, "EXISTS(SELECT FROM pg_catalog.pg_cursors)"),
    (Traces::PREPARED, "EXISTS(SELECT FROM pg_catalog.pg_prepared_statements WHERE "),
    (Traces::AUTHORIZATION, "session_user::pg_catalog.text OPERATOR(pg_catalog.<>) "),
];

/// Which statements count: those that SQL has made, but for ours, and those that the client prepares by the protocol under
/// the name of such a one. Others that the protocol has made are of a pooler behind us, which shares them among its clients;
/// where names are not shared here, they are the client's.
fn of_names(prefix: &str, raw: Option<&[Box<str>]>) -> String {
    let mut sql = String::from("NOT pg_catalog.starts_with(name,");
    quote_literal(&mut sql, prefix);
    sql.push(')');
    if let Some(raw) = raw {
        sql.push_str(" AND (from_sql");
        for name in raw {
            sql.push_str(" OR name OPERATOR(pg_catalog.=) ");
            // One that looks like ours has another name there.
            let mark = if name.starts_with(prefix) { NOT_OURS } else { b"" };
            quote_literal(&mut sql, &format!("{}{name}", String::from_utf8_lossy(mark)));
            sql.push_str("::pg_catalog.text");
        }
        sql.push(')');
    }
    // One that a function has put into the place of ours was made by SQL.
    sql.push_str(" OR from_sql AND pg_catalog.starts_with(name,");
    quote_literal(&mut sql, &fixed::names_begin(prefix));
    sql.push_str("))");
    sql
}

impl Probe {
    /// `known`: names of custom settings that functions are known to set.
    pub(super) fn new(fresh: Traces, named: Vec<Arc<str>>, image: &Image, known: &[Arc<str>]) -> Probe {
        let is_opaque = fresh.has(Traces::OPAQUE);
        let is_full = fresh.has_any(Traces::OPAQUE | Traces::ANY_SETTING);
        let mut names = named;
        names.retain(|name| is_restorable(name));
        if is_full {
            // What the list of all settings leaves out.
            let unlisted = image.iter().map(|(name, _)| name.clone()).filter(|name| name.contains('.'));
            let role = Arc::from("role");
            names = names.into_iter().chain(unlisted).chain(known.iter().cloned()).chain([role]).collect();
            names.sort_unstable();
            names.dedup();
        }
        let all = QUESTIONS.iter().fold(Traces::NONE, |all, (trace, _)| all | *trace);
        let asked = if is_opaque { all } else { Traces::of_bits(fresh.bits() & all.bits()) };
        Probe { names, asked, is_full, rows: Vec::new(), looks: 0, is_unhurried: false }
    }

    /// Whether there is nothing to ask for.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.asked.is_none() && !self.is_full
    }

    /// `user`: whom the server is logged in as. `prefix`: what the names of our statements begin with. `raw`: names by which
    /// the client knows statements that nobody keeps account of; None: of none is any kept.
    pub(super) fn sql(&self, user: &str, prefix: &str, raw: Option<&[Box<str>]>) -> String {
        let mut columns = Vec::new();
        for name in &self.names {
            let mut column = String::from("pg_catalog.current_setting(");
            quote_literal(&mut column, name);
            column.push_str(",true)");
            columns.push(column);
        }
        let asked = QUESTIONS.iter().filter(|(trace, _)| self.asked.has(*trace));
        for (trace, question) in asked {
            let mut column = (*question).to_owned();
            match *trace {
                Traces::AUTHORIZATION => quote_literal(&mut column, user),
                Traces::PREPARED => column.push_str(&of_names(prefix, raw)),
                _ => {}
            }
            columns.push(column);
        }
        let before = if self.is_unhurried { UNHURRIED } else { "" };
        let mut sql = format!("{before}SELECT {}", columns.join(","));
        if self.is_full {
            sql.push_str(";SELECT name,");
            sql.push_str(if self.is_unhurried { SETTING_UNHURRIED } else { "setting" });
            sql.push_str(" FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session'::pg_catalog.text");
        }
        sql
    }

    /// One row of the answer.
    pub(crate) fn row<'v>(&mut self, values: impl Iterator<Item = Option<&'v [u8]>>) {
        if self.rows.len() < ROWS_MAX {
            self.rows.push(values.map(|value| value.map(Box::from)).collect());
        }
    }

    /// The answer as settings by lower-case name, and what was found of what was asked for. `None`: it is not to be
    /// understood.
    pub(super) fn read(&self) -> Option<(Settings, Traces)> {
        if self.rows.len() >= ROWS_MAX {
            return None;
        }
        let (lifted, rows) = match &self.rows[..] {
            [lifted, rows @ ..] if self.is_unhurried => (Some(lifted), rows),
            rows => (None, rows),
        };
        let (first, others) = rows.split_first()?;
        let mut settings = Settings::new();
        for row in others {
            let [Some(name), Some(value)] = &row[..] else { return None };
            let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
            if is_restorable(&name) {
                settings.insert(name.into(), Some(std::str::from_utf8(value).ok()?.into()));
            }
        }
        let is_listed = self.is_full && !self.names.iter().any(|name| **name == *TIME_OUT);
        let mut values = first.iter();
        for name in &self.names {
            let value = match values.next()? {
                Some(value) => Some(std::str::from_utf8(value).ok()?.into()),
                None => None,
            };
            settings.insert(name.clone(), value);
        }
        if let Some(lifted) = lifted {
            let [Some(value)] = &lifted[..] else { return None };
            let value = std::str::from_utf8(value).ok()?;
            match settings.get_mut(TIME_OUT) {
                // Lifting it made it one of those that the session has set, which it need not have been.
                Some(Some(start)) if is_listed && time_out_ms(start)? == time_out_ms(value)? => {
                    settings.remove(TIME_OUT);
                }
                Some(seen) => *seen = Some(value.into()),
                None => {}
            }
        }
        let mut found = Traces::NONE;
        for (trace, _) in QUESTIONS.iter().filter(|(trace, _)| self.asked.has(*trace)) {
            match values.next()?.as_deref() {
                Some(b"t") => found |= *trace,
                Some(b"f") => {}
                _ => return None,
            }
        }
        Some((settings, found))
    }
}

/// Milliseconds of a time-out as PostgreSQL writes it: `1500`, `1500ms`, `2s`, `1min`, `1h`, `1d`.
fn time_out_ms(value: &str) -> Option<u64> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match &value[digits..] {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    value[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(fresh: Traces, named: &[&str]) -> Probe {
        Probe::new(fresh, named.iter().map(|n| Arc::from(*n)).collect(), &Image::default(), &[])
    }

    fn row(probe: &mut Probe, values: &[Option<&str>]) {
        probe.row(values.iter().map(|v| v.map(str::as_bytes)));
    }

    #[test]
    fn only_what_may_have_changed_is_asked_for() {
        let sql = probe(Traces::SETTING | Traces::LOCK, &["app.tenant"]).sql("app", "fb_", Some(&[]));
        assert!(sql.starts_with(
            "SELECT pg_catalog.current_setting('app.tenant',true),EXISTS(SELECT FROM pg_catalog.pg_locks"
        ));
        assert!(!sql.contains("pg_settings") && !sql.contains("pg_depend"));
        let sql = probe(Traces::OPAQUE, &[]).sql("app", "fb_", Some(&[]));
        for part in ["'role'", "pg_settings", "pg_depend", "pg_locks", "pg_cursors", "pg_listening_channels"] {
            assert!(sql.contains(part), "{part}");
        }
    }

    #[test]
    fn an_answer_is_read_in_the_order_of_its_questions() {
        let mut probe = probe(Traces::SETTING | Traces::TEMP | Traces::CURSOR, &["timezone", "app.a"]);
        row(&mut probe, &[Some("UTC"), None, Some("f"), Some("t")]);
        let (settings, found) = probe.read().expect("read");
        assert_eq!(settings[&Arc::from("timezone")].as_deref(), Some("UTC"));
        assert_eq!(settings[&Arc::from("app.a")], None);
        assert_eq!(found, Traces::CURSOR);
    }

    /// Half an answer, taken for a whole one, would drop settings of the client without a word.
    #[test]
    fn an_answer_that_is_not_whole_is_none() {
        let mut probe = probe(Traces::TEMP, &["timezone"]);
        assert!(probe.read().is_none());
        row(&mut probe, &[Some("UTC")]);
        assert!(probe.read().is_none());
        let mut probe = self::probe(Traces::OPAQUE, &[]);
        row(&mut probe, &[Some("none"), Some("f"), Some("f"), Some("f"), Some("f"), Some("f"), Some("f")]);
        row(&mut probe, &[Some("TimeZone"), Some("UTC")]);
        let (settings, found) = probe.read().expect("read");
        assert_eq!(settings[&Arc::from("timezone")].as_deref(), Some("UTC"));
        assert!(found.is_none());
    }

    /// The list of settings shows the time-out as it is lifted; its client's own stands in front.
    #[test]
    fn what_was_lifted_for_a_look_is_read_as_it_was() {
        let mut probe = probe(Traces::OPAQUE, &[]);
        probe.is_unhurried = true;
        assert!(probe.sql("app", "fb_", Some(&[])).starts_with(UNHURRIED));
        row(&mut probe, &[Some("1ms")]);
        assert!(probe.read().is_none());
        row(&mut probe, &[Some("none"), Some("f"), Some("f"), Some("f"), Some("f"), Some("f"), Some("f")]);
        row(&mut probe, &[Some("statement_timeout"), Some("0")]);
        let (settings, _) = probe.read().expect("read");
        assert_eq!(settings[&Arc::from("statement_timeout")].as_deref(), Some("1ms"));
        // It is the one that the session began with: nobody has set it.
        probe.rows.pop();
        row(&mut probe, &[Some("statement_timeout"), Some("1")]);
        let (settings, _) = probe.read().expect("read");
        assert!(!settings.contains_key("statement_timeout"));
    }

    #[test]
    fn a_time_out_is_read_in_every_unit() {
        let read = ["0", "1500", "1500ms", "90s", "2min", "1h", "1d"].map(|value| time_out_ms(value).expect("one"));
        assert_eq!(read, [0, 1500, 1500, 90_000, 120_000, 3_600_000, 86_400_000]);
        assert_eq!(time_out_ms("1 s"), None);
    }
}

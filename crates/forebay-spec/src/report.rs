//! What an error says, ready to be encoded for a client or printed for an operator.

use std::fmt;

/// Whether the session lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The session lives on.
    Error,
    /// We close the connection.
    Fatal,
    /// Nothing went wrong: a NoticeResponse, not an error.
    Notice,
}

impl Severity {
    /// As it stands on the wire: fields `S` and `V` of ErrorResponse.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Notice => "NOTICE",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error with its words filled in. Made by the functions of [`crate::errors`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether the session lives on. The maker's default; a caller that closes anyway sets `Fatal`.
    pub severity: Severity,
    /// The stable code, such as `FB201`.
    pub code: &'static str,
    /// Five characters that drivers act on.
    pub sqlstate: &'static str,
    /// What happened, with its subject and numbers.
    pub message: String,
    /// More numbers.
    pub detail: Option<String>,
    /// The next step; ends with the code in parentheses.
    pub hint: Option<String>,
    /// The message in PgBouncer's words, where it has some.
    pub pgbouncer: Option<String>,
}

impl Report {
    /// The same, as programs that know PgBouncer look for it.
    pub fn in_pgbouncers_words(mut self) -> Report {
        if let Some(words) = self.pgbouncer.take() {
            self.message = words;
        }
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "\nDETAIL: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nHINT: {hint}")?;
        }
        Ok(())
    }
}

/// A row of spec/errors.toml, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRow {
    /// Name in snake case; also the event's name in the log.
    pub id: &'static str,
    /// The stable code.
    pub code: &'static str,
    /// Its SQLSTATE.
    pub sqlstate: &'static str,
}

#[cfg(test)]
mod tests {
    use crate::errors;

    /// The words of the house style's example: what an operator copies into a search box.
    #[test]
    fn a_report_names_subject_numbers_next_step_and_code() {
        let report = errors::checkout_timeout(
            "orders/app",
            "5 s",
            20,
            20,
            37,
            "longest lease 42 s, in a transaction of client 1187",
        );
        assert_eq!(
            report.to_string(),
            "ERROR 53300: no server became free in pool \"orders/app\" within 5 s\n\
             DETAIL: 20 of 20 servers in use, 37 requests waiting; longest lease 42 s, in a transaction of client 1187.\n\
             HINT: Run SHOW CLIENTS on the console; set transaction_timeout, or raise pool_size. (FB201)"
        );
    }

    /// A client's text may hold braces; it must come out as it went in.
    #[test]
    fn braces_in_an_argument_are_kept() {
        assert_eq!(errors::unknown_database("{x}{}").message, "database \"{x}{}\" does not exist");
    }

    /// Codes are looked up in documentation and logs: two rows with one code would mislead.
    #[test]
    fn every_code_stands_once() {
        let mut codes: Vec<_> = errors::ALL.iter().map(|row| row.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), errors::ALL.len());
    }
}

//! The little language of the fake server: what a statement's text means.
//!
//! Every text is SQL that PostgreSQL's own grammar takes, so that the pooler makes of it what it makes of a real one.
//! Statements carry the tag of their asker as a literal, a parameter or a comment. What PostgreSQL has no short words
//! for is told by the name of a column: `select 'c1-r1' as rows_3_pad_7` gives three rows, `as sleep_20` takes 20 ms,
//! `as fails_22012` fails, `as notice` gives a notice, `as frozen` tells settings as they were at Parse.
//! In a cluster, `as ledger` tells marks, `hidden()` leaves one, and `as conflicts` fails on a replica.

use forebay_sql::catalogue::Catalogue;

use crate::server::commits::question;
use crate::server::grammar::statement;

/// A literal of the text, or the value of a parameter, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Literal(String),
    Param(usize),
}

/// What may be there in a session, as the views of PostgreSQL tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Temp,
    Lock,
    Channel,
    Cursor,
    Prepared,
    /// This and those below no view tells of; the simulator looks into the session.
    Authorization,
    Seed,
    Library,
    Sequence,
}

/// One column of a SELECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    /// current_setting(name, true); `or_empty`: within coalesce(…, '').
    Setting {
        name: String,
        or_empty: bool,
    },
    SetConfig {
        name: String,
        value: String,
        is_local: bool,
        /// Only where the session has not set it.
        is_kept: bool,
    },
    /// EXISTS of a query on the view that tells.
    Exists(Question),
    /// session_user is another than the one that logged in.
    IsOtherUser,
    /// As whom statements run.
    CurrentUser,
    TryLock(String),
    Unlock(String),
    UnlockAll,
    SetSeed(String),
    Random,
    SetVal {
        name: String,
        value: String,
    },
    CurrVal(String),
    LastVal,
    /// pg_notify.
    Notify {
        channel: String,
        payload: String,
    },
    /// A function of the database's own, which sets a setting where no text tells.
    SetUnseen {
        name: String,
        value: String,
    },
}

/// What DISCARD discards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discard {
    All,
    Temp,
    Sequences,
    Plans,
}

/// The channel on which the pooler notifies itself.
pub(crate) const CUT: &str = "fb_cut";

/// What one statement does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    Empty,
    Begin {
        is_read_only: bool,
    },
    /// SET TRANSACTION READ ONLY, or READ WRITE.
    SetMode {
        is_read_only: bool,
    },
    Commit,
    Rollback,
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// Rows that repeat the value, each followed by `pad` bytes.
    Select {
        value: Value,
        rows: u32,
        pad: usize,
    },
    /// One row of expressions.
    Exprs(Vec<Expr>),
    /// One row: the value and the settings that were in force when the statement was parsed.
    Frozen(Value),
    /// An effect that must not happen twice, nor be lost once acknowledged.
    Insert(Value),
    Set {
        name: String,
        value: String,
        is_local: bool,
    },
    /// `None`: the one that logged in.
    SetAuthorization(Option<String>),
    /// `None`: all.
    Reset(Option<String>),
    Show(String),
    /// All settings that the session has set.
    SessionSettings,
    /// What forebay reads of the catalogue.
    Catalogue,
    /// What tells whether that has changed; nothing here ever does.
    Stamp,
    /// Whether it is a standby.
    Recovery,
    /// By what a transaction is found again; `is_flushed`: the record that it leaves of itself is.
    Anchor {
        is_flushed: bool,
    },
    /// What became of a transaction; `writes`: where it is committed, the one that asks is committed as well.
    Outcome {
        writes: bool,
    },
    Pause {
        millis: u64,
    },
    Fail {
        code: String,
        value: Value,
    },
    CopyIn(Value),
    CopyOut {
        value: Value,
        rows: u32,
    },
    Sleep {
        millis: u64,
        value: Value,
    },
    Notice(Value),
    /// An effect of what looks as if it did nothing but read.
    Hidden(Value),
    /// The marks of its client that are there.
    Ledger(Value),
    /// What fails where something is replayed.
    Conflict(Value),
    CreateTemp {
        name: String,
        content: String,
        drops: bool,
    },
    ReadTable(String),
    DropTable(String),
    Declare {
        name: String,
        content: String,
    },
    Fetch(String),
    /// `None`: all.
    CloseCursor(Option<String>),
    Listen(String),
    /// `None`: all.
    Unlisten(Option<String>),
    Prepare {
        name: String,
        statement: Box<Statement>,
    },
    Execute {
        name: String,
        values: Vec<String>,
    },
    Notify {
        channel: String,
        payload: String,
    },
    /// What the session listens to, a row for each channel.
    Channels,
    /// `None`: all.
    Deallocate(Option<String>),
    Discard(Discard),
    /// A block of code that sets settings.
    Do(Vec<(String, String)>),
    /// LOAD of a library, which stays for the session's life.
    Load(String),
    Unknown,
}

impl Statement {
    /// How many parameters the statement takes.
    pub(crate) fn params(&self) -> usize {
        let of = |value: &Value| if let Value::Param(n) = value { *n } else { 0 };
        match self {
            Statement::Select { value, .. }
            | Statement::Frozen(value)
            | Statement::Insert(value)
            | Statement::Fail { value, .. }
            | Statement::CopyIn(value)
            | Statement::CopyOut { value, .. }
            | Statement::Sleep { value, .. }
            | Statement::Notice(value)
            | Statement::Hidden(value)
            | Statement::Ledger(value)
            | Statement::Conflict(value) => of(value),
            // The pooler seeds with a number that it draws.
            Statement::Exprs(list) => {
                list.iter().filter(|expr| matches!(expr, Expr::SetSeed(seed) if seed == "$1")).count()
            }
            _ => 0,
        }
    }

    /// Columns of its rows; `None` if it returns none.
    pub(crate) fn columns(&self) -> Option<usize> {
        match self {
            Statement::Select { .. }
            | Statement::Frozen(_)
            | Statement::Show(_)
            | Statement::Sleep { .. }
            | Statement::Notice(_)
            | Statement::Hidden(_)
            | Statement::Ledger(_)
            | Statement::Conflict(_)
            | Statement::Fail { .. }
            | Statement::ReadTable(_)
            | Statement::Fetch(_)
            | Statement::Channels
            | Statement::Stamp
            | Statement::Pause { .. }
            | Statement::Recovery => Some(1),
            Statement::Anchor { .. } => Some(5),
            Statement::Outcome { .. } => Some(8),
            Statement::Catalogue => Some(CATALOGUE.len()),
            Statement::SessionSettings => Some(2),
            Statement::Exprs(list) => Some(list.len()),
            _ => None,
        }
    }

    /// Whether it may run in a failed transaction.
    pub(crate) fn ends_transaction(&self) -> bool {
        matches!(self, Statement::Commit | Statement::Rollback | Statement::RollbackTo(_))
    }

    /// Whether a pooler may send it by itself.
    pub(crate) fn is_of_pooler(&self) -> bool {
        match self {
            Statement::Empty
            | Statement::Begin { .. }
            | Statement::Commit
            | Statement::Rollback
            | Statement::Set { .. }
            | Statement::SetAuthorization(None)
            | Statement::Reset(_)
            | Statement::Show(_)
            | Statement::SessionSettings
            | Statement::Catalogue
            | Statement::Stamp
            | Statement::Recovery
            | Statement::Anchor { .. }
            | Statement::Outcome { .. }
            | Statement::Pause { .. }
            | Statement::Discard(_)
            | Statement::CloseCursor(None)
            | Statement::Listen(_)
            | Statement::Unlisten(_)
            | Statement::Channels
            | Statement::Deallocate(None)
            | Statement::Select { .. } => true,
            Statement::Notify { channel, .. } => channel == CUT,
            Statement::Savepoint(name) | Statement::Release(name) | Statement::RollbackTo(name) => {
                name == "fb_settings"
            }
            Statement::Exprs(list) => list.iter().all(|expr| {
                matches!(
                    expr,
                    Expr::Setting { .. }
                        | Expr::SetConfig { .. }
                        | Expr::Exists(_)
                        | Expr::IsOtherUser
                        | Expr::UnlockAll
                        | Expr::LastVal
                        | Expr::SetSeed(_)
                )
            }),
            _ => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Text(String),
    Param(usize),
    Sign(char),
}

/// A function that leaves a mark, of which the catalogue says that it reads.
pub(crate) const HIDDEN: &str = "hidden";

/// The one row of the catalogue.
pub(super) const CATALOGUE: [Option<&str>; 6] =
    [Some("function"), Some("20000"), Some(HIDDEN), Some("sql"), None, Some("select 1")];

/// The statements of a text, in order; empty ones are left out unless there is nothing else.
pub(crate) fn statements(text: &str) -> Vec<Statement> {
    for (query, statement) in [(Catalogue::QUERY, Statement::Catalogue), (Catalogue::STAMP, Statement::Stamp)] {
        if let Some(before) = text.strip_suffix(query) {
            let before = if before.is_empty() { Vec::new() } else { statements(before) };
            return before.into_iter().chain([statement]).collect();
        }
    }
    if text.ends_with(" pg_catalog.pg_is_in_recovery()") {
        return vec![Statement::Recovery];
    }
    if let Some(list) = question(text) {
        return list;
    }
    let tokens = tokens(text);
    let parts = tokens.split(|t| *t == Token::Sign(';')).filter(|part| !part.is_empty());
    let list: Vec<Statement> = parts.map(|part| statement(part).unwrap_or(Statement::Unknown)).collect();
    if list.is_empty() { vec![Statement::Empty] } else { list }
}

pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut chars = text.chars().peekable();
    let mut list = Vec::new();
    while let Some(c) = chars.next() {
        match c {
            '\'' => list.push(Token::Text(quoted(&mut chars, '\''))),
            '"' => list.push(Token::Word(quoted(&mut chars, '"'))),
            '/' if chars.peek() == Some(&'*') => {
                let mut before = ' ';
                for c in chars.by_ref().skip(1) {
                    if before == '*' && c == '/' {
                        break;
                    }
                    before = c;
                }
            }
            '$' => {
                let digits: String = std::iter::from_fn(|| chars.next_if(char::is_ascii_digit)).collect();
                list.push(Token::Param(digits.parse().unwrap_or(0)));
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                word.extend(std::iter::from_fn(|| chars.next_if(|c| c.is_alphanumeric() || *c == '_')));
                if word.is_ascii() {
                    word.make_ascii_lowercase();
                } else {
                    word = word.to_lowercase();
                }
                list.push(Token::Word(word));
            }
            c if c.is_whitespace() => {}
            c => list.push(Token::Sign(c)),
        }
    }
    list.retain({
        let mut before_dot = false;
        move |t| {
            let is_schema = matches!(t, Token::Word(word) if word == "pg_catalog");
            let drop = is_schema || (before_dot && *t == Token::Sign('.'));
            before_dot = is_schema;
            !drop
        }
    });
    list
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c == quote && chars.next_if_eq(&quote).is_none() {
            break;
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cleaner's statement that is misread would make the fake server lie about leaks.
    #[test]
    fn what_the_pooler_sends_is_understood() {
        let list = statements("BEGIN; RESET ALL; SELECT pg_catalog.set_config('TimeZone', 'it''s', false); COMMIT");
        let (name, value) = ("TimeZone".into(), "it's".into());
        assert_eq!(list[2], Statement::Exprs(vec![Expr::SetConfig { name, value, is_local: false, is_kept: false }]));
        assert_eq!(statements("set local DateStyle to 'ISO, MDY' /* c1-r1 */").len(), 1);
        assert_eq!(statements(" ; "), [Statement::Empty]);
        let reset = "SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;RESET ALL;CLOSE ALL;UNLISTEN *;\
                     SELECT pg_catalog.pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP;DEALLOCATE ALL;\
                     SELECT pg_catalog.setseed(-0.500000000);";
        assert_eq!(statements(reset).len(), 10);
        assert!(statements(reset).iter().all(Statement::is_of_pooler));
        let probe = "SELECT pg_catalog.current_setting('role',true),EXISTS(SELECT FROM pg_catalog.pg_locks WHERE \
                     locktype OPERATOR(pg_catalog.=) 'advisory'::pg_catalog.text),session_user::pg_catalog.text \
                     OPERATOR(pg_catalog.<>) 'app'";
        let setting = Expr::Setting { name: "role".into(), or_empty: false };
        let asked = vec![setting, Expr::Exists(Question::Lock), Expr::IsOtherUser];
        assert_eq!(statements(probe), [Statement::Exprs(asked)]);
    }
}

//! The little language of the fake server: what a statement's text means.
//!
//! Statements carry the tag of their asker as a literal, a parameter or a comment. The words follow PostgreSQL's where
//! the pooler itself sends them (SET, RESET, set_config, DISCARD, BEGIN …).

/// A literal of the text, or the value of a parameter, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Literal(String),
    Param(usize),
}

/// What one statement does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    Empty,
    Begin,
    Commit,
    Rollback,
    /// Rows that repeat the value, each followed by `pad` bytes.
    Select {
        value: Value,
        rows: u32,
        pad: usize,
    },
    /// One row: the value and the settings that were in force when the statement was parsed.
    Frozen(Value),
    /// An effect that must not happen twice, nor be lost once acknowledged.
    Insert(Value),
    Set {
        name: String,
        value: String,
        is_local: bool,
    },
    SetConfig(Vec<(Value, Value, bool)>),
    /// `None`: all.
    Reset(Option<String>),
    Show(String),
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
    /// DISCARD ALL or DEALLOCATE ALL.
    Discard {
        is_all: bool,
    },
    /// UNLISTEN, CLOSE ALL and what else a cleaner sends; without effect here.
    Clean(&'static str),
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
            | Statement::Notice(value) => of(value),
            Statement::SetConfig(list) => list.iter().map(|(n, v, _)| of(n).max(of(v))).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Columns of its rows; `None` if it returns none.
    pub(crate) fn columns(&self) -> Option<usize> {
        match self {
            Statement::Select { .. } | Statement::Frozen(_) | Statement::Show(_) | Statement::Sleep { .. } => Some(1),
            Statement::SetConfig(list) => Some(list.len()),
            _ => None,
        }
    }

    /// Whether it may run in a failed transaction.
    pub(crate) fn ends_transaction(&self) -> bool {
        matches!(self, Statement::Commit | Statement::Rollback)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Param(usize),
    Sign(char),
}

/// The statements of a text, in order; empty ones are left out unless there is nothing else.
pub(crate) fn statements(text: &str) -> Vec<Statement> {
    let tokens = tokens(text);
    let parts = tokens.split(|t| *t == Token::Sign(';')).filter(|part| !part.is_empty());
    let list: Vec<Statement> = parts.map(|part| statement(part).unwrap_or(Statement::Unknown)).collect();
    if list.is_empty() { vec![Statement::Empty] } else { list }
}

fn tokens(text: &str) -> Vec<Token> {
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
                let rest: String = std::iter::from_fn(|| chars.next_if(|c| c.is_alphanumeric() || *c == '_')).collect();
                list.push(Token::Word(format!("{c}{rest}").to_lowercase()));
            }
            c if c.is_whitespace() => {}
            c => list.push(Token::Sign(c)),
        }
    }
    list.retain({
        let mut before_dot = false;
        move |t| {
            let drop = *t == Token::Word("pg_catalog".into()) || (before_dot && *t == Token::Sign('.'));
            before_dot = *t == Token::Word("pg_catalog".into());
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

fn statement(part: &[Token]) -> Option<Statement> {
    let mut rest = Rest(part);
    Some(match rest.word()?.as_str() {
        "begin" | "start" => Statement::Begin,
        "commit" | "end" => Statement::Commit,
        "rollback" | "abort" => Statement::Rollback,
        "select" => return select(&mut rest),
        "insert" => Statement::Insert(rest.value()?),
        "set" => return set(&mut rest),
        "reset" => match rest.word()?.as_str() {
            "all" => Statement::Reset(None),
            "role" => Statement::Clean("RESET"),
            name => Statement::Reset(Some(name.to_owned())),
        },
        "show" => Statement::Show(rest.word()?),
        "error" => Statement::Fail { code: rest.text()?, value: rest.value()? },
        "copy" => match rest.word()?.as_str() {
            "in" => Statement::CopyIn(rest.value()?),
            _ => Statement::CopyOut { value: rest.value()?, rows: rest.number().unwrap_or(1) },
        },
        "sleep" => Statement::Sleep { millis: u64::from(rest.number()?), value: rest.value()? },
        "notice" => Statement::Notice(rest.value()?),
        "discard" => match rest.word()?.as_str() {
            "all" => Statement::Discard { is_all: true },
            _ => Statement::Clean("DISCARD"),
        },
        "deallocate" => Statement::Discard { is_all: false },
        "unlisten" => Statement::Clean("UNLISTEN"),
        "close" => Statement::Clean("CLOSE CURSOR ALL"),
        _ => return None,
    })
}

fn select(rest: &mut Rest<'_>) -> Option<Statement> {
    if rest.0.first() == Some(&Token::Word("set_config".into())) {
        let mut list = Vec::new();
        while let Some(Token::Word(_)) = rest.0.first() {
            rest.word()?;
            rest.sign('(')?;
            let name = rest.value()?;
            rest.sign(',')?;
            let value = rest.value()?;
            rest.sign(',')?;
            list.push((name, value, rest.word()? == "true"));
            rest.sign(')')?;
            let _ = rest.sign(',');
        }
        return Some(Statement::SetConfig(list));
    }
    if let Some(Token::Word(word)) = rest.0.first()
        && word.parse::<u32>().is_ok()
    {
        return Some(Statement::Select { value: Value::Literal(word.clone()), rows: 1, pad: 0 });
    }
    let value = rest.value()?;
    let (mut rows, mut pad) = (1, 0);
    while let Some(word) = rest.word() {
        match word.as_str() {
            "frozen" => return Some(Statement::Frozen(value)),
            "rows" => rows = rest.number()?,
            "pad" => pad = rest.number()? as usize,
            _ => {}
        }
    }
    Some(Statement::Select { value, rows, pad })
}

fn set(rest: &mut Rest<'_>) -> Option<Statement> {
    let mut name = rest.word()?;
    let is_local = name == "local";
    if is_local || name == "session" {
        name = rest.word()?;
        if name == "authorization" {
            return Some(Statement::Clean("SET"));
        }
    }
    if rest.sign('=').is_none() && rest.word()? != "to" {
        return None;
    }
    let mut values = Vec::new();
    while let Some((token, tail)) = rest.0.split_first() {
        rest.0 = tail;
        match token {
            Token::Word(w) => values.push(w.clone()),
            Token::Text(t) => values.push(t.clone()),
            _ => {}
        }
    }
    if values == ["default"] {
        return Some(Statement::Reset(Some(name)));
    }
    Some(Statement::Set { name, value: values.join(", "), is_local })
}

struct Rest<'a>(&'a [Token]);

impl Rest<'_> {
    fn word(&mut self) -> Option<String> {
        let (Token::Word(word), tail) = self.0.split_first()? else { return None };
        self.0 = tail;
        Some(word.clone())
    }
    fn text(&mut self) -> Option<String> {
        let (Token::Text(text), tail) = self.0.split_first()? else { return None };
        self.0 = tail;
        Some(text.clone())
    }
    fn number(&mut self) -> Option<u32> {
        self.word()?.parse().ok()
    }
    fn value(&mut self) -> Option<Value> {
        let (token, tail) = self.0.split_first()?;
        let value = match token {
            Token::Text(text) => Value::Literal(text.clone()),
            Token::Param(n) => Value::Param(*n),
            _ => return None,
        };
        self.0 = tail;
        Some(value)
    }
    fn sign(&mut self, sign: char) -> Option<()> {
        let (token, tail) = self.0.split_first()?;
        (*token == Token::Sign(sign)).then(|| self.0 = tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cleaner's statement that is misread would make the fake server lie about leaks.
    #[test]
    fn what_the_pooler_sends_is_understood() {
        let list = statements("BEGIN; RESET ALL; SELECT pg_catalog.set_config('TimeZone', 'it''s', false); COMMIT");
        let value = Value::Literal("it's".into());
        assert_eq!(list[2], Statement::SetConfig(vec![(Value::Literal("TimeZone".into()), value, false)]));
        assert_eq!(statements("set local DateStyle to 'ISO, MDY' /* c1-r1 */").len(), 1);
        assert_eq!(statements(" ; "), [Statement::Empty]);
        assert!(!statements("select 'c1-r1' rows 2 pad 7; insert $1").contains(&Statement::Unknown));
    }
}

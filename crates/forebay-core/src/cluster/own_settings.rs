//! Settings of a session that are forebay's own: a value that means nothing is refused, as PostgreSQL refuses those of its
//! settings. The server knows none of them and would take any.
//!
//! Looked for where a text writes it down: `SET forebay.role = …`, `set_config('forebay.role', '…', …)`. What is computed, or
//! comes as a parameter, is not seen before the server has it, and decides nothing.

use forebay_spec::{Report, errors};
use forebay_sql::lexer::{Backslash, Kind, Lexer, Token};
use forebay_sql::shape::Shape;
use forebay_sql::traces::Traces;

use super::{consistency, routing};
use crate::config::Consistency;

/// Each with its values.
const OWN: [(&str, &[&str]); 2] =
    [(routing::SETTING, &["primary", "replica", "auto"]), (consistency::SETTING, &Consistency::NAMES)];
/// What their names begin with.
const CLASS: &[u8] = b"forebay";
/// Tokens of a text that are looked at.
const TOKENS_MAX: usize = 4096;

/// Why a text must not go to the server: it gives one of them a value that it has not.
pub(crate) fn refused(shape: &Shape, text: &[u8], backslash: Backslash) -> Option<Report> {
    let is_named = |name: &str| OWN.iter().any(|(own, _)| name == *own);
    // Of settings that end with the transaction a shape does not tell the names.
    let may_be_local = || shape.traces.has(Traces::LOCAL_SETTING) && is_ours_in(text);
    if !shape.settings().any(is_named) && !may_be_local() {
        return None;
    }
    let lexer = Lexer::new(text, backslash);
    let words: Vec<Word<'_>> =
        lexer.clone().take(TOKENS_MAX).map(|token| Word::of(token, lexer.bytes(token))).collect();
    (0..words.len()).find_map(|at| {
        let (name, value) = set(&words[at..]).or_else(|| set_by_function(&words[at..]))?;
        let (own, values) = OWN.iter().find(|(own, _)| own.eq_ignore_ascii_case(&name))?;
        let is_one = values.iter().any(|one| one.eq_ignore_ascii_case(&value));
        (!is_one).then(|| errors::own_setting_invalid(*own, value, values.join(", ")))
    })
}

/// Whether a text has a word in it that our settings begin with.
fn is_ours_in(text: &[u8]) -> bool {
    text.windows(CLASS.len()).any(|part| part.eq_ignore_ascii_case(CLASS))
}

/// A token, as far as it matters here.
enum Word<'t> {
    /// A name or keyword; its letters.
    Name(&'t str),
    /// A text or number, without quotes.
    Value(String),
    Sign(&'t [u8]),
}

impl<'t> Word<'t> {
    fn of(token: Token, bytes: &'t [u8]) -> Word<'t> {
        let plain = std::str::from_utf8(bytes);
        match (token.kind, plain) {
            (Kind::Word, Ok(word)) => Word::Name(word),
            (Kind::Name, Ok(name)) if name.len() > 1 && name.starts_with('"') => Word::Name(&name[1..name.len() - 1]),
            (Kind::Number, Ok(number)) => Word::Value(number.to_owned()),
            // Escapes, and texts in several parts, are the server's matter.
            (Kind::Text, Ok(text)) if text.len() > 1 && text.starts_with('\'') && !text.contains('\\') => {
                Word::Value(text[1..text.len() - 1].replace("''", "'"))
            }
            _ => Word::Sign(bytes),
        }
    }

    fn is(&self, word: &str) -> bool {
        matches!(self, Word::Name(name) if name.eq_ignore_ascii_case(word))
    }

    fn is_sign(&self, sign: &[u8]) -> bool {
        matches!(self, Word::Sign(bytes) if *bytes == sign)
    }
}

/// `SET [SESSION | LOCAL] a.b = value`, or TO; a value of DEFAULT is none.
fn set(words: &[Word<'_>]) -> Option<(String, String)> {
    let (first, rest) = words.split_first()?;
    let rest = if rest.first()?.is("session") || rest.first()?.is("local") { &rest[1..] } else { rest };
    let [Word::Name(class), dot, Word::Name(name), equals, value, ..] = rest else { return None };
    if !first.is("set") || !dot.is_sign(b".") || !(equals.is_sign(b"=") || equals.is("to")) {
        return None;
    }
    let value = match value {
        Word::Name(word) if word.eq_ignore_ascii_case("default") => return None,
        Word::Name(word) => (*word).to_owned(),
        Word::Value(value) => value.clone(),
        Word::Sign(_) => return None,
    };
    Some((format!("{class}.{name}"), value))
}

/// `set_config('a.b', 'value'`.
fn set_by_function(words: &[Word<'_>]) -> Option<(String, String)> {
    let [function, bracket, Word::Value(name), comma, Word::Value(value), behind, ..] = words else { return None };
    let is_whole = behind.is_sign(b",") || behind.is_sign(b"::");
    let is_call = function.is("set_config") && bracket.is_sign(b"(") && comma.is_sign(b",") && is_whole;
    is_call.then(|| (name.clone(), value.clone()))
}

#[cfg(test)]
mod tests {
    use forebay_sql::grammar::parse;

    use super::*;

    fn told(text: &str) -> Option<String> {
        let shape = parse(text.as_bytes(), Backslash::Plain);
        refused(&shape, text.as_bytes(), Backslash::Plain).map(|report| format!("{} {}", report.code, report.message))
    }

    #[test]
    fn a_value_that_means_nothing_is_refused() {
        for text in [
            "set forebay.role = 'nonsense'",
            "SET SESSION Forebay.Role TO nonsense",
            "begin; set local forebay.\"role\" = nonsense; select 1",
            "select set_config('forebay.role', 'nonsense', false)",
            "select pg_catalog.set_config('forebay.role', 'nonsense'::text, true)",
        ] {
            let words = told(text).unwrap_or_default();
            assert!(words.contains("invalid value for parameter \"forebay.role\": \"nonsense\""), "{text}: {words}");
        }
        assert!(told("set forebay.read_consistency = 'replica'").is_some());
        assert!(told("set forebay.role = 1").is_some());
        assert!(told("set forebay.role = ''").is_some());
    }

    #[test]
    fn what_means_something_goes_to_the_server() {
        for text in [
            "set forebay.role = 'replica'",
            "set forebay.role to Primary",
            "set forebay.role = default",
            "reset forebay.role",
            "set forebay.read_consistency = eventual",
            "set forebay.read_consistency = read_your_writes",
            "set forebay.read_consistency = 'Session'",
            "set forebay.read_consistency to primary",
            "set app.role = 'nonsense'",
            "set work_mem = '1MB'",
            "select set_config('forebay.role', $1, false)",
            "select set_config('forebay.role', 're' || 'plica', false)",
            "select 'set forebay.role = nonsense', set_config('forebay.role', 'auto', false)",
        ] {
            assert_eq!(told(text), None, "{text}");
        }
    }
}

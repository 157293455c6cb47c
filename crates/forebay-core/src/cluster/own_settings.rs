//! Settings of a session that are forebay's own: a value that means nothing is refused, as PostgreSQL refuses those of its
//! settings, and so is a name that there is not. The server knows none of them and would take any.
//!
//! Looked for in what a client asks for at its login, and where a text writes it down: `SET forebay.role = …`,
//! `set_config('forebay.role', '…', …)`. What is computed, or comes as a parameter, is not seen before the server has it, and
//! decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

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

/// Why a login fails: it asks for one of them with a value that it has not, or for one that there is not.
pub(crate) fn refused_at_login(parameters: &BTreeMap<Arc<str>, Arc<str>>) -> Option<Report> {
    parameters.iter().find_map(|(name, value)| judged(name, Some(value)))
}

/// What is wrong with a setting, by its name and the value it is given; `None`: it goes back to what it was at first.
fn judged(name: &str, value: Option<&str>) -> Option<Report> {
    if let Some((own, values)) = OWN.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
        let value = value.filter(|value| !values.iter().any(|one| one.eq_ignore_ascii_case(value)))?;
        return Some(errors::own_setting_invalid(*own, value, values.join(", ")));
    }
    is_ours(name).then(|| errors::own_setting_unknown(name, OWN.map(|(own, _)| own).join(" and ")))
}

fn is_ours(name: &str) -> bool {
    let class = name.split_once('.').map_or("", |(class, _)| class);
    class.as_bytes().eq_ignore_ascii_case(CLASS)
}

/// Why a text must not go to the server: it gives one of them a value that it has not, or sets one that there is not.
pub(crate) fn refused(shape: &Shape, text: &[u8], backslash: Backslash) -> Option<Report> {
    // Of settings that end with the transaction a shape does not tell the names.
    let may_be_local = || shape.traces.has(Traces::LOCAL_SETTING) && is_ours_in(text);
    if !shape.settings().any(is_ours) && !may_be_local() {
        return None;
    }
    let lexer = Lexer::new(text, backslash);
    let words: Vec<Word<'_>> =
        lexer.clone().take(TOKENS_MAX).map(|token| Word::of(token, lexer.bytes(token))).collect();
    (0..words.len()).find_map(|at| {
        let (name, value) = set(&words[at..]).or_else(|| set_by_function(&words[at..]))?;
        match value {
            Given::Text(value) => judged(&name, Some(&value)),
            // Of one that there is, the server reads it.
            Given::Unread | Given::Default => judged(&name, None),
        }
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

/// What a setting is given.
enum Given {
    Text(String),
    Default,
    /// More than a word, a number or a plain text.
    Unread,
}

/// `SET [SESSION | LOCAL] a.b = value`, or TO.
fn set(words: &[Word<'_>]) -> Option<(String, Given)> {
    let (first, rest) = words.split_first()?;
    let rest = if rest.first()?.is("session") || rest.first()?.is("local") { &rest[1..] } else { rest };
    let [Word::Name(class), dot, Word::Name(name), equals, value, ..] = rest else { return None };
    if !first.is("set") || !dot.is_sign(b".") || !(equals.is_sign(b"=") || equals.is("to")) {
        return None;
    }
    let value = match value {
        Word::Name(word) if word.eq_ignore_ascii_case("default") => Given::Default,
        Word::Name(word) => Given::Text((*word).to_owned()),
        Word::Value(value) => Given::Text(value.clone()),
        Word::Sign(_) => Given::Unread,
    };
    Some((format!("{class}.{name}"), value))
}

/// `set_config('a.b', 'value'`.
fn set_by_function(words: &[Word<'_>]) -> Option<(String, Given)> {
    let [function, bracket, Word::Value(name), comma, value, behind, ..] = words else { return None };
    let is_whole = behind.is_sign(b",") || behind.is_sign(b"::");
    let value = match value {
        Word::Value(value) if is_whole => Given::Text(value.clone()),
        _ => Given::Unread,
    };
    let is_call = function.is("set_config") && bracket.is_sign(b"(") && comma.is_sign(b",");
    is_call.then(|| (name.clone(), value))
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

    /// Misspelt, it would do nothing, and nobody knew why.
    #[test]
    fn a_name_that_there_is_not_is_refused() {
        for text in [
            "set forebay.read_consistancy = 'primary'",
            "SET LOCAL forebay.read_consistancy TO DEFAULT",
            "set \"forebay\".read_consistancy = E'primary'",
            "set FOREBAY.read_consistancy = eventual, session",
            "select set_config('forebay.read_consistancy', $1, false)",
            "select 1; select set_config('forebay.read_consistancy', 'pri' || 'mary', true)",
        ] {
            let words = told(text).unwrap_or_default().to_lowercase();
            let expected = "invalid configuration parameter name \"forebay.read_consistancy\"";
            assert!(words.contains(expected), "{text}: {words}");
        }
        for text in ["select 'set forebay.nonsense = 1'", "set forebayed.role = 1", "set nonsense = 1"] {
            assert_eq!(told(text), None, "{text}");
        }
    }

    #[test]
    fn a_login_is_judged_as_set_is() {
        let asks = |name: &str, value: &str| {
            let parameters = BTreeMap::from([(Arc::from("work_mem"), Arc::from("1MB")), (name.into(), value.into())]);
            refused_at_login(&parameters).map(|report| report.sqlstate)
        };
        assert_eq!(asks("forebay.role", "nonsense"), Some("22023"));
        assert_eq!(asks("forebay.read_consistency", ""), Some("22023"));
        assert_eq!(asks("forebay.read_consistancy", "primary"), Some("42602"));
        assert_eq!(asks("forebay.role", "Replica"), None);
        assert_eq!(asks("app.role", "nonsense"), None);
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

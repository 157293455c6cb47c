//! Fingerprints: a text without what its shape does not depend on.
//!
//! Literals become marks, and comments go. What stays is the text's own bytes, so that two texts of one fingerprint are
//! one and the same to the grammar but for their literals. Literals that a shape does depend on stay as they are: the
//! name and the lifetime in set_config, the language of a function, the template of a database.

use crate::lexer::{Backslash, Kind, Lexer, Token};

/// Begins a mark; no text in UTF-8 holds that byte.
pub(crate) const MARK: u8 = 0xff;

/// What becomes of the literals of a text, from one token to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Literals {
    /// They become marks.
    Marked,
    /// The word `set_config` was read.
    Named,
    /// Within set_config, behind so many commas; `depth` counts brackets within it.
    Called { comma: u8, depth: u32 },
    /// They stay, to the end of the text: a shape may depend on any of them.
    Kept,
}

/// Writes the fingerprint of `text` to `fingerprint`, in place of what is there.
///
/// False: the text has none, for it is not UTF-8, holds a NUL or a token that PostgreSQL refuses.
pub fn fingerprint(text: &[u8], backslash: Backslash, fingerprint: &mut Vec<u8>) -> bool {
    fingerprint.clear();
    if std::str::from_utf8(text).is_err() || memchr::memchr(0, text).is_some() {
        return false;
    }
    let lexer = Lexer::new(text, backslash);
    let mut literals = Literals::Marked;
    // The text is copied up to here, and read up to there.
    let (mut copied, mut read) = (0, 0);
    for token in lexer.clone() {
        if token.start > read && has_comment(&text[read..token.start]) {
            fingerprint.extend_from_slice(&text[copied..read]);
            fingerprint.push(b' ');
            copied = token.start;
        }
        read = token.end;
        let bytes = &text[token.start..token.end];
        literals = match (token.kind, literals) {
            (Kind::Broken, _) => return false,
            (Kind::Text | Kind::Number, _) => {
                if is_marked(literals) {
                    fingerprint.extend_from_slice(&text[copied..token.start]);
                    fingerprint.extend_from_slice(&[MARK, class(token, bytes)]);
                    copied = token.end;
                }
                literals
            }
            (Kind::Word | Kind::Name, _) => after_name(token, bytes, literals),
            (Kind::Mark, Literals::Named | Literals::Called { .. }) => after_mark(bytes, literals),
            (_, Literals::Named) => Literals::Kept,
            _ => literals,
        };
    }
    fingerprint.extend_from_slice(&text[copied..read]);
    true
}

/// Whether a gap between two tokens holds more than spaces.
fn has_comment(gap: &[u8]) -> bool {
    gap.len() > 1 && memchr::memchr2(b'-', b'/', gap).is_some()
}

pub(crate) fn is_marked(literals: Literals) -> bool {
    matches!(literals, Literals::Marked | Literals::Called { comma: 1, depth: 1 })
}

/// Literals of one class can stand for one another.
pub(crate) fn class(token: Token, bytes: &[u8]) -> u8 {
    match bytes[0] {
        _ if token.kind == Kind::Number => b'0',
        kind @ (b'b' | b'B' | b'x' | b'X' | b'n' | b'N' | b'u' | b'U') => kind.to_ascii_lowercase(),
        _ => b'\'',
    }
}

pub(crate) fn after_name(token: Token, bytes: &[u8], literals: Literals) -> Literals {
    let is_call = match token.kind {
        Kind::Name if !bytes.starts_with(b"\"") => return Literals::Kept,
        Kind::Name => bytes == b"\"set_config\"",
        _ => match bytes.len() {
            7 if bytes.eq_ignore_ascii_case(b"uescape") => return Literals::Kept,
            8 if bytes.eq_ignore_ascii_case(b"language") => return Literals::Kept,
            8 if bytes.eq_ignore_ascii_case(b"database") => return Literals::Kept,
            10 => bytes.eq_ignore_ascii_case(b"set_config"),
            _ => false,
        },
    };
    match literals {
        Literals::Marked if is_call => Literals::Named,
        // A call within a call is not followed.
        Literals::Called { .. } if is_call => Literals::Kept,
        Literals::Named => Literals::Kept,
        other => other,
    }
}

pub(crate) fn after_mark(mark: &[u8], literals: Literals) -> Literals {
    match (mark, literals) {
        (b"(", Literals::Named) => Literals::Called { comma: 0, depth: 1 },
        (b"(" | b"[", Literals::Called { comma, depth }) => Literals::Called { comma, depth: depth + 1 },
        (b")", Literals::Called { depth: 1, .. }) => Literals::Marked,
        (b")" | b"]", Literals::Called { comma, depth }) => Literals::Called { comma, depth: depth.saturating_sub(1) },
        (b",", Literals::Called { comma, depth: 1 }) => Literals::Called { comma: comma.saturating_add(1), depth: 1 },
        (_, Literals::Called { .. }) => literals,
        _ => Literals::Kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        let mut bytes = Vec::new();
        assert!(fingerprint(text.as_bytes(), Backslash::Plain, &mut bytes), "{text}");
        let shown: Vec<u8> = bytes.iter().map(|b| if *b == MARK { b'?' } else { *b }).collect();
        String::from_utf8(shown).expect("the rest is the text")
    }

    #[test]
    fn literals_become_marks_and_comments_go() {
        for (text, expected) in [
            ("select 1", "select ?0"),
            ("select -1.5e3 , 'it''s', $1", "select -?0 , ?', $1"),
            ("select E'a\\'b', $$x$$, B'1', x'2', n'3', U&'4'", "select ?', ?', ?b, ?x, ?n, ?u"),
            ("/* a */ select /* 1 */ a -- 'b'\n  from t -- c", " select a from t"),
            ("select a/**/b, c- -1", "select a b, c- -?0"),
            ("  select\n1\n", "  select\n?0"),
            ("select 'a'\n'b', 'c' 'd'", "select ?', ?' ?'"),
            ("", ""),
            ("-- x", ""),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    /// Two texts of one fingerprint have one shape: were the name a mark, one setting would be taken for another.
    #[test]
    fn literals_that_a_shape_depends_on_stay() {
        for (text, expected) in [
            ("select set_config('a', 'b', true), 'c'", "select set_config('a', ?', true), ?'"),
            ("select SET_CONFIG ('a', f(1)||'b', 't')", "select SET_CONFIG ('a', f(1)||?', 't')"),
            ("select \"set_config\"('a', 'b', 't'), 1", "select \"set_config\"('a', ?', 't'), ?0"),
            ("select set_config(('a'), 'b', (1,2))", "select set_config(('a'), ?', (1,2))"),
            (
                "select set_config('a', set_config('b', 'c', 't'), 't')",
                "select set_config('a', set_config('b', 'c', 't'), 't')",
            ),
            (
                "select 1, U&\"set!005fconfig\" uescape '!' ('a', 'b', 't')",
                "select ?0, U&\"set!005fconfig\" uescape '!' ('a', 'b', 't')",
            ),
            ("select set_config, 'a'", "select set_config, 'a'"),
            (
                "create function f() returns int as 'x' language 'c'",
                "create function f() returns int as ?' language 'c'",
            ),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_text_has_no_fingerprint() {
        for text in [&b"select '\xff'"[..], b"select 1\0", b"select '", b"select 1 /*", b"select \\"] {
            assert!(!fingerprint(text, Backslash::Plain, &mut Vec::new()), "{}", text.escape_ascii());
        }
        assert!(fingerprint(br"select '\'' ", Backslash::Escape, &mut Vec::new()));
    }
}

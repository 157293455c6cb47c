//! Patterns: fingerprints that a text is held against without being lexed. What stands between literals is compared,
//! and of the text only the literals themselves are read.
//!
//! Sound because the lexer's state between two tokens is its place alone: if the parts are equal and each literal ends
//! where the next part begins, the tokens are the same. What could make a token reach over its part into a literal is
//! not taken for a pattern.

use crate::fingerprint::MARK;
use crate::lexer::{Backslash, Lexer, is_operator, is_space};

/// Where the marks of a fingerprint stand.
#[derive(Debug)]
pub(crate) struct Pattern {
    marks: Box<[u32]>,
}

impl Pattern {
    /// `None`: only the lexer can tell whether a text has this fingerprint.
    pub(crate) fn new(fingerprint: &[u8]) -> Option<Pattern> {
        let marks: Vec<usize> = memchr::memchr_iter(MARK, fingerprint).collect();
        let mut from = 0;
        for mark in &marks {
            let (part, class) = (&fingerprint[from..*mark], fingerprint[mark + 1]);
            if !matches!(class, b'0' | b'\'') || !part.last().is_some_and(|last| ends_any_token(*last)) {
                return None;
            }
            from = mark + 2;
        }
        let marks = marks.iter().map(|mark| u32::try_from(*mark).ok()).collect::<Option<_>>()?;
        Some(Pattern { marks })
    }

    /// True: `text` has this fingerprint, the one that the pattern was made of. False says nothing.
    #[inline]
    pub(crate) fn is_of(&self, fingerprint: &[u8], text: &[u8], backslash: Backslash) -> bool {
        let lexer = Lexer::new(text, backslash);
        let (mut from, mut at) = (0, 0);
        for mark in &self.marks {
            let mark = *mark as usize;
            let part = &fingerprint[from..mark];
            if !text[at..].starts_with(part) {
                return false;
            }
            let is_number = fingerprint[mark + 1] == b'0';
            let Some(end) = lexer.plain_literal(at + part.len(), is_number) else { return false };
            (at, from) = (end, mark + 2);
        }
        text[at..] == fingerprint[from..]
    }
}

/// Whether no token that ends in this byte could go on in a digit or a quote behind it.
fn ends_any_token(last: u8) -> bool {
    is_space(last) || is_operator(last) || matches!(last, b',' | b'(' | b'[')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::fingerprint;

    fn of(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(fingerprint(text.as_bytes(), Backslash::Plain, &mut bytes), "{text}");
        bytes
    }

    /// Taken for one, a text with other tokens would be given the shape of another.
    #[test]
    fn other_literals_are_of_a_pattern_and_other_texts_are_not() {
        let print = of("select a from t where b = 1 and c='x' -- trace");
        let pattern = Pattern::new(&print).expect("its literals are plain");
        let is_of = |text: &[u8], backslash| pattern.is_of(&print, text, backslash);
        for text in [
            "select a from t where b = 42.5e1 and c='it''s'",
            "select a from t where b = 0x1f and c='--'",
            "select a from t where b = 7 and c=''",
        ] {
            assert!(is_of(text.as_bytes(), Backslash::Plain), "{text}");
        }
        for text in [
            "select a from t where b = 1 and c='x' or true",
            "select a from t where b = 1 and c='x",
            "select a from t where b = 'x' and c=1",
            "select a from t where b = 1x and c='x'",
            "select a from t where b = -1 and c='x'",
            "select a from t where b = 1 and c='\0'",
            "select a from t where b = 1",
            "",
        ] {
            assert!(!is_of(text.as_bytes(), Backslash::Plain), "{text}");
        }
        assert!(!is_of(b"select a from t where b = 1 and c='\xff'", Backslash::Plain));
        assert!(!is_of(br"select a from t where b = 1 and c='x\'", Backslash::Escape));
    }

    #[test]
    fn where_a_token_may_reach_into_a_literal_there_is_no_pattern() {
        for text in
            ["select date'2026-01-01'", "select a[1:2]", "select E'x', B'1'", "select 1.5.5", "select B'1'", "1"]
        {
            assert!(Pattern::new(&of(text)).is_none(), "{text}");
        }
        assert!(Pattern::new(&of("select set_config('a', 'b', true)")).is_some(), "what stays is compared");
    }
}

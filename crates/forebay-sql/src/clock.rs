//! Literals that mean the time at which they are read.
//!
//! PostgreSQL turns `'now'::timestamptz` into a constant when it parses the statement. A statement that is kept
//! prepared keeps that moment, for its owner as PostgreSQL does, and for anybody who is given the same one.

use crate::lexer::{Backslash, Kind, Lexer};

/// The words, and the length of the shortest.
const WORDS: [&[u8]; 5] = [b"now", b"today", b"tomorrow", b"yesterday", b"allballs"];

/// Whether `text` holds a string that may be read as a time relative to its Parse.
///
/// Errs towards yes: for strings of other types that hold one of the words, and for strings in which escapes or
/// continuations could spell one. With `Backslash::Escape`, plain strings count as such too.
pub fn has_clock_literal(text: &[u8], backslash: Backslash) -> bool {
    let lexer = Lexer::new(text, backslash);
    lexer.clone().any(|token| token.kind == Kind::Text && names_a_time(lexer.bytes(token), backslash))
}

fn names_a_time(literal: &[u8], backslash: Backslash) -> bool {
    let is_escaping = match literal.first() {
        Some(b'e' | b'E' | b'u' | b'U') => true,
        Some(b'\'' | b'n' | b'N') => backslash == Backslash::Escape,
        _ => false,
    };
    if is_escaping && spells_letters(literal) {
        return true;
    }
    let is_continued = literal.first() != Some(&b'$') && literal.contains(&b'\n') && literal.windows(2).any(ends_line);
    is_continued || literal.split(|b| !b.is_ascii_alphabetic()).any(is_clock_word)
}

/// A quote followed by a blank: the string may go on on the next line.
fn ends_line(pair: &[u8]) -> bool {
    matches!(pair, [b'\'', b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c | b'-'])
}

/// An escape by number (`\x6e`, `\156`, `\u006e`; `\006E` after `U&`), which may stand for a letter.
fn spells_letters(literal: &[u8]) -> bool {
    literal.windows(2).any(|pair| matches!(pair, [b'\\', b'x' | b'u' | b'U' | b'+' | b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F']))
        // `U&'…' UESCAPE '!'`: another character escapes.
        || matches!(literal, [b'u' | b'U', b'&', ..])
}

fn is_clock_word(word: &[u8]) -> bool {
    WORDS.iter().any(|clock| word.eq_ignore_ascii_case(clock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_relative_to_the_parse_is_found_however_it_is_spelt() {
        for text in [
            "select 'now'::timestamptz",
            "select timestamp ' NOW '",
            "select date 'Today'",
            "select $$tomorrow$$::date",
            "select $q$ yesterday 12:00$q$::timestamp",
            "insert into t values (1, 'allballs')",
            "select E'n\\x6fw'::date",
            "select U&'\\006eow'::date",
            "select U&'!006eow' uescape '!'",
            "select 'no'\n'w'::date",
            "select n'now'",
        ] {
            assert!(has_clock_literal(text.as_bytes(), Backslash::Plain), "{text}");
        }
        assert!(has_clock_literal(b"select '\\156ow'::date", Backslash::Escape));
    }

    #[test]
    fn other_texts_hold_none() {
        for text in [
            "select now()",
            "select 'know', 'nowhere', 'todays'",
            "select \"now\" from today -- 'now'",
            "select '\\x6e6f77'::bytea",
            "select E'a\\nb'",
            "select 'line\nbreak'",
            "select $$it's\n fine$$",
            "select '2024-01-01'::date /* 'now' */",
        ] {
            assert!(!has_clock_literal(text.as_bytes(), Backslash::Plain), "{text}");
        }
    }
}

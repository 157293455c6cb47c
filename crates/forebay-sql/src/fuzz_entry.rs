//! Entry points of the fuzz targets, shared with the property tests: each takes any bytes, must not panic in the code
//! that it calls, and asserts what that code promises.

use crate::cache::ShapeCache;
use crate::fingerprint::fingerprint;
use crate::grammar;
use crate::lexer::Backslash;
use crate::shape::Shape;
use crate::traces::Traces;

/// A text, behind a byte that says what a backslash in it means.
///
/// What is refused may do anything; a text whose literals are others has the same shape, from the grammar and from the
/// cache.
pub fn shape(data: &[u8]) {
    let Some((first, text)) = data.split_first() else { return };
    let backslash = if first % 2 == 0 { Backslash::Plain } else { Backslash::Escape };
    let parsed = grammar::parse(text, backslash);
    let all = parsed.statements.iter().fold(Traces::NONE, |all, statement| all | statement.traces);
    assert_eq!(all, parsed.traces);
    if !parsed.is_parsed {
        assert_eq!(parsed.traces, Traces::OPAQUE);
        return;
    }
    let mut cache = ShapeCache::new(8);
    assert_eq!(show(&cache.shape(text, backslash)), show(&parsed));
    let mut print = Vec::new();
    // Beyond the lexer's reach: what it calls broken and the grammar takes.
    if !fingerprint(text, backslash, &mut print) {
        return;
    }
    let other = with_other_literals(&print);
    let reparsed = grammar::parse(&other, backslash);
    if reparsed.is_parsed {
        assert_eq!(show(&reparsed), show(&parsed), "{}", other.escape_ascii());
        assert_eq!(show(&cache.shape(&other, backslash)), show(&parsed), "{}", other.escape_ascii());
    }
}

/// A text of that fingerprint.
fn with_other_literals(print: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut bytes = print.iter();
    while let Some(byte) = bytes.next() {
        match (*byte, *byte == 0xff) {
            (byte, false) => text.push(byte),
            (_, true) => text.extend_from_slice(match bytes.next() {
                Some(b'0') => b"7",
                Some(b'b') => b"b'01'",
                Some(b'x') => b"x'0f'",
                Some(b'n') => b"n'other'",
                Some(b'u') => b"u&'other'",
                _ => b"'other'",
            }),
        }
    }
    text
}

/// All that two shapes have to agree on.
pub(crate) fn show(shape: &Shape) -> String {
    let Shape { statements, functions, maybe_functions, relations, types, .. } = shape;
    format!("{statements:?} {functions:?} {maybe_functions:?} {relations:?} {types:?}")
}

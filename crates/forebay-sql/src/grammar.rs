//! Shapes of texts, by PostgreSQL's own grammar (libpg_query, of PostgreSQL 18).
//!
//! Nothing here knows a database: what the functions, relations and types that a text names may do is for whoever knows
//! the catalogue. Where the grammar can't tell, the shape says that it may do anything.
//!
//! | module | what it reads |
//! |---|---|
//! | `statement` | which statement it is, and what that kind leaves behind |
//! | `schema` | statements that make, change or drop objects |
//! | `setting` | SET, RESET and set_config |
//! | `walk` | queries and expressions: the names in them |
//! | `names` | functions and types that are PostgreSQL's own |

mod names;
mod schema;
mod setting;
mod statement;
#[cfg(test)]
mod tests;
mod walk;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::Node;

use crate::lexer::{Backslash, Kind, Lexer};
use crate::shape::{Modes, Shape, StatementShape, Verb};
use crate::traces::Traces;

/// Longer texts may do anything: parsing them would hold up a worker for milliseconds.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What `text` does.
///
/// What the grammar refuses, and what is longer than [`TEXT_BYTES_MAX`], may do anything. Takes time that grows with
/// the text's length alone, and little stack, whatever the bytes are.
pub fn parse(text: &[u8], backslash: Backslash) -> Shape {
    if text.len() > TEXT_BYTES_MAX || backslash == Backslash::Unknown {
        return unknown();
    }
    let Ok(text) = std::str::from_utf8(text) else { return unknown() };
    let text = as_escapes(text, backslash);
    // The bindings panic when a tree is not as they expect. No tree is known that does; it would be a shape that may
    // do anything, not a worker lost.
    catch_unwind(AssertUnwindSafe(|| shape_of(&text))).ok().flatten().unwrap_or_else(unknown)
}

/// The text as it would be written with `standard_conforming_strings` on.
fn as_escapes(text: &str, backslash: Backslash) -> Cow<'_, str> {
    if backslash == Backslash::Plain || !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let lexer = Lexer::new(text.as_bytes(), backslash);
    let mut escaped = String::with_capacity(text.len() + 16);
    let mut copied = 0;
    for token in lexer.clone() {
        let from = match lexer.bytes(token) {
            [b'\'', ..] => token.start,
            [b'n' | b'N', b'\'', ..] => token.start + 1,
            _ => continue,
        };
        if token.kind == Kind::Text {
            escaped.push_str(&text[copied..token.start]);
            escaped.push_str(" E");
            copied = from;
        }
    }
    escaped.push_str(&text[copied..]);
    Cow::Owned(escaped)
}

/// None: the grammar refuses it, or there is too much in it.
fn shape_of(text: &str) -> Option<Shape> {
    let tree = pg_raw_parse::parse(text).ok()?;
    let mut walk = walk::Walk::default();
    let mut statements = Vec::new();
    for raw in tree.iter() {
        statements.push(statement::statement(raw.stmt(), &mut walk));
    }
    (!walk.is_too_much()).then(|| walk.into_shape(statements))
}

/// A shape that may do anything.
pub(crate) fn unknown() -> Shape {
    let statement = StatementShape {
        verb: Verb::Other,
        traces: Traces::OPAQUE,
        settings: Box::default(),
        name: None,
        modes: Modes::default(),
    };
    Shape { statements: Box::new([statement]), traces: Traces::OPAQUE, is_of_mode: true, ..Shape::default() }
}

/// The last part of a qualified name.
fn last_part<'t>(names: impl IntoIterator<Item = Node<'t>>) -> Option<&'t str> {
    names.into_iter().last().and_then(Node::as_str)
}

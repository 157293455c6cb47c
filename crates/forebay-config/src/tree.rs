//! The tree that all readers make, and the place of its nodes in the text.

use std::ops::Range;

use serde::ser::{Serialize, SerializeTuple, Serializer};

/// Deepest nesting of tables and arrays; settings need five.
pub(crate) const DEPTH_MAX: usize = 16;

/// Where something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Line of the first byte, from 1.
    pub line: usize,
    /// Column of the first byte in characters, from 1.
    pub column: usize,
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(4)?;
        for number in [self.start, self.end, self.line, self.column] {
            tuple.serialize_element(&number)?;
        }
        tuple.end()
    }
}

/// A whole text.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Document {
    /// A table.
    pub root: Node,
    /// What could not be read, in the order of the text.
    pub errors: Vec<TextError>,
}

impl Document {
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("the tree holds strings, numbers and lists only, which JSON can hold")
    }
}

/// A place that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TextError {
    /// Where.
    pub at: At,
    /// Why, as half a sentence.
    pub message: String,
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Node {
    /// Where the value stands; a table's header, or the whole of an inline table.
    pub at: At,
    /// What it is.
    #[serde(flatten)]
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Value {
    /// Keys and values, in the order of the text.
    Table {
        /// A key may come again where the format allows it (sections of an ini).
        entries: Vec<Entry>,
    },
    /// Values.
    Array {
        /// In the order of the text.
        items: Vec<Node>,
    },
    /// Text.
    String {
        /// With escapes resolved.
        value: String,
    },
    /// A whole number.
    Integer {
        /// TOML promises 64 bits.
        value: i64,
    },
    /// A number with a point, or an exponent.
    Float {
        /// `null` in JSON where it is not finite.
        value: f64,
    },
    /// `true` or `false`.
    Boolean {
        /// Which.
        value: bool,
    },
    /// A date, a time, or both.
    Datetime {
        /// As written in RFC 3339.
        value: String,
    },
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Entry {
    /// The key, quotes removed.
    pub key: String,
    /// Where the key stands.
    pub at: At,
    /// Its value.
    pub value: Node,
}

/// Turns byte offsets into places. O(log lines) a place, and the length of its line.
pub(crate) struct Locator<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Locator<'a> {
    pub(crate) fn new(text: &'a str) -> Locator<'a> {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Locator { text, line_starts }
    }

    /// The place of a range of bytes, moved into the text and to whole characters.
    pub(crate) fn at(&self, range: Range<usize>) -> At {
        let start = self.floor(range.start);
        let end = self.floor(range.end).max(start);
        let line = self.line_starts.partition_point(|&first| first <= start);
        let column = self.text[self.line_starts[line - 1]..start].chars().count() + 1;
        At { start, end, line, column }
    }

    fn floor(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caret under the wrong letter sends people to the wrong place.
    #[test]
    fn columns_count_characters_not_bytes() {
        let at = Locator::new("a\nÄÖ = 1").at("a\nÄÖ = ".len().."a\nÄÖ = 1".len());
        assert_eq!((at.line, at.column), (2, 6));
    }

    /// A parser may report an error past the end; it must point to the end.
    #[test]
    fn a_range_outside_the_text_is_moved_to_its_end() {
        let at = Locator::new("x\n").at(10..20);
        assert_eq!(at, At { start: 2, end: 2, line: 2, column: 1 });
    }
}

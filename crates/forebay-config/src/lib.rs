//! Configuration text to a tree in which every key and value knows where it stands.
//!
//! Pure: text in, JSON out. Files, environment variables, includes and what the settings mean are Python's
//! (`forebay.config`). Text that can't be read is not an exception: the JSON says where and why, and holds what
//! could be read.
//!
//! ```json
//! {"root": {"kind": "table", "at": [0, 21, 1, 1], "entries": [
//!    {"key": "pool_size", "at": [0, 9, 1, 1], "value": {"kind": "integer", "at": [12, 14, 1, 13], "value": 40}}]},
//!  "errors": [{"at": [20, 21, 2, 3], "message": "…"}]}
//! ```
//! `at` is first byte, one past the last byte, line and column of the first; lines and columns count from 1, columns
//! in characters. Kinds: table, array, string, integer, float, boolean, datetime.

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz_entry;
mod ini;
mod toml;
mod tree;
mod userlist;

pub use tree::{At, Document, Entry, Node, TextError, Value};

/// forebay.toml. The first syntax error ends the reading: `root` is then empty.
pub fn toml_to_json(text: &str) -> String {
    toml::read(text).to_json()
}

/// pgbouncer.ini. Sections are tables of strings in the order of the file, one entry each time a section opens;
/// a line of [databases], [users] or [peers] is a table of its `k=v` pairs; `%include` is an entry of `root`. Faulty
/// lines are skipped and reported.
pub fn ini_to_json(text: &str) -> String {
    ini::read(text).to_json()
}

/// userlist.txt: a table of user and secret. Faulty lines are skipped and reported.
pub fn userlist_to_json(text: &str) -> String {
    userlist::read(text).to_json()
}

//! Entry points of the fuzz targets, shared with the property tests: each takes any bytes, must not panic in the code
//! that it calls, and asserts that every place in the result is a place in the text.

use crate::tree::{At, Document, Node, Value};
use crate::{ini as ini_reader, toml as toml_reader, userlist as userlist_reader};

/// forebay.toml.
pub fn toml(data: &[u8]) {
    read(data, toml_reader::read);
}

/// pgbouncer.ini.
pub fn ini(data: &[u8]) {
    read(data, ini_reader::read);
}

/// userlist.txt.
pub fn userlist(data: &[u8]) {
    read(data, userlist_reader::read);
}

fn read(data: &[u8], reader: impl Fn(&str) -> Document) {
    let text = String::from_utf8_lossy(data);
    let document = reader(&text);
    for error in &document.errors {
        check_place(&text, error.at);
    }
    check_node(&text, &document.root);
    serde_json::from_str::<serde_json::Value>(&document.to_json()).expect("what is written is JSON");
}

fn check_node(text: &str, node: &Node) {
    check_place(text, node.at);
    match &node.value {
        Value::Table { entries } => {
            for entry in entries {
                check_place(text, entry.at);
                check_node(text, &entry.value);
            }
        }
        Value::Array { items } => items.iter().for_each(|item| check_node(text, item)),
        _ => {}
    }
}

fn check_place(text: &str, at: At) {
    assert!(text.get(at.start..at.end).is_some(), "{at:?} is not inside {text:?}");
    let before = &text[..at.start];
    assert_eq!(at.line, before.matches('\n').count() + 1);
    assert_eq!(at.column, before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1);
}

//! forebay.toml, by way of toml_edit.

use toml_edit::{Array, InlineTable, Item, Key, Table, Value as TomlValue};

use crate::tree::{DEPTH_MAX, Document, Entry, Locator, Node, TextError, Value};

/// Reads a TOML document.
pub(crate) fn read(text: &str) -> Document {
    let mut reader = Reader { locator: Locator::new(text), errors: Vec::new() };
    let root = match toml_edit::Document::parse(text) {
        Ok(document) => reader.table(document.as_table(), 0..0, 0),
        Err(error) => {
            let span = error.span().unwrap_or(text.len()..text.len());
            let mut message = error.message().trim().replace('\n', ", ");
            if message == "duplicate key"
                && let Some(key) = text.get(span.clone()).map(str::trim).filter(|key| !key.is_empty())
            {
                message = format!("duplicate key: {key} is set before");
            }
            reader.errors.push(TextError { at: reader.locator.at(span), message });
            Node { at: reader.locator.at(0..0), value: Value::Table { entries: Vec::new() } }
        }
    };
    Document { root, errors: reader.errors }
}

struct Reader<'a> {
    locator: Locator<'a>,
    errors: Vec<TextError>,
}

type Span = std::ops::Range<usize>;

impl Reader<'_> {
    /// `key` is where the table was named, for one made by a dotted key, which has no place of its own.
    fn table(&mut self, table: &Table, key: Span, depth: usize) -> Node {
        let span = table.span().unwrap_or(key);
        let entries = table.iter().filter_map(|(name, _)| table.get_key_value(name)).collect::<Vec<_>>();
        self.entries(&entries, span, depth)
    }

    fn inline_table(&mut self, table: &InlineTable, key: Span, depth: usize) -> Node {
        let span = table.span().unwrap_or(key);
        let entries = table.iter().filter_map(|(name, _)| table.get_key_value(name)).collect::<Vec<_>>();
        self.entries(&entries, span, depth)
    }

    fn entries(&mut self, pairs: &[(&Key, &Item)], span: Span, depth: usize) -> Node {
        let mut entries = Vec::new();
        if self.is_shallow(&span, depth) {
            for (key, item) in pairs {
                let key_span = key.span().unwrap_or(span.clone());
                if let Some(value) = self.item(item, key_span.clone(), depth + 1) {
                    entries.push(Entry { key: key.get().to_owned(), at: self.locator.at(key_span), value });
                }
            }
        }
        Node { at: self.locator.at(span), value: Value::Table { entries } }
    }

    fn item(&mut self, item: &Item, key: Span, depth: usize) -> Option<Node> {
        match item {
            Item::None => None,
            Item::Value(value) => Some(self.value(value, key, depth)),
            Item::Table(table) => Some(self.table(table, key, depth)),
            Item::ArrayOfTables(tables) => {
                let span = tables.span().unwrap_or(key.clone());
                let items = tables.iter().map(|table| self.table(table, key.clone(), depth + 1)).collect();
                Some(Node { at: self.locator.at(span), value: Value::Array { items } })
            }
        }
    }

    fn value(&mut self, value: &TomlValue, key: Span, depth: usize) -> Node {
        let span = value.span().unwrap_or(key.clone());
        let value = match value {
            TomlValue::String(text) => Value::String { value: text.value().clone() },
            TomlValue::Integer(number) => Value::Integer { value: *number.value() },
            TomlValue::Float(number) => Value::Float { value: *number.value() },
            TomlValue::Boolean(truth) => Value::Boolean { value: *truth.value() },
            TomlValue::Datetime(moment) => Value::Datetime { value: moment.value().to_string() },
            TomlValue::Array(array) => return self.array(array, span, depth),
            TomlValue::InlineTable(table) => return self.inline_table(table, key, depth),
        };
        Node { at: self.locator.at(span), value }
    }

    fn array(&mut self, array: &Array, span: Span, depth: usize) -> Node {
        let mut items = Vec::new();
        if self.is_shallow(&span, depth) {
            items.extend(array.iter().map(|item| self.value(item, span.clone(), depth + 1)));
        }
        Node { at: self.locator.at(span), value: Value::Array { items } }
    }

    fn is_shallow(&mut self, span: &Span, depth: usize) -> bool {
        if depth < DEPTH_MAX {
            return true;
        }
        let message = format!("tables are nested more than {DEPTH_MAX} deep");
        self.errors.push(TextError { at: self.locator.at(span.clone()), message });
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz_entry;

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Entry {
        let Value::Table { entries } = &node.value else { panic!("{key} is asked of what is no table") };
        entries.iter().find(|entry| entry.key == key).expect(key)
    }

    /// The finding for a wrong value must stand under the value, not under the section.
    #[test]
    fn every_key_and_value_knows_its_place() {
        let document = read("[listen]\nport = 6432\n\n[databases.\"my shop\"]\nendpoints = [\"a:1\", \"b:2\"]\n");
        assert!(document.errors.is_empty());
        let port = entry(&entry(&document.root, "listen").value, "port");
        assert_eq!((port.at.line, port.at.column), (2, 1));
        assert_eq!((port.value.at.line, port.value.at.column), (2, 8));
        let shop = entry(&entry(&document.root, "databases").value, "my shop");
        assert_eq!((shop.at.line, shop.at.column), (4, 12));
        let Value::Array { items } = &entry(&shop.value, "endpoints").value.value else { panic!("no array") };
        assert_eq!((items[1].at.line, items[1].at.column), (5, 21));
    }

    /// People write `tls = { … }` and `tls.mode = …`; both must lead to the right line.
    #[test]
    fn inline_tables_and_dotted_keys_have_places() {
        let document = read("[listen]\ntls = { mode = \"prefer\" }\nunix.mode = 5\n");
        let listen = &entry(&document.root, "listen").value;
        assert_eq!(entry(&entry(listen, "tls").value, "mode").value.at.column, 16);
        let unix = entry(listen, "unix");
        assert_eq!(unix.at.line, 3);
        assert_eq!(entry(&unix.value, "mode").at.column, 6);
    }

    /// In a file of two hundred lines the place alone is soon read past.
    #[test]
    fn a_key_given_twice_is_named() {
        let document = read("[listen]\nport = 1\nunix = \"/x\"\nport = 2\n");
        let error = &document.errors[0];
        assert_eq!((error.at.line, &*error.message), (4, "duplicate key: port is set before"));
    }

    /// A broken file must say where, or nobody finds the missing quote.
    #[test]
    fn a_syntax_error_has_a_line_and_a_column() {
        let document = read("[listen]\nport = \"6432\naddress = 1\n");
        assert_eq!(document.errors.len(), 1);
        assert_eq!(document.errors[0].at.line, 2);
        assert!(!document.errors[0].message.is_empty());
    }

    /// A key given twice is a mistake that must not pass silently.
    #[test]
    fn a_key_given_twice_is_an_error() {
        let document = read("[listen]\nport = 1\nport = 2\n");
        assert_eq!(document.errors[0].at.line, 3);
    }

    /// Nesting is where a parser's stack ends; ours must not be handed a tree without bottom.
    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        let text = format!("a = {}1{}", "[".repeat(40), "]".repeat(40));
        assert!(!read(&text).errors.is_empty());
        let text = format!("a = {}{}", "{b=".repeat(100_000), "}".repeat(100_000));
        assert!(!read(&text).errors.is_empty());
        assert!(!read(&format!("[{}a]", "a.".repeat(5000))).errors.is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            fuzz_entry::toml(text.as_bytes());
        }

        #[test]
        fn any_text_of_toml_signs_is_read_without_a_panic(text in "[\\[\\]{}=.,\"'#\\\\a1 \n\rÄ-]{0,60}") {
            fuzz_entry::toml(text.as_bytes());
        }
    }
}

//! pgbouncer.ini. Format as PgBouncer documents it: `;` and `#` begin a comment at the start of a line only,
//! values run to the end of the line, names of databases may stand in double quotes, values of connection
//! strings in single ones; a doubled quote stands for itself.

use std::ops::Range;

use crate::tree::{Document, Entry, Locator, Node, TextError, Value};

/// Sections whose lines are connection strings.
const CONNECTION_SECTIONS: [&str; 3] = ["databases", "users", "peers"];

/// Reads an ini file. A faulty line is skipped and reported.
pub(crate) fn read(text: &str) -> Document {
    let mut reader = Reader { text, locator: Locator::new(text), sections: Vec::new(), errors: Vec::new(), name: None };
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        reader.line(trim(text, start..start + line.len()));
        start += line.len();
    }
    let root = Node { at: reader.locator.at(0..0), value: Value::Table { entries: reader.sections } };
    Document { root, errors: reader.errors }
}

struct Reader<'a> {
    text: &'a str,
    locator: Locator<'a>,
    /// Sections and includes, as they come.
    sections: Vec<Entry>,
    errors: Vec<TextError>,
    /// The open section's name and where it stands; an include closes its entry, not the section.
    name: Option<(String, Range<usize>)>,
}

impl Reader<'_> {
    fn line(&mut self, line: Range<usize>) {
        let text = &self.text[line.clone()];
        if text.is_empty() || text.starts_with([';', '#']) {
            return;
        }
        if text.starts_with('[') {
            self.section(line);
        } else if text.starts_with('%') {
            self.include(line);
        } else {
            self.setting(line);
        }
    }

    fn section(&mut self, line: Range<usize>) {
        let inside = self.text[line.clone()].strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let Some(inside) = inside.filter(|inside| !inside.trim().is_empty()) else {
            self.name = None;
            return self.error(line, "a section is written as [name]");
        };
        let name = trim(self.text, line.start + 1..line.start + 1 + inside.len());
        self.name = Some((self.text[name.clone()].to_owned(), name));
        self.open_section();
    }

    /// Adds an entry for the section, if one is open.
    fn open_section(&mut self) {
        if let Some((key, span)) = &self.name {
            let at = self.locator.at(span.clone());
            let value = Node { at, value: Value::Table { entries: Vec::new() } };
            self.sections.push(Entry { key: key.clone(), at, value });
        }
    }

    fn include(&mut self, line: Range<usize>) {
        let text = &self.text[line.clone()];
        let path = text.strip_prefix("%include").filter(|rest| rest.starts_with(char::is_whitespace)).map(str::trim);
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return self.error(line, "an include is written as %include path");
        };
        let value = self.string(path.to_owned(), line.end - path.len()..line.end);
        let at = self.locator.at(line.start..line.start + "%include".len());
        self.sections.push(Entry { key: "%include".to_owned(), at, value });
        self.open_section();
    }

    fn setting(&mut self, line: Range<usize>) {
        let Some((section, _)) = &self.name else {
            return self.error(line, "this line stands in no [section]");
        };
        let is_connection = CONNECTION_SECTIONS.contains(&section.as_str());
        let mut cursor = Cursor { text: self.text, at: line.start, end: line.end };
        let (key, span) = match cursor.key() {
            Ok(key) => key,
            Err(message) => return self.error(line, message),
        };
        cursor.skip_space();
        let value = if is_connection {
            self.connection(&mut cursor)
        } else {
            self.string(self.text[cursor.at..line.end].to_owned(), cursor.at..line.end)
        };
        let at = self.locator.at(span);
        if let Some(Value::Table { entries }) = self.sections.last_mut().map(|section| &mut section.value.value) {
            entries.push(Entry { key, at, value });
        }
    }

    /// The pairs of a connection string, up to the first fault.
    fn connection(&mut self, cursor: &mut Cursor<'_>) -> Node {
        let span = cursor.at..cursor.end;
        let mut entries = Vec::new();
        while cursor.at < cursor.end {
            let pair = cursor.key().and_then(|key| Ok((key, cursor.value()?)));
            match pair {
                Ok(((key, key_span), (text, value_span))) => {
                    let value = self.string(text, value_span);
                    entries.push(Entry { key, at: self.locator.at(key_span), value });
                }
                Err(message) => {
                    self.error(cursor.at..cursor.end, message);
                    break;
                }
            }
            cursor.skip_space();
        }
        Node { at: self.locator.at(span), value: Value::Table { entries } }
    }

    fn string(&self, value: String, span: Range<usize>) -> Node {
        Node { at: self.locator.at(span), value: Value::String { value } }
    }

    fn error(&mut self, span: Range<usize>, message: &str) {
        self.errors.push(TextError { at: self.locator.at(span), message: message.to_owned() });
    }
}

/// A text and the range of it that was taken from.
type Taken = (String, Range<usize>);

/// Reads keys and values of one line.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    end: usize,
}

impl Cursor<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..self.end]
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// A key, and the `=` after it.
    fn key(&mut self) -> Result<Taken, &'static str> {
        let taken = if self.rest().starts_with('"') {
            self.quoted('"').ok_or("the closing double quote is missing")?
        } else {
            self.word(|sign| sign == '=' || sign.is_whitespace())
        };
        if taken.0.is_empty() {
            return Err("a name is missing before the =");
        }
        self.skip_space();
        if !self.rest().starts_with('=') {
            return Err("an = is missing");
        }
        self.at += 1;
        Ok(taken)
    }

    /// A value of a connection string.
    fn value(&mut self) -> Result<Taken, &'static str> {
        self.skip_space();
        if self.rest().starts_with('\'') {
            return self.quoted('\'').ok_or("the closing single quote is missing");
        }
        Ok(self.word(char::is_whitespace))
    }

    fn word(&mut self, ends: impl Fn(char) -> bool) -> Taken {
        let length = self.rest().find(ends).unwrap_or(self.rest().len());
        let span = self.at..self.at + length;
        self.at = span.end;
        (self.text[span.clone()].to_owned(), span)
    }

    /// Text between quotes, the first of which is next; `None`: the closing one is missing.
    fn quoted(&mut self, quote: char) -> Option<Taken> {
        let start = self.at;
        let mut out = String::new();
        let mut signs = self.rest()[1..].char_indices().peekable();
        while let Some((offset, sign)) = signs.next() {
            if sign != quote {
                out.push(sign);
            } else if signs.next_if(|&(_, next)| next == quote).is_some() {
                out.push(quote);
            } else {
                self.at = start + 1 + offset + 1;
                return Some((out, start..self.at));
            }
        }
        None
    }
}

/// The range without white space at its ends.
fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + part.len() - part.trim_start().len();
    start..start + part.trim().len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz_entry;

    /// `section.key[.key]` of the first entry that has it.
    fn lookup(document: &Document, path: &[&str]) -> Option<Node> {
        let mut node = document.root.clone();
        for key in path {
            let Value::Table { entries } = node.value else { return None };
            node = entries.into_iter().find(|entry| entry.key == *key)?.value;
        }
        Some(node)
    }

    fn text(document: &Document, path: &[&str]) -> Option<String> {
        match lookup(document, path)?.value {
            Value::String { value } => Some(value),
            _ => None,
        }
    }

    const SAMPLE: &str = "\
; a comment
[databases]
shop = host=10.0.0.5 port=5433 password='it''s # here'
\"a \"\"b\"\"\" = dbname = x
* =
%include extra.ini
more = host=h
[pgbouncer]
  listen_addr = 127.0.0.1, ::1
admin_users = ops ; not a comment
";

    /// These are the forms that files in the field hold.
    #[test]
    fn the_forms_of_the_field_are_read() {
        let document = read(SAMPLE);
        assert_eq!(document.errors, []);
        assert_eq!(text(&document, &["databases", "shop", "port"]).as_deref(), Some("5433"));
        assert_eq!(text(&document, &["databases", "shop", "password"]).as_deref(), Some("it's # here"));
        assert_eq!(text(&document, &["databases", "a \"b\"", "dbname"]).as_deref(), Some("x"));
        assert_eq!(text(&document, &["pgbouncer", "listen_addr"]).as_deref(), Some("127.0.0.1, ::1"));
        assert_eq!(text(&document, &["pgbouncer", "admin_users"]).as_deref(), Some("ops ; not a comment"));
        assert!(
            matches!(lookup(&document, &["databases", "*"]).expect("the line stands there").value, Value::Table { entries } if entries.is_empty())
        );
    }

    /// An included file may override what stands before it and be overridden by what stands after.
    #[test]
    fn an_include_keeps_its_place_among_the_sections() {
        let Value::Table { entries } = read(SAMPLE).root.value else { panic!("no table") };
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["databases", "%include", "databases", "pgbouncer"]);
    }

    /// The finding for a wrong port must stand under the port.
    #[test]
    fn values_know_their_place() {
        let port = lookup(&read(SAMPLE), &["databases", "shop", "port"]).expect("the pair stands there");
        assert_eq!((port.at.line, port.at.column), (3, 27));
        assert_eq!(&SAMPLE[port.at.start..port.at.end], "5433");
    }

    /// One bad line must not hide what is wrong with the others.
    #[test]
    fn every_faulty_line_is_reported_and_the_rest_is_read() {
        let document =
            read("x = 1\n[databases]\na = host\nb = host='x\n%inc\n[users\n[pgbouncer]\nlisten_port = 6432\n");
        let lines: Vec<_> = document.errors.iter().map(|error| error.at.line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6]);
        assert_eq!(text(&document, &["pgbouncer", "listen_port"]).as_deref(), Some("6432"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            fuzz_entry::ini(text.as_bytes());
        }

        #[test]
        fn any_text_of_ini_signs_is_read_without_a_panic(text in "(\\[databases\\]\n)?[\\[\\]%='\";#a \n\rÄ]{0,60}") {
            fuzz_entry::ini(text.as_bytes());
        }

        #[test]
        fn what_is_quoted_comes_back(name in "[a-zÄ\" ;=#]{1,20}", value in "[a-zÄ' ;=#]{0,20}") {
            let file = format!("[databases]\n\"{}\" = password='{}'\n", name.replace('"', "\"\""), value.replace('\'', "''"));
            let document = read(&file);
            prop_assert_eq!(&document.errors, &[]);
            prop_assert_eq!(text(&document, &["databases", &name, "password"]), Some(value));
        }
    }
}

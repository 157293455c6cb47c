//! userlist.txt, PgBouncer's auth_file: `"user" "secret"` a line; a doubled quote stands for itself.

use crate::tree::{Document, Entry, Locator, Node, TextError, Value};

/// Reads a user list. A faulty line is skipped and reported, without the secret in the words.
pub(crate) fn read(text: &str) -> Document {
    let locator = Locator::new(text);
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let begin = start + line.len() - line.trim_start().len();
        let content = line.trim();
        if !content.is_empty() && !content.starts_with([';', '#']) {
            match pair(content) {
                Some((user, secret, at)) => entries.push(Entry {
                    key: user,
                    at: locator.at(begin..begin + at.user_end),
                    value: Node {
                        at: locator.at(begin + at.secret_start..begin + at.secret_end),
                        value: Value::String { value: secret },
                    },
                }),
                None => errors.push(TextError {
                    at: locator.at(begin..begin + content.len()),
                    message: "a line of a user list is written as \"user\" \"secret\"".to_owned(),
                }),
            }
        }
        start += line.len();
    }
    Document { root: Node { at: locator.at(0..0), value: Value::Table { entries } }, errors }
}

/// Offsets within a line.
struct Places {
    user_end: usize,
    secret_start: usize,
    secret_end: usize,
}

/// User and secret of a trimmed line. PgBouncer ignores what follows the secret, and so do we.
fn pair(line: &str) -> Option<(String, String, Places)> {
    let (user, user_end) = quoted(line)?;
    let rest = &line[user_end..];
    let secret_start = line.len() - rest.trim_start().len();
    let (secret, length) = quoted(&line[secret_start..])?;
    Some((user, secret, Places { user_end, secret_start, secret_end: secret_start + length }))
}

/// The quoted text at the start of `text`, and how many bytes it takes.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut signs = text.strip_prefix('"')?.char_indices().peekable();
    while let Some((offset, sign)) = signs.next() {
        if sign != '"' {
            out.push(sign);
        } else if signs.next_if(|&(_, next)| next == '"').is_some() {
            out.push('"');
        } else {
            return Some((out, offset + 2));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz_entry;

    fn pairs(document: &Document) -> Vec<(String, String)> {
        let Value::Table { entries } = &document.root.value else { panic!("no table") };
        let secret = |entry: &Entry| match &entry.value.value {
            Value::String { value } => value.clone(),
            other => panic!("{other:?} is no secret"),
        };
        entries.iter().map(|entry| (entry.key.clone(), secret(entry))).collect()
    }

    /// A user list that is read wrongly locks people out.
    #[test]
    fn users_and_secrets_are_read() {
        let document = read("; c\n\"app\" \"se\"\"cret\"\n\n  \"ops\"\t\"md5ab\" \"\" \r\nbroken \"x\"\n");
        let wanted = [("app".to_owned(), "se\"cret".to_owned()), ("ops".to_owned(), "md5ab".to_owned())];
        assert_eq!(pairs(&document), wanted);
        assert_eq!(document.errors.len(), 1);
        assert_eq!(document.errors[0].at.line, 5);
        assert!(!document.errors[0].message.contains('x'));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[\"a \n;Ä]{0,60}") {
            fuzz_entry::userlist(text.as_bytes());
        }

        #[test]
        fn what_is_written_comes_back(user in "[a-zÄ\" ]{0,12}", secret in "[a-zÄ\" ]{0,12}") {
            let line = format!("\"{}\" \"{}\"\n", user.replace('"', "\"\""), secret.replace('"', "\"\""));
            prop_assert_eq!(pairs(&read(&line)), vec![(user, secret)]);
        }
    }
}

//! Messages of programs as bytes, and what each of them is answered.

use std::collections::HashMap;

use forebay_pgwire::write;

use crate::program::{Message, UNIQUE};

/// Oids of a database's functions, by name and types of arguments.
pub(crate) type Functions = HashMap<String, u32>;

/// What one side puts in place of what programs name.
pub(crate) struct Names<'a> {
    /// In place of [`UNIQUE`].
    pub(crate) unique: &'a str,
    /// In place of functions' names.
    pub(crate) functions: &'a Functions,
}

/// An answer that has not come yet, for the message that earns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owed {
    /// What ends in ReadyForQuery: of a Query or a FunctionCall.
    Query,
    /// ReadyForQuery alone.
    Sync,
    /// ParseComplete.
    Parse,
    /// BindComplete.
    Bind,
    /// A description of columns, or that there are none.
    Describe,
    /// What ends an Execute.
    Execute,
    /// CloseComplete.
    Close,
}

/// Words of texts that may set a setting with a dot.
const CUSTOM: &[&str] = &["app.", "pg_trgm.", "put_by_set", "put_and_commit"];

/// Words of texts that leave in a session what nothing takes out of it.
const LASTING: &[&str] = &["load '"];

/// Appends a message and says what it is answered.
pub(crate) fn encode(out: &mut Vec<u8>, message: &Message, names: &Names<'_>) -> Option<Owed> {
    let named = |text: &str| text.replace(UNIQUE, names.unique);
    match message {
        Message::Query(sql) => {
            write::query(out, named(sql));
            Some(Owed::Query)
        }
        Message::Parse { name, sql } => {
            write::parse(out, name, named(sql), &[]);
            Some(Owed::Parse)
        }
        Message::Bind { portal, statement, values, formats, results } => {
            let is_binary = |at: usize| formats.get(at).or(formats.first().filter(|_| formats.len() == 1)) == Some(&1);
            let owned = values.iter().enumerate().map(|(at, value)| value.as_ref().map(|v| bytes(v, is_binary(at))));
            let owned: Vec<_> = owned.collect();
            let list: Vec<_> = owned.iter().map(Option::as_deref).collect();
            write::bind(out, portal, statement, formats, &list, results);
            Some(Owed::Bind)
        }
        Message::Call { function, arguments, binary } => {
            // No function has the oid 0, and a call of it is refused.
            let oid = names.functions.get(function).copied().unwrap_or(0);
            let owned: Vec<_> =
                arguments.iter().map(|value| value.as_ref().map(|v| bytes(&named(v), *binary))).collect();
            let list: Vec<_> = owned.iter().map(Option::as_deref).collect();
            write::function_call(out, oid, &[i16::from(*binary)], &list, i16::from(*binary));
            Some(Owed::Query)
        }
        Message::DescribeStatement(name) => {
            write::describe(out, b'S', name);
            Some(Owed::Describe)
        }
        Message::DescribePortal(name) => {
            write::describe(out, b'P', name);
            Some(Owed::Describe)
        }
        Message::Execute { portal, rows } => {
            write::execute(out, portal, *rows);
            Some(Owed::Execute)
        }
        Message::CloseStatement(name) => {
            write::close(out, b'S', name);
            Some(Owed::Close)
        }
        Message::ClosePortal(name) => {
            write::close(out, b'P', name);
            Some(Owed::Close)
        }
        Message::Sync => {
            write::sync(out);
            Some(Owed::Sync)
        }
        _ => {
            encode_unanswered(out, message);
            None
        }
    }
}

/// Appends what earns no answer of its own.
fn encode_unanswered(out: &mut Vec<u8>, message: &Message) {
    match message {
        Message::Flush => write::flush(out),
        Message::CopyData(data) => write::copy_data(out, data.as_bytes()),
        Message::CopyBytes(digits) => write::copy_data(out, &bytes(digits, true)),
        Message::CopyDone => write::copy_done(out),
        Message::CopyFail(reason) => write::copy_fail(out, reason),
        _ => unreachable!("{message:?} is answered"),
    }
}

/// A value as it is, or out of hexadecimal digits; what is no digit counts as 0.
fn bytes(text: &str, is_binary: bool) -> Vec<u8> {
    if !is_binary {
        return text.as_bytes().to_vec();
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map_or(0, |digit| digit as u8);
    text.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |value, byte| value << 4 | digit(*byte))).collect()
}

/// Whether a message may set a setting with a dot, which is '' from then on and not NULL: no DISCARD undoes that. Who
/// only asks for its value makes none.
pub(crate) fn sets_custom(message: &Message) -> bool {
    let text = |sql: &str| {
        sql.to_ascii_lowercase().replace("current_setting('app.", "").replace("current_setting('pg_trgm.", "")
    };
    is_any(message, |words| CUSTOM.iter().any(|word| text(words).contains(word)))
}

/// Whether a message may leave in a session what nothing takes out of it.
pub(crate) fn is_lasting(message: &Message) -> bool {
    is_any(message, |words| LASTING.iter().any(|word| words.to_ascii_lowercase().contains(word)))
}

fn is_any(message: &Message, is_so: impl Fn(&str) -> bool) -> bool {
    match message {
        Message::Call { function, arguments, .. } => is_so(function) || arguments.iter().flatten().any(|v| is_so(v)),
        _ => message.sql().is_some_and(is_so),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At `strict` a session that is used again must be one in which nobody has ever set such a thing.
    #[test]
    fn what_may_set_a_custom_setting_is_known_by_its_text() {
        let sets_custom = |sql: &str| sets_custom(&Message::Query(sql.to_owned()));
        for sql in ["SET app.a = 'x'", "SELECT put('app.a', '')", "CALL put_and_commit('work_mem', '1MB')"] {
            assert!(sets_custom(sql), "{sql}");
        }
        for sql in ["SET TimeZone = 'UTC'", "SELECT current_setting('app.a', true)", "SELECT put('work_mem', '1MB')"] {
            assert!(!sets_custom(sql), "{sql}");
        }
    }

    #[test]
    fn a_library_that_was_loaded_stays() {
        for sql in ["LOAD '$libdir/plugins/pg_trgm'", "BEGIN; LOAD 'auto_explain'"] {
            assert!(is_lasting(&Message::Query(sql.to_owned())), "{sql}");
        }
        assert!(!is_lasting(&Message::Query("SELECT 'workload'".to_owned())));
    }

    #[test]
    fn a_call_names_what_it_sets() {
        let call = |function: &str, argument: &str| Message::Call {
            function: function.to_owned(),
            arguments: vec![Some(argument.to_owned()), None],
            binary: false,
        };
        assert!(sets_custom(&call("put(text,text)", "app.a")));
        assert!(sets_custom(&call("put_by_set(text)", "x")));
        assert!(!sets_custom(&call("put(text,text)", "work_mem")));
    }

    /// Each value has its own format where there are several, and all have the one where there is one.
    #[test]
    fn values_in_binary_are_hexadecimal_digits() {
        let encoded = |formats: &[i16]| {
            let mut out = Vec::new();
            let values = vec![Some("0041".to_owned()), Some("42".to_owned()), None];
            let (portal, statement) = (String::new(), String::new());
            let message = Message::Bind { portal, statement, values, formats: formats.to_vec(), results: vec![1] };
            let names = Names { unique: "", functions: &Functions::new() };
            assert_eq!(encode(&mut out, &message, &names), Some(Owed::Bind));
            out
        };
        let expected = |formats: &[i16], list: &[Option<&[u8]>]| {
            let mut out = Vec::new();
            write::bind(&mut out, "", "", formats, list, &[1]);
            out
        };
        assert_eq!(encoded(&[]), expected(&[], &[Some(b"0041"), Some(b"42"), None]));
        assert_eq!(encoded(&[1]), expected(&[1], &[Some(b"\0A"), Some(b"B"), None]));
        assert_eq!(encoded(&[0, 1, 0]), expected(&[0, 1, 0], &[Some(b"0041"), Some(b"B"), None]));
    }
}

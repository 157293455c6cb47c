//! Regular expressions of rules and maps. PostgreSQL's own engine reads them a little differently; what would be read
//! in another sense is refused, so that no rule fits whom its author did not mean.
//!
//! Matching takes time linear in the name, whatever the expression.

use regex::{Regex, RegexBuilder};

/// Bytes of an expression.
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// Bytes that one may take once it is compiled.
const COMPILED_BYTES_MAX: usize = 256 * 1024;

/// What means something else, or nothing, in PostgreSQL.
const FOREIGN: [(&str, &str); 8] = [
    (r"\b", r"\b is a backspace in PostgreSQL"),
    (r"\B", r"\B is a backslash in PostgreSQL"),
    (r"\<", r"\< is not supported; write [[:<:]]'s meaning out"),
    (r"\>", r"\> is not supported; write [[:>:]]'s meaning out"),
    ("(?", "groups with a question mark are not supported"),
    ("&&", "sets of characters can't be intersected"),
    ("--", "sets of characters can't be subtracted"),
    ("~~", "sets of characters can't be subtracted"),
];

/// One expression.
#[derive(Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles it, or says why it can't be used.
    pub fn new(text: &str) -> Result<Pattern, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a regular expression has {PATTERN_BYTES_MAX} bytes at most"));
        }
        if let Some((_, cause)) = FOREIGN.iter().find(|(sign, _)| holds(text, sign)) {
            return Err((*cause).to_owned());
        }
        let mut builder = RegexBuilder::new(text);
        builder.size_limit(COMPILED_BYTES_MAX).dot_matches_new_line(true).octal(false);
        builder.build().map(Pattern).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => String::from("the regular expression is too large"),
            // Its words quote the expression over several lines.
            error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        })
    }

    /// Whether a match is in `name`.
    pub fn is_in(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// What the first group of the first match in `name` holds: `None` without a match, empty without a group.
    pub fn first_group<'a>(&self, name: &'a str) -> Option<&'a str> {
        let captures = self.0.captures(name)?;
        Some(captures.get(1).map_or("", |group| group.as_str()))
    }

    /// Whether it has a group that `\1` stands for.
    pub fn has_group(&self) -> bool {
        self.0.captures_len() > 1
    }
}

/// Whether `sign` stands in `text` other than behind a backslash of its own.
fn holds(text: &str, sign: &str) -> bool {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with(sign) {
            return true;
        }
        let escaped = if first == '\\' { rest[1..].chars().next().map_or(0, char::len_utf8) } else { 0 };
        rest = &rest[first.len_utf8() + escaped..];
    }
    false
}

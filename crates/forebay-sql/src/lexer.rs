//! PostgreSQL's lexical structure (its scan.l): where each token begins and ends, and of what kind it is.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A keyword or a name without quotes; case does not matter.
    Word,
    /// A name in double quotes, also `U&"…"`.
    Name,
    /// A string of any kind: `'…'`, `E'…'`, `B'…'`, `X'…'`, `N'…'`, `U&'…'`, `$tag$…$tag$`, with its continuations.
    Text,
    /// A number.
    Number,
    /// `$1`.
    Parameter,
    /// One or more of PostgreSQL's operator characters.
    Operator,
    /// One of `, ( ) [ ] . ; :`, or `::`, `..`, `:=`.
    Mark,
    /// What PostgreSQL refuses: a quote or comment without end, a byte that begins nothing.
    Broken,
}

/// A token's place in its text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its first byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
}

/// What a backslash means in a text: by the session's `standard_conforming_strings`, and by its `client_encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backslash {
    /// Itself: `standard_conforming_strings = on`.
    Plain,
    /// The beginning of an escape, as in `E'…'`.
    Escape,
    /// It can't be told, so that the text may do anything: in the session's encoding, bytes of ASCII are parts of other
    /// characters, or what the session says of itself is still on its way.
    Unknown,
}

/// The tokens of a text, in order; spaces and comments between them are skipped.
#[derive(Clone, Debug)]
pub struct Lexer<'t> {
    text: &'t [u8],
    at: usize,
    backslash: Backslash,
}

impl<'t> Lexer<'t> {
    /// The tokens of `text`.
    pub fn new(text: &'t [u8], backslash: Backslash) -> Lexer<'t> {
        Lexer { text, at: 0, backslash }
    }

    /// The token's bytes.
    pub fn bytes(&self, token: Token) -> &'t [u8] {
        &self.text[token.start..token.end]
    }

    /// Where a number or a string in plain quotes that begins at `start` ends; `None` if none does, or one that is no text.
    #[inline]
    pub(crate) fn plain_literal(&self, start: usize, is_number: bool) -> Option<usize> {
        if is_number {
            return self.byte(start).filter(u8::is_ascii_digit).map(|_| self.number(start));
        }
        if self.byte(start) != Some(b'\'') {
            return None;
        }
        let (kind, end) = self.quoted(start + 1, b'\'', self.backslash);
        let bytes = &self.text[start..end];
        let is_text = std::str::from_utf8(bytes).is_ok() && memchr::memchr(0, bytes).is_none();
        (kind == Kind::Text && is_text).then_some(end)
    }

    fn rest(&self, at: usize) -> &'t [u8] {
        self.text.get(at..).unwrap_or_default()
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    /// Where a token that begins at `start` ends.
    fn token_at(&self, start: usize, first: u8) -> (Kind, usize) {
        let next = self.byte(start + 1);
        if is_word_start(first) && !matches!(next, Some(b'\'' | b'&')) {
            return (Kind::Word, self.while_at(start + 1, is_word));
        }
        match (first, next) {
            (b'e' | b'E', Some(b'\'')) => self.quoted(start + 2, b'\'', Backslash::Escape),
            (b'b' | b'B' | b'x' | b'X', Some(b'\'')) => self.quoted(start + 2, b'\'', Backslash::Plain),
            (b'n' | b'N', Some(b'\'')) => self.quoted(start + 2, b'\'', self.backslash),
            (b'u' | b'U', Some(b'&')) if matches!(self.byte(start + 2), Some(b'\'' | b'"')) => {
                self.quoted(start + 3, self.text[start + 2], Backslash::Plain)
            }
            (b'\'', _) => self.quoted(start + 1, b'\'', self.backslash),
            (b'"', _) => self.quoted(start + 1, b'"', Backslash::Plain),
            (b'$', Some(b'0'..=b'9')) => (Kind::Parameter, self.while_at(start + 1, |b| b.is_ascii_digit())),
            (b'$', _) => self.dollar_quoted(start),
            (b'0'..=b'9', _) | (b'.', Some(b'0'..=b'9')) => (Kind::Number, self.number(start)),
            (b':', Some(b':' | b'=')) | (b'.', Some(b'.')) => (Kind::Mark, start + 2),
            (b',' | b'(' | b')' | b'[' | b']' | b'.' | b';' | b':', _) => (Kind::Mark, start + 1),
            _ if is_word_start(first) => (Kind::Word, self.while_at(start + 1, is_word)),
            _ if is_operator(first) => (Kind::Operator, self.operator(start)),
            _ => (Kind::Broken, start + 1),
        }
    }

    fn while_at(&self, at: usize, is_in: impl Fn(u8) -> bool) -> usize {
        at + self.rest(at).iter().position(|b| !is_in(*b)).unwrap_or_else(|| self.rest(at).len())
    }

    /// A token in quotes whose opening was read.
    fn quoted(&self, mut at: usize, quote: u8, backslash: Backslash) -> (Kind, usize) {
        let kind = if quote == b'"' { Kind::Name } else { Kind::Text };
        loop {
            let found = match backslash {
                Backslash::Plain => memchr::memchr(quote, self.rest(at)),
                Backslash::Escape | Backslash::Unknown => memchr::memchr2(quote, b'\\', self.rest(at)),
            };
            let Some(found) = found else { return (Kind::Broken, self.text.len()) };
            at += found;
            if self.text[at] == b'\\' {
                // Whatever is escaped is part of the string. A backslash at the very end escapes nothing.
                at = (at + 2).min(self.text.len());
            } else if self.byte(at + 1) == Some(quote) {
                at += 2;
            } else if kind == Kind::Text
                && let Some(continued) = self.continuation(at + 1)
            {
                at = continued;
            } else {
                return (kind, at + 1);
            }
        }
    }

    /// `'a'` goes on in a second pair of quotes if a line ends between the two. Where its inside begins.
    fn continuation(&self, mut at: usize) -> Option<usize> {
        let mut has_newline = false;
        loop {
            match self.rest(at) {
                [b'\n' | b'\r', ..] => {
                    has_newline = true;
                    at += 1;
                }
                [b, ..] if is_space(*b) => at += 1,
                [b'-', b'-', ..] => at = self.line_end(at),
                [b'\'', ..] if has_newline => return Some(at + 1),
                _ => return None,
            }
        }
    }

    fn line_end(&self, at: usize) -> usize {
        memchr::memchr2(b'\n', b'\r', self.rest(at)).map_or(self.text.len(), |n| at + n)
    }

    fn dollar_quoted(&self, start: usize) -> (Kind, usize) {
        let tag_end = match self.byte(start + 1) {
            Some(b) if is_word_start(b) => self.while_at(start + 2, |b| is_word(b) && b != b'$'),
            _ => start + 1,
        };
        if self.byte(tag_end) != Some(b'$') {
            return (Kind::Broken, start + 1);
        }
        let tag = &self.text[start..=tag_end];
        match memchr::memmem::find(self.rest(tag_end + 1), tag) {
            Some(n) => (Kind::Text, tag_end + 1 + n + tag.len()),
            None => (Kind::Broken, self.text.len()),
        }
    }

    fn number(&self, start: usize) -> usize {
        if let [b'0', radix, digit, ..] = self.rest(start) {
            let is_digit: fn(u8) -> bool = match radix {
                b'x' | b'X' => |b| b.is_ascii_hexdigit() || b == b'_',
                b'o' | b'O' => |b| matches!(b, b'0'..=b'7' | b'_'),
                b'b' | b'B' => |b| matches!(b, b'0' | b'1' | b'_'),
                _ => |_| false,
            };
            if is_digit(*digit) {
                return self.while_at(start + 2, is_digit);
            }
        }
        let mut end = self.digits(start);
        // `1..2` is a range of two numbers.
        if self.byte(end) == Some(b'.') && self.byte(end + 1) != Some(b'.') {
            end = self.digits(end + 1);
        }
        match self.rest(end) {
            [b'e' | b'E', b'+' | b'-', b'0'..=b'9', ..] => self.digits(end + 2),
            [b'e' | b'E', b'0'..=b'9', ..] => self.digits(end + 1),
            _ => end,
        }
    }

    /// Digits, and underscores between two of them.
    fn digits(&self, at: usize) -> usize {
        let is_digit = |at| self.byte(at).is_some_and(|b| b.is_ascii_digit());
        let mut end = self.while_at(at, |b| b.is_ascii_digit());
        while end > at && self.byte(end) == Some(b'_') && is_digit(end + 1) {
            end = self.while_at(end + 1, |b| b.is_ascii_digit());
        }
        end
    }

    /// The longest run of operator characters, but for a comment in it and a sign behind it.
    fn operator(&self, start: usize) -> usize {
        let mut end = self.while_at(start, is_operator);
        let run = &self.text[start..end];
        if let Some(comment) = run.windows(2).position(|pair| matches!(pair, b"--" | b"/*")) {
            end = start + comment;
        }
        let run = &self.text[start..end];
        if !run.iter().any(|b| b"~!@#^&|`?%".contains(b)) {
            // `1+-2`: only an operator with one of these in it may end in a sign.
            while end > start + 1 && matches!(self.text[end - 1], b'+' | b'-') {
                end -= 1;
            }
        }
        end.max(start + 1)
    }

    /// Skips spaces and comments. False: a comment has no end, and begins here.
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.rest(self.at) {
                [b, ..] if is_space(*b) => self.at += 1,
                [b'-', b'-', ..] => self.at = self.line_end(self.at),
                [b'/', b'*', ..] => match self.comment_end(self.at + 2) {
                    Some(end) => self.at = end,
                    None => return false,
                },
                _ => return true,
            }
        }
    }

    /// Behind a comment whose opening was read; comments nest.
    fn comment_end(&self, mut at: usize) -> Option<usize> {
        let mut depth = 1;
        while depth > 0 {
            at += memchr::memchr2(b'*', b'/', self.rest(at))?;
            match self.rest(at) {
                [b'*', b'/', ..] => depth -= 1,
                [b'/', b'*', ..] => depth += 1,
                _ => {
                    at += 1;
                    continue;
                }
            }
            at += 2;
        }
        Some(at)
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    #[inline]
    fn next(&mut self) -> Option<Token> {
        if !self.skip_blank() {
            let start = std::mem::replace(&mut self.at, self.text.len());
            return Some(Token { kind: Kind::Broken, start, end: self.text.len() });
        }
        let start = self.at;
        let (kind, end) = self.token_at(start, self.byte(start)?);
        self.at = end;
        Some(Token { kind, start, end })
    }
}

/// What a byte may be part of, a bit each; the tokens of a text are looked at byte by byte, so this is one load.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut b = 0;
    while b < 256 {
        let byte = b as u8;
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) {
            classes[b] |= SPACE;
        }
        if byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80 {
            classes[b] |= WORD_START | WORD;
        }
        if byte.is_ascii_digit() || byte == b'$' {
            classes[b] |= WORD;
        }
        b += 1;
    }
    let operators = b"~!@#^&|`?+-*/%<>=";
    let mut at = 0;
    while at < operators.len() {
        classes[operators[at] as usize] |= OPERATOR;
        at += 1;
    }
    classes
};
const SPACE: u8 = 1;
const WORD_START: u8 = 1 << 1;
const WORD: u8 = 1 << 2;
const OPERATOR: u8 = 1 << 3;

#[inline]
fn is_a(b: u8, class: u8) -> bool {
    CLASSES[usize::from(b)] & class != 0
}

pub(crate) fn is_space(b: u8) -> bool {
    is_a(b, SPACE)
}

fn is_word_start(b: u8) -> bool {
    is_a(b, WORD_START)
}

fn is_word(b: u8) -> bool {
    is_a(b, WORD)
}

pub(crate) fn is_operator(b: u8) -> bool {
    is_a(b, OPERATOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<(Kind, &str)> {
        let lexer = Lexer::new(text.as_bytes(), Backslash::Plain);
        lexer.map(|t| (t.kind, &text[t.start..t.end])).collect()
    }

    fn kinds(text: &str) -> Vec<Kind> {
        tokens(text).into_iter().map(|(kind, _)| kind).collect()
    }

    fn words(text: &str) -> Vec<&str> {
        tokens(text).into_iter().map(|(_, word)| word).collect()
    }

    #[test]
    fn a_statement_falls_into_its_tokens() {
        use Kind::{Mark, Name, Number, Operator, Parameter, Text, Word};
        let text = r#"select a."B c", $1::int4, 'it''s', 1.5e-3 from t -- end
            where x<>-1 /* a /* nested */ one */ and y = any($2);"#;
        let all = tokens(text);
        let expected = [
            (Word, "select"),
            (Word, "a"),
            (Mark, "."),
            (Name, "\"B c\""),
            (Mark, ","),
            (Parameter, "$1"),
            (Mark, "::"),
            (Word, "int4"),
            (Mark, ","),
            (Text, "'it''s'"),
            (Mark, ","),
            (Number, "1.5e-3"),
            (Word, "from"),
            (Word, "t"),
            (Word, "where"),
            (Word, "x"),
            (Operator, "<>"),
            (Operator, "-"),
            (Number, "1"),
        ];
        assert_eq!(all[..expected.len()], expected);
        assert_eq!(
            words(&text[text.find("and y").expect("it is there")..]),
            ["and", "y", "=", "any", "(", "$2", ")", ";"]
        );
    }

    /// A semicolon or a keyword within a string is no more than text.
    #[test]
    fn strings_of_all_kinds_are_one_token() {
        for text in [
            "'a;b'",
            "''",
            "E'a\\';b'",
            "e'\\\\'",
            "B'101'",
            "X'1F'",
            "N'x'",
            "U&'d\\0061t'",
            "$$a;'b$$",
            "$t$ $$ $x$ $t$",
            "'a'\n  'b'",
            "'a' -- why\n'b'",
            "$é$x$é$",
        ] {
            assert_eq!(tokens(text), [(Kind::Text, text)], "{text}");
        }
        assert_eq!(kinds("'a' 'b'"), [Kind::Text, Kind::Text], "on one line they are two");
        assert_eq!(kinds("'a\\'"), [Kind::Text], "a backslash is itself");
        let escaping = Lexer::new(b"'a\\';' x", Backslash::Escape).map(|t| t.kind).collect::<Vec<_>>();
        assert_eq!(escaping, [Kind::Text, Kind::Word]);
        assert_eq!(kinds("U&\"d\\0061t\""), [Kind::Name]);
        assert_eq!(kinds("a$b$c"), [Kind::Word], "a dollar within a word quotes nothing");
    }

    #[test]
    fn what_has_no_end_is_broken_to_the_end() {
        for text in ["'a", "\"a", "E'a\\'", "E'\\", "$$a$", "$t$ a $T$", "/* a /* b */", "U&'"] {
            assert_eq!(tokens(text), [(Kind::Broken, text)], "{text}");
        }
        assert_eq!(kinds("$ 1"), [Kind::Broken, Kind::Number]);
        assert_eq!(kinds("a \\ b"), [Kind::Word, Kind::Broken, Kind::Word]);
    }

    #[test]
    fn numbers_end_where_postgresql_ends_them() {
        for text in ["1", "1.", ".5", "1_000", "0xFf_1", "0b10", "0o17", "1e5", "1.e+5", "12.34E-5"] {
            assert_eq!(tokens(text), [(Kind::Number, text)], "{text}");
        }
        assert_eq!(words("1..10"), ["1", "..", "10"]);
        assert_eq!(words("1e"), ["1", "e"]);
        assert_eq!(words("a[1:2]"), ["a", "[", "1", ":", "2", "]"]);
    }

    #[test]
    fn operators_end_before_comments_and_signs() {
        assert_eq!(words("1+-2"), ["1", "+", "-", "2"]);
        assert_eq!(words("a @-b"), ["a", "@-", "b"]);
        assert_eq!(words("a->>'b'"), ["a", "->>", "'b'"]);
        assert_eq!(words("1--2\n+3"), ["1", "+", "3"]);
        assert_eq!(words("a*/*x*/b"), ["a", "*", "b"]);
        assert_eq!(words("a => 1, b := 2"), ["a", "=>", "1", ",", "b", ":=", "2"]);
        assert_eq!(words("a --"), ["a"]);
    }
}

//! The fields of a line: read one by one, and quoted for printing.

use super::TextError;

/// Lists in lists in lists are not part of the language.
const DEPTH_MAX: u32 = 2;

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// `"…"` or `x"…"`.
    Text(Vec<u8>),
    /// Anything without quotes: a name, a number, `NULL`.
    Word(String),
    /// `[…, …]`.
    List(Vec<Item>),
}

/// Fields in order, taken from the front. Each method takes one and fails if it is of another kind.
#[derive(Debug)]
pub(super) struct Items {
    items: std::vec::IntoIter<Item>,
}

impl Items {
    /// Reads all fields of a line.
    pub(super) fn read(line: &str) -> Result<Items, TextError> {
        let mut cursor = Cursor { rest: line };
        let mut items = Vec::new();
        loop {
            cursor.skip_space();
            if cursor.rest.is_empty() {
                return Ok(Items { items: items.into_iter() });
            }
            items.push(cursor.item(0)?);
        }
    }

    fn next(&mut self) -> Result<Item, TextError> {
        self.items.next().ok_or_else(|| TextError::new("a field is missing at the end of the line"))
    }

    /// Whether all fields were taken.
    pub(super) fn is_empty(&self) -> bool {
        self.items.as_slice().is_empty()
    }

    /// Refuses fields that nobody took.
    pub(super) fn end(&self) -> Result<(), TextError> {
        match self.items.as_slice() {
            [] => Ok(()),
            more => Err(TextError::new(format!("{} fields too many", more.len()))),
        }
    }

    pub(super) fn word(&mut self) -> Result<String, TextError> {
        match self.next()? {
            Item::Word(word) => Ok(word),
            other => Err(TextError::new(format!("expected a word, found {other:?}"))),
        }
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self) -> Result<T, TextError> {
        let word = self.word()?;
        word.parse().map_err(|_| TextError::new(format!("{word} is not a number that fits here")))
    }

    /// Bytes of any kind.
    pub(super) fn data(&mut self) -> Result<Vec<u8>, TextError> {
        self.value()?.ok_or_else(|| TextError::new("NULL has no place here"))
    }

    /// Bytes without a NUL, which would end a string on the wire.
    pub(super) fn string(&mut self) -> Result<Vec<u8>, TextError> {
        let text = self.data()?;
        if text.contains(&0) {
            return Err(TextError::new("a string has a NUL in it"));
        }
        Ok(text)
    }

    /// Bytes or the word `NULL`.
    pub(super) fn value(&mut self) -> Result<Option<Vec<u8>>, TextError> {
        match self.next()? {
            Item::Text(text) => Ok(Some(text)),
            Item::Word(word) if word == "NULL" => Ok(None),
            other => Err(TextError::new(format!("expected a string, found {other:?}"))),
        }
    }

    /// The items of a list, as many as the protocol can count.
    pub(super) fn list(&mut self) -> Result<Items, TextError> {
        match self.next()? {
            Item::List(items) if items.len() > usize::from(u16::MAX) => {
                Err(TextError::new("a list has more than 65,535 items"))
            }
            Item::List(items) => Ok(Items { items: items.into_iter() }),
            other => Err(TextError::new(format!("expected a list, found {other:?}"))),
        }
    }

    /// A list of which `each` takes the items.
    pub(super) fn list_of<T>(
        &mut self,
        each: impl Fn(&mut Items) -> Result<T, TextError>,
    ) -> Result<Vec<T>, TextError> {
        let mut list = self.list()?;
        let mut taken = Vec::new();
        while !list.is_empty() {
            taken.push(each(&mut list)?);
        }
        Ok(taken)
    }

    /// How many are left.
    pub(super) fn len(&self) -> usize {
        self.items.as_slice().len()
    }
}

/// A place in a line.
struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    /// Takes `token` if it is next.
    fn takes(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn item(&mut self, depth: u32) -> Result<Item, TextError> {
        if self.takes("x\"") {
            return self.hexadecimal();
        }
        if self.takes("\"") {
            return self.quoted();
        }
        if self.takes("[") {
            return self.list(depth + 1);
        }
        let end = self.rest.find([' ', '\t', '\r', '\n', ',', '[', ']', '"']).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(TextError::new(format!("unexpected {}", self.rest.chars().next().unwrap_or(' '))));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Item::Word(word.to_owned()))
    }

    fn list(&mut self, depth: u32) -> Result<Item, TextError> {
        if depth > DEPTH_MAX {
            return Err(TextError::new("a list is too deep"));
        }
        let mut items = Vec::new();
        self.skip_space();
        if self.takes("]") {
            return Ok(Item::List(items));
        }
        loop {
            self.skip_space();
            items.push(self.item(depth)?);
            self.skip_space();
            if self.takes("]") {
                return Ok(Item::List(items));
            }
            if !self.takes(",") {
                return Err(TextError::new("a list has no ] at its end, or no comma between its items"));
            }
        }
    }

    fn hexadecimal(&mut self) -> Result<Item, TextError> {
        let (digits, rest) = self.rest.split_once('"').ok_or_else(|| TextError::new("a string has no end"))?;
        self.rest = rest;
        let (pairs, odd) = digits.as_bytes().as_chunks::<2>();
        if !odd.is_empty() {
            return Err(TextError::new("an odd number of hexadecimal digits"));
        }
        pairs.iter().map(|pair| byte(*pair)).collect::<Result<_, _>>().map(Item::Text)
    }

    fn quoted(&mut self) -> Result<Item, TextError> {
        let mut text = Vec::new();
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Item::Text(text));
                }
                '\\' => text.push(match characters.next().map(|(_, escaped)| escaped) {
                    Some('n') => b'\n',
                    Some('r') => b'\r',
                    Some('t') => b'\t',
                    Some('"') => b'"',
                    Some('\\') => b'\\',
                    Some('x') => {
                        let mut digit = || characters.next().and_then(|(_, digit)| u8::try_from(digit).ok());
                        byte([digit().unwrap_or(b' '), digit().unwrap_or(b' ')])?
                    }
                    _ => return Err(TextError::new("an unknown escape in a string")),
                }),
                other => text.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(TextError::new("a string has no end"))
    }
}

fn byte(pair: [u8; 2]) -> Result<u8, TextError> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    match (digit(pair[0]), digit(pair[1])) {
        (Some(high), Some(low)) => Ok((high * 16 + low) as u8),
        _ => Err(TextError::new("not two hexadecimal digits")),
    }
}

/// Text in quotes; control characters and what is not UTF-8 are escaped.
pub(super) fn quote(text: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '"' | '\\' => quoted.extend(['\\', character]),
                other if other.is_control() => escape(&mut quoted, other.encode_utf8(&mut [0; 4]).as_bytes()),
                other => quoted.push(other),
            }
        }
        escape(&mut quoted, chunk.invalid());
    }
    quoted.push('"');
    quoted
}

fn escape(quoted: &mut String, bytes: &[u8]) {
    for byte in bytes {
        quoted.push_str(&format!("\\x{byte:02x}"));
    }
}

/// Bytes as hexadecimal.
pub(super) fn quote_hexadecimal(bytes: &[u8]) -> String {
    let mut quoted = String::from("x\"");
    for byte in bytes {
        quoted.push_str(&format!("{byte:02x}"));
    }
    quoted.push('"');
    quoted
}

/// Quotes for text, hexadecimal where more than a quarter is not text.
pub(super) fn quote_data(bytes: &[u8]) -> String {
    let is_odd = |character: &char| character.is_control() && !matches!(character, '\n' | '\r' | '\t');
    let odd: usize =
        bytes.utf8_chunks().map(|chunk| chunk.invalid().len() + chunk.valid().chars().filter(is_odd).count()).sum();
    if odd * 4 > bytes.len() { quote_hexadecimal(bytes) } else { quote(bytes) }
}

/// A list of what `items` print.
pub(super) fn bracket(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

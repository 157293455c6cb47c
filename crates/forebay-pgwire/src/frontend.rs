//! What clients send, as views that borrow the body of a frame.

use crate::decode::{Cause, DecodeError, Reader};

/// Tags of the messages that clients send.
pub mod tag {
    #![allow(missing_docs, reason = "each is the name of a message in PostgreSQL's documentation")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse share a tag.
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// Parse: prepares a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Name of the statement; empty for the unnamed one.
    pub name: &'a [u8],
    /// SQL text.
    pub query: &'a [u8],
    /// Types that the client fixed.
    pub types: Types<'a>,
}

impl<'a> Parse<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<Parse<'a>, DecodeError> {
        let mut reader = Reader::new("Parse", body);
        let (name, query) = (reader.string()?, reader.string()?);
        let types = Types { bytes: reader.counted(4)? };
        reader.end()?;
        Ok(Parse { name, query, types })
    }
}

/// Type oids, as they stand on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Types<'a> {
    /// Four bytes each.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Types<'a> {
    /// The oids without their count, four bytes each in network order.
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The oids.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u32> + Clone {
        self.bytes.chunks_exact(4).map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]))
    }

    /// How many.
    pub fn len(self) -> usize {
        self.bytes.len() / 4
    }

    /// Whether the client left all types to the server.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }
}

/// The beginning of a Bind, which may be all that has arrived of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindHead<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Name of the statement; empty for the unnamed one.
    pub statement: &'a [u8],
    /// Bytes of the body that the two names and their NULs take.
    pub bytes: usize,
}

impl<'a> BindHead<'a> {
    /// Reads the beginning of a body; `None` while the NULs have not arrived.
    ///
    /// `None` for a body that is complete means that it is malformed.
    pub fn decode(prefix: &'a [u8]) -> Option<BindHead<'a>> {
        let mut reader = Reader::new("Bind", prefix);
        let portal = reader.string().ok()?;
        let statement = reader.string().ok()?;
        Some(BindHead { portal, statement, bytes: portal.len() + statement.len() + 2 })
    }
}

/// A whole Bind: makes a portal of a statement and its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Name of the statement; empty for the unnamed one.
    pub statement: &'a [u8],
    /// Formats of the values: none (all text), one for all, or one each.
    pub formats: Formats<'a>,
    /// The values.
    pub values: Values<'a>,
    /// Formats of the result's columns.
    pub result_formats: Formats<'a>,
}

impl<'a> Bind<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<Bind<'a>, DecodeError> {
        let mut reader = Reader::new("Bind", body);
        let (portal, statement) = (reader.string()?, reader.string()?);
        let formats = Formats { bytes: reader.counted(2)? };
        let values = Values::decode(&mut reader)?;
        let result_formats = Formats { bytes: reader.counted(2)? };
        reader.end()?;
        Ok(Bind { portal, statement, formats, values, result_formats })
    }
}

/// FunctionCall: runs a function by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionCall<'a> {
    /// The function's oid.
    pub function: u32,
    /// Formats of the values, as in [`Bind`].
    pub formats: Formats<'a>,
    /// The values.
    pub values: Values<'a>,
    /// Format of the result.
    pub result_format: u16,
}

impl<'a> FunctionCall<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<FunctionCall<'a>, DecodeError> {
        let mut reader = Reader::new("FunctionCall", body);
        let function = reader.u32()?;
        let formats = Formats { bytes: reader.counted(2)? };
        let values = Values::decode(&mut reader)?;
        let result_format = reader.u16()?;
        reader.end()?;
        Ok(FunctionCall { function, formats, values, result_format })
    }
}

/// Format codes, 0 for text and 1 for binary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats<'a> {
    /// Two bytes each.
    pub(crate) bytes: &'a [u8],
}

impl Formats<'_> {
    /// The codes.
    pub fn iter(self) -> impl ExactSizeIterator<Item = i16> + Clone {
        self.bytes.chunks_exact(2).map(|code| i16::from_be_bytes([code[0], code[1]]))
    }
}

/// Values, each bytes or NULL: of a Bind, or of a DataRow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values<'a> {
    count: u16,
    /// Length words and bytes; checked when the message was read.
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    /// Takes a count and as many values.
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Values<'a>, DecodeError> {
        let count = reader.u16()?;
        let before = reader.peek();
        for _ in 0..count {
            reader.value()?;
        }
        Ok(Values { count, bytes: &before[..before.len() - reader.peek().len()] })
    }

    /// The values; `None` is NULL.
    pub fn iter(self) -> impl Iterator<Item = Option<&'a [u8]>> + Clone {
        let mut reader = Reader::new("Bind", self.bytes);
        (0..self.count).map_while(move |_| reader.value().ok())
    }

    /// How many.
    pub fn len(self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }
}

/// What a Describe or a Close names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// `b'S'` for a statement, `b'P'` for a portal.
    pub kind: u8,
    /// Its name; empty for the unnamed one.
    pub name: &'a [u8],
}

impl<'a> Target<'a> {
    /// The kind of a statement.
    pub const STATEMENT: u8 = b'S';
    /// The kind of a portal.
    pub const PORTAL: u8 = b'P';

    /// Reads a whole body of a Describe or a Close.
    pub fn decode(body: &'a [u8]) -> Result<Target<'a>, DecodeError> {
        let mut reader = Reader::new("Describe or Close", body);
        let kind = reader.u8()?;
        if kind != Target::STATEMENT && kind != Target::PORTAL {
            return Err(reader.error(Cause::UnknownKind(kind)));
        }
        let name = reader.string()?;
        reader.end()?;
        Ok(Target { kind, name })
    }

    /// Whether it names a prepared statement.
    pub fn is_statement(&self) -> bool {
        self.kind == Target::STATEMENT
    }
}

/// Execute: runs a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Rows to send before the portal is suspended; zero or less for all of them, as in PostgreSQL.
    pub rows_max: i32,
}

impl<'a> Execute<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<Execute<'a>, DecodeError> {
        let mut reader = Reader::new("Execute", body);
        let execute = Execute { portal: reader.string()?, rows_max: reader.i32()? };
        reader.end()?;
        Ok(execute)
    }
}

/// Query: runs the statements of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// SQL text.
    pub text: &'a [u8],
}

impl<'a> Query<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<Query<'a>, DecodeError> {
        only_string("Query", body).map(|text| Query { text })
    }
}

/// CopyFail: ends a COPY by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFail<'a> {
    /// What the client says went wrong.
    pub reason: &'a [u8],
}

impl<'a> CopyFail<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<CopyFail<'a>, DecodeError> {
        only_string("CopyFail", body).map(|reason| CopyFail { reason })
    }
}

/// Reads the whole body of a PasswordMessage: the password, or the text of an MD5 answer.
pub fn password(body: &[u8]) -> Result<&[u8], DecodeError> {
    only_string("PasswordMessage", body)
}

/// SASLInitialResponse: the mechanism a client chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// Name of the mechanism.
    pub mechanism: &'a [u8],
    /// The mechanism's first message, where the client sends it at once.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<SaslInitialResponse<'a>, DecodeError> {
        let mut reader = Reader::new("SASLInitialResponse", body);
        let response = SaslInitialResponse { mechanism: reader.string()?, data: reader.value()? };
        reader.end()?;
        Ok(response)
    }
}

/// SASLResponse: the mechanism's next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslResponse<'a> {
    /// The message.
    pub data: &'a [u8],
}

impl<'a> SaslResponse<'a> {
    /// The whole body is the message: every body is well-formed.
    pub fn decode(body: &'a [u8]) -> SaslResponse<'a> {
        SaslResponse { data: body }
    }
}

pub(crate) fn only_string<'a>(message: &'static str, body: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let mut reader = Reader::new(message, body);
    let text = reader.string()?;
    reader.end()?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_bind_are_read_before_its_values_arrive() {
        let head = BindHead { portal: b"p", statement: b"s1", bytes: 5 };
        assert_eq!(BindHead::decode(b"p\0s1\0"), Some(head));
        assert_eq!(BindHead::decode(b"p\0s1\0\0\0"), Some(head));
        assert_eq!(BindHead::decode(b"p\0s1"), None);
        assert_eq!(BindHead::decode(b""), None);
    }

    #[test]
    fn a_count_is_not_believed() {
        let error = |message, cause| Err(DecodeError { message, cause });
        assert_eq!(Parse::decode(b"\0\0\xff\xff").map(|_| ()), error("Parse", Cause::Short));
        assert_eq!(Bind::decode(b"\0\0\xff\xff").map(|_| ()), error("Bind", Cause::Short));
        assert_eq!(Bind::decode(b"\0\0\0\0\xff\xff").map(|_| ()), error("Bind", Cause::Short));
        assert_eq!(Bind::decode(b"\0\0\0\0\0\x01\x7f\xff\xff\xff").map(|_| ()), error("Bind", Cause::Short));
        assert_eq!(Bind::decode(b"\0\0\0\0\0\x01\xff\xff\xff\xfe").map(|_| ()), error("Bind", Cause::Negative));
        assert_eq!(FunctionCall::decode(b"\0\0\0\x01\0\0\xff\xff").map(|_| ()), error("FunctionCall", Cause::Short));
    }

    #[test]
    fn null_and_an_empty_value_differ() {
        let bind = Bind::decode(b"\0\0\0\0\0\x02\xff\xff\xff\xff\0\0\0\0\0\0").unwrap();
        assert_eq!(bind.values.iter().collect::<Vec<_>>(), [None, Some(&b""[..])]);
        let none = SaslInitialResponse::decode(b"X\0\xff\xff\xff\xff").unwrap();
        assert_eq!((none.mechanism, none.data), (&b"X"[..], None));
    }

    /// Bytes after the last field would be seen by us and not by the server, or the reverse.
    #[test]
    fn bytes_after_the_last_field_are_refused() {
        assert!(Query::decode(b"a\0b").is_err());
        assert!(Parse::decode(b"\0\0\0\0x").is_err());
        assert!(Execute::decode(b"\0\0\0\0\0x").is_err());
        assert!(FunctionCall::decode(b"\0\0\0\x01\0\0\0\0\0\0x").is_err());
        assert!(Target::decode(b"S\0x").is_err());
        assert!(password(b"secret\0x").is_err());
        assert!(SaslInitialResponse::decode(b"X\0\0\0\0\x01ab").is_err());
    }

    #[test]
    fn a_target_is_a_statement_or_a_portal() {
        assert!(Target::decode(b"Sx\0").unwrap().is_statement());
        assert!(!Target::decode(b"P\0").unwrap().is_statement());
        let error = DecodeError { message: "Describe or Close", cause: Cause::UnknownKind(b'X') };
        assert_eq!(Target::decode(b"Xx\0"), Err(error));
    }
}

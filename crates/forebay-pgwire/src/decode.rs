//! Reading the fields of a message body, and what can be wrong with one.

use std::fmt;

use memchr::memchr;

/// Why a message body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The body ends inside a field.
    Short,
    /// A string has no NUL before the end of the body.
    MissingNul,
    /// Bytes follow the last field.
    TrailingBytes,
    /// A byte that selects a variant has no meaning here.
    UnknownKind(u8),
    /// A secret key is shorter than 4 or longer than 256 bytes.
    KeyLength(usize),
    /// A count or length is negative where that has no meaning.
    Negative,
    /// The frame has another tag than the function was asked to read.
    UnexpectedTag(u8),
    /// The head of the frame is impossible.
    Head,
}

/// A body that is not a well-formed message of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The message's name in PostgreSQL's documentation.
    pub message: &'static str,
    /// What is wrong.
    pub cause: Cause,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {} message: ", self.message)?;
        match self.cause {
            Cause::Short => write!(f, "it ends inside a field"),
            Cause::MissingNul => write!(f, "a string has no terminator"),
            Cause::TrailingBytes => write!(f, "bytes follow its last field"),
            Cause::UnknownKind(kind) => write!(f, "unknown kind {kind}"),
            Cause::KeyLength(bytes) => write!(f, "a key of {bytes} bytes (4 to 256 are allowed)"),
            Cause::Negative => write!(f, "a length is negative"),
            Cause::UnexpectedTag(tag) => write!(f, "its tag is {tag}"),
            Cause::Head => write!(f, "its length is impossible"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Where the first NUL stands. Most names are empty: no search is set out on for them.
#[inline]
pub(crate) fn nul(bytes: &[u8]) -> Option<usize> {
    if bytes.first() == Some(&0) { Some(0) } else { memchr(0, bytes) }
}

/// A cursor over a body. Each method takes one field and fails without moving past the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'static str, body: &'a [u8]) -> Reader<'a> {
        Reader { rest: body, message }
    }

    pub(crate) fn error(&self, cause: Cause) -> DecodeError {
        DecodeError { message: self.message, cause }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or(self.error(Cause::Short))?;
        self.rest = rest;
        Ok(*field)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn salt(&mut self) -> Result<[u8; 4], DecodeError> {
        self.array()
    }

    /// `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (field, rest) = self.rest.split_at_checked(count).ok_or(self.error(Cause::Short))?;
        self.rest = rest;
        Ok(field)
    }

    /// A string without its NUL.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let end = nul(self.rest).ok_or(self.error(Cause::MissingNul))?;
        let field = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(field)
    }

    /// A length word and as many bytes; -1 is NULL.
    pub(crate) fn value(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.i32()? {
            -1 => Ok(None),
            // A negative length fails the conversion; a positive one fits, as usize is at least 32 bits wide.
            bytes => {
                let bytes = usize::try_from(bytes).map_err(|_| self.error(Cause::Negative))?;
                self.bytes(bytes).map(Some)
            }
        }
    }

    /// A 16-bit count and as many items of `item_bytes`.
    pub(crate) fn counted(&mut self, item_bytes: usize) -> Result<&'a [u8], DecodeError> {
        let count = usize::from(self.u16()?);
        self.bytes(count * item_bytes)
    }

    /// A secret key: all that is left, 4 to 256 bytes.
    pub(crate) fn key(&mut self) -> Result<&'a [u8], DecodeError> {
        let key = self.remaining();
        if !(4..=256).contains(&key.len()) {
            return Err(self.error(Cause::KeyLength(key.len())));
        }
        Ok(key)
    }

    /// All that is left; the reader is at its end afterwards.
    pub(crate) fn remaining(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// All that is left, without taking it.
    pub(crate) fn peek(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuses what follows the last field.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(Cause::TrailingBytes)) }
    }
}

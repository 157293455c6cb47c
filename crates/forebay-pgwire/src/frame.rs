//! Frames: the five bytes that begin every message after the first packet.
//!
//! A frame is a tag byte, a length word that counts itself but not the tag, and a body. The hot loop of relay calls
//! [`head`] once a frame and looks at nothing else of it.

use std::fmt;

/// Bytes of a tag and a length word.
pub const HEAD_BYTES: usize = 5;

/// Limit for frames while a client is not authenticated. PostgreSQL allows tokens of 65,535 bytes.
pub const AUTH_BYTES_MAX: u32 = 65_535 + HEAD_BYTES as u32;

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The message type; what it means depends on who sent it.
    pub tag: u8,
    /// Bytes of the whole frame, tag and length word included; at least [`HEAD_BYTES`].
    pub bytes: u32,
}

impl Head {
    /// Bytes that follow the head.
    #[inline]
    pub fn body_bytes(self) -> u32 {
        self.bytes - HEAD_BYTES as u32
    }
}

/// A length word that can't be believed. The stream is lost: nothing after it has a known beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length word is below the four bytes that it counts itself.
    TooShort,
    /// The frame is longer than the limit in force.
    TooLong {
        /// Bytes of the whole frame.
        bytes: u64,
        /// The limit.
        max: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooShort => write!(f, "invalid message length: below 4 bytes"),
            FrameError::TooLong { bytes, max } => {
                write!(f, "invalid message length: {bytes} bytes, {max} are allowed")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Reads the head of the frame that begins `data`; `None` while fewer than [`HEAD_BYTES`] are there.
///
/// `bytes_max` limits the whole frame, tag included.
#[inline]
pub fn head(data: &[u8], bytes_max: u32) -> Result<Option<Head>, FrameError> {
    let Some(&[tag, a, b, c, d]) = data.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    // One comparison for both limits: a length below 4 wraps to a huge number. What passes is below bytes_max, so
    // that adding the tag can't overflow.
    if length.wrapping_sub(4) >= bytes_max.saturating_sub(4) {
        return Err(refusal(length, bytes_max));
    }
    Ok(Some(Head { tag, bytes: length + 1 }))
}

#[cold]
#[inline(never)]
fn refusal(length: u32, max: u32) -> FrameError {
    if length < 4 { FrameError::TooShort } else { FrameError::TooLong { bytes: u64::from(length) + 1, max } }
}

/// The complete frames of a slice, in order; stops before a frame that is cut and after an error.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    bytes_max: u32,
    is_broken: bool,
}

impl<'a> Frames<'a> {
    /// Frames of `data`, each of at most `bytes_max` bytes.
    #[inline]
    pub fn new(data: &'a [u8], bytes_max: u32) -> Frames<'a> {
        Frames { rest: data, bytes_max, is_broken: false }
    }

    /// What the iterator has not given out: after its end, the beginning of a cut frame or what follows an error.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<(Head, &'a [u8]), FrameError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken {
            return None;
        }
        match head(self.rest, self.bytes_max) {
            Ok(Some(head)) => {
                let (frame, rest) = self.rest.split_at_checked(head.bytes as usize)?;
                self.rest = rest;
                Some(Ok((head, &frame[HEAD_BYTES..])))
            }
            Ok(None) => None,
            Err(error) => {
                self.is_broken = true;
                Some(Err(error))
            }
        }
    }
}

impl std::iter::FusedIterator for Frames<'_> {}

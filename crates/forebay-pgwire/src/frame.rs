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

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: &[u8] = b"S\0\0\0\x04";

    #[test]
    fn a_head_is_not_there_before_its_fifth_byte() {
        for cut in 0..HEAD_BYTES {
            assert_eq!(head(&SYNC[..cut], 100), Ok(None));
        }
        assert_eq!(head(SYNC, 100), Ok(Some(Head { tag: b'S', bytes: 5 })));
    }

    /// Believing such a length would loop for ever on a frame of no bytes.
    #[test]
    fn a_length_below_four_is_refused() {
        for length in 0..4 {
            assert_eq!(head(&[b'S', 0, 0, 0, length], u32::MAX), Err(FrameError::TooShort));
            assert_eq!(head(&[b'S', 0, 0, 0, length], 0), Err(FrameError::TooShort));
        }
    }

    #[test]
    fn a_frame_may_be_as_long_as_the_limit_and_no_longer() {
        assert_eq!(head(b"Q\0\0\0\x09", 10), Ok(Some(Head { tag: b'Q', bytes: 10 })));
        assert_eq!(head(b"Q\0\0\0\x0a", 10), Err(FrameError::TooLong { bytes: 11, max: 10 }));
        assert_eq!(head(SYNC, 5), Ok(Some(Head { tag: b'S', bytes: 5 })));
        assert_eq!(head(SYNC, 4), Err(FrameError::TooLong { bytes: 5, max: 4 }));
        assert_eq!(head(SYNC, 0), Err(FrameError::TooLong { bytes: 5, max: 0 }));
    }

    /// The tag makes the frame one byte longer than a length word can count.
    #[test]
    fn the_greatest_length_word_does_not_overflow() {
        let whole = Err(FrameError::TooLong { bytes: 1 << 32, max: u32::MAX });
        assert_eq!(head(b"Q\xff\xff\xff\xff", u32::MAX), whole);
        assert_eq!(head(b"Q\xff\xff\xff\xfe", u32::MAX), Ok(Some(Head { tag: b'Q', bytes: u32::MAX })));
    }

    #[test]
    fn frames_end_before_one_that_is_cut() {
        let data = b"S\0\0\0\x04Q\0\0\0\x06a\0Q\0\0\0\x06b";
        let mut frames = Frames::new(data, 100);
        assert_eq!(frames.next(), Some(Ok((Head { tag: b'S', bytes: 5 }, &b""[..]))));
        assert_eq!(frames.next(), Some(Ok((Head { tag: b'Q', bytes: 7 }, &b"a\0"[..]))));
        assert_eq!(frames.next(), None);
        assert_eq!(frames.rest(), b"Q\0\0\0\x06b");
    }

    /// After a bad length nothing has a known beginning: going on would read a body as messages.
    #[test]
    fn frames_end_after_an_error() {
        let mut frames = Frames::new(b"S\0\0\0\x03S\0\0\0\x04", 100);
        assert_eq!(frames.next(), Some(Err(FrameError::TooShort)));
        assert_eq!(frames.next(), None);
    }
}

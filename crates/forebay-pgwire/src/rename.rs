//! Another statement name in a frame, with all the bytes after it left where they are.
//!
//! Each function looks at the beginning of a frame, appends what replaces it to `out`, and says from which offset of
//! the original frame the bytes go on. A pipeline is thus forwarded by scatter-gather: new beginnings from one buffer,
//! the rest from the buffers that it came in. A body that has not arrived yet is streamed behind its new beginning.

use crate::decode::{Cause, DecodeError};
use crate::frame::{self, HEAD_BYTES};
use crate::frontend::{BindHead, Target, tag};
use crate::write::before_nul;

/// A new beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Bytes that were appended.
    pub head_bytes: usize,
    /// Bytes of the original frame, from its tag on, that they replace.
    pub skip: usize,
    /// Bytes of the whole new frame, tag included.
    pub bytes: u32,
}

/// Gives a Bind another statement; `None` while its names have not arrived.
///
/// `data` begins with the frame's tag and may go on after its end.
pub fn bind(out: &mut Vec<u8>, data: &[u8], statement: &[u8]) -> Result<Option<Rename>, DecodeError> {
    let Some(frame) = Beginning::read("Bind", tag::BIND, data)? else { return Ok(None) };
    let Some(names) = BindHead::decode(frame.body) else { return frame.incomplete() };
    let keep = HEAD_BYTES..HEAD_BYTES + names.portal.len() + 1;
    frame.replace(out, &data[keep], names.statement, statement).map(Some)
}

/// Gives a Parse another name; `None` while its name has not arrived.
pub fn parse(out: &mut Vec<u8>, data: &[u8], name: &[u8]) -> Result<Option<Rename>, DecodeError> {
    let Some(frame) = Beginning::read("Parse", tag::PARSE, data)? else { return Ok(None) };
    let Some(end) = memchr::memchr(0, frame.body) else { return frame.incomplete() };
    frame.replace(out, &[], &frame.body[..end], name).map(Some)
}

/// Gives a Describe of a statement another name; `None` while it has not arrived. A portal's is refused.
pub fn describe(out: &mut Vec<u8>, data: &[u8], name: &[u8]) -> Result<Option<Rename>, DecodeError> {
    target("Describe", tag::DESCRIBE, out, data, name)
}

/// Gives a Close of a statement another name; `None` while it has not arrived. A portal's is refused.
pub fn close(out: &mut Vec<u8>, data: &[u8], name: &[u8]) -> Result<Option<Rename>, DecodeError> {
    target("Close", tag::CLOSE, out, data, name)
}

fn target(
    message: &'static str,
    tag: u8,
    out: &mut Vec<u8>,
    data: &[u8],
    name: &[u8],
) -> Result<Option<Rename>, DecodeError> {
    let Some(frame) = Beginning::read(message, tag, data)? else { return Ok(None) };
    let Some((kind, rest)) = frame.body.split_first() else { return frame.incomplete() };
    if *kind != Target::STATEMENT {
        return Err(DecodeError { message, cause: Cause::UnknownKind(*kind) });
    }
    let Some(end) = memchr::memchr(0, rest) else { return frame.incomplete() };
    frame.replace(out, &[*kind], &rest[..end], name).map(Some)
}

/// A frame of which at least the head is there.
struct Beginning<'a> {
    message: &'static str,
    head: frame::Head,
    /// What is there of the body, and nothing of the next frame.
    body: &'a [u8],
}

impl<'a> Beginning<'a> {
    fn read(message: &'static str, tag: u8, data: &'a [u8]) -> Result<Option<Beginning<'a>>, DecodeError> {
        let head = match frame::head(data, u32::MAX) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(None),
            Err(_) => return Err(DecodeError { message, cause: Cause::Head }),
        };
        if head.tag != tag {
            return Err(DecodeError { message, cause: Cause::UnexpectedTag(head.tag) });
        }
        let end = data.len().min(head.bytes as usize);
        Ok(Some(Beginning { message, head, body: &data[HEAD_BYTES..end] }))
    }

    /// A name has no NUL yet: more has to come, or nothing more can.
    fn incomplete(&self) -> Result<Option<Rename>, DecodeError> {
        if self.body.len() < self.head.body_bytes() as usize {
            return Ok(None);
        }
        Err(DecodeError { message: self.message, cause: Cause::MissingNul })
    }

    /// Appends head, `keep` and the new name; the old one stood right behind `keep`.
    fn replace(&self, out: &mut Vec<u8>, keep: &[u8], old: &[u8], new: &[u8]) -> Result<Rename, DecodeError> {
        let (new, start) = (before_nul(new), out.len());
        // The old name is part of the frame, so the difference can't be negative.
        let bytes = u64::from(self.head.bytes) - old.len() as u64 + new.len() as u64;
        let bytes = u32::try_from(bytes).map_err(|_| DecodeError { message: self.message, cause: Cause::Head })?;
        out.push(self.head.tag);
        out.extend_from_slice(&(bytes - 1).to_be_bytes());
        out.extend_from_slice(keep);
        out.extend_from_slice(new);
        out.push(0);
        let skip = HEAD_BYTES + keep.len() + old.len() + 1;
        Ok(Rename { head_bytes: out.len() - start, skip, bytes })
    }
}

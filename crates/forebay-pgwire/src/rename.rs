//! Another statement name in a frame, with all the bytes after it left where they are.
//!
//! Each function looks at the beginning of a frame, appends what replaces it to `out`, and says from which offset of
//! the original frame the bytes go on. A pipeline is thus forwarded by scatter-gather: new beginnings from one buffer,
//! the rest from the buffers that it came in. A body that has not arrived yet is streamed behind its new beginning.

use crate::decode::{Cause, DecodeError, nul};
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
    let Some(end) = nul(frame.body) else { return frame.incomplete() };
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
    let Some(end) = nul(rest) else { return frame.incomplete() };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write;

    const BIND: &[u8] = b"B\0\0\0\x10p\0s1\0\0\0\0\0\0\0\x99after";

    #[test]
    fn a_bind_gets_another_statement_and_keeps_its_portal() {
        let mut out = Vec::new();
        let renamed = bind(&mut out, BIND, b"server_7").unwrap().unwrap();
        assert_eq!(out, b"B\0\0\0\x16p\0server_7\0");
        assert_eq!(renamed, Rename { head_bytes: 16, skip: 10, bytes: 23 });
        assert_eq!(&BIND[renamed.skip..renamed.skip + 7], b"\0\0\0\0\0\0\x99");
    }

    #[test]
    fn a_bind_whose_names_have_not_arrived_waits() {
        let mut out = Vec::new();
        for cut in 0..10 {
            assert_eq!(bind(&mut out, &BIND[..cut], b"x"), Ok(None), "{cut}");
        }
        assert!(out.is_empty());
        assert!(bind(&mut out, &BIND[..10], b"x").unwrap().is_some());
    }

    /// A NUL of the next message would be taken for the end of a name, and the message cut to pieces.
    #[test]
    fn a_name_does_not_go_on_in_the_next_frame() {
        let mut data = b"B\0\0\0\x08p\0s1".to_vec();
        write::sync(&mut data);
        let error = DecodeError { message: "Bind", cause: Cause::MissingNul };
        assert_eq!(bind(&mut Vec::new(), &data, b"x"), Err(error));
        let mut data = b"P\0\0\0\x06s1".to_vec();
        write::sync(&mut data);
        assert!(parse(&mut Vec::new(), &data, b"x").is_err());
    }

    #[test]
    fn a_describe_or_close_of_a_portal_is_refused() {
        let mut data = Vec::new();
        write::describe(&mut data, b'P', "p");
        let error = DecodeError { message: "Describe", cause: Cause::UnknownKind(b'P') };
        assert_eq!(describe(&mut Vec::new(), &data, b"x"), Err(error));
        data[0] = b'C';
        assert!(close(&mut Vec::new(), &data, b"x").is_err());
    }

    #[test]
    fn a_frame_of_another_kind_is_refused() {
        let error = DecodeError { message: "Parse", cause: Cause::UnexpectedTag(b'B') };
        assert_eq!(parse(&mut Vec::new(), BIND, b"x"), Err(error));
    }

    #[test]
    fn a_new_name_ends_at_its_nul() {
        let mut data = Vec::new();
        write::close(&mut data, b'S', "long name");
        let mut out = Vec::new();
        let renamed = close(&mut out, &data, b"a\0b").unwrap().unwrap();
        assert_eq!((out.as_slice(), renamed.skip), (&b"C\0\0\0\x07Sa\0"[..], data.len()));
    }

    /// A frame just below 4 GiB can't grow.
    #[test]
    fn a_frame_that_would_be_too_long_is_refused() {
        let error = DecodeError { message: "Bind", cause: Cause::Head };
        let mut out = Vec::new();
        assert_eq!(bind(&mut out, b"B\xff\xff\xff\xfe\0\0", b"x"), Err(error));
        assert!(out.is_empty());
    }
}

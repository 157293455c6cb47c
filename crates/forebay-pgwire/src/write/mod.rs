//! Whole messages, appended to a `Vec<u8>`.
//!
//! A string ends at its first NUL: what follows one would be read as the next field, so it is not written. A list that
//! the protocol can't count (more than 65,535 items) or a message above 4 GiB is a mistake of the caller and panics.

mod to_client;
mod to_server;

pub use to_client::*;
pub use to_server::*;

use crate::decode::nul;

/// Appends a tagged message whose length word is filled in after `body` ran.
pub(crate) fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    packet(out, body);
}

/// Appends a length word and what `body` writes.
pub(crate) fn packet(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).expect("a message that we write is below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// What of `text` is before its first NUL.
pub(crate) fn before_nul(text: &[u8]) -> &[u8] {
    &text[..nul(text).unwrap_or(text.len())]
}

/// Appends a string and its NUL.
pub(crate) fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(before_nul(text));
    out.push(0);
}

/// Appends a 16-bit count.
fn count(out: &mut Vec<u8>, items: usize) {
    let items = u16::try_from(items).expect("a list that we write has at most 65,535 items");
    out.extend_from_slice(&items.to_be_bytes());
}

/// Appends a length word and bytes; -1 for NULL.
fn value(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let Some(bytes) = value else { return out.extend_from_slice(&(-1_i32).to_be_bytes()) };
    let length = i32::try_from(bytes.len()).expect("a value that we write is below 2 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a count and values.
fn values(out: &mut Vec<u8>, list: &[Option<&[u8]>]) {
    count(out, list.len());
    for each in list {
        value(out, *each);
    }
}

/// Appends a count and format codes.
fn formats(out: &mut Vec<u8>, codes: &[i16]) {
    count(out, codes.len());
    for code in codes {
        out.extend_from_slice(&code.to_be_bytes());
    }
}

/// Appends a count and type oids that are in network order already.
fn types(out: &mut Vec<u8>, oids: &[u8]) {
    assert!(oids.len().is_multiple_of(4), "type oids have four bytes each");
    count(out, oids.len() / 4);
    out.extend_from_slice(oids);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{self, TransactionStatus};
    use crate::frame::Frames;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    /// A user name with a NUL would otherwise add parameters to a server's startup message.
    #[test]
    fn a_nul_ends_a_string_and_adds_no_field() {
        assert_eq!(written(|out| query(out, "select 1\0drop")), b"Q\0\0\0\x0dselect 1\0");
        let startup = written(|out| startup(out, (3, 0), [("user", "app\0database\0other"), ("\0x", "y")]));
        assert_eq!(startup, b"\0\0\0\x12\0\x03\0\0user\0app\0\0");
        let error = written(|out| error_response(out, &[(b'M', b"a\0Cb"), (0, b"x"), (b'C', b"1")]));
        assert_eq!(error, b"E\0\0\0\x0bMa\0C1\0\0");
        let mechanisms = written(|out| authentication_sasl(out, ["", "X"]));
        assert_eq!(mechanisms, b"R\0\0\0\x0b\0\0\0\x0aX\0\0");
    }

    #[test]
    fn messages_are_appended_behind_what_is_there() {
        let mut out = Vec::new();
        authentication_ok(&mut out);
        parameter_status(&mut out, "TimeZone", "UTC");
        ready_for_query(&mut out, TransactionStatus::Idle);
        let tags: Vec<u8> = Frames::new(&out, 1000).map(|frame| frame.unwrap().0.tag).collect();
        assert_eq!(tags, b"RSZ");
    }

    /// Drivers before 9.6 read S, later ones V.
    #[test]
    fn an_error_of_ours_has_both_severities() {
        let fields = Fields { position: Some(12), ..Fields::error("53300", "full").with_hint("wait") };
        let out = written(|out| error(out, &fields));
        assert_eq!(out, b"E\0\0\0\x2aSERROR\0VERROR\0C53300\0Mfull\0Hwait\0P12\0\0");
        let out = written(|out| error(out, &Fields::fatal("57P01", "bye").with_detail("drain")));
        let fields = backend::ErrorFields::decode(&out[5..]).unwrap();
        assert!(fields.is_fatal());
        assert_eq!(fields.detail(), Some(&b"drain"[..]));
        assert_eq!(written(|out| notice(out, &Fields::default()))[0], b'N');
    }

    #[test]
    fn the_head_of_a_bind_counts_the_bytes_that_follow_from_elsewhere() {
        let whole = written(|out| bind(out, "p", "s", &[1], &[Some(b"x"), None], &[0]));
        let mut pieces = written(|out| bind_head(out, whole.len() as u32, "p", "s"));
        pieces.extend_from_slice(&whole[pieces.len()..]);
        assert_eq!(pieces, whole);
    }

    #[test]
    #[should_panic(expected = "the head of a frame fits into the frame")]
    fn the_head_of_a_bind_is_not_longer_than_the_bind() {
        bind_head(&mut Vec::new(), 8, "portal", "statement");
    }

    #[test]
    fn a_column_of_a_fixed_size_says_so() {
        let out = written(|out| row_description(out, &[("pid", 23), ("name", 25)]));
        let columns = backend::RowDescription::decode(&out[5..]).unwrap();
        let sizes: Vec<_> = columns.iter().map(|column| (column.name, column.type_bytes)).collect();
        assert_eq!(sizes, [(&b"pid"[..], 4), (b"name", -1)]);
    }
}

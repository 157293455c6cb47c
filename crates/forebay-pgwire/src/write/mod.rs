//! Whole messages, appended to a `Vec<u8>`.
//!
//! A string ends at its first NUL: what follows one would be read as the next field, so it is not written. A list that
//! the protocol can't count (more than 65,535 items) or a message above 4 GiB is a mistake of the caller and panics.

mod to_client;
mod to_server;

pub use to_client::*;
pub use to_server::*;

use memchr::memchr;

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
    &text[..memchr(0, text).unwrap_or(text.len())]
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

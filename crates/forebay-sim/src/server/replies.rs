//! Messages that the fake server writes.

use crate::wire::{Body, Frame};

/// The routine that errors of the fake server name, which tells them from errors that the pooler made.
pub(crate) const ROUTINE: &str = "fake";

pub(crate) fn parameter_status(name: &str, value: &str) -> Frame {
    Body::default().text(name).text(value).frame(b'S')
}

/// An ErrorResponse or NoticeResponse.
pub(crate) fn report(kind: u8, severity: &str, code: &str, words: &str) -> Frame {
    let fields = [(b'S', severity), (b'V', severity), (b'C', code), (b'M', words), (b'R', ROUTINE)];
    let body = fields.iter().fold(Body::default(), |body, (c, text)| body.byte(*c).text(text));
    body.byte(0).frame(kind)
}

pub(crate) fn data_row(columns: &[Option<String>]) -> Frame {
    let body = Body::default().int16(columns.len() as i16);
    let add = |body: Body, text: &Option<String>| match text {
        Some(text) => body.int32(text.len() as i32).bytes(text.as_bytes()),
        None => body.int32(-1),
    };
    columns.iter().fold(body, add).frame(b'D')
}

pub(super) fn row_description(columns: usize) -> Frame {
    let body = Body::default().int16(columns as i16);
    let column = |body: Body| body.text("value").int32(0).int16(0).int32(25).int16(-1).int32(-1).int16(0);
    (0..columns).fold(body, |body, _| column(body)).frame(b'T')
}

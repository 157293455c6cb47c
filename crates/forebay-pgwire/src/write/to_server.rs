//! Messages that clients send.

use super::{count, formats, message, packet, string, types, value, values};
use crate::frontend::tag;
use crate::startup::{CANCEL_REQUEST_CODE, GSSENC_REQUEST_CODE, SSL_REQUEST_CODE};

/// StartupMessage. A parameter without a name would end the list and is left out.
pub fn startup<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    out: &mut Vec<u8>,
    version: (u16, u16),
    parameters: impl IntoIterator<Item = (N, V)>,
) {
    packet(out, |out| {
        out.extend_from_slice(&version.0.to_be_bytes());
        out.extend_from_slice(&version.1.to_be_bytes());
        for (name, value) in parameters {
            if !super::before_nul(name.as_ref()).is_empty() {
                string(out, name.as_ref());
                string(out, value.as_ref());
            }
        }
        out.push(0);
    });
}

/// SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    packet(out, |out| out.extend_from_slice(&SSL_REQUEST_CODE.to_be_bytes()));
}

/// GSSENCRequest.
pub fn gssenc_request(out: &mut Vec<u8>) {
    packet(out, |out| out.extend_from_slice(&GSSENC_REQUEST_CODE.to_be_bytes()));
}

/// CancelRequest, with the key as the server sent it.
pub fn cancel_request(out: &mut Vec<u8>, pid: u32, key: &[u8]) {
    packet(out, |out| {
        out.extend_from_slice(&CANCEL_REQUEST_CODE.to_be_bytes());
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// Query.
pub fn query(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    message(out, tag::QUERY, |out| string(out, text.as_ref()));
}

/// Parse. `oids` has four bytes a type in network order, as [`Types::as_bytes`](crate::frontend::Types::as_bytes)
/// gives them.
pub fn parse(out: &mut Vec<u8>, name: impl AsRef<[u8]>, query: impl AsRef<[u8]>, oids: &[u8]) {
    message(out, tag::PARSE, |out| {
        string(out, name.as_ref());
        string(out, query.as_ref());
        types(out, oids);
    });
}

/// Bind, whole.
pub fn bind(
    out: &mut Vec<u8>,
    portal: impl AsRef<[u8]>,
    statement: impl AsRef<[u8]>,
    value_formats: &[i16],
    list: &[Option<&[u8]>],
    result_formats: &[i16],
) {
    message(out, tag::BIND, |out| {
        string(out, portal.as_ref());
        string(out, statement.as_ref());
        formats(out, value_formats);
        values(out, list);
        formats(out, result_formats);
    });
}

/// The beginning of a Bind of `total_bytes`, tag included: its head and its two names. The rest follows from elsewhere.
pub fn bind_head(out: &mut Vec<u8>, total_bytes: u32, portal: impl AsRef<[u8]>, statement: impl AsRef<[u8]>) {
    let (start, length) = (out.len(), total_bytes.checked_sub(1).expect("a frame has a tag"));
    out.push(tag::BIND);
    out.extend_from_slice(&length.to_be_bytes());
    string(out, portal.as_ref());
    string(out, statement.as_ref());
    assert!(out.len() - start <= total_bytes as usize, "the head of a frame fits into the frame");
}

/// Describe of `b'S'`, a statement, or `b'P'`, a portal.
pub fn describe(out: &mut Vec<u8>, kind: u8, name: impl AsRef<[u8]>) {
    target(out, tag::DESCRIBE, kind, name.as_ref());
}

/// Close of `b'S'`, a statement, or `b'P'`, a portal.
pub fn close(out: &mut Vec<u8>, kind: u8, name: impl AsRef<[u8]>) {
    target(out, tag::CLOSE, kind, name.as_ref());
}

fn target(out: &mut Vec<u8>, tag: u8, kind: u8, name: &[u8]) {
    message(out, tag, |out| {
        out.push(kind);
        string(out, name);
    });
}

/// Execute; `rows_max` 0 for all rows.
pub fn execute(out: &mut Vec<u8>, portal: impl AsRef<[u8]>, rows_max: i32) {
    message(out, tag::EXECUTE, |out| {
        string(out, portal.as_ref());
        out.extend_from_slice(&rows_max.to_be_bytes());
    });
}

/// Sync.
pub fn sync(out: &mut Vec<u8>) {
    message(out, tag::SYNC, |_| ());
}

/// Flush.
pub fn flush(out: &mut Vec<u8>) {
    message(out, tag::FLUSH, |_| ());
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    message(out, tag::TERMINATE, |_| ());
}

/// CopyData; the same in both directions.
pub fn copy_data(out: &mut Vec<u8>, data: &[u8]) {
    message(out, tag::COPY_DATA, |out| out.extend_from_slice(data));
}

/// CopyDone; the same in both directions.
pub fn copy_done(out: &mut Vec<u8>) {
    message(out, tag::COPY_DONE, |_| ());
}

/// CopyFail.
pub fn copy_fail(out: &mut Vec<u8>, reason: impl AsRef<[u8]>) {
    message(out, tag::COPY_FAIL, |out| string(out, reason.as_ref()));
}

/// PasswordMessage.
pub fn password(out: &mut Vec<u8>, password: impl AsRef<[u8]>) {
    message(out, tag::PASSWORD, |out| string(out, password.as_ref()));
}

/// SASLInitialResponse.
pub fn sasl_initial(out: &mut Vec<u8>, mechanism: impl AsRef<[u8]>, data: Option<&[u8]>) {
    message(out, tag::PASSWORD, |out| {
        string(out, mechanism.as_ref());
        value(out, data);
    });
}

/// SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, tag::PASSWORD, |out| out.extend_from_slice(data));
}

/// FunctionCall of the function with this oid.
pub fn function_call(
    out: &mut Vec<u8>,
    function_oid: u32,
    argument_formats: &[i16],
    arguments: &[Option<&[u8]>],
    result_format: i16,
) {
    message(out, tag::FUNCTION_CALL, |out| {
        out.extend_from_slice(&function_oid.to_be_bytes());
        formats(out, argument_formats);
        count(out, arguments.len());
        for argument in arguments {
            value(out, *argument);
        }
        out.extend_from_slice(&result_format.to_be_bytes());
    });
}

//! Messages that servers send.

use super::{count, formats, message, string, types, values};
use crate::backend::{Column, TransactionStatus, field, tag};

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, 0, &[]);
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut Vec<u8>) {
    authentication(out, 3, &[]);
}

/// AuthenticationMD5Password.
pub fn authentication_md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    authentication(out, 5, &salt);
}

/// AuthenticationSASL. A mechanism without a name would end the list and is left out.
pub fn authentication_sasl<M: AsRef<[u8]>>(out: &mut Vec<u8>, mechanisms: impl IntoIterator<Item = M>) {
    message(out, tag::AUTHENTICATION, |out| {
        out.extend_from_slice(&10_u32.to_be_bytes());
        for mechanism in mechanisms {
            if !super::before_nul(mechanism.as_ref()).is_empty() {
                string(out, mechanism.as_ref());
            }
        }
        out.push(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 11, data);
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 12, data);
}

fn authentication(out: &mut Vec<u8>, code: u32, data: &[u8]) {
    message(out, tag::AUTHENTICATION, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    message(out, tag::PARAMETER_STATUS, |out| {
        string(out, name.as_ref());
        string(out, value.as_ref());
    });
}

/// BackendKeyData; the key has 4 bytes in 3.0 and 4 to 256 in 3.2.
pub fn backend_key_data(out: &mut Vec<u8>, pid: u32, key: &[u8]) {
    message(out, tag::BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// ReadyForQuery.
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    message(out, tag::READY_FOR_QUERY, |out| out.push(status as u8));
}

/// NegotiateProtocolVersion: what is spoken, and the protocol options that are not known.
pub fn negotiate_protocol_version<O: AsRef<[u8]>>(
    out: &mut Vec<u8>,
    version: (u16, u16),
    options: impl IntoIterator<Item = O>,
) {
    message(out, tag::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.extend_from_slice(&version.0.to_be_bytes());
        out.extend_from_slice(&version.1.to_be_bytes());
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut options_count = 0_u32;
        for option in options {
            string(out, option.as_ref());
            options_count += 1;
        }
        out[at..at + 4].copy_from_slice(&options_count.to_be_bytes());
    });
}

/// The fields of an error or a notice of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// `ERROR` if the session lives on, `FATAL` if it ends; `WARNING`, `NOTICE` and lower for a notice.
    pub severity: &'a str,
    /// Five characters.
    pub sqlstate: &'a str,
    /// One line.
    pub message: &'a str,
    /// More of what happened.
    pub detail: Option<&'a str>,
    /// What to do about it.
    pub hint: Option<&'a str>,
    /// The character of the query that it is about, from 1.
    pub position: Option<u32>,
    /// The context it happened in.
    pub context: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// Severity ERROR: the session lives on.
    pub fn error(sqlstate: &'a str, message: &'a str) -> Fields<'a> {
        Fields { severity: "ERROR", sqlstate, message, ..Fields::default() }
    }

    /// Severity FATAL: the session ends.
    pub fn fatal(sqlstate: &'a str, message: &'a str) -> Fields<'a> {
        Fields { severity: "FATAL", sqlstate, message, ..Fields::default() }
    }

    /// The same with a detail.
    pub fn with_detail(self, detail: &'a str) -> Fields<'a> {
        Fields { detail: Some(detail), ..self }
    }

    /// The same with a hint.
    pub fn with_hint(self, hint: &'a str) -> Fields<'a> {
        Fields { hint: Some(hint), ..self }
    }

    fn write(&self, out: &mut Vec<u8>, tag: u8) {
        let position = self.position.map(|position| position.to_string());
        let list = [
            (field::SEVERITY, Some(self.severity)),
            (field::SEVERITY_PLAIN, Some(self.severity)),
            (field::SQLSTATE, Some(self.sqlstate)),
            (field::MESSAGE, Some(self.message)),
            (field::DETAIL, self.detail),
            (field::HINT, self.hint),
            (field::POSITION, position.as_deref()),
            (field::WHERE, self.context),
        ];
        message(out, tag, |out| {
            for (code, text) in list {
                if let Some(text) = text {
                    out.push(code);
                    string(out, text.as_bytes());
                }
            }
            out.push(0);
        });
    }
}

/// ErrorResponse of named fields.
pub fn error(out: &mut Vec<u8>, fields: &Fields<'_>) {
    fields.write(out, tag::ERROR_RESPONSE);
}

/// NoticeResponse of named fields.
pub fn notice(out: &mut Vec<u8>, fields: &Fields<'_>) {
    fields.write(out, tag::NOTICE_RESPONSE);
}

/// ErrorResponse of raw fields (see [`field`]).
pub fn error_response(out: &mut Vec<u8>, fields: &[(u8, &[u8])]) {
    raw_fields(out, tag::ERROR_RESPONSE, fields);
}

/// NoticeResponse of raw fields (see [`field`]).
pub fn notice_response(out: &mut Vec<u8>, fields: &[(u8, &[u8])]) {
    raw_fields(out, tag::NOTICE_RESPONSE, fields);
}

/// A field of code 0 would end the list and is left out.
fn raw_fields(out: &mut Vec<u8>, tag: u8, fields: &[(u8, &[u8])]) {
    message(out, tag, |out| {
        for (code, text) in fields.iter().filter(|(code, _)| *code != 0) {
            out.push(*code);
            string(out, text);
        }
        out.push(0);
    });
}

/// ParseComplete.
pub fn parse_complete(out: &mut Vec<u8>) {
    message(out, tag::PARSE_COMPLETE, |_| ());
}

/// CloseComplete.
pub fn close_complete(out: &mut Vec<u8>) {
    message(out, tag::CLOSE_COMPLETE, |_| ());
}

/// BindComplete.
pub fn bind_complete(out: &mut Vec<u8>) {
    message(out, tag::BIND_COMPLETE, |_| ());
}

/// NoData.
pub fn no_data(out: &mut Vec<u8>) {
    message(out, tag::NO_DATA, |_| ());
}

/// EmptyQueryResponse.
pub fn empty_query(out: &mut Vec<u8>) {
    message(out, tag::EMPTY_QUERY_RESPONSE, |_| ());
}

/// PortalSuspended.
pub fn portal_suspended(out: &mut Vec<u8>) {
    message(out, tag::PORTAL_SUSPENDED, |_| ());
}

/// CommandComplete, as `SELECT 3`.
pub fn command_complete(out: &mut Vec<u8>, command: impl AsRef<[u8]>) {
    message(out, tag::COMMAND_COMPLETE, |out| string(out, command.as_ref()));
}

/// NotificationResponse.
pub fn notification_response(out: &mut Vec<u8>, pid: u32, channel: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) {
    message(out, tag::NOTIFICATION_RESPONSE, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        string(out, channel.as_ref());
        string(out, payload.as_ref());
    });
}

/// ParameterDescription. `oids` has four bytes a type in network order.
pub fn parameter_description(out: &mut Vec<u8>, oids: &[u8]) {
    message(out, tag::PARAMETER_DESCRIPTION, |out| types(out, oids));
}

/// RowDescription of columns in text format that belong to no table: names and type oids.
pub fn row_description(out: &mut Vec<u8>, columns: &[(&str, u32)]) {
    row_description_of(out, columns.iter().map(|(name, type_oid)| text_column(name.as_bytes(), *type_oid)));
}

/// RowDescription of any columns.
pub fn row_description_of<'a, C>(out: &mut Vec<u8>, columns: C)
where
    C: IntoIterator<Item = Column<'a>, IntoIter: ExactSizeIterator>,
{
    let columns = columns.into_iter();
    message(out, tag::ROW_DESCRIPTION, |out| {
        count(out, columns.len());
        for column in columns {
            string(out, column.name);
            out.extend_from_slice(&column.table_oid.to_be_bytes());
            out.extend_from_slice(&column.number.to_be_bytes());
            out.extend_from_slice(&column.type_oid.to_be_bytes());
            out.extend_from_slice(&column.type_bytes.to_be_bytes());
            out.extend_from_slice(&column.type_modifier.to_be_bytes());
            out.extend_from_slice(&column.format.to_be_bytes());
        }
    });
}

/// A column in text format that belongs to no table.
pub(crate) fn text_column(name: &[u8], type_oid: u32) -> Column<'_> {
    // Sizes as in pg_type; drivers read them for types of a fixed size.
    let type_bytes = match type_oid {
        16 | 18 => 1,
        21 => 2,
        23 | 26 | 700 | 1082 => 4,
        20 | 701 | 1083 | 1114 | 1184 => 8,
        2950 => 16,
        19 => 64,
        _ => -1,
    };
    Column { name, table_oid: 0, number: 0, type_oid, type_bytes, type_modifier: -1, format: 0 }
}

/// DataRow; `None` is NULL.
pub fn data_row(out: &mut Vec<u8>, list: &[Option<&[u8]>]) {
    message(out, tag::DATA_ROW, |out| values(out, list));
}

/// CopyInResponse, CopyOutResponse or CopyBothResponse, by its tag.
pub fn copy_response(out: &mut Vec<u8>, tag: u8, format: u8, column_formats: &[i16]) {
    message(out, tag, |out| {
        out.push(format);
        formats(out, column_formats);
    });
}

//! What servers send, as views that borrow the body of a frame.

use crate::decode::{Cause, DecodeError, Reader};
use crate::frontend::{Formats, Types, Values, only_string};

/// Tags of the messages that servers send.
pub mod tag {
    #![allow(missing_docs, reason = "each is the name of a message in PostgreSQL's documentation")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// Field codes of ErrorResponse and NoticeResponse.
pub mod field {
    #![allow(missing_docs, reason = "each is the name of a field in PostgreSQL's documentation")]
    /// May be translated; [`SEVERITY_PLAIN`] never is.
    pub const SEVERITY: u8 = b'S';
    pub const SEVERITY_PLAIN: u8 = b'V';
    pub const SQLSTATE: u8 = b'C';
    pub const MESSAGE: u8 = b'M';
    pub const DETAIL: u8 = b'D';
    pub const HINT: u8 = b'H';
    pub const POSITION: u8 = b'P';
    pub const INTERNAL_POSITION: u8 = b'p';
    pub const INTERNAL_QUERY: u8 = b'q';
    pub const WHERE: u8 = b'W';
    pub const SCHEMA: u8 = b's';
    pub const TABLE: u8 = b't';
    pub const COLUMN: u8 = b'c';
    pub const DATA_TYPE: u8 = b'd';
    pub const CONSTRAINT: u8 = b'n';
    pub const FILE: u8 = b'F';
    pub const LINE: u8 = b'L';
    pub const ROUTINE: u8 = b'R';
}

/// What a ReadyForQuery says about the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TransactionStatus {
    /// Outside a transaction block.
    Idle = b'I',
    /// In a transaction block.
    InTransaction = b'T',
    /// In a transaction block that failed: all but its end is refused.
    Failed = b'E',
}

impl TransactionStatus {
    /// Reads a whole body of a ReadyForQuery.
    #[inline]
    pub fn decode(body: &[u8]) -> Result<TransactionStatus, DecodeError> {
        match body {
            [b'I'] => Ok(TransactionStatus::Idle),
            [b'T'] => Ok(TransactionStatus::InTransaction),
            [b'E'] => Ok(TransactionStatus::Failed),
            [other] => Err(DecodeError { message: "ReadyForQuery", cause: Cause::UnknownKind(*other) }),
            [] => Err(DecodeError { message: "ReadyForQuery", cause: Cause::Short }),
            _ => Err(DecodeError { message: "ReadyForQuery", cause: Cause::TrailingBytes }),
        }
    }
}

/// What a server asks for, or says, while it authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// AuthenticationOk.
    Ok,
    /// AuthenticationCleartextPassword.
    Cleartext,
    /// AuthenticationMD5Password.
    Md5 {
        /// Goes into the answer.
        salt: [u8; 4],
    },
    /// AuthenticationSASL.
    Sasl {
        /// What the server offers, in its order of preference.
        mechanisms: Mechanisms<'a>,
    },
    /// AuthenticationSASLContinue, with the mechanism's message.
    SaslContinue(&'a [u8]),
    /// AuthenticationSASLFinal, with the mechanism's message.
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI and what is not known; the code.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<Authentication<'a>, DecodeError> {
        let mut reader = Reader::new("Authentication", body);
        let authentication = match reader.u32()? {
            0 => Authentication::Ok,
            3 => Authentication::Cleartext,
            5 => Authentication::Md5 { salt: reader.salt()? },
            10 => Authentication::Sasl { mechanisms: Mechanisms::decode(&mut reader)? },
            11 => Authentication::SaslContinue(reader.remaining()),
            12 => Authentication::SaslFinal(reader.remaining()),
            code => {
                reader.remaining();
                Authentication::Other(code)
            }
        };
        reader.end()?;
        Ok(authentication)
    }
}

/// Names of SASL mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms<'a> {
    /// Strings with their NULs; checked when the message was read.
    bytes: &'a [u8],
}

impl<'a> Mechanisms<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Mechanisms<'a>, DecodeError> {
        let before = reader.peek();
        while !reader.string()?.is_empty() {}
        Ok(Mechanisms { bytes: &before[..before.len() - reader.peek().len() - 1] })
    }

    /// The names, in the server's order.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        let mut reader = Reader::new("AuthenticationSASL", self.bytes);
        std::iter::from_fn(move || reader.string().ok())
    }
}

/// The fields of an ErrorResponse or a NoticeResponse. None of them is taken for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// Codes and strings, without the last NUL; checked when the message was read.
    bytes: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<ErrorFields<'a>, DecodeError> {
        let mut reader = Reader::new("ErrorResponse or NoticeResponse", body);
        while reader.u8()? != 0 {
            reader.string()?;
        }
        reader.end()?;
        Ok(ErrorFields { bytes: &body[..body.len() - 1] })
    }

    /// Codes (see [`field`]) and texts, in the server's order.
    pub fn iter(self) -> impl Iterator<Item = (u8, &'a [u8])> + Clone {
        let mut reader = Reader::new("ErrorResponse or NoticeResponse", self.bytes);
        std::iter::from_fn(move || Some((reader.u8().ok()?, reader.string().ok()?)))
    }

    /// The first field of this code.
    pub fn get(self, code: u8) -> Option<&'a [u8]> {
        self.iter().find(|(each, _)| *each == code).map(|(_, text)| text)
    }

    /// Severity in English where the server sends it so (since 9.6), otherwise as translated.
    pub fn severity(self) -> Option<&'a [u8]> {
        self.get(field::SEVERITY_PLAIN).or_else(|| self.get(field::SEVERITY))
    }

    /// SQLSTATE, five characters from a sane server.
    pub fn sqlstate(self) -> Option<&'a [u8]> {
        self.get(field::SQLSTATE)
    }

    /// The message, one line.
    pub fn message(self) -> Option<&'a [u8]> {
        self.get(field::MESSAGE)
    }

    /// The second message.
    pub fn detail(self) -> Option<&'a [u8]> {
        self.get(field::DETAIL)
    }

    /// What to do about it.
    pub fn hint(self) -> Option<&'a [u8]> {
        self.get(field::HINT)
    }

    /// Whether the server ends the session after it: severity FATAL or PANIC.
    pub fn is_fatal(self) -> bool {
        matches!(self.severity(), Some(b"FATAL" | b"PANIC"))
    }
}

/// ParameterStatus: a setting that the server reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// Name of the setting, as the server spells it.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> ParameterStatus<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<ParameterStatus<'a>, DecodeError> {
        let mut reader = Reader::new("ParameterStatus", body);
        let status = ParameterStatus { name: reader.string()?, value: reader.string()? };
        reader.end()?;
        Ok(status)
    }
}

/// BackendKeyData: what a cancel request has to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// Process id.
    pub pid: u32,
    /// Secret key: 4 bytes in 3.0, 4 to 256 in 3.2.
    pub key: &'a [u8],
}

impl<'a> BackendKeyData<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<BackendKeyData<'a>, DecodeError> {
        let mut reader = Reader::new("BackendKeyData", body);
        Ok(BackendKeyData { pid: reader.u32()?, key: reader.key()? })
    }
}

/// NegotiateProtocolVersion: what a server speaks instead of what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// Major and minor. The documentation speaks of a minor version, servers send both.
    pub version: (u16, u16),
    /// Strings with their NULs; checked when the message was read.
    options: &'a [u8],
}

impl<'a> NegotiateProtocolVersion<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<NegotiateProtocolVersion<'a>, DecodeError> {
        let mut reader = Reader::new("NegotiateProtocolVersion", body);
        let code = reader.u32()?;
        // The count is not believed: every option takes a byte at least, so the loop ends with the body.
        let count = reader.u32()?;
        let options = reader.peek();
        for _ in 0..count {
            reader.string()?;
        }
        reader.end()?;
        Ok(NegotiateProtocolVersion { version: ((code >> 16) as u16, code as u16), options })
    }

    /// Protocol options that the server does not know.
    pub fn options(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        let mut reader = Reader::new("NegotiateProtocolVersion", self.options);
        std::iter::from_fn(move || reader.string().ok())
    }
}

/// CommandComplete: a statement is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandComplete<'a> {
    /// The verb, and a count of rows for some: `SELECT 3`.
    pub tag: &'a [u8],
}

impl<'a> CommandComplete<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<CommandComplete<'a>, DecodeError> {
        only_string("CommandComplete", body).map(|tag| CommandComplete { tag })
    }
}

/// NotificationResponse: what a NOTIFY of some session said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationResponse<'a> {
    /// Process id of the session that notified.
    pub pid: u32,
    /// Name of the channel.
    pub channel: &'a [u8],
    /// Its text.
    pub payload: &'a [u8],
}

impl<'a> NotificationResponse<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<NotificationResponse<'a>, DecodeError> {
        let mut reader = Reader::new("NotificationResponse", body);
        let response =
            NotificationResponse { pid: reader.u32()?, channel: reader.string()?, payload: reader.string()? };
        reader.end()?;
        Ok(response)
    }
}

/// Reads the whole body of a DataRow.
pub fn data_row(body: &[u8]) -> Result<Values<'_>, DecodeError> {
    let mut reader = Reader::new("DataRow", body);
    let values = Values::decode(&mut reader)?;
    reader.end()?;
    Ok(values)
}

/// Reads the whole body of a ParameterDescription.
pub fn parameter_description(body: &[u8]) -> Result<Types<'_>, DecodeError> {
    let mut reader = Reader::new("ParameterDescription", body);
    let types = Types { bytes: reader.counted(4)? };
    reader.end()?;
    Ok(types)
}

/// A column of a RowDescription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Oid of the table that it comes from, or 0.
    pub table_oid: u32,
    /// Its number in that table, or 0.
    pub number: i16,
    /// Oid of its type.
    pub type_oid: u32,
    /// Bytes of a value; negative where they vary.
    pub type_bytes: i16,
    /// What the type makes of it, -1 for nothing.
    pub type_modifier: i32,
    /// 0 for text, 1 for binary.
    pub format: i16,
}

impl<'a> Column<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Column<'a>, DecodeError> {
        Ok(Column {
            name: reader.string()?,
            table_oid: reader.u32()?,
            number: reader.i16()?,
            type_oid: reader.u32()?,
            type_bytes: reader.i16()?,
            type_modifier: reader.i32()?,
            format: reader.i16()?,
        })
    }
}

/// RowDescription: the columns of the rows that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowDescription<'a> {
    count: u16,
    /// Checked when the message was read.
    bytes: &'a [u8],
}

impl<'a> RowDescription<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<RowDescription<'a>, DecodeError> {
        let mut reader = Reader::new("RowDescription", body);
        let count = reader.u16()?;
        let bytes = reader.peek();
        for _ in 0..count {
            Column::decode(&mut reader)?;
        }
        reader.end()?;
        Ok(RowDescription { count, bytes })
    }

    /// The columns.
    pub fn iter(self) -> impl Iterator<Item = Column<'a>> + Clone {
        let mut reader = Reader::new("RowDescription", self.bytes);
        (0..self.count).map_while(move |_| Column::decode(&mut reader).ok())
    }

    /// How many.
    pub fn len(self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }
}

/// CopyInResponse, CopyOutResponse or CopyBothResponse: rows follow as CopyData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyResponse<'a> {
    /// 0 for text, 1 for binary.
    pub format: u8,
    /// Formats of the columns.
    pub formats: Formats<'a>,
}

impl<'a> CopyResponse<'a> {
    /// Reads a whole body.
    pub fn decode(body: &'a [u8]) -> Result<CopyResponse<'a>, DecodeError> {
        let mut reader = Reader::new("CopyResponse", body);
        let response = CopyResponse { format: reader.u8()?, formats: Formats { bytes: reader.counted(2)? } };
        reader.end()?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_an_error_are_optional() {
        let empty = ErrorFields::decode(b"\0").unwrap();
        assert_eq!((empty.severity(), empty.sqlstate(), empty.message()), (None, None, None));
        assert!(!empty.is_fatal());
    }

    /// A server in German says SCHWERWIEGEND; only the other severity is a constant.
    #[test]
    fn the_severity_that_is_never_translated_goes_first() {
        let fields = ErrorFields::decode(b"SFEHLER\0VFATAL\0C57P01\0Mx\0\0").unwrap();
        assert_eq!(fields.severity(), Some(&b"FATAL"[..]));
        assert!(fields.is_fatal());
        let old = ErrorFields::decode(b"SERROR\0\0").unwrap();
        assert_eq!(old.severity(), Some(&b"ERROR"[..]));
    }

    #[test]
    fn an_error_without_its_last_nul_is_refused() {
        for body in [&b""[..], b"SERROR\0", b"SERROR", b"S", b"SERROR\0\0x"] {
            assert!(ErrorFields::decode(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn the_status_of_a_transaction_is_one_known_byte() {
        assert_eq!(TransactionStatus::decode(b"T"), Ok(TransactionStatus::InTransaction));
        for (body, cause) in [(&b""[..], Cause::Short), (b"x", Cause::UnknownKind(b'x')), (b"II", Cause::TrailingBytes)]
        {
            assert_eq!(TransactionStatus::decode(body), Err(DecodeError { message: "ReadyForQuery", cause }));
        }
    }

    #[test]
    fn a_secret_key_has_4_to_256_bytes() {
        for (key_bytes, is_read) in [(0, false), (3, false), (4, true), (32, true), (256, true), (257, false)] {
            assert_eq!(BackendKeyData::decode(&vec![0; 4 + key_bytes]).is_ok(), is_read, "{key_bytes}");
        }
    }

    #[test]
    fn mechanisms_end_with_an_empty_one() {
        let body = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let Ok(Authentication::Sasl { mechanisms }) = Authentication::decode(body) else { panic!("refused") };
        assert_eq!(mechanisms.iter().collect::<Vec<_>>(), [&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"]);
        assert!(Authentication::decode(b"\0\0\0\x0aX\0").is_err());
        assert!(Authentication::decode(b"\0\0\0\x0aX\0\0\0").is_err());
        assert!(Authentication::decode(b"\0\0\0\x05abc").is_err());
        assert_eq!(Authentication::decode(b"\0\0\0\x07more"), Ok(Authentication::Other(7)));
    }

    /// A count of four billion strings must not cost more than the bytes that came.
    #[test]
    fn the_count_of_unknown_options_is_not_believed() {
        assert!(NegotiateProtocolVersion::decode(b"\0\x03\0\0\xff\xff\xff\xff").is_err());
        assert!(NegotiateProtocolVersion::decode(b"\0\x03\0\0\xff\xff\xff\xffa\0b\0").is_err());
        let negotiate = NegotiateProtocolVersion::decode(b"\0\x03\0\x02\0\0\0\x01_pq_.a\0").unwrap();
        assert_eq!((negotiate.version, negotiate.options().collect::<Vec<_>>()), ((3, 2), vec![&b"_pq_.a"[..]]));
    }

    #[test]
    fn a_row_with_fewer_values_than_it_counts_is_refused() {
        assert!(data_row(b"\0\x02\0\0\0\0").is_err());
        assert!(data_row(b"\0\x01\0\0\0\x05abc").is_err());
        assert!(RowDescription::decode(b"\0\x01a\0").is_err());
        assert!(parameter_description(b"\0\x01\0\0").is_err());
    }
}

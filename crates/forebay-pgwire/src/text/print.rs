//! Frames to lines. `None` means that the message is malformed or not in the language.

use super::item::{bracket, quote, quote_data, quote_hexadecimal};
use super::{COPY, DATA, EMPTY, FIELDS, STRING, Side, name_of};
use crate::backend::{self, Authentication, Column, RowDescription, TransactionStatus};
use crate::frontend::{self, Bind, Execute, Formats, Parse, SaslInitialResponse, Target, Types, Values};
use crate::startup::{FirstPacket, first_packet};
use crate::write::text_column;

pub(super) fn bytes(side: Side, data: &[u8]) -> String {
    format!("{} Bytes {}", side.letter(), quote_data(data))
}

pub(super) fn frame(side: Side, tag: u8, body: &[u8]) -> String {
    format!("{} Frame {} {}", side.letter(), quote(&[tag]), quote_data(body))
}

pub(super) fn first(packet: &[u8]) -> Option<String> {
    match first_packet(packet).ok()?? {
        (_, bytes) if bytes != packet.len() => None,
        (FirstPacket::Ssl, _) => Some("SSLRequest".to_owned()),
        (FirstPacket::GssEnc, _) => Some("GSSENCRequest".to_owned()),
        (FirstPacket::Cancel { pid, key }, _) => Some(format!("CancelRequest {pid} {}", quote_hexadecimal(key))),
        (FirstPacket::Startup(startup), _) => {
            let mut line = format!("Startup {}.{}", startup.version.0, startup.version.1);
            for (name, value) in startup.parameters.iter() {
                line.push_str(&format!(" {} {}", quote(name), quote(value)));
            }
            Some(line)
        }
        (FirstPacket::DirectTls, _) => None,
    }
}

pub(super) fn frontend(tag: u8, body: &[u8]) -> Option<String> {
    if let Some(line) = simple(Side::Frontend, tag, body) {
        return Some(line);
    }
    let line = match tag {
        frontend::tag::PARSE => {
            let parse = Parse::decode(body).ok()?;
            format!("Parse {} {} {}", quote(parse.name), quote(parse.query), types(parse.types))
        }
        frontend::tag::BIND => {
            let bind = Bind::decode(body).ok()?;
            let (portal, statement) = (quote(bind.portal), quote(bind.statement));
            let (value_formats, list) = (formats(bind.formats), values(bind.values));
            format!("Bind {portal} {statement} {value_formats} {list} {}", formats(bind.result_formats))
        }
        frontend::tag::DESCRIBE => target("Describe", body)?,
        frontend::tag::CLOSE => target("Close", body)?,
        frontend::tag::EXECUTE => {
            let execute = Execute::decode(body).ok()?;
            format!("Execute {} {}", quote(execute.portal), execute.rows_max)
        }
        frontend::tag::PASSWORD => secret(body),
        _ => return None,
    };
    Some(line)
}

pub(super) fn backend(tag: u8, body: &[u8]) -> Option<String> {
    if let Some(line) = simple(Side::Backend, tag, body) {
        return Some(line);
    }
    let line = match tag {
        backend::tag::AUTHENTICATION => return authentication(body),
        backend::tag::PARAMETER_STATUS => {
            let status = backend::ParameterStatus::decode(body).ok()?;
            format!("ParameterStatus {} {}", quote(status.name), quote(status.value))
        }
        backend::tag::BACKEND_KEY_DATA => {
            let data = backend::BackendKeyData::decode(body).ok()?;
            format!("BackendKeyData {} {}", data.pid, quote_hexadecimal(data.key))
        }
        backend::tag::READY_FOR_QUERY => {
            format!("ReadyForQuery {}", char::from(TransactionStatus::decode(body).ok()? as u8))
        }
        backend::tag::NEGOTIATE_PROTOCOL_VERSION => {
            let negotiate = backend::NegotiateProtocolVersion::decode(body).ok()?;
            let (major, minor) = negotiate.version;
            format!("NegotiateProtocolVersion {major}.{minor} {}", bracket(negotiate.options().map(quote)))
        }
        backend::tag::NOTIFICATION_RESPONSE => {
            let said = backend::NotificationResponse::decode(body).ok()?;
            format!("NotificationResponse {} {} {}", said.pid, quote(said.channel), quote(said.payload))
        }
        backend::tag::PARAMETER_DESCRIPTION => {
            format!("ParameterDescription {}", types(backend::parameter_description(body).ok()?))
        }
        backend::tag::ROW_DESCRIPTION => {
            format!("RowDescription {}", bracket(RowDescription::decode(body).ok()?.iter().map(column)))
        }
        backend::tag::DATA_ROW => format!("DataRow {}", values(backend::data_row(body).ok()?)),
        _ => return None,
    };
    Some(line)
}

/// Messages that stand in a table with others of their shape.
fn simple(side: Side, tag: u8, body: &[u8]) -> Option<String> {
    if let Some(name) = name_of(EMPTY, side, tag) {
        return body.is_empty().then(|| name.to_owned());
    }
    if let Some(name) = name_of(STRING, side, tag) {
        return frontend::only_string(name, body).ok().map(|text| format!("{name} {}", quote(text)));
    }
    if let Some(name) = name_of(DATA, side, tag) {
        return Some(format!("{name} {}", quote_data(body)));
    }
    if let Some(name) = name_of(COPY, side, tag) {
        let response = backend::CopyResponse::decode(body).ok()?;
        return Some(format!("{name} {} {}", response.format, formats(response.formats)));
    }
    let name = name_of(FIELDS, side, tag)?;
    let fields = backend::ErrorFields::decode(body).ok()?;
    let mut line = name.to_owned();
    for (code, text) in fields.iter() {
        // A code that can't be seen would be hard to tell from a missing one.
        if !code.is_ascii_alphanumeric() {
            return None;
        }
        line.push_str(&format!(" {} {}", char::from(code), quote(text)));
    }
    Some(line)
}

fn authentication(body: &[u8]) -> Option<String> {
    let line = match Authentication::decode(body).ok()? {
        Authentication::Ok => "AuthenticationOk".to_owned(),
        Authentication::Cleartext => "AuthenticationCleartextPassword".to_owned(),
        Authentication::Md5 { salt } => format!("AuthenticationMD5Password {}", quote_hexadecimal(&salt)),
        Authentication::Sasl { mechanisms } => format!("AuthenticationSASL {}", bracket(mechanisms.iter().map(quote))),
        Authentication::SaslContinue(data) => format!("AuthenticationSASLContinue {}", quote_data(data)),
        Authentication::SaslFinal(data) => format!("AuthenticationSASLFinal {}", quote_data(data)),
        Authentication::Other(_) => return None,
    };
    Some(line)
}

/// Four messages share this tag, and only the conversation tells which one it is: this is a guess for the reader.
fn secret(body: &[u8]) -> String {
    if let Ok(initial) = SaslInitialResponse::decode(body)
        && (initial.mechanism.starts_with(b"SCRAM-") || initial.mechanism == b"OAUTHBEARER")
    {
        let data = initial.data.map_or("NULL".to_owned(), quote_data);
        return format!("SASLInitialResponse {} {data}", quote(initial.mechanism));
    }
    match frontend::password(body) {
        Ok(password) => format!("PasswordMessage {}", quote(password)),
        Err(_) => format!("SASLResponse {}", quote_data(body)),
    }
}

fn target(name: &str, body: &[u8]) -> Option<String> {
    let target = Target::decode(body).ok()?;
    Some(format!("{name} {} {}", char::from(target.kind), quote(target.name)))
}

fn column(column: Column<'_>) -> String {
    let name = quote(column.name);
    if column == text_column(column.name, column.type_oid) {
        return format!("[{name}, {}]", column.type_oid);
    }
    let Column { table_oid, number, type_oid, type_bytes, type_modifier, format, .. } = column;
    format!("[{name}, {table_oid}, {number}, {type_oid}, {type_bytes}, {type_modifier}, {format}]")
}

fn types(types: Types<'_>) -> String {
    bracket(types.iter().map(|oid| oid.to_string()))
}

fn formats(formats: Formats<'_>) -> String {
    bracket(formats.iter().map(|code| code.to_string()))
}

fn values(values: Values<'_>) -> String {
    bracket(values.iter().map(|value| value.map_or("NULL".to_owned(), quote_data)))
}

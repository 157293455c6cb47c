//! Lines to frames.

use super::item::Items;
use super::{COPY, DATA, EMPTY, FIELDS, STRING, Side, TextError, tag_of};
use crate::backend::{Column, TransactionStatus};
use crate::write;

/// Appends the message called `name`.
pub(super) fn message(out: &mut Vec<u8>, side: Side, name: &str, items: &mut Items) -> Result<(), TextError> {
    if name == "Bytes" {
        out.extend(items.data()?);
        return Ok(());
    }
    if name == "Frame" {
        let [tag] = items.data()?[..] else { return Err(TextError::new("a tag is one byte")) };
        let body = items.data()?;
        write::message(out, tag, |out| out.extend(body));
        return Ok(());
    }
    if simple(out, side, name, items)? {
        return Ok(());
    }
    let is_known = match side {
        Side::Frontend => first(out, name, items)? || frontend(out, name, items)?,
        Side::Backend => authentication(out, name, items)? || backend(out, name, items)?,
    };
    if is_known { Ok(()) } else { Err(TextError::new(format!("unknown message {name}"))) }
}

/// Messages that stand in a table with others of their shape; whether this is one.
fn simple(out: &mut Vec<u8>, side: Side, name: &str, items: &mut Items) -> Result<bool, TextError> {
    if let Some(tag) = tag_of(EMPTY, side, name) {
        write::message(out, tag, |_| ());
    } else if let Some(tag) = tag_of(STRING, side, name) {
        let text = items.string()?;
        write::message(out, tag, |out| write::string(out, &text));
    } else if let Some(tag) = tag_of(DATA, side, name) {
        let data = items.data()?;
        write::message(out, tag, |out| out.extend(data));
    } else if let Some(tag) = tag_of(COPY, side, name) {
        let (format, formats) = (items.number()?, items.list_of(Items::number)?);
        write::copy_response(out, tag, format, &formats);
    } else if let Some(tag) = tag_of(FIELDS, side, name) {
        let mut fields = Vec::new();
        while !items.is_empty() {
            fields.push((letter(items)?, items.string()?));
        }
        write::message(out, tag, |out| {
            for (code, text) in fields {
                out.push(code);
                write::string(out, &text);
            }
            out.push(0);
        });
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn first(out: &mut Vec<u8>, name: &str, items: &mut Items) -> Result<bool, TextError> {
    match name {
        "SSLRequest" => write::ssl_request(out),
        "GSSENCRequest" => write::gssenc_request(out),
        "CancelRequest" => write::cancel_request(out, items.number()?, &items.data()?),
        "Startup" => {
            let version = version(items)?;
            let mut parameters = Vec::new();
            while !items.is_empty() {
                parameters.push((items.string()?, items.string()?));
            }
            write::startup(out, version, parameters);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn frontend(out: &mut Vec<u8>, name: &str, items: &mut Items) -> Result<bool, TextError> {
    match name {
        "Parse" => write::parse(out, items.string()?, items.string()?, &types(items)?),
        "Bind" => {
            let (portal, statement) = (items.string()?, items.string()?);
            let (formats, values) = (items.list_of(Items::number)?, items.list_of(Items::value)?);
            let values: Vec<_> = values.iter().map(Option::as_deref).collect();
            write::bind(out, portal, statement, &formats, &values, &items.list_of(Items::number)?);
        }
        "Describe" => write::describe(out, letter(items)?, items.string()?),
        "Close" => write::close(out, letter(items)?, items.string()?),
        "Execute" => write::execute(out, items.string()?, items.number()?),
        "PasswordMessage" => write::password(out, items.string()?),
        "SASLInitialResponse" => write::sasl_initial(out, items.string()?, items.value()?.as_deref()),
        "SASLResponse" => write::sasl_response(out, &items.data()?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn authentication(out: &mut Vec<u8>, name: &str, items: &mut Items) -> Result<bool, TextError> {
    match name {
        "AuthenticationOk" => write::authentication_ok(out),
        "AuthenticationCleartextPassword" => write::authentication_cleartext(out),
        "AuthenticationMD5Password" => {
            let salt = items.data()?.try_into().map_err(|_| TextError::new("a salt has four bytes"))?;
            write::authentication_md5(out, salt);
        }
        "AuthenticationSASL" => write::authentication_sasl(out, items.list_of(Items::string)?),
        "AuthenticationSASLContinue" => write::authentication_sasl_continue(out, &items.data()?),
        "AuthenticationSASLFinal" => write::authentication_sasl_final(out, &items.data()?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn backend(out: &mut Vec<u8>, name: &str, items: &mut Items) -> Result<bool, TextError> {
    match name {
        "ParameterStatus" => write::parameter_status(out, items.string()?, items.string()?),
        "BackendKeyData" => write::backend_key_data(out, items.number()?, &items.data()?),
        "ReadyForQuery" => {
            let status = TransactionStatus::decode(&[letter(items)?]);
            write::ready_for_query(out, status.map_err(|error| TextError::new(error.to_string()))?);
        }
        "NegotiateProtocolVersion" => {
            write::negotiate_protocol_version(out, version(items)?, items.list_of(Items::string)?);
        }
        "NotificationResponse" => {
            write::notification_response(out, items.number()?, items.string()?, items.string()?);
        }
        "ParameterDescription" => write::parameter_description(out, &types(items)?),
        "RowDescription" => {
            let columns = items.list_of(column)?;
            let columns = columns.iter().map(|(name, column)| Column { name, ..*column });
            write::row_description_of(out, columns);
        }
        "DataRow" => {
            let values = items.list_of(Items::value)?;
            write::data_row(out, &values.iter().map(Option::as_deref).collect::<Vec<_>>());
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A column whose name is beside it: name and type, or all seven fields.
fn column(items: &mut Items) -> Result<(Vec<u8>, Column<'static>), TextError> {
    let mut fields = items.list()?;
    let name = fields.string()?;
    let column = if fields.len() == 1 {
        write::text_column(b"", fields.number()?)
    } else {
        Column {
            name: b"",
            table_oid: fields.number()?,
            number: fields.number()?,
            type_oid: fields.number()?,
            type_bytes: fields.number()?,
            type_modifier: fields.number()?,
            format: fields.number()?,
        }
    };
    fields.end()?;
    Ok((name, column))
}

/// A list of type oids, in network order.
fn types(items: &mut Items) -> Result<Vec<u8>, TextError> {
    Ok(items.list_of(Items::number::<u32>)?.into_iter().flat_map(u32::to_be_bytes).collect())
}

/// A word of one ASCII character: a kind, a status or a field's code.
fn letter(items: &mut Items) -> Result<u8, TextError> {
    let word = items.word()?;
    match word.as_bytes() {
        [letter] => Ok(*letter),
        _ => Err(TextError::new(format!("expected one letter, found {word}"))),
    }
}

/// `3.0`
fn version(items: &mut Items) -> Result<(u16, u16), TextError> {
    let word = items.word()?;
    word.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| TextError::new(format!("{word} is not a version")))
}

//! Entry points of the fuzz targets, shared with the property tests: each takes any bytes, must not panic in the code
//! that it calls, and asserts what that code promises.

use crate::backend::{self, Authentication, ErrorFields, TransactionStatus, tag as from_server};
use crate::decode::DecodeError;
use crate::frame::{FrameError, Frames, HEAD_BYTES, Head, head};
use crate::frontend::{self, Bind, BindHead, Execute, Parse, Target, tag as from_client};
use crate::proxy;
use crate::rename::{self, Rename};
use crate::startup::{self, FirstPacket, first_packet};
use crate::text::{self, Side};
use crate::write;

/// No frame of a fuzz target is longer.
const BYTES_MAX: u32 = 1 << 20;

/// A first packet: what is read is written back as the same bytes, and no shorter prefix is complete.
pub fn startup(data: &[u8]) {
    let line = text::print_first(data);
    assert_eq!(text::parse(&line).expect("what is printed is read"), (Side::Frontend, data.to_vec()), "{line}");
    let Ok(Some((packet, bytes))) = first_packet(data) else { return };
    let mut again = Vec::new();
    match packet {
        FirstPacket::Startup(startup) => {
            write::startup(&mut again, startup.version, startup.parameters.iter());
            for (name, _) in startup.parameters.iter() {
                assert!(!name.is_empty());
                let last = startup.parameters.iter().filter(|each| each.0 == name).last();
                assert_eq!(startup.get(name), last.map(|each| each.1));
            }
            options(startup.get("options").unwrap_or_default());
        }
        FirstPacket::Ssl => write::ssl_request(&mut again),
        FirstPacket::GssEnc => write::gssenc_request(&mut again),
        FirstPacket::Cancel { pid, key } => {
            assert!((4..=256).contains(&key.len()));
            write::cancel_request(&mut again, pid, key);
        }
        FirstPacket::DirectTls => assert_eq!(data[0], 0x16),
    }
    assert_eq!(again, data[..bytes]);
    for cut in 0..bytes {
        assert_eq!(first_packet(&data[..cut]), Ok(None));
    }
}

/// A header of the PROXY protocol: it takes what it says, and no shorter prefix is complete; what begins as a startup
/// packet is none.
pub fn proxy_header(data: &[u8]) {
    if let Ok(Some((source, bytes))) = proxy::header(data) {
        assert!(proxy::is_header(data) && first_packet(data).is_err());
        if let proxy::Source::Tcp(address, _) = source {
            assert_eq!(address, address.to_canonical());
        }
        for cut in 0..bytes {
            assert_eq!(proxy::header(&data[..cut]), Ok(None));
        }
        assert_eq!(proxy::header(&data[..bytes]), Ok(Some((source, bytes))));
    }
}

/// Text of the `options` parameter: what is read is written back to text that reads the same.
pub fn options(data: &[u8]) {
    let Ok(settings) = startup::options(data) else { return };
    assert!(settings.iter().all(|(name, _)| !name.is_empty() && !name.contains(['-', '='])));
    let text = startup::join_options(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    assert_eq!(startup::options(text.as_bytes()), Ok(settings));
}

/// A stream of a client.
pub fn frontend_frames(data: &[u8]) {
    stream(Side::Frontend, data, frontend_message);
}

/// A stream of a server.
pub fn backend_frames(data: &[u8]) {
    stream(Side::Backend, data, backend_message);
}

/// The body of an error: what is read is written back as the same bytes.
pub fn error_fields(data: &[u8]) {
    // That it is refused is as good as that it is read.
    let _ = error_body(data);
}

/// A new statement name (its length, its bytes) and a stream: what is renamed parses as the original, renamed.
pub fn bind_rename(data: &[u8]) {
    let Some((bytes, data)) = data.split_first() else { return };
    let (name, data) = data.split_at(usize::from(*bytes % 64).min(data.len()));
    rename_each(name, data);
    for tag in [from_client::BIND, from_client::PARSE, from_client::DESCRIBE, from_client::CLOSE] {
        let mut whole = Vec::new();
        write::message(&mut whole, tag, |out| out.extend_from_slice(data));
        rename_each(name, &whole);
        // What follows the frame is not part of it.
        write::sync(&mut whole);
        rename_each(name, &whole);
    }
}

/// Frames of `data`: `check` each body, print each, and feed the stream in two pieces as well.
fn stream(side: Side, data: &[u8], check: fn(u8, &[u8]) -> Result<(), DecodeError>) {
    let mut frames = Frames::new(data, BYTES_MAX);
    let mut whole = Vec::new();
    for frame in frames.by_ref() {
        whole.push(frame);
        let Ok((head, body)) = frame else { break };
        assert_eq!(head.bytes as usize, HEAD_BYTES + body.len());
        // That it is refused is as good as that it is read.
        let _ = check(head.tag, body);
    }
    let lines = text::print_all(side, data);
    let again: Vec<u8> = lines.iter().flat_map(|line| text::parse(line).expect("what is printed is read").1).collect();
    assert_eq!(again, data);
    if let Some(seed) = data.first() {
        let cut = usize::from(*seed) % (data.len() + 1);
        assert_eq!(in_two_pieces(data, cut), whole);
    }
}

/// Frames as a session sees them whose reads end at `cut`.
pub(crate) fn in_two_pieces(data: &[u8], cut: usize) -> Vec<Result<(Head, &[u8]), FrameError>> {
    let mut first = Frames::new(&data[..cut], BYTES_MAX);
    let mut frames: Vec<_> = first.by_ref().collect();
    if frames.last().is_none_or(Result::is_ok) {
        let taken = cut - first.rest().len();
        frames.extend(Frames::new(&data[taken..], BYTES_MAX));
    }
    frames
}

/// Decodes a message by its tag; what is well-formed is written back as the same bytes.
pub(crate) fn frontend_message(tag: u8, body: &[u8]) -> Result<(), DecodeError> {
    let mut out = Vec::new();
    match tag {
        from_client::PARSE => {
            let parse = Parse::decode(body)?;
            assert_eq!(parse.types.iter().len(), parse.types.len());
            write::parse(&mut out, parse.name, parse.query, parse.types.as_bytes());
        }
        from_client::BIND => {
            let beginning = BindHead::decode(body);
            let bind = Bind::decode(body)?;
            let beginning = beginning.expect("a whole Bind has a head");
            assert_eq!((beginning.portal, beginning.statement), (bind.portal, bind.statement));
            assert_eq!(BindHead::decode(&body[..beginning.bytes]), Some(beginning));
            assert_eq!(BindHead::decode(&body[..beginning.bytes - 1]), None);
            let (formats, result_formats): (Vec<_>, Vec<_>) =
                (bind.formats.iter().collect(), bind.result_formats.iter().collect());
            let values: Vec<_> = bind.values.iter().collect();
            assert_eq!(values.len(), bind.values.len());
            write::bind(&mut out, bind.portal, bind.statement, &formats, &values, &result_formats);
        }
        from_client::DESCRIBE | from_client::CLOSE => {
            let target = Target::decode(body)?;
            let write = if tag == from_client::CLOSE { write::close } else { write::describe };
            write(&mut out, target.kind, target.name);
        }
        from_client::FUNCTION_CALL => {
            // It is never written.
            let call = frontend::FunctionCall::decode(body)?;
            assert_eq!(call.values.iter().count(), call.values.len());
            return Ok(());
        }
        from_client::EXECUTE => {
            let execute = Execute::decode(body)?;
            write::execute(&mut out, execute.portal, execute.rows_max);
        }
        from_client::QUERY => {
            let query = frontend::Query::decode(body)?;
            write::query(&mut out, query.text);
        }
        from_client::COPY_FAIL => {
            let fail = frontend::CopyFail::decode(body)?;
            write::copy_fail(&mut out, fail.reason);
        }
        from_client::PASSWORD => {
            secret(body);
            return Ok(());
        }
        _ => return Ok(()),
    }
    assert_eq!(&out[HEAD_BYTES..], body);
    Ok(())
}

fn secret(body: &[u8]) {
    let mut out = Vec::new();
    write::sasl_response(&mut out, frontend::SaslResponse::decode(body).data);
    assert_eq!(&out[HEAD_BYTES..], body);
    if let Ok(password) = frontend::password(body) {
        out.clear();
        write::password(&mut out, password);
        assert_eq!(&out[HEAD_BYTES..], body);
    }
    if let Ok(initial) = frontend::SaslInitialResponse::decode(body) {
        out.clear();
        write::sasl_initial(&mut out, initial.mechanism, initial.data);
        assert_eq!(&out[HEAD_BYTES..], body);
    }
}

/// Decodes a message by its tag; what is well-formed is written back as the same bytes.
pub(crate) fn backend_message(tag: u8, body: &[u8]) -> Result<(), DecodeError> {
    let mut out = Vec::new();
    match tag {
        from_server::AUTHENTICATION => {
            let authentication = Authentication::decode(body)?;
            match authentication {
                Authentication::Ok => write::authentication_ok(&mut out),
                Authentication::Cleartext => write::authentication_cleartext(&mut out),
                Authentication::Md5 { salt } => write::authentication_md5(&mut out, salt),
                Authentication::Sasl { mechanisms } => write::authentication_sasl(&mut out, mechanisms.iter()),
                Authentication::SaslContinue(data) => write::authentication_sasl_continue(&mut out, data),
                Authentication::SaslFinal(data) => write::authentication_sasl_final(&mut out, data),
                Authentication::Other(_) => return Ok(()),
            }
        }
        from_server::PARAMETER_STATUS => {
            let status = backend::ParameterStatus::decode(body)?;
            write::parameter_status(&mut out, status.name, status.value);
        }
        from_server::BACKEND_KEY_DATA => {
            let data = backend::BackendKeyData::decode(body)?;
            assert!((4..=256).contains(&data.key.len()));
            write::backend_key_data(&mut out, data.pid, data.key);
        }
        from_server::READY_FOR_QUERY => {
            let status = TransactionStatus::decode(body)?;
            write::ready_for_query(&mut out, status);
        }
        from_server::NEGOTIATE_PROTOCOL_VERSION => {
            let negotiate = backend::NegotiateProtocolVersion::decode(body)?;
            write::negotiate_protocol_version(&mut out, negotiate.version, negotiate.options());
        }
        from_server::ERROR_RESPONSE | from_server::NOTICE_RESPONSE => return error_body(body),
        _ => return backend_reply(tag, body),
    }
    assert_eq!(&out[HEAD_BYTES..], body);
    Ok(())
}

/// The rest of what a server sends: replies to requests.
fn backend_reply(tag: u8, body: &[u8]) -> Result<(), DecodeError> {
    let mut out = Vec::new();
    match tag {
        from_server::COMMAND_COMPLETE => {
            let complete = backend::CommandComplete::decode(body)?;
            write::command_complete(&mut out, complete.tag);
        }
        from_server::NOTIFICATION_RESPONSE => {
            let said = backend::NotificationResponse::decode(body)?;
            write::notification_response(&mut out, said.pid, said.channel, said.payload);
        }
        from_server::PARAMETER_DESCRIPTION => {
            let types = backend::parameter_description(body)?;
            write::parameter_description(&mut out, types.as_bytes());
        }
        from_server::ROW_DESCRIPTION => {
            let description = backend::RowDescription::decode(body)?;
            let columns: Vec<_> = description.iter().collect();
            assert_eq!(columns.len(), description.len());
            write::row_description_of(&mut out, columns);
        }
        from_server::DATA_ROW => {
            let row = backend::data_row(body)?;
            let values: Vec<_> = row.iter().collect();
            assert_eq!(values.len(), row.len());
            write::data_row(&mut out, &values);
        }
        from_server::COPY_IN_RESPONSE | from_server::COPY_OUT_RESPONSE | from_server::COPY_BOTH_RESPONSE => {
            let response = backend::CopyResponse::decode(body)?;
            write::copy_response(&mut out, tag, response.format, &response.formats.iter().collect::<Vec<_>>());
        }
        _ => return Ok(()),
    }
    assert_eq!(&out[HEAD_BYTES..], body);
    Ok(())
}

fn error_body(data: &[u8]) -> Result<(), DecodeError> {
    let fields = ErrorFields::decode(data)?;
    let list: Vec<_> = fields.iter().collect();
    let mut again = Vec::new();
    write::error_response(&mut again, &list);
    assert_eq!(&again[HEAD_BYTES..], data);
    for (code, _) in &list {
        let first = list.iter().find(|each| each.0 == *code).map(|each| each.1);
        assert_eq!(fields.get(*code), first);
    }
    assert!(!fields.is_fatal() || fields.severity().is_some());
    assert_eq!(fields.sqlstate(), fields.get(b'C'));
    assert_eq!(fields.message(), fields.get(b'M'));
    Ok(())
}

fn rename_each(name: &[u8], data: &[u8]) {
    for rename in [rename::bind, rename::parse, rename::describe, rename::close] {
        let mut out = b"before".to_vec();
        let renamed = rename(&mut out, data, name);
        let added = out.strip_prefix(b"before").expect("what was there stays");
        let Ok(Some(renamed)) = renamed else {
            assert!(added.is_empty());
            continue;
        };
        let mut prefix = Vec::new();
        assert_eq!(rename(&mut prefix, &data[..renamed.skip], name), Ok(Some(renamed)));
        assert_eq!(prefix, added);
        assert_eq!(rename(&mut prefix, &data[..renamed.skip - 1], name), Ok(None));
        check_renamed(name, data, added, renamed);
    }
}

/// parse(renamed) = renamed parse, for a frame of which all has arrived.
fn check_renamed(name: &[u8], data: &[u8], added: &[u8], renamed: Rename) {
    assert_eq!(added.len(), renamed.head_bytes);
    let name = write::before_nul(name);
    let old = head(data, u32::MAX).expect("it was renamed").expect("it was renamed");
    let new = [added, &data[renamed.skip..]].concat();
    assert_eq!(head(&new, u32::MAX), Ok(Some(Head { tag: old.tag, bytes: renamed.bytes })));
    if data.len() < old.bytes as usize {
        return;
    }
    let (old_body, after) = data[HEAD_BYTES..].split_at(old.body_bytes() as usize);
    let (body, new_after) = new[HEAD_BYTES..].split_at(renamed.bytes as usize - HEAD_BYTES);
    assert_eq!(after, new_after);
    match old.tag {
        from_client::BIND => {
            let (old_names, names) = (BindHead::decode(old_body), BindHead::decode(body));
            assert_eq!(names.map(|names| names.portal), old_names.map(|names| names.portal));
            assert_eq!(names.map(|names| names.statement), Some(name));
            let expected = Bind::decode(old_body).map(|bind| Bind { statement: name, ..bind });
            assert_eq!(Bind::decode(body), expected);
        }
        from_client::PARSE => {
            assert_eq!(Parse::decode(body), Parse::decode(old_body).map(|parse| Parse { name, ..parse }));
        }
        _ => assert_eq!(Target::decode(body), Target::decode(old_body).map(|target| Target { name, ..target })),
    }
}

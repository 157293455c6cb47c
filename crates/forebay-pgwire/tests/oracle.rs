//! Our messages against those of postgres-protocol, which drivers in Rust use: two readings of one document.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write::{self, Fields};
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend as theirs;

/// What both sides wrote must be the same bytes, else a server understands one of us otherwise than it was meant.
fn assert_same(ours: impl FnOnce(&mut Vec<u8>), theirs: impl FnOnce(&mut BytesMut)) {
    let (mut our_bytes, mut their_bytes) = (Vec::new(), BytesMut::new());
    ours(&mut our_bytes);
    theirs(&mut their_bytes);
    assert_eq!(our_bytes, their_bytes);
}

/// What postgres-protocol reads of one message of ours.
fn read(ours: impl FnOnce(&mut Vec<u8>)) -> Message {
    let mut bytes = Vec::new();
    ours(&mut bytes);
    let mut buffer = BytesMut::from(&bytes[..]);
    let message = Message::parse(&mut buffer).expect("it is well-formed").expect("it is complete");
    assert!(buffer.is_empty(), "it takes the whole message");
    message
}

#[test]
fn messages_before_a_session_are_the_same_bytes() {
    let parameters = [("user", "app"), ("database", "shop"), ("options", "-c geqo=off")];
    assert_same(|out| write::startup(out, (3, 0), parameters), |out| theirs::startup_message(parameters, out).unwrap());
    assert_same(write::ssl_request, theirs::ssl_request);
    let key = 0x0102_0304_i32;
    assert_same(
        |out| write::cancel_request(out, 4711, &key.to_be_bytes()),
        |out| theirs::cancel_request(4711, key, out),
    );
}

#[test]
fn messages_that_log_in_are_the_same_bytes() {
    assert_same(|out| write::password(out, "secret"), |out| theirs::password_message(b"secret", out).unwrap());
    assert_same(
        |out| write::sasl_initial(out, "SCRAM-SHA-256", Some(b"n,,n=,r=x")),
        |out| theirs::sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x", out).unwrap(),
    );
    assert_same(|out| write::sasl_response(out, b"c=biws"), |out| theirs::sasl_response(b"c=biws", out).unwrap());
}

#[test]
fn requests_are_the_same_bytes() {
    assert_same(|out| write::query(out, "select 1"), |out| theirs::query("select 1", out).unwrap());
    let oids = [0, 0, 0, 23, 0, 0, 0, 25];
    assert_same(
        |out| write::parse(out, "s1", "select $1, $2", &oids),
        |out| theirs::parse("s1", "select $1, $2", [23, 25], out).unwrap(),
    );
    let values = [Some(&b"1"[..]), None, Some(b"")];
    assert_same(
        |out| write::bind(out, "p", "s1", &[1, 0, 0], &values, &[1]),
        |out| {
            let serialize = |value: Option<&[u8]>, buffer: &mut BytesMut| match value {
                Some(bytes) => {
                    buffer.extend_from_slice(bytes);
                    Ok(IsNull::No)
                }
                None => Ok(IsNull::Yes),
            };
            assert!(theirs::bind("p", "s1", [1, 0, 0], values, serialize, [1], out).is_ok());
        },
    );
    assert_same(|out| write::describe(out, b'S', "s1"), |out| theirs::describe(b'S', "s1", out).unwrap());
    assert_same(|out| write::close(out, b'P', "p"), |out| theirs::close(b'P', "p", out).unwrap());
    assert_same(|out| write::execute(out, "p", 100), |out| theirs::execute("p", 100, out).unwrap());
    assert_same(|out| write::copy_fail(out, "no"), |out| theirs::copy_fail("no", out).unwrap());
    assert_same(write::copy_done, theirs::copy_done);
    assert_same(write::sync, theirs::sync);
    assert_same(write::flush, theirs::flush);
    assert_same(write::terminate, theirs::terminate);
}

#[test]
fn answers_to_a_login_are_read() {
    assert!(matches!(read(write::authentication_ok), Message::AuthenticationOk));
    assert!(matches!(read(write::authentication_cleartext), Message::AuthenticationCleartextPassword));
    let Message::AuthenticationMd5Password(md5) = read(|out| write::authentication_md5(out, [1, 2, 3, 4])) else {
        panic!("another message")
    };
    assert_eq!(md5.salt(), [1, 2, 3, 4]);
    let names = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"];
    let Message::AuthenticationSasl(sasl) = read(|out| write::authentication_sasl(out, names)) else {
        panic!("another message")
    };
    assert_eq!(sasl.mechanisms().collect::<Vec<_>>().unwrap(), names);
    let Message::AuthenticationSaslContinue(data) = read(|out| write::authentication_sasl_continue(out, b"r=x")) else {
        panic!("another message")
    };
    assert_eq!(data.data(), b"r=x");
    let Message::AuthenticationSaslFinal(data) = read(|out| write::authentication_sasl_final(out, b"v=x")) else {
        panic!("another message")
    };
    assert_eq!(data.data(), b"v=x");
    let Message::ParameterStatus(status) = read(|out| write::parameter_status(out, "TimeZone", "UTC")) else {
        panic!("another message")
    };
    assert_eq!((status.name().unwrap(), status.value().unwrap()), ("TimeZone", "UTC"));
    let Message::BackendKeyData(data) = read(|out| write::backend_key_data(out, 4711, &[0, 0, 0, 9])) else {
        panic!("another message")
    };
    assert_eq!((data.process_id(), data.secret_key()), (4711, 9));
    let Message::ReadyForQuery(ready) = read(|out| write::ready_for_query(out, TransactionStatus::Failed)) else {
        panic!("another message")
    };
    assert_eq!(ready.status(), b'E');
}

#[test]
fn answers_to_requests_are_read() {
    assert!(matches!(read(write::parse_complete), Message::ParseComplete));
    assert!(matches!(read(write::bind_complete), Message::BindComplete));
    assert!(matches!(read(write::close_complete), Message::CloseComplete));
    assert!(matches!(read(write::no_data), Message::NoData));
    assert!(matches!(read(write::empty_query), Message::EmptyQueryResponse));
    assert!(matches!(read(write::portal_suspended), Message::PortalSuspended));
    let Message::CommandComplete(complete) = read(|out| write::command_complete(out, "SELECT 3")) else {
        panic!("another message")
    };
    assert_eq!(complete.tag().unwrap(), "SELECT 3");
    let Message::NotificationResponse(said) = read(|out| write::notification_response(out, 7, "channel", "text"))
    else {
        panic!("another message")
    };
    assert_eq!((said.process_id(), said.channel().unwrap(), said.message().unwrap()), (7, "channel", "text"));
}

#[test]
fn rows_are_read() {
    let Message::RowDescription(description) = read(|out| write::row_description(out, &[("id", 23), ("name", 25)]))
    else {
        panic!("another message")
    };
    let columns = description.fields().map(|field| Ok((field.name().to_owned(), field.type_oid(), field.type_size())));
    assert_eq!(columns.collect::<Vec<_>>().unwrap(), [("id".to_owned(), 23, 4), ("name".to_owned(), 25, -1)]);
    let Message::DataRow(row) = read(|out| write::data_row(out, &[Some(b"12"), None, Some(b"")])) else {
        panic!("another message")
    };
    let values = row.ranges().map(|range| Ok(range.map(|range| row.buffer()[range].to_vec())));
    assert_eq!(values.collect::<Vec<_>>().unwrap(), [Some(b"12".to_vec()), None, Some(Vec::new())]);
    let Message::ParameterDescription(description) =
        read(|out| write::parameter_description(out, &[0, 0, 0, 23, 0, 0, 0, 0]))
    else {
        panic!("another message")
    };
    assert_eq!(description.parameters().collect::<Vec<_>>().unwrap(), [23, 0]);
}

#[test]
fn errors_and_notices_are_read() {
    let fields = Fields::error("53300", "full").with_detail("20 of 20").with_hint("wait");
    let Message::ErrorResponse(error) = read(|out| write::error(out, &fields)) else { panic!("another message") };
    let list =
        error.fields().map(|field| Ok((field.type_(), field.value_bytes().to_vec()))).collect::<Vec<_>>().unwrap();
    let expected =
        [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "53300"), (b'M', "full"), (b'D', "20 of 20"), (b'H', "wait")];
    assert_eq!(list, expected.map(|(code, text)| (code, text.as_bytes().to_vec())));
    assert!(matches!(read(|out| write::notice(out, &fields)), Message::NoticeResponse(_)));
}

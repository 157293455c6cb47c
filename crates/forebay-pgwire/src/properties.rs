//! Property tests of the whole crate. Messages are made by the writers from any fields, and by hand from any bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::backend::{Column, TransactionStatus};
use crate::frame::{Frames, HEAD_BYTES};
use crate::{fuzz_entry, write};

/// Bytes that often look like a message: small, and rich in NULs, tags and kinds.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => Just(0_u8),
        3 => 0..8_u8,
        4 => prop::sample::select(b"SPBDCEQpdcfRKZvNATtVGHWI=-\\ \"xc".as_slice()),
        2 => any::<u8>(),
    ];
    vec(byte, 0..96)
}

/// A header of either version, of which anything may be wrong.
fn proxy_header() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec!["TCP4", "TCP6", "UNKNOWN", "::1", "192.0.2.1", "6432", "0", "x", ""]);
    let end = prop::sample::select(vec!["\r\n", "\n", ""]);
    let text = (vec(word, 0..8), end).prop_map(|(words, end)| format!("PROXY {}{end}", words.join(" ")).into_bytes());
    let family = prop::sample::select(vec![0x00, 0x11, 0x12, 0x21, 0x31]);
    let binary = (0x20..0x23_u8, family, vec(any::<u8>(), 0..48)).prop_map(|(what, family, body)| {
        let length = (body.len() as u16).to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[what, family][..], &length[..], &body[..]].concat()
    });
    prop_oneof![text, binary]
}

/// Any bytes with the head of a frame, so that they reach a decoder.
fn framed_noise() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop::sample::select(b"SPBDCEQpdcfRKZvNATtVGHWI123nsXF".as_slice());
    (tag, noise()).prop_map(|(tag, body)| {
        let mut out = Vec::new();
        write::message(&mut out, tag, |out| out.extend(body));
        out
    })
}

fn string() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![4 => b'a'..=b'z', 1 => 1..=255_u8], 0..12)
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(vec(any::<u8>(), 0..20))
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn borrowed(values: &[Option<Vec<u8>>]) -> Vec<Option<&[u8]>> {
    values.iter().map(Option::as_deref).collect()
}

fn oids() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u32>(), 0..5).prop_map(|oids| oids.into_iter().flat_map(u32::to_be_bytes).collect())
}

fn bind() -> impl Strategy<Value = Vec<u8>> {
    (string(), string(), vec(any::<i16>(), 0..4), vec(value(), 0..4), vec(any::<i16>(), 0..4)).prop_map(
        |(portal, statement, formats, values, result_formats)| {
            written(|out| write::bind(out, portal, statement, &formats, &borrowed(&values), &result_formats))
        },
    )
}

/// Each message of a client that has a view.
fn frontend_message() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(b"SP".as_slice());
    prop_oneof![
        (string(), string(), oids()).prop_map(|(name, query, oids)| written(|o| write::parse(o, name, query, &oids))),
        bind(),
        (kind.clone(), string()).prop_map(|(kind, name)| written(|out| write::describe(out, kind, name))),
        (kind, string()).prop_map(|(kind, name)| written(|out| write::close(out, kind, name))),
        (string(), any::<i32>()).prop_map(|(portal, rows)| written(|out| write::execute(out, portal, rows))),
        string().prop_map(|text| written(|out| write::query(out, text))),
        string().prop_map(|text| written(|out| write::copy_fail(out, text))),
        string().prop_map(|text| written(|out| write::password(out, text))),
        (string(), value()).prop_map(|(name, data)| written(|o| write::sasl_initial(o, name, data.as_deref()))),
        vec(any::<u8>(), 0..20).prop_map(|data| written(|out| write::sasl_response(out, &data))),
        vec(any::<u8>(), 0..20).prop_map(|data| written(|out| write::copy_data(out, &data))),
        (any::<u32>(), vec(any::<i16>(), 0..3), vec(value(), 0..3), any::<i16>()).prop_map(
            |(oid, formats, values, format)| {
                written(|out| write::function_call(out, oid, &formats, &borrowed(&values), format))
            }
        ),
        Just(written(write::sync)),
        Just(written(write::flush)),
        Just(written(write::copy_done)),
        Just(written(write::terminate)),
    ]
}

fn column() -> impl Strategy<Value = (Vec<u8>, Column<'static>)> {
    let numbers = (any::<u32>(), any::<i16>(), any::<u32>(), any::<i16>(), any::<i32>(), any::<i16>());
    (string(), numbers).prop_map(|(name, (table_oid, number, type_oid, type_bytes, type_modifier, format))| {
        (name, Column { name: b"", table_oid, number, type_oid, type_bytes, type_modifier, format })
    })
}

fn authentication() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(written(write::authentication_ok)),
        Just(written(write::authentication_cleartext)),
        any::<[u8; 4]>().prop_map(|salt| written(|out| write::authentication_md5(out, salt))),
        vec(string(), 0..3).prop_map(|names| written(|out| write::authentication_sasl(out, names))),
        vec(any::<u8>(), 0..20).prop_map(|data| written(|out| write::authentication_sasl_continue(out, &data))),
        vec(any::<u8>(), 0..20).prop_map(|data| written(|out| write::authentication_sasl_final(out, &data))),
    ]
}

/// Each message of a server that has a view.
fn backend_message() -> impl Strategy<Value = Vec<u8>> {
    use TransactionStatus::{Failed, Idle, InTransaction};
    let fields = vec((any::<u8>(), string()), 0..6);
    let empty: [fn(&mut Vec<u8>); 6] = [
        write::parse_complete,
        write::bind_complete,
        write::close_complete,
        write::no_data,
        write::empty_query,
        write::portal_suspended,
    ];
    prop_oneof![
        authentication(),
        (string(), string()).prop_map(|(name, value)| written(|out| write::parameter_status(out, name, value))),
        (any::<u32>(), vec(any::<u8>(), 4..=256))
            .prop_map(|(pid, key)| written(|out| write::backend_key_data(out, pid, &key))),
        prop::sample::select([Idle, InTransaction, Failed].as_slice())
            .prop_map(|status| written(|out| write::ready_for_query(out, status))),
        (any::<(u16, u16)>(), vec(string(), 0..3))
            .prop_map(|(version, names)| written(|out| write::negotiate_protocol_version(out, version, names))),
        fields.prop_map(|fields| {
            let fields: Vec<_> = fields.iter().map(|(code, text)| (*code, text.as_slice())).collect();
            written(|out| write::error_response(out, &fields))
        }),
        string().prop_map(|tag| written(|out| write::command_complete(out, tag))),
        (any::<u32>(), string(), string())
            .prop_map(|(pid, channel, text)| written(|out| write::notification_response(out, pid, channel, text))),
        oids().prop_map(|oids| written(|out| write::parameter_description(out, &oids))),
        vec(column(), 0..4).prop_map(|columns| {
            let columns = columns.iter().map(|(name, column)| Column { name, ..*column });
            written(|out| write::row_description_of(out, columns))
        }),
        vec(value(), 0..4).prop_map(|values| written(|out| write::data_row(out, &borrowed(&values)))),
        (prop::sample::select(b"GHW".as_slice()), any::<u8>(), vec(any::<i16>(), 0..4))
            .prop_map(|(tag, format, formats)| written(|out| write::copy_response(out, tag, format, &formats))),
        prop::sample::select(empty.to_vec()).prop_map(written),
    ]
}

fn stream(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (vec(message, 0..5), noise()).prop_map(|(messages, after)| [messages.concat(), after].concat())
}

fn first_packet() -> impl Strategy<Value = Vec<u8>> {
    let pairs = vec((string(), string()), 0..4);
    prop_oneof![
        (0..5_u16, pairs).prop_map(|(minor, pairs)| written(|out| write::startup(out, (3, minor), pairs))),
        (any::<u32>(), vec(any::<u8>(), 4..=256))
            .prop_map(|(pid, key)| written(|out| write::cancel_request(out, pid, &key))),
        Just(written(write::ssl_request)),
        Just(written(write::gssenc_request)),
        noise().prop_map(|body| written(|out| write::startup(out, (3, 0), [("options", body)]))),
        (noise(), 0..4_u16).prop_map(|(body, major)| {
            written(|out| {
                write::packet(out, |out| {
                    out.extend([0, major as u8, 0, 0]);
                    out.extend(body);
                })
            })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A mutation of any of these lets a client crash a worker, or lets two peers see different messages.
    #[test]
    fn any_bytes_are_decoded_or_refused(data in noise()) {
        fuzz_entry::startup(&data);
        fuzz_entry::options(&data);
        fuzz_entry::proxy_header(&data);
        fuzz_entry::frontend_frames(&data);
        fuzz_entry::backend_frames(&data);
        fuzz_entry::error_fields(&data);
        fuzz_entry::bind_rename(&data);
    }

    #[test]
    fn any_body_is_decoded_or_refused(data in stream(framed_noise())) {
        fuzz_entry::frontend_frames(&data);
        fuzz_entry::backend_frames(&data);
    }

    #[test]
    fn a_first_packet_that_is_read_is_written_back_the_same(data in first_packet(), after in noise()) {
        fuzz_entry::startup(&data);
        fuzz_entry::startup(&[data, after].concat());
    }

    #[test]
    fn a_header_of_a_load_balancer_is_read_whole_or_not_at_all(data in proxy_header(), after in noise()) {
        fuzz_entry::proxy_header(&data);
        fuzz_entry::proxy_header(&[data, after].concat());
    }

    #[test]
    fn a_message_of_a_client_that_is_read_is_written_back_the_same(message in frontend_message(), after in noise()) {
        prop_assert_eq!(fuzz_entry::frontend_message(message[0], &message[HEAD_BYTES..]), Ok(()));
        fuzz_entry::frontend_frames(&[message, after].concat());
    }

    #[test]
    fn a_message_of_a_server_that_is_read_is_written_back_the_same(message in backend_message(), after in noise()) {
        prop_assert_eq!(fuzz_entry::backend_message(message[0], &message[HEAD_BYTES..]), Ok(()));
        fuzz_entry::backend_frames(&[message, after].concat());
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_frames(data in stream(prop_oneof![frontend_message(), framed_noise()])) {
        let whole: Vec<_> = Frames::new(&data, 1 << 20).collect();
        for cut in 0..=data.len() {
            prop_assert_eq!(&fuzz_entry::in_two_pieces(&data, cut), &whole);
        }
    }

    /// A mistake here sends a client's Bind to another client's statement.
    #[test]
    fn a_renamed_message_parses_as_the_message_renamed(name in string(), message in frontend_message(), after in noise()) {
        fuzz_entry::bind_rename(&[&[name.len() as u8], &name[..], &message, &after].concat());
        fuzz_entry::bind_rename(&[&[name.len() as u8], &name[..], &message[HEAD_BYTES..]].concat());
    }

    #[test]
    fn settings_written_as_options_are_read_back(settings in vec(("[a-z_.]{1,8}", "\\PC{0,12}"), 0..4)) {
        let text = crate::startup::join_options(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        prop_assert_eq!(crate::startup::options(text.as_bytes()), Ok(settings));
    }

    #[test]
    fn any_line_of_text_is_read_or_refused(line in "[FB] (Parse|Bind|Frame|DataRow|Startup|RowDescription|ErrorResponse|[A-Z]{1,3})( (x?\"[a0\\\\x]{0,4}\"?|[\\[\\],3.NUL-]{0,5})){0,5}") {
        if let Ok((side, bytes)) = crate::text::parse(&line) {
            let printed = crate::text::print(side, &bytes);
            prop_assert_eq!(crate::text::parse(&printed), Ok((side, bytes)));
        }
    }
}

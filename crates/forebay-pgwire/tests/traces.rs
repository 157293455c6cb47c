//! Recorded conversations with real servers, read whole and cut at every byte.

use bytes::BytesMut;
use forebay_pgwire::frame::{FrameError, Frames, Head};
use forebay_pgwire::text::{self, Side};
use postgres_protocol::message::backend::Message;

const POSTGRESQL_15: &str = include_str!("traces/postgresql_15.trace");
/// Far above the longest message of a trace.
const BYTES_MAX: u32 = 100_000;

fn lines() -> impl Iterator<Item = &'static str> {
    POSTGRESQL_15.lines().filter(|line| !line.starts_with('#'))
}

/// All that one side sent after the first packet.
fn sent_by(side: Side) -> Vec<u8> {
    let messages = lines().skip(1).map(|line| text::parse(line).expect("a trace has only lines that are understood"));
    messages.filter(|message| message.0 == side).flat_map(|message| message.1).collect()
}

/// A trace that does not survive reading and printing can't be compared with what forebay does.
#[test]
fn a_recorded_line_is_printed_as_it_was_read() {
    for (number, line) in lines().enumerate() {
        let (side, bytes) = text::parse(line).unwrap();
        let printed = if number == 0 { text::print_first(&bytes) } else { text::print(side, &bytes) };
        assert_eq!(printed, line);
        assert!(!line[2..].starts_with("Frame") && !line[2..].starts_with("Bytes"), "{line}");
    }
}

/// TCP cuts where it likes: a session must not depend on how a reply arrives.
#[test]
fn a_recorded_stream_cut_at_every_byte_gives_the_same_frames() {
    for side in [Side::Frontend, Side::Backend] {
        let data = sent_by(side);
        let whole: Vec<_> = Frames::new(&data, BYTES_MAX).collect();
        assert!(whole.len() > 20 && whole.iter().all(Result::is_ok));
        for cut in 0..=data.len() {
            assert_eq!(in_two_pieces(&data, cut), whole, "{side:?} cut at {cut}");
        }
    }
}

fn in_two_pieces(data: &[u8], cut: usize) -> Vec<Result<(Head, &[u8]), FrameError>> {
    let mut first = Frames::new(&data[..cut], BYTES_MAX);
    let mut frames: Vec<_> = first.by_ref().collect();
    frames.extend(Frames::new(&data[cut - first.rest().len()..], BYTES_MAX));
    frames
}

#[test]
fn a_driver_reads_the_replies_that_were_recorded() {
    let replies = sent_by(Side::Backend);
    // It does not know NegotiateProtocolVersion, which is the first reply.
    let frames = Frames::new(&replies, BYTES_MAX).count();
    let first = Frames::new(&replies, BYTES_MAX).next().unwrap().unwrap().0;
    assert_eq!(first.tag, forebay_pgwire::backend::tag::NEGOTIATE_PROTOCOL_VERSION);
    let mut buffer = BytesMut::from(&replies[first.bytes as usize..]);
    let mut read = 1;
    while Message::parse(&mut buffer).unwrap().is_some() {
        read += 1;
    }
    assert_eq!((read, buffer.len()), (frames, 0));
}

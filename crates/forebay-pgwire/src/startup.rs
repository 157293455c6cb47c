//! The first packet of a connection, which has a length word but no tag, and the `options` parameter in it.
//!
//! Nothing in a first packet is trusted: a client has not said who it is when it sends one.

use std::fmt;

use memchr::memchr;

pub use crate::startup_options::{OptionsError, join_options, options};

/// Limit of a first packet in bytes, its length word included. PostgreSQL allows 10,000 bytes after that word.
pub const STARTUP_BYTES_MAX: u32 = 10_004;
/// Shortest and longest secret key of a cancel request in bytes; 3.0 has always 4, 3.2 up to 256.
pub const KEY_BYTES_MIN: usize = 4;
/// Longest secret key in bytes.
pub const KEY_BYTES_MAX: usize = 256;

/// The code that stands for a version in a cancel request: 1234.5678.
pub const CANCEL_REQUEST_CODE: u32 = (1234 << 16) | 5678;
/// The code that stands for a version in a request for TLS: 1234.5679.
pub const SSL_REQUEST_CODE: u32 = (1234 << 16) | 5679;
/// The code that stands for a version in a request for GSSAPI encryption: 1234.5680.
pub const GSSENC_REQUEST_CODE: u32 = (1234 << 16) | 5680;

/// First byte of a TLS handshake record. As a length it is beyond every limit, so the two can't be confused.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPacket<'a> {
    /// A session is wanted.
    Startup(Startup<'a>),
    /// TLS is wanted; the answer is one byte, `S` or `N`, and another first packet follows.
    Ssl,
    /// GSSAPI encryption is wanted; the answer is one byte, `G` or `N`, and another first packet follows.
    GssEnc,
    /// A request of another session is to be cancelled. There is no answer.
    Cancel {
        /// Process id of that session.
        pid: u32,
        /// Its secret key, 4 to 256 bytes.
        key: &'a [u8],
    },
    /// A TLS handshake without a request before it. No byte of it is taken.
    DirectTls,
}

/// A startup message of protocol 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Startup<'a> {
    /// Major and minor; the major is 3, the minor is whatever the client asked for.
    pub version: (u16, u16),
    /// What the client set.
    pub parameters: Parameters<'a>,
}

impl<'a> Startup<'a> {
    /// The value of `name`, the last one where it is there more than once.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        self.parameters.get(name)
    }
}

/// Names and values of a startup message, in order, duplicates included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters<'a> {
    /// `name NUL value NUL` repeated; checked when the message was read.
    bytes: &'a [u8],
}

impl<'a> Parameters<'a> {
    /// Checks the bytes after the version: pairs of strings, then one NUL.
    fn decode(body: &'a [u8]) -> Result<Parameters<'a>, StartupError> {
        let mut rest = body;
        while rest.len() > 1 {
            if rest[0] == 0 {
                return Err(StartupError::Layout);
            }
            let (_, after) = pair(rest).ok_or(StartupError::Layout)?;
            rest = after;
        }
        if rest != [0] {
            return Err(StartupError::Layout);
        }
        Ok(Parameters { bytes: &body[..body.len() - 1] })
    }

    /// All pairs, in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (pair, after) = pair(rest)?;
            rest = after;
            Some(pair)
        })
    }

    /// The value of `name`; the last one wins, as in PostgreSQL.
    pub fn get(self, name: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        let name = name.as_ref();
        self.iter().filter(|(each, _)| *each == name).map(|(_, value)| value).last()
    }

    /// Names of protocol options (`_pq_.` …). They ask for features of the protocol and are never settings; the ones
    /// that are not known go into a NegotiateProtocolVersion.
    pub fn protocol_options(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.iter().map(|(name, _)| name).filter(|name| is_protocol_option(name))
    }
}

/// Whether a parameter asks for a feature of the protocol.
pub fn is_protocol_option(name: &[u8]) -> bool {
    name.starts_with(b"_pq_.")
}

/// What a client is given that asks for replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// The log of the whole cluster, and base backups.
    Physical,
    /// The same with a database, for logical decoding and queries.
    Logical,
}

impl Replication {
    /// The parameter's value that asks for it.
    pub fn value(self) -> &'static str {
        match self {
            Replication::Physical => "true",
            Replication::Logical => "database",
        }
    }
}

/// What a value of the parameter `replication` asks for, read as PostgreSQL reads it: a boolean, or `database`.
/// `Err`: it is neither.
pub fn replication(value: &[u8]) -> Result<Option<Replication>, StartupError> {
    if value == b"database" {
        return Ok(Some(Replication::Logical));
    }
    // PostgreSQL takes any beginning of these words that fits only one of them.
    let begins = |word: &str, least: usize| {
        value.len() >= least && word.len() >= value.len() && word.as_bytes()[..value.len()].eq_ignore_ascii_case(value)
    };
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == b"1" {
        return Ok(Some(Replication::Physical));
    }
    let is_off = begins("false", 1) || begins("no", 1) || begins("off", 2) || value == b"0";
    if is_off { Ok(None) } else { Err(StartupError::Layout) }
}

/// A name, a value and what follows; `None` where a NUL is missing.
#[expect(clippy::type_complexity, reason = "a pair and a rest, used in two places below each other")]
fn pair(data: &[u8]) -> Option<((&[u8], &[u8]), &[u8])> {
    let name_end = memchr(0, data)?;
    let after_name = &data[name_end + 1..];
    let value_end = memchr(0, after_name)?;
    Some(((&data[..name_end], &after_name[..value_end]), &after_name[value_end + 1..]))
}

/// A first packet that is refused. The connection has no future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartupError {
    /// The length word is out of bounds for a first packet, or wrong for what the packet says it is.
    Length {
        /// What the length word says.
        bytes: u32,
    },
    /// A version that is not spoken: 2.0, or what no PostgreSQL ever spoke.
    UnsupportedVersion {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// Parameters are not pairs of strings with one NUL at their end.
    Layout,
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartupError::Length { bytes } => write!(f, "invalid length of startup packet: {bytes} bytes"),
            StartupError::UnsupportedVersion { major, minor } => {
                write!(f, "unsupported frontend protocol {major}.{minor}: 3.0 to 3.2 are supported")
            }
            StartupError::Layout => {
                write!(f, "invalid startup packet layout: expected terminator as last byte")
            }
        }
    }
}

impl std::error::Error for StartupError {}

/// Reads a first packet and how many bytes it takes; `None` while it is not complete.
///
/// A length out of bounds is refused as soon as its four bytes are there.
pub fn first_packet(data: &[u8]) -> Result<Option<(FirstPacket<'_>, usize)>, StartupError> {
    if data.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some((FirstPacket::DirectTls, 0)));
    }
    let Some(word) = data.first_chunk::<4>() else { return Ok(None) };
    let bytes = u32::from_be_bytes(*word);
    if !(8..=STARTUP_BYTES_MAX).contains(&bytes) {
        return Err(StartupError::Length { bytes });
    }
    let Some(packet) = data.get(..bytes as usize) else { return Ok(None) };
    let code = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
    let body = &packet[8..];
    let packet = match code {
        SSL_REQUEST_CODE | GSSENC_REQUEST_CODE if !body.is_empty() => return Err(StartupError::Length { bytes }),
        SSL_REQUEST_CODE => FirstPacket::Ssl,
        GSSENC_REQUEST_CODE => FirstPacket::GssEnc,
        CANCEL_REQUEST_CODE => cancel(body).ok_or(StartupError::Length { bytes })?,
        _ => {
            let (major, minor) = ((code >> 16) as u16, code as u16);
            if major != 3 {
                return Err(StartupError::UnsupportedVersion { major, minor });
            }
            FirstPacket::Startup(Startup { version: (major, minor), parameters: Parameters::decode(body)? })
        }
    };
    Ok(Some((packet, bytes as usize)))
}

fn cancel(body: &[u8]) -> Option<FirstPacket<'_>> {
    let (pid, key) = body.split_first_chunk::<4>()?;
    (KEY_BYTES_MIN..=KEY_BYTES_MAX)
        .contains(&key.len())
        .then_some(FirstPacket::Cancel { pid: u32::from_be_bytes(*pid), key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    fn raw(code: u32, body: &[u8]) -> Vec<u8> {
        let length = 8 + body.len() as u32;
        [&length.to_be_bytes(), &code.to_be_bytes(), body].concat()
    }

    #[test]
    fn a_startup_message_gives_its_version_and_parameters() {
        let packet = written(|out| write::startup(out, (3, 2), [("user", "app"), ("database", "shop")]));
        let Ok(Some((FirstPacket::Startup(startup), bytes))) = first_packet(&packet) else { panic!("refused") };
        assert_eq!((startup.version, bytes), ((3, 2), packet.len()));
        let pairs: Vec<_> = startup.parameters.iter().collect();
        assert_eq!(pairs, [(&b"user"[..], &b"app"[..]), (&b"database"[..], &b"shop"[..])]);
        assert_eq!(startup.get("database"), Some(&b"shop"[..]));
        assert_eq!(startup.get("options"), None);
    }

    #[test]
    fn the_last_of_two_values_wins() {
        let packet = written(|out| write::startup(out, (3, 0), [("user", "a"), ("user", "b")]));
        let Ok(Some((FirstPacket::Startup(startup), _))) = first_packet(&packet) else { panic!("refused") };
        assert_eq!(startup.get("user"), Some(&b"b"[..]));
    }

    #[test]
    fn protocol_options_are_listed_apart_from_settings() {
        let pairs = [("user", "a"), ("_pq_.x", "1"), ("_pq", ""), ("_pq_.y", "")];
        let packet = written(|out| write::startup(out, (3, 9999), pairs));
        let Ok(Some((FirstPacket::Startup(startup), _))) = first_packet(&packet) else { panic!("refused") };
        assert_eq!(startup.parameters.protocol_options().collect::<Vec<_>>(), [b"_pq_.x", b"_pq_.y"]);
        assert_eq!(startup.version, (3, 9999));
    }

    /// A value misread makes an ordinary session of a subscription, or the other way round.
    #[test]
    fn replication_is_read_as_postgresql_reads_it() {
        for on in ["true", "TRUE", "t", "tru", "yes", "y", "on", "On", "1"] {
            assert_eq!(replication(on.as_bytes()), Ok(Some(Replication::Physical)), "{on}");
        }
        for off in ["false", "f", "no", "n", "off", "of", "0"] {
            assert_eq!(replication(off.as_bytes()), Ok(None), "{off}");
        }
        assert_eq!(replication(b"database"), Ok(Some(Replication::Logical)));
        for neither in ["", "o", "DATABASE", "databases", "2", "10", "truest", "onn", "\u{e9}"] {
            assert!(replication(neither.as_bytes()).is_err(), "{neither}");
        }
    }

    #[test]
    fn requests_are_told_apart_by_their_code() {
        assert_eq!(first_packet(&written(write::ssl_request)), Ok(Some((FirstPacket::Ssl, 8))));
        assert_eq!(first_packet(&written(write::gssenc_request)), Ok(Some((FirstPacket::GssEnc, 8))));
        assert_eq!(first_packet(b"\x16\x03\x01"), Ok(Some((FirstPacket::DirectTls, 0))));
        let cancel = written(|out| write::cancel_request(out, 7, &[9; 32]));
        assert_eq!(first_packet(&cancel), Ok(Some((FirstPacket::Cancel { pid: 7, key: &[9; 32] }, 44))));
    }

    #[test]
    fn a_cancel_request_has_a_key_of_4_to_256_bytes() {
        for (key_bytes, is_read) in [(0, false), (3, false), (4, true), (256, true), (257, false)] {
            let packet = written(|out| write::cancel_request(out, 7, &vec![1; key_bytes]));
            assert_eq!(first_packet(&packet).is_ok(), is_read, "{key_bytes}");
        }
        assert_eq!(first_packet(&raw(CANCEL_REQUEST_CODE, b"\0\0")), Err(StartupError::Length { bytes: 10 }));
    }

    /// Bytes in a request would pass as if they had come through TLS.
    #[test]
    fn a_request_for_tls_has_no_body() {
        assert_eq!(first_packet(&raw(SSL_REQUEST_CODE, b"x")), Err(StartupError::Length { bytes: 9 }));
    }

    /// A client that is not known yet must not make us buffer.
    #[test]
    fn a_length_out_of_bounds_is_refused_at_its_fourth_byte() {
        for bytes in [0_u32, 7, STARTUP_BYTES_MAX + 1, u32::MAX] {
            assert_eq!(first_packet(&bytes.to_be_bytes()[..3]), Ok(None));
            assert_eq!(first_packet(&bytes.to_be_bytes()), Err(StartupError::Length { bytes }));
        }
        assert_eq!(first_packet(&STARTUP_BYTES_MAX.to_be_bytes()), Ok(None));
        assert_eq!(first_packet(b"GET / HTTP/1.1\r\n"), Err(StartupError::Length { bytes: 0x4745_5420 }));
    }

    #[test]
    fn another_major_version_is_refused_by_name() {
        for (major, minor) in [(2, 0), (1, 0), (4, 1), (0, 0), (1234, 1)] {
            let packet = raw((u32::from(major) << 16) | u32::from(minor), b"\0");
            assert_eq!(first_packet(&packet), Err(StartupError::UnsupportedVersion { major, minor }));
        }
    }

    /// What PostgreSQL refuses must not mean something to us.
    #[test]
    fn a_list_of_parameters_ends_with_one_nul_and_nothing_after_it() {
        for body in [&b""[..], b"user", b"user\0", b"user\0a", b"user\0a\0", b"\0\0", b"user\0a\0\0x", b"user\0a\0\0\0"]
        {
            assert_eq!(first_packet(&raw(3 << 16, body)), Err(StartupError::Layout), "{body:?}");
        }
        assert!(first_packet(&raw(3 << 16, b"\0")).is_ok());
        assert!(first_packet(&raw(3 << 16, b"user\0\0\0")).is_ok());
    }

    #[test]
    fn an_error_names_what_was_wrong() {
        let error = StartupError::UnsupportedVersion { major: 2, minor: 0 };
        assert_eq!(error.to_string(), "unsupported frontend protocol 2.0: 3.0 to 3.2 are supported");
    }
}

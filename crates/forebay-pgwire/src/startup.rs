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

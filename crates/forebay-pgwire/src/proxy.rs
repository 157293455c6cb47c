//! The PROXY protocol, versions 1 and 2: what a load balancer says before the client's first byte, of whose it is.
//! (HAProxy, "The PROXY protocol", 2020.)
//!
//! Whoever sends it decides what address its client has: it is for those to read who know from whom they take it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::memchr;

/// What a header of version 1 begins with.
const TEXT_START: &[u8] = b"PROXY ";
/// What one of version 2 begins with.
const BINARY_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1, its line end included.
const TEXT_BYTES_MAX: usize = 107;
/// Bytes of a header of version 2 before those that its length word counts.
const BINARY_HEAD_BYTES: usize = 16;
/// Longest header of version 2 that is taken: the addresses, and as much beside them as nobody needs.
const BINARY_BYTES_MAX: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's address and port.
    Tcp(IpAddr, u16),
    /// It comes from the load balancer itself, or from where there are no addresses.
    Unknown,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// It begins as no header does.
    Missing,
    /// The text of version 1 is not as it must be.
    Text,
    /// A version of which nothing is known.
    Version(u8),
    /// A command of which nothing is known.
    Command(u8),
    /// A family or a transport that no client of ours has.
    Family(u8),
    /// A length that is out of bounds, or too short for the addresses.
    Length(usize),
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyError::Missing => f.write_str("it is missing"),
            ProxyError::Text => f.write_str("its text is malformed"),
            ProxyError::Version(n) => write!(f, "its version is {n}"),
            ProxyError::Command(n) => write!(f, "its command is {n}"),
            ProxyError::Family(n) => write!(f, "its address family is {n:#04x}"),
            ProxyError::Length(n) => write!(f, "its length is {n} bytes"),
        }
    }
}

impl std::error::Error for ProxyError {}

/// Whether what a client sent begins as a header does: no startup packet does.
pub fn is_header(data: &[u8]) -> bool {
    data.starts_with(TEXT_START) || data.starts_with(BINARY_START)
}

/// Reads a header and how many bytes it takes; `None` while it is not complete.
pub fn header(data: &[u8]) -> Result<Option<(Source, usize)>, ProxyError> {
    let begins = |start: &[u8]| start.starts_with(data) || data.starts_with(start);
    if data.is_empty() {
        Ok(None)
    } else if begins(BINARY_START) {
        binary(data)
    } else if begins(TEXT_START) {
        text(data)
    } else {
        Err(ProxyError::Missing)
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 6432`, CR, LF.
fn text(data: &[u8]) -> Result<Option<(Source, usize)>, ProxyError> {
    let within = &data[..data.len().min(TEXT_BYTES_MAX)];
    let Some(end) = memchr(b'\n', within) else {
        return if data.len() < TEXT_BYTES_MAX { Ok(None) } else { Err(ProxyError::Text) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(ProxyError::Text)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Text)?;
    let mut words = line.split(' ').skip(1);
    let source = match words.next() {
        // Whatever follows is to be passed over.
        Some("UNKNOWN") => return Ok(Some((Source::Unknown, end + 1))),
        Some("TCP4") => addresses::<Ipv4Addr>(&mut words)?,
        Some("TCP6") => addresses::<Ipv6Addr>(&mut words)?,
        _ => return Err(ProxyError::Text),
    };
    if words.next().is_some() { Err(ProxyError::Text) } else { Ok(Some((source, end + 1))) }
}

fn addresses<'a, A>(words: &mut impl Iterator<Item = &'a str>) -> Result<Source, ProxyError>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut word = || words.next().ok_or(ProxyError::Text);
    let (source, target, source_port, target_port) = (word()?, word()?, word()?, word()?);
    let address = |text: &str| text.parse::<A>().map_err(|_| ProxyError::Text);
    let (source, _) = (address(source)?, address(target)?);
    let (port, _) = (port(source_port)?, port(target_port)?);
    Ok(Source::Tcp(source.into().to_canonical(), port))
}

/// A decimal number without a sign, and without zeros before it.
fn port(text: &str) -> Result<u16, ProxyError> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or(ProxyError::Text)
}

/// Version 2: the signature, version and command, family and transport, the length of the rest, addresses, options.
fn binary(data: &[u8]) -> Result<Option<(Source, usize)>, ProxyError> {
    let Some(head) = data.first_chunk::<BINARY_HEAD_BYTES>() else { return Ok(None) };
    let [.., what, family, high, low] = *head;
    if what >> 4 != 2 {
        return Err(ProxyError::Version(what >> 4));
    }
    let bytes = BINARY_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if bytes > BINARY_BYTES_MAX {
        return Err(ProxyError::Length(bytes));
    }
    let Some(body) = data.get(BINARY_HEAD_BYTES..bytes) else { return Ok(None) };
    let source = match (what & 0xf, family) {
        // LOCAL: whatever addresses there are, they are not a client's.
        (0, _) => Source::Unknown,
        (1, 0x11) => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] =
                *body.first_chunk::<12>().ok_or(ProxyError::Length(bytes))?;
            Source::Tcp(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low]))
        }
        (1, 0x21) => {
            let addresses = body.first_chunk::<36>().ok_or(ProxyError::Length(bytes))?;
            let address = addresses.first_chunk::<16>().copied().unwrap_or_default();
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Source::Tcp(IpAddr::from(Ipv6Addr::from(address)).to_canonical(), port)
        }
        // Unspecified, and Unix sockets on the other side of the load balancer.
        (1, 0x00 | 0x31) => Source::Unknown,
        (1, other) => return Err(ProxyError::Family(other)),
        (command, _) => return Err(ProxyError::Command(command)),
    };
    Ok(Some((source, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str, port: u16) -> Source {
        Source::Tcp(address.parse().expect("an address"), port)
    }

    fn v2(what: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [BINARY_START, &[what, family][..], &length[..], body].concat()
    }

    #[test]
    fn the_text_of_version_1_gives_the_clients_address() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 6432\r\nmore";
        assert_eq!(header(line), Ok(Some((tcp("192.0.2.1", 56324), 46))));
        let longest = b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(header(longest), Ok(Some((tcp("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535), 104))));
        assert_eq!(header(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"), Ok(Some((tcp("192.0.2.1", 1), 37))));
        assert_eq!(header(b"PROXY UNKNOWN\r\n"), Ok(Some((Source::Unknown, 15))));
        assert_eq!(header(b"PROXY UNKNOWN ::1 x y\r\n"), Ok(Some((Source::Unknown, 23))));
    }

    #[test]
    fn another_text_is_refused_and_a_beginning_waits() {
        for faulty in [
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 6432\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 6432 1\r\n",
            "PROXY TCP4 ::1 ::1 56324 6432\r\n",
            "PROXY TCP6 192.0.2.1 ::1 56324 6432\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 65536 6432\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 +1 6432\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 01 6432\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.7 1 6432\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.7 1 6432\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(header(faulty.as_bytes()), Err(ProxyError::Text), "{faulty:?}");
        }
        assert_eq!(header(&[b'x'; 200]), Err(ProxyError::Missing));
        assert_eq!(header(b"PROXYx"), Err(ProxyError::Missing));
        assert_eq!(header(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat()), Err(ProxyError::Text));
        assert_eq!(header(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92]].concat()), Ok(None));
        assert_eq!(header(b"\0\0\0\x08\x04\xd2\x16\x2f"), Err(ProxyError::Missing), "a request for TLS");
    }

    #[test]
    fn version_2_gives_the_clients_address_and_options_are_passed_over() {
        let four = [192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x19, 0x20, 4, 0, 1, 9];
        assert_eq!(header(&v2(0x21, 0x11, &four)), Ok(Some((tcp("192.0.2.1", 56324), 32))));
        let mut six = [0; 36];
        six[15] = 1;
        six[33] = 7;
        assert_eq!(header(&v2(0x21, 0x21, &six)), Ok(Some((tcp("::1", 7), 52))));
        assert_eq!(header(&v2(0x20, 0x11, &four)), Ok(Some((Source::Unknown, 32))), "LOCAL");
        assert_eq!(header(&v2(0x20, 0x00, &[])), Ok(Some((Source::Unknown, 16))), "LOCAL, of a health check");
        assert_eq!(header(&v2(0x21, 0x00, &[])), Ok(Some((Source::Unknown, 16))));
        assert_eq!(header(&v2(0x21, 0x31, &[0; 216])), Ok(Some((Source::Unknown, 232))));
    }

    #[test]
    fn what_version_2_has_no_meaning_for_is_refused() {
        assert_eq!(header(&v2(0x11, 0x11, &[0; 12])), Err(ProxyError::Version(1)));
        assert_eq!(header(&v2(0x22, 0x11, &[0; 12])), Err(ProxyError::Command(2)));
        assert_eq!(header(&v2(0x21, 0x12, &[0; 12])), Err(ProxyError::Family(0x12)), "UDP");
        assert_eq!(header(&v2(0x21, 0x11, &[0; 11])), Err(ProxyError::Length(27)));
        assert_eq!(header(&v2(0x21, 0x21, &[0; 35])), Err(ProxyError::Length(51)));
        assert_eq!(header(&v2(0x21, 0x11, &[0; 5000])[..16]), Err(ProxyError::Length(5016)), "before it is there");
    }
}

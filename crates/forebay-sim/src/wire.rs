//! Messages as the fake ends read and write them.
//!
//! Deliberately not forebay-pgwire: two readers that share a mistake agree with each other. This one is slow and copies.

/// A message with its type byte; startup packets have kind 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, body: Vec<u8>) -> Frame {
        Frame { kind, body }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 5);
        if self.kind != 0 {
            out.push(self.kind);
        }
        out.extend_from_slice(&(self.body.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(&self.body);
        out
    }

    /// A field of an ErrorResponse or NoticeResponse.
    pub(crate) fn field(&self, code: u8) -> Option<String> {
        let mut cursor = Cursor(&self.body);
        loop {
            match cursor.byte()? {
                0 => return None,
                c => {
                    let text = cursor.text()?;
                    if c == code {
                        return Some(text);
                    }
                }
            }
        }
    }

    /// What an error says, and its hint, which ends with our own code.
    pub(crate) fn words(&self) -> String {
        let of = |code| self.field(code).unwrap_or_default();
        format!("{} {}", of(b'M'), of(b'H'))
    }

    /// For people: type byte and the printable part of the body.
    pub(crate) fn show(&self) -> String {
        let text: String =
            self.body.iter().take(90).map(|&b| if (32..127).contains(&b) { b as char } else { '.' }).collect();
        format!("{}[{}]", if self.kind == 0 { '^' } else { self.kind as char }, text)
    }
}

/// Cuts a byte stream into frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Splitter {
    held: Vec<u8>,
    /// The next frame has no type byte.
    pub(crate) is_startup: bool,
}

impl Splitter {
    /// A splitter for a connection that begins.
    pub(crate) fn at_startup() -> Splitter {
        Splitter { held: Vec::new(), is_startup: true }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether a part of a frame is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The next whole frame; `Err` on a length that cannot be.
    pub(crate) fn take(&mut self) -> Result<Option<Frame>, String> {
        let head = usize::from(!self.is_startup);
        let Some(length) = self.held.get(head..head + 4) else { return Ok(None) };
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if !(4..=1 << 28).contains(&length) {
            return Err(format!("a frame says it is {length} bytes long"));
        }
        if self.held.len() < head + length {
            return Ok(None);
        }
        let kind = if head == 1 { self.held[0] } else { 0 };
        let body = self.held[head + 4..head + length].to_vec();
        self.held.drain(..head + length);
        Ok(Some(Frame { kind, body }))
    }

    /// The next byte, if it is there.
    pub(crate) fn first(&self) -> Option<u8> {
        self.held.first().copied()
    }

    /// One raw byte, for the answer to SSLRequest.
    pub(crate) fn take_byte(&mut self) -> Option<u8> {
        (!self.held.is_empty()).then(|| self.held.remove(0))
    }
}

/// Reads the fields of a body.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }
    pub(crate) fn int16(&mut self) -> Option<i16> {
        self.bytes(2).map(|b| i16::from_be_bytes([b[0], b[1]]))
    }
    pub(crate) fn int32(&mut self) -> Option<i32> {
        self.bytes(4).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
    pub(crate) fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        Some(text)
    }
}

/// Writes the fields of a body.
#[derive(Default)]
pub(crate) struct Body(pub(crate) Vec<u8>);

impl Body {
    pub(crate) fn byte(mut self, b: u8) -> Body {
        self.0.push(b);
        self
    }
    pub(crate) fn int16(mut self, n: i16) -> Body {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }
    pub(crate) fn int32(mut self, n: i32) -> Body {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }
    pub(crate) fn text(mut self, text: &str) -> Body {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Body {
        self.0.extend_from_slice(bytes);
        self
    }
    pub(crate) fn frame(self, kind: u8) -> Frame {
        Frame::new(kind, self.0)
    }
}

/// What a client sends after its startup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    Query(String),
    Parse {
        name: String,
        text: String,
        oids: Vec<i32>,
    },
    Bind {
        portal: String,
        statement: String,
        params: Vec<Option<Vec<u8>>>,
    },
    Describe {
        kind: u8,
        name: String,
    },
    Execute {
        portal: String,
        rows: i32,
    },
    Close {
        kind: u8,
        name: String,
    },
    Flush,
    Sync,
    CopyData(Vec<u8>),
    CopyDone,
    CopyFail(String),
    Function {
        argument: Vec<u8>,
    },
    Terminate,
    /// Anything else: the type byte.
    Unknown(u8),
}

impl Front {
    pub(crate) fn encode(&self) -> Frame {
        let body = Body::default();
        match self {
            Front::Query(text) => body.text(text).frame(b'Q'),
            Front::Parse { name, text, oids } => {
                let body = body.text(name).text(text).int16(oids.len() as i16);
                oids.iter().fold(body, |body, &oid| body.int32(oid)).frame(b'P')
            }
            Front::Bind { portal, statement, params } => {
                let body = body.text(portal).text(statement).int16(0).int16(params.len() as i16);
                let body = params.iter().fold(body, |body, param| match param {
                    None => body.int32(-1),
                    Some(bytes) => body.int32(bytes.len() as i32).bytes(bytes),
                });
                body.int16(0).frame(b'B')
            }
            Front::Describe { kind, name } => body.byte(*kind).text(name).frame(b'D'),
            Front::Execute { portal, rows } => body.text(portal).int32(*rows).frame(b'E'),
            Front::Close { kind, name } => body.byte(*kind).text(name).frame(b'C'),
            Front::Flush => body.frame(b'H'),
            Front::Sync => body.frame(b'S'),
            Front::CopyData(bytes) => body.bytes(bytes).frame(b'd'),
            Front::CopyDone => body.frame(b'c'),
            Front::CopyFail(text) => body.text(text).frame(b'f'),
            Front::Function { argument } => {
                body.int32(1).int16(0).int16(1).int32(argument.len() as i32).bytes(argument).int16(0).frame(b'F')
            }
            Front::Terminate => body.frame(b'X'),
            Front::Unknown(kind) => body.frame(*kind),
        }
    }

    /// The message in a frame; `None` if its body is malformed.
    pub(crate) fn decode(frame: &Frame) -> Option<Front> {
        let mut c = Cursor(&frame.body);
        Some(match frame.kind {
            b'Q' => Front::Query(c.text()?),
            b'P' => {
                let (name, text) = (c.text()?, c.text()?);
                let count = c.int16()?;
                Front::Parse { name, text, oids: (0..count).map(|_| c.int32()).collect::<Option<_>>()? }
            }
            b'B' => Front::decode_bind(&mut c)?,
            b'D' => Front::Describe { kind: c.byte()?, name: c.text()? },
            b'E' => Front::Execute { portal: c.text()?, rows: c.int32()? },
            b'C' => Front::Close { kind: c.byte()?, name: c.text()? },
            b'H' => Front::Flush,
            b'S' => Front::Sync,
            b'd' => Front::CopyData(frame.body.clone()),
            b'c' => Front::CopyDone,
            b'f' => Front::CopyFail(c.text()?),
            b'F' => {
                let (_, formats) = (c.int32()?, c.int16()?);
                c.bytes(2 * formats.max(0) as usize)?;
                c.int16()?;
                let length = c.int32()?;
                Front::Function { argument: c.bytes(length.max(0) as usize)?.to_vec() }
            }
            b'X' => Front::Terminate,
            kind => Front::Unknown(kind),
        })
    }

    fn decode_bind(c: &mut Cursor<'_>) -> Option<Front> {
        let (portal, statement) = (c.text()?, c.text()?);
        let formats = c.int16()?;
        c.bytes(2 * formats.max(0) as usize)?;
        let count = c.int16()?;
        let mut params = Vec::new();
        for _ in 0..count {
            let length = c.int32()?;
            params.push(if length < 0 { None } else { Some(c.bytes(length as usize)?.to_vec()) });
        }
        let results = c.int16()?;
        c.bytes(2 * results.max(0) as usize)?;
        c.0.is_empty().then_some(Front::Bind { portal, statement, params })
    }
}

/// A startup packet, or a cancel request, or a request for encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Startup { version: i32, params: Vec<(String, String)> },
    Cancel { pid: i32, key: Vec<u8> },
    Ssl,
    Gss,
}

impl Opening {
    pub(crate) fn encode(&self) -> Frame {
        let body = Body::default();
        match self {
            Opening::Startup { version, params } => {
                let body = params.iter().fold(body.int32(*version), |body, (n, v)| body.text(n).text(v));
                body.byte(0).frame(0)
            }
            Opening::Cancel { pid, key } => body.int32(80877102).int32(*pid).bytes(key).frame(0),
            Opening::Ssl => body.int32(80877103).frame(0),
            Opening::Gss => body.int32(80877104).frame(0),
        }
    }

    pub(crate) fn decode(frame: &Frame) -> Option<Opening> {
        let mut c = Cursor(&frame.body);
        match c.int32()? {
            80877102 => Some(Opening::Cancel { pid: c.int32()?, key: c.0.to_vec() }),
            80877103 => Some(Opening::Ssl),
            80877104 => Some(Opening::Gss),
            version => {
                let mut params = Vec::new();
                loop {
                    let name = c.text()?;
                    if name.is_empty() {
                        return Some(Opening::Startup { version, params });
                    }
                    params.push((name, c.text()?));
                }
            }
        }
    }
}

/// The mark by which a request, and every reply to it, names its asker: `c<client>-r<request>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tag {
    pub(crate) client: u32,
    pub(crate) request: u32,
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "c{}-r{}", self.client, self.request)
    }
}

impl Tag {
    /// Every tag in `bytes`, in order.
    pub(crate) fn all_in(bytes: &[u8]) -> Vec<Tag> {
        Tag::each_in(bytes).collect()
    }

    /// The first of them.
    pub(crate) fn first_in(bytes: &[u8]) -> Option<Tag> {
        Tag::each_in(bytes).next()
    }

    fn each_in(bytes: &[u8]) -> impl Iterator<Item = Tag> {
        let mut at = 0;
        std::iter::from_fn(move || {
            while let Some(offset) = bytes[at..].iter().position(|byte| *byte == b'c') {
                let start = at + offset;
                at = start + 1;
                if start > 0 && bytes[start - 1].is_ascii_alphanumeric() {
                    continue;
                }
                if let Some((tag, length)) = Tag::at(&bytes[start..]) {
                    at = start + length;
                    return Some(tag);
                }
            }
            None
        })
    }

    fn at(bytes: &[u8]) -> Option<(Tag, usize)> {
        let rest = bytes.strip_prefix(b"c")?;
        let (client, n) = number(rest)?;
        let rest = rest[n..].strip_prefix(b"-r")?;
        let (request, m) = number(rest)?;
        Some((Tag { client, request }, 3 + n + m))
    }
}

fn number(bytes: &[u8]) -> Option<(u32, usize)> {
    let n = bytes.iter().take(9).take_while(|b| b.is_ascii_digit()).count();
    let text = std::str::from_utf8(&bytes[..n]).ok()?;
    Some((text.parse().ok()?, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tag that is overlooked is a misdelivered reply that nobody sees.
    #[test]
    fn tags_are_found_wherever_they_stand() {
        let tags = Tag::all_in(b"..c1-r2 'c33-r4'\0abc5-r6,c7-r");
        assert_eq!(tags, [Tag { client: 1, request: 2 }, Tag { client: 33, request: 4 }]);
    }

    /// The fake ends must understand each other before they can judge anybody else.
    #[test]
    fn a_message_survives_encoding_and_decoding() {
        let messages = [
            Front::Parse { name: "s".into(), text: "show x".into(), oids: vec![25] },
            Front::Bind { portal: "p".into(), statement: "s".into(), params: vec![None, Some(b"v".to_vec())] },
            Front::Function { argument: b"c1-r1".to_vec() },
            Front::Sync,
        ];
        for message in messages {
            let mut splitter = Splitter::default();
            for byte in message.encode().encode() {
                assert_eq!(splitter.take(), Ok(None));
                splitter.push(&[byte]);
            }
            let frame = splitter.take().expect("a sound length").expect("a whole frame");
            assert_eq!(Front::decode(&frame), Some(message));
        }
    }
}

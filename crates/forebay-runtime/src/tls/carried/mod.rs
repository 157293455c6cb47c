//! The record layer of a connection that came from another process, or is on its way to one.
//!
//! The library makes handshakes and keeps its state to itself; what it gives away are the keys of both directions and
//! the numbers of the next records (rustls' kernel connection). From there on the connection is this: records, alerts,
//! and the two messages of TLS 1.3 that come behind a handshake.
//!
//! | comes | TLS 1.3 | TLS 1.2 |
//! |---|---|---|
//! | data | handed on | handed on |
//! | close_notify | the end of the stream | the same |
//! | another alert | an error, but for `user_canceled` | an error; a warning is passed over, [`WARNINGS_MAX`] times |
//! | NewSessionTicket, from a server | passed over | an error |
//! | KeyUpdate | the next key of that direction; an answer where one is asked for | an error |
//! | HelloRequest from a server, ClientHello from a client | an error | refused, [`RENEGOTIATIONS_MAX`] times |
//! | what can't be decrypted | `bad_record_mac`, an error | the same |
//!
//! The secret that later keys are derived from is not to be had, so a connection takes the next [`LATER_KEYS`] of each
//! direction along. When they are used up, and one more is needed, it is closed.

mod bytes;
mod keys;
#[cfg(test)]
mod tests;

pub(crate) use bytes::FORMAT;
pub(super) use bytes::get_bytes;
use rustls::{AlertDescription, ContentType, HandshakeType};

use self::keys::{Direction, HEADER, Version, whole_record};

/// Keys of later generations that are taken along, for each direction. The library renews a key of AES after 2^24 records;
/// peers do so after as many, or never.
pub(super) const LATER_KEYS: usize = 8;
/// Longest handshake message, the library's own limit.
const MESSAGE_MAX: usize = 0xffff;
/// Records without content in a row, the library's own limit.
const EMPTY_MAX: u8 = 32;
/// Warnings of a peer, the library's own limit.
const WARNINGS_MAX: u8 = 4;
/// Wishes of a peer for a new handshake, the library's own limit.
const RENEGOTIATIONS_MAX: u8 = 1;
/// Type and length of a handshake message.
const MESSAGE_HEADER: usize = 4;

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What a peer is told, and the words for our log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fatal(AlertDescription, &'static str);

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// See the module's text.
pub(super) struct Carried {
    role: Role,
    version: Version,
    sending: Direction,
    receiving: Direction,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    empty: u8,
    warnings: u8,
    renegotiations: u8,
    /// Our last word has been said.
    is_over: bool,
}

/// What came of ciphertext.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Bytes of it that were whole records.
    pub(super) used: usize,
    /// The peer ended the stream in order.
    pub(super) is_closed: bool,
}

/// Why nothing more is taken from a peer.
enum Stop {
    /// It said goodbye.
    Closed,
    /// It said that something is wrong: no answer is due.
    Alert(AlertDescription),
    Wrong(Fatal),
}

impl From<Fatal> for Stop {
    fn from(fatal: Fatal) -> Stop {
        Stop::Wrong(fatal)
    }
}

impl Carried {
    /// Decrypts whole records, in place; appends what they hold to `plain`, and what must be sent in answer to `wire`, also
    /// where it fails.
    pub(super) fn read(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<Taken, String> {
        let mut used = 0;
        loop {
            let stop = match whole_record(self.version, &bytes[used..]) {
                Ok(None) => return Ok(Taken { used, is_closed: false }),
                Ok(Some(len)) => {
                    let record = &mut bytes[used..used + len];
                    used += len;
                    self.take(record, plain, wire)
                }
                Err(fatal) => Err(fatal.into()),
            };
            match stop {
                Ok(()) => {}
                // What follows a goodbye is not looked at.
                Err(Stop::Closed) => return Ok(Taken { used: bytes.len(), is_closed: true }),
                Err(Stop::Alert(alert)) => {
                    self.is_over = true;
                    return Err(format!("TLS: received fatal alert: {alert:?}"));
                }
                Err(Stop::Wrong(Fatal(alert, words))) => {
                    self.say_last(alert, wire);
                    return Err(format!("TLS: {words}"));
                }
            }
        }
    }

    fn take(&mut self, record: &mut [u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), Stop> {
        let (kind, at) = self.receiving.open(record)?;
        let content = &record[at];
        self.empty = if content.is_empty() { self.empty + 1 } else { 0 };
        if self.empty > EMPTY_MAX {
            return Err(unexpected("peer sent too many empty records").into());
        }
        if kind != ContentType::Handshake && !self.message.is_empty() {
            return Err(unexpected("peer sent a record between two parts of a message").into());
        }
        match kind {
            ContentType::ApplicationData => plain.extend_from_slice(content),
            ContentType::Alert => self.take_alert(content)?,
            ContentType::Handshake => self.take_handshake(content, wire)?,
            _ => return Err(unexpected("peer sent a record of an unexpected type").into()),
        }
        Ok(())
    }

    fn take_alert(&mut self, content: &[u8]) -> Result<(), Stop> {
        let &[level, description] = content else { return Err(undecodable("peer sent half an alert").into()) };
        match (level, AlertDescription::from(description)) {
            (_, AlertDescription::CloseNotify) => Err(Stop::Closed),
            (WARNING, alert) if self.version == Version::Tls12 || alert == AlertDescription::UserCanceled => {
                self.warnings += 1;
                let is_enough = self.warnings > WARNINGS_MAX;
                if is_enough { Err(unexpected("peer sent too many warnings").into()) } else { Ok(()) }
            }
            (_, alert) => Err(Stop::Alert(alert)),
        }
    }

    fn take_handshake(&mut self, content: &[u8], wire: &mut Vec<u8>) -> Result<(), Stop> {
        if content.is_empty() {
            return Err(unexpected("peer sent an empty part of a message").into());
        }
        let mut message = std::mem::take(&mut self.message);
        message.extend_from_slice(content);
        let mut rest = &message[..];
        while let Some((&[kind, a, b, c], body)) = rest.split_first_chunk::<MESSAGE_HEADER>() {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            if len > MESSAGE_MAX {
                return Err(undecodable("peer sent a message that is too long").into());
            }
            let Some((body, behind)) = body.split_at_checked(len) else { break };
            rest = behind;
            self.take_message(HandshakeType::from(kind), body, !behind.is_empty(), wire)?;
        }
        let used = message.len() - rest.len();
        if used < message.len() {
            message.drain(..used);
            self.message = message;
        }
        Ok(())
    }

    fn take_message(
        &mut self,
        kind: HandshakeType,
        body: &[u8],
        is_followed: bool,
        wire: &mut Vec<u8>,
    ) -> Result<(), Fatal> {
        match (self.version, self.role, kind) {
            // To resume by it is the library's business, and it is not there any more.
            (Version::Tls13, Role::Client, HandshakeType::NewSessionTicket) => Ok(()),
            (Version::Tls13, _, HandshakeType::KeyUpdate) => {
                // The keys change with the record.
                if is_followed {
                    return Err(unexpected("peer sent more behind a key update"));
                }
                self.take_key_update(body, wire)
            }
            (Version::Tls12, Role::Client, HandshakeType::HelloRequest)
            | (Version::Tls12, Role::Server, HandshakeType::ClientHello)
                if self.renegotiations < RENEGOTIATIONS_MAX =>
            {
                self.renegotiations += 1;
                self.say(WARNING, AlertDescription::NoRenegotiation, wire);
                Ok(())
            }
            _ => Err(unexpected("peer sent an unexpected handshake message")),
        }
    }

    fn take_key_update(&mut self, body: &[u8], wire: &mut Vec<u8>) -> Result<(), Fatal> {
        let is_asked = match body {
            [0] => false,
            [1] => true,
            _ => return Err(undecodable("peer sent a key update that is none")),
        };
        if !self.receiving.renew() {
            return Err(USED_UP);
        }
        if is_asked { self.renew_sending(wire) } else { Ok(()) }
    }

    /// Says that a new key is used from the next record on, and uses it.
    fn renew_sending(&mut self, wire: &mut Vec<u8>) -> Result<(), Fatal> {
        if !self.sending.is_renewable() {
            return Err(USED_UP);
        }
        let message = [HandshakeType::KeyUpdate.into(), 0, 0, 1, 0];
        let said = self.sending.seal(ContentType::Handshake, &message, wire);
        if said.is_ok() && self.sending.renew() { Ok(()) } else { Err(USED_UP) }
    }

    /// Appends `chunk`, a record's worth, encrypted.
    pub(super) fn seal(&mut self, chunk: &[u8], wire: &mut Vec<u8>) -> Result<(), String> {
        if self.is_over {
            return Err("TLS: nothing can be sent any more".to_owned());
        }
        if self.sending.is_worn()
            && let Err(Fatal(alert, words)) = self.renew_sending(wire)
        {
            self.say_last(alert, wire);
            return Err(format!("TLS: {words}"));
        }
        self.sending.seal(ContentType::ApplicationData, chunk, wire).map_err(|words| format!("TLS: {words}"))
    }

    /// Whether our last word has been said.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Ends our side of the stream in order.
    pub(super) fn close(&mut self, wire: &mut Vec<u8>) {
        self.say_last(AlertDescription::CloseNotify, wire);
    }

    fn say_last(&mut self, alert: AlertDescription, wire: &mut Vec<u8>) {
        let level = if alert == AlertDescription::CloseNotify { WARNING } else { FATAL };
        if !std::mem::replace(&mut self.is_over, true) {
            self.say(level, alert, wire);
        }
    }

    fn say(&mut self, level: u8, alert: AlertDescription, wire: &mut Vec<u8>) {
        // One that can't be sent is one less: the connection ends, or the peer does without an answer.
        let _ = self.sending.seal(ContentType::Alert, &[level, alert.into()], wire);
    }
}

const USED_UP: Fatal = Fatal(AlertDescription::CloseNotify, "the keys that came along are used up");

fn unexpected(words: &'static str) -> Fatal {
    Fatal(AlertDescription::UnexpectedMessage, words)
}

fn undecodable(words: &'static str) -> Fatal {
    Fatal(AlertDescription::DecodeError, words)
}

/// Whether bytes that the library has not used up begin with a whole record: then it has decrypted that, and waits for the
/// rest of the message in it.
pub(super) fn is_amid_message(partial: &[u8]) -> bool {
    partial.split_first_chunk::<HEADER>().is_some_and(|(&[.., high, low], body)| {
        let len = usize::from(u16::from_be_bytes([high, low]));
        body.len() >= len
    })
}

//! One direction of a connection: its key, its place in the stream, the keys that may follow. Records are encrypted and
//! decrypted here (RFC 8446, section 5; RFC 5246, section 6.2; RFC 5288; RFC 7905).

use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType};
use zeroize::Zeroize;

use super::Fatal;

/// Type, version, length.
pub(super) const HEADER: usize = 5;
/// Plaintext of one record, without its type and padding.
pub(super) const PLAIN_MAX: usize = 1 << 14;
const TAG: usize = 16;
/// GCM in TLS 1.2 sends a part of the nonce.
const EXPLICIT: usize = 8;
/// Longest key.
const KEY_MAX: usize = 32;
pub(super) const IV: usize = 12;
/// TLS 1.2 in both versions: what the header of a record says.
const WIRE_VERSION: [u8; 2] = [3, 3];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    pub(super) fn key_len(self) -> usize {
        self.algorithm().key_len()
    }

    /// How many records one key may encrypt, the library's own number (RFC 8446, section 5.5). For ChaCha20 only the
    /// sequence number is a limit.
    fn records_max(self) -> u64 {
        match self {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => 1 << 24,
            Cipher::ChaCha20Poly1305 => SEQUENCE_MAX,
        }
    }
}

/// Behind this, nothing is encrypted or decrypted: the number would wrap. Room is left for alerts.
const SEQUENCE_MAX: u64 = u64::MAX - 16;

/// A key and what its nonces are made from. Overwritten when it is dropped.
pub(super) struct Secret {
    key: [u8; KEY_MAX],
    iv: [u8; IV],
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
    }
}

impl Secret {
    /// Of a key and its IV, one behind the other.
    pub(super) fn of(cipher: Cipher, bytes: &[u8]) -> Option<Secret> {
        let (key, iv) = bytes.split_at_checked(cipher.key_len())?;
        let mut secret = Secret { key: [0; KEY_MAX], iv: iv.try_into().ok()? };
        secret.key[..key.len()].copy_from_slice(key);
        Some(secret)
    }

    /// As the library gives it away; with its cipher.
    pub(super) fn from_library(secrets: &ConnectionTrafficSecrets) -> Option<(Cipher, Secret)> {
        let (cipher, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::ChaCha20Poly1305, key, iv),
            _ => return None,
        };
        let mut secret = Secret { key: [0; KEY_MAX], iv: iv.as_ref().try_into().ok()? };
        secret.key.get_mut(..cipher.key_len())?.copy_from_slice(key.as_ref());
        Some((cipher, secret))
    }

    /// The opposite of [`Secret::of`].
    pub(super) fn put(&self, cipher: Cipher, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key[..cipher.key_len()]);
        out.extend_from_slice(&self.iv);
    }
}

/// See the module's text.
pub(super) struct Direction {
    pub(super) version: Version,
    pub(super) cipher: Cipher,
    key: LessSafeKey,
    /// The last one is in use, the one before it is next. Cut off in place, so that none is left in memory.
    pub(super) secrets: Vec<Secret>,
    /// Of the next record.
    pub(super) sequence: u64,
}

impl Direction {
    pub(super) fn new(version: Version, cipher: Cipher, sequence: u64, secrets: Vec<Secret>) -> Option<Direction> {
        let key = ready(cipher, secrets.last()?)?;
        Some(Direction { version, cipher, key, secrets, sequence })
    }

    /// Whether there is another generation of keys.
    pub(super) fn is_renewable(&self) -> bool {
        self.secrets.len() > 1
    }

    /// Goes over to the next generation of keys. False: there is none.
    pub(super) fn renew(&mut self) -> bool {
        let next = self.secrets.len().checked_sub(2).and_then(|at| ready(self.cipher, &self.secrets[at]));
        let Some(key) = next else { return false };
        self.secrets.truncate(self.secrets.len() - 1);
        (self.key, self.sequence) = (key, 0);
        true
    }

    /// Whether the key has encrypted all that it may but one record.
    pub(super) fn is_worn(&self) -> bool {
        self.sequence >= self.cipher.records_max() - 1
    }

    fn nonce(&self) -> [u8; IV] {
        let mut nonce = self.secrets[self.secrets.len() - 1].iv;
        for (byte, of_sequence) in nonce[IV - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        nonce
    }

    /// Appends a record with this content.
    pub(super) fn seal(&mut self, kind: ContentType, content: &[u8], wire: &mut Vec<u8>) -> Result<(), &'static str> {
        if content.len() > PLAIN_MAX || self.sequence == u64::MAX {
            return Err("a record is too long, or the last one was sent");
        }
        let nonce = self.nonce();
        let (outer, explicit) = match self.version {
            Version::Tls13 => (ContentType::ApplicationData, &[][..]),
            Version::Tls12 if self.has_explicit_nonce() => (kind, &nonce[IV - EXPLICIT..]),
            Version::Tls12 => (kind, &[][..]),
        };
        let inner = content.len() + usize::from(self.version == Version::Tls13);
        let header = header(outer, explicit.len() + inner + TAG);
        wire.reserve(HEADER + explicit.len() + inner + TAG);
        wire.extend_from_slice(&header);
        wire.extend_from_slice(explicit);
        let start = wire.len();
        wire.extend_from_slice(content);
        if self.version == Version::Tls13 {
            wire.push(kind.into());
        }
        let associated = self.associated(&header, kind, content.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(associated.bytes()), &mut wire[start..]);
        match tag {
            Ok(tag) => wire.extend_from_slice(tag.as_ref()),
            Err(_) => {
                wire.truncate(start - explicit.len() - HEADER);
                return Err("a record can't be encrypted");
            }
        }
        self.sequence += 1;
        Ok(())
    }

    /// Decrypts a record in place: what it holds, and where that is in `record`.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Fatal> {
        if self.sequence >= SEQUENCE_MAX {
            return Err(Fatal(AlertDescription::CloseNotify, "the last record was received"));
        }
        let outer = ContentType::from(record[0]);
        if self.version == Version::Tls13 && outer != ContentType::ApplicationData {
            return Err(Fatal(AlertDescription::UnexpectedMessage, "peer sent a record that is not encrypted"));
        }
        let forged = Fatal(AlertDescription::BadRecordMac, "cannot decrypt peer's message");
        let has_explicit = self.version == Version::Tls12 && self.has_explicit_nonce();
        let (explicit, type_len) = (if has_explicit { EXPLICIT } else { 0 }, self.version == Version::Tls13);
        let overhead = explicit + TAG + usize::from(type_len);
        let (header, body) = record.split_first_chunk_mut::<HEADER>().ok_or(forged)?;
        let content_len = body.len().checked_sub(overhead).ok_or(forged)?;
        let mut nonce = self.nonce();
        if has_explicit {
            nonce[IV - EXPLICIT..].copy_from_slice(&body[..EXPLICIT]);
        }
        let associated = self.associated(header, outer, content_len);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(associated.bytes()), &mut body[explicit..]);
        let opened = opened.map_err(|_| forged)?;
        self.sequence += 1;
        let (kind, len) = if self.version == Version::Tls13 { inside(opened)? } else { (outer, opened.len()) };
        if len > PLAIN_MAX {
            return Err(Fatal(AlertDescription::RecordOverflow, "peer sent excess record size"));
        }
        let start = HEADER + explicit;
        Ok((kind, start..start + len))
    }

    fn has_explicit_nonce(&self) -> bool {
        self.cipher != Cipher::ChaCha20Poly1305
    }

    /// What is authenticated besides the content.
    fn associated(&self, header: &[u8; HEADER], kind: ContentType, len: usize) -> Associated {
        let mut bytes = [0; 13];
        match self.version {
            Version::Tls13 => bytes[..HEADER].copy_from_slice(header),
            Version::Tls12 => {
                bytes[..8].copy_from_slice(&self.sequence.to_be_bytes());
                bytes[8..].copy_from_slice(&self::header(kind, len));
            }
        }
        Associated { bytes, len: if self.version == Version::Tls13 { HEADER } else { 13 } }
    }
}

struct Associated {
    bytes: [u8; 13],
    len: usize,
}

impl Associated {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn ready(cipher: Cipher, secret: &Secret) -> Option<LessSafeKey> {
    UnboundKey::new(cipher.algorithm(), &secret.key[..cipher.key_len()]).ok().map(LessSafeKey::new)
}

/// `len` is below 2^16.
fn header(kind: ContentType, len: usize) -> [u8; HEADER] {
    let [high, low] = (len as u16).to_be_bytes();
    [kind.into(), WIRE_VERSION[0], WIRE_VERSION[1], high, low]
}

/// The content's type, which stands behind it and before zeros, and its length.
fn inside(opened: &[u8]) -> Result<(ContentType, usize), Fatal> {
    let at = opened.iter().rposition(|byte| *byte != 0);
    let at = at.ok_or(Fatal(AlertDescription::UnexpectedMessage, "peer sent a record without a type"))?;
    Ok((ContentType::from(opened[at]), at))
}

/// The length of the record that `bytes` begin with, if all of it is there.
pub(super) fn whole_record(version: Version, bytes: &[u8]) -> Result<Option<usize>, Fatal> {
    let Some((&[kind, major, minor, high, low], body)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    let extra_max = if version == Version::Tls13 { 256 } else { 2048 };
    if !(20..=23).contains(&kind) || [major, minor] != WIRE_VERSION || len == 0 {
        return Err(Fatal(AlertDescription::DecodeError, "peer sent what is no record"));
    }
    if len > PLAIN_MAX + extra_max {
        return Err(Fatal(AlertDescription::RecordOverflow, "peer sent excess record size"));
    }
    Ok((body.len() >= len).then_some(HEADER + len))
}

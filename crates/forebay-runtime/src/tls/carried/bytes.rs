//! How a connection's keys leave the library, and how they are written out and read in.
//!
//! Integers are little-endian. What is read came from another process: a length is never believed.

use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets, ProtocolVersion};

use super::keys::{Cipher, Direction, IV, Secret, Version};
use super::{Carried, LATER_KEYS, MESSAGE_MAX, Role};

/// Of what is written. Who has another can't read it.
pub(crate) const FORMAT: u8 = 1;

impl Carried {
    /// Of a connection that clients opened. None: the library does not give it away.
    pub(in crate::tls) fn from_server(connection: UnbufferedServerConnection) -> Option<Carried> {
        let (secrets, kernel) = connection.dangerous_into_kernel_connection().ok()?;
        Carried::from_library(Role::Server, secrets, kernel)
    }

    /// Of a connection to a server.
    pub(in crate::tls) fn from_client(connection: UnbufferedClientConnection) -> Option<Carried> {
        let (secrets, kernel) = connection.dangerous_into_kernel_connection().ok()?;
        Carried::from_library(Role::Client, secrets, kernel)
    }

    fn from_library<Data>(
        role: Role,
        secrets: ExtractedSecrets,
        mut kernel: KernelConnection<Data>,
    ) -> Option<Carried> {
        let version = match kernel.protocol_version() {
            ProtocolVersion::TLSv1_2 => Version::Tls12,
            ProtocolVersion::TLSv1_3 => Version::Tls13,
            _ => return None,
        };
        let sending = direction(version, &secrets.tx, || kernel.update_tx_secret())?;
        let receiving = direction(version, &secrets.rx, || kernel.update_rx_secret())?;
        Some(Carried::new(role, sending, receiving))
    }

    fn new(role: Role, sending: Direction, receiving: Direction) -> Carried {
        Carried {
            role,
            version: sending.version,
            sending,
            receiving,
            message: Vec::new(),
            empty: 0,
            warnings: 0,
            renegotiations: 0,
            is_over: false,
        }
    }

    /// Appends all of it, with its keys. One that is over is not written.
    pub(in crate::tls) fn put(&self, out: &mut Vec<u8>) {
        let Carried { role, version, sending, receiving, message, empty, warnings, renegotiations, is_over: _ } = self;
        out.extend_from_slice(&[
            u8::from(*role == Role::Client),
            u8::from(*version == Version::Tls13),
            match sending.cipher {
                Cipher::Aes128Gcm => 0,
                Cipher::Aes256Gcm => 1,
                Cipher::ChaCha20Poly1305 => 2,
            },
            *empty,
            *warnings,
            *renegotiations,
        ]);
        for Direction { version: _, cipher, secrets, sequence, .. } in [sending, receiving] {
            out.extend_from_slice(&sequence.to_le_bytes());
            out.push(secrets.len() as u8);
            secrets.iter().for_each(|secret| secret.put(*cipher, out));
        }
        out.extend_from_slice(&(message.len() as u32).to_le_bytes());
        out.extend_from_slice(message);
    }

    /// How many bytes [`Carried::put`] appends at most: room for so many, and no key is left behind where it was copied from.
    pub(in crate::tls) fn room(&self) -> usize {
        64 + 2 * (LATER_KEYS + 1) * (32 + IV) + self.message.len()
    }

    /// Reads what [`Carried::put`] wrote off the front of `bytes`.
    pub(in crate::tls) fn get(bytes: &mut &[u8]) -> Option<Carried> {
        let [role, version, cipher, empty, warnings, renegotiations] = *take(bytes)?;
        let role = [Role::Server, Role::Client].into_iter().nth(role.into())?;
        let version = [Version::Tls12, Version::Tls13].into_iter().nth(version.into())?;
        let all = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
        let cipher = all.into_iter().nth(cipher.into())?;
        let sending = get_direction(bytes, version, cipher)?;
        let receiving = get_direction(bytes, version, cipher)?;
        let message = get_bytes(bytes, MESSAGE_MAX + super::keys::PLAIN_MAX)?.to_vec();
        Some(Carried { message, empty, warnings, renegotiations, ..Carried::new(role, sending, receiving) })
    }
}

fn direction(
    version: Version,
    (sequence, secrets): &(u64, ConnectionTrafficSecrets),
    mut next: impl FnMut() -> Result<(u64, ConnectionTrafficSecrets), Error>,
) -> Option<Direction> {
    let (cipher, secret) = Secret::from_library(secrets)?;
    let mut secrets = Vec::with_capacity(LATER_KEYS + 1);
    secrets.push(secret);
    for _ in 0..if version == Version::Tls13 { LATER_KEYS } else { 0 } {
        let (_, later) = next().ok()?;
        secrets.push(Secret::from_library(&later)?.1);
    }
    secrets.reverse();
    Direction::new(version, cipher, *sequence, secrets)
}

fn get_direction(bytes: &mut &[u8], version: Version, cipher: Cipher) -> Option<Direction> {
    let sequence = u64::from_le_bytes(*take(bytes)?);
    let [count] = *take(bytes)?;
    if usize::from(count) > LATER_KEYS + 1 {
        return None;
    }
    let mut secrets = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (secret, rest) = bytes.split_at_checked(cipher.key_len() + IV)?;
        *bytes = rest;
        secrets.push(Secret::of(cipher, secret)?);
    }
    Direction::new(version, cipher, sequence, secrets)
}

fn take<'b, const N: usize>(bytes: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

/// Bytes behind their length.
pub(in crate::tls) fn get_bytes<'b>(bytes: &mut &'b [u8], max: usize) -> Option<&'b [u8]> {
    let len = u32::from_le_bytes(*take(bytes)?) as usize;
    if len > max {
        return None;
    }
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

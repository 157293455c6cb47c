//! One connection's TLS: ciphertext in, plaintext and ciphertext out. No socket.
//!
//! Memory is bounded: of what comes in at most one record, or one handshake message, is kept; what core sends is
//! kept until the end of the input and counted by core.

use std::sync::Arc;

use forebay_core::io::{TlsInfo, TlsRole};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, WriteTraffic};
use rustls::{CommonState, Error, ProtocolVersion};

use super::carried::Carried;
use super::certificate::{common_name, end_point_hash};
use super::context::{ALPN, Contexts};

/// Largest incomplete handshake message or record kept for a peer; rustls refuses longer messages before.
pub(super) const PARTIAL_BYTES_MAX: usize = 128 * 1024;
/// Plaintext of one record.
const RECORD_BYTES: usize = 16 * 1024;
/// What a record adds to its plaintext, at most.
const RECORD_OVERHEAD: usize = 64;
/// Room that an idle connection keeps for its next answer.
const IDLE_ROOM_MAX: usize = 4 * 1024;

pub(super) enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
    /// It has moved, or is about to.
    Carried(Box<Carried>),
    /// It could not be taken along.
    Lost,
}

/// See the module's text.
pub(crate) struct Session {
    pub(super) side: Side,
    /// Ciphertext of a record that is not complete.
    pub(super) partial: Vec<u8>,
    /// Plaintext of core's, not encrypted yet.
    pub(super) outgoing: Vec<u8>,
    /// Of our certificate, in the accepting role.
    pub(super) own_hash: Arc<[u8]>,
    pub(super) is_alpn_required: bool,
    pub(super) is_ready: bool,
    pub(super) is_peer_closed: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("is_ready", &self.is_ready).finish_non_exhaustive()
    }
}

/// What a piece of ciphertext led to, besides bytes.
#[derive(Default)]
pub(crate) struct Progress {
    /// The handshake is complete.
    pub(crate) ready: Option<TlsInfo>,
    /// The peer ended the stream in order.
    pub(crate) is_closed: bool,
}

impl Progress {
    /// Whether there is nothing to tell.
    pub(crate) fn is_nothing(&self) -> bool {
        self.ready.is_none() && !self.is_closed
    }
}

/// What to do once application data may be written.
#[derive(Clone, Copy)]
pub(super) enum Action<'a> {
    Nothing,
    /// What the library keeps for the next write is due now.
    Settle,
    Encrypt(&'a [u8]),
    Close,
}

enum Step {
    /// Call again; so many more bytes of the input are used up.
    Again(usize),
    /// More input is needed.
    Blocked,
    /// Everything is done, and application data may be written.
    Ready,
    PeerClosed,
}

impl Session {
    /// Begins the role that core asked for, with the certificates in force.
    pub(crate) fn begin(contexts: &Contexts, role: &TlsRole) -> Result<Session, String> {
        let (side, own_hash, is_alpn_required) = match role {
            TlsRole::Accept { direct } => {
                let accepting = contexts.accepting.as_ref().ok_or("no certificate is configured")?;
                let connection =
                    UnbufferedServerConnection::new(accepting.config.clone()).map_err(|e| e.to_string())?;
                (Side::Server(Box::new(connection)), accepting.certificate_hash.clone(), *direct)
            }
            TlsRole::Connect { tls, server_name } => {
                let config = contexts.connecting(tls).ok_or("TLS towards this server is not configured")?;
                let name = ServerName::try_from(server_name.to_string())
                    .map_err(|_| format!("\"{server_name}\" is no host name"))?;
                let connection = UnbufferedClientConnection::new(config.clone(), name).map_err(|e| e.to_string())?;
                (Side::Client(Box::new(connection)), Arc::default(), false)
            }
        };
        Ok(Session {
            side,
            partial: Vec::new(),
            outgoing: Vec::new(),
            own_hash,
            is_alpn_required,
            is_ready: false,
            is_peer_closed: false,
        })
    }

    /// Takes ciphertext (none: to begin a handshake); appends what it holds to `plain`, and what must be sent in
    /// answer to `wire`, also where it fails.
    pub(crate) fn read(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Progress, String> {
        let mut progress = Progress::default();
        if self.partial.is_empty() {
            let used = self.process(incoming, plain, wire, &mut progress)?;
            self.partial.extend_from_slice(&incoming[used..]);
        } else {
            let mut bytes = std::mem::take(&mut self.partial);
            bytes.extend_from_slice(incoming);
            let used = self.process(&mut bytes, plain, wire, &mut progress)?;
            if used < bytes.len() {
                bytes.drain(..used);
                self.partial = bytes;
            }
        }
        if self.partial.len() > PARTIAL_BYTES_MAX {
            return Err("TLS message is too long".to_owned());
        }
        Ok(progress)
    }

    fn process(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
        progress: &mut Progress,
    ) -> Result<usize, String> {
        if let Side::Carried(carried) = &mut self.side {
            let taken = carried.read(bytes, plain, wire)?;
            progress.is_closed = taken.is_closed;
            self.is_peer_closed |= taken.is_closed;
            return Ok(taken.used);
        }
        let mut used = 0;
        loop {
            match self.step(&mut bytes[used..], Action::Nothing, plain, wire, &mut used) {
                Err(error) => {
                    self.flush_alert(&mut bytes[used..], wire);
                    return Err(format!("TLS: {error}"));
                }
                Ok(Step::Again(_)) => {}
                Ok(Step::Blocked) => return Ok(used),
                Ok(Step::Ready) => {
                    if !self.is_ready {
                        self.check_alpn()?;
                        self.is_ready = true;
                        progress.ready = Some(self.info());
                    }
                    return Ok(used);
                }
                Ok(Step::PeerClosed) => {
                    self.is_peer_closed = true;
                    progress.is_closed = true;
                    return Ok(used);
                }
            }
        }
    }

    fn step(
        &mut self,
        bytes: &mut [u8],
        action: Action<'_>,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
        used: &mut usize,
    ) -> Result<Step, Error> {
        // `used` moves also where it fails: rustls remembers places relative to the bytes it has not discarded.
        let step = match &mut self.side {
            Side::Server(connection) => {
                let status = connection.process_tls_records(bytes);
                *used += status.discard;
                on_state(status.state?, action, plain, wire)?
            }
            Side::Client(connection) => {
                let status = connection.process_tls_records(bytes);
                *used += status.discard;
                on_state(status.state?, action, plain, wire)?
            }
            Side::Carried(_) | Side::Lost => return Err(Error::General(LOST.to_owned())),
        };
        if let Step::Again(more) = step {
            *used += more;
        }
        Ok(step)
    }

    /// After an error: the alert that tells the peer why.
    fn flush_alert(&mut self, bytes: &mut [u8], wire: &mut Vec<u8>) {
        // What waits to be sent comes out before anything is read. Once only: a second step would read on, fail on the
        // same bytes, and rustls asserts that a fatal alert is the last.
        let _ = self.step(bytes, Action::Nothing, &mut Vec::new(), wire, &mut 0);
    }

    /// Keeps plaintext for [`Session::seal`].
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Encrypts what is queued, one record after the other: `each` gets ciphertext and its length in plaintext.
    pub(crate) fn seal(&mut self, wire: &mut Vec<u8>, mut each: impl FnMut(&[u8], u32)) -> Result<(), String> {
        if !self.is_ready {
            return Ok(());
        }
        let mut outgoing = std::mem::take(&mut self.outgoing);
        for chunk in outgoing.chunks(RECORD_BYTES) {
            wire.clear();
            self.act(Action::Encrypt(chunk), wire)?;
            each(wire, chunk.len() as u32);
        }
        outgoing.clear();
        if outgoing.capacity() <= IDLE_ROOM_MAX {
            self.outgoing = outgoing;
        }
        Ok(())
    }

    /// The close_notify that ends our side; nothing can be sent behind it. Empty during a handshake.
    pub(crate) fn close(&mut self, wire: &mut Vec<u8>) -> Result<(), String> {
        if self.is_ready { self.act(Action::Close, wire) } else { Ok(()) }
    }

    pub(super) fn act(&mut self, action: Action<'_>, wire: &mut Vec<u8>) -> Result<(), String> {
        if let Side::Carried(carried) = &mut self.side {
            match action {
                Action::Encrypt(bytes) => carried.seal(bytes, wire)?,
                Action::Close => carried.close(wire),
                Action::Nothing | Action::Settle => {}
            }
            return Ok(());
        }
        // Nothing complete is in `partial`, but rustls wants to see it as it was.
        let mut partial = std::mem::take(&mut self.partial);
        let mut used = 0;
        let result = loop {
            match self.step(&mut partial[used..], action, &mut Vec::new(), wire, &mut used) {
                Ok(Step::Again(_)) => {}
                Ok(Step::Ready) => break Ok(()),
                Ok(Step::PeerClosed) if !self.is_peer_closed => self.is_peer_closed = true,
                Ok(Step::Blocked | Step::PeerClosed) => break Err("TLS: nothing can be sent any more".to_owned()),
                Err(error) => break Err(format!("TLS: {error}")),
            }
        };
        partial.drain(..used);
        self.partial = partial;
        result
    }

    /// Whether the peer ended the stream in order.
    pub(crate) fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    /// Whether the handshake is complete.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// None: the library does not have it any more.
    fn state(&self) -> Option<&CommonState> {
        match &self.side {
            Side::Server(connection) => Some(connection),
            Side::Client(connection) => Some(connection),
            Side::Carried(_) | Side::Lost => None,
        }
    }

    fn check_alpn(&self) -> Result<(), String> {
        if self.is_alpn_required && self.state().and_then(|state| state.alpn_protocol()) != Some(ALPN) {
            return Err("direct TLS without the ALPN protocol \"postgresql\"".to_owned());
        }
        Ok(())
    }

    /// At the end of the handshake.
    fn info(&self) -> TlsInfo {
        let Some(state) = self.state() else { return TlsInfo::default() };
        let peer = state.peer_certificates().and_then(|certificates| certificates.first());
        let certificate_hash = match &self.side {
            Side::Client(_) => peer.map(|certificate| end_point_hash(certificate)).unwrap_or_default(),
            _ => self.own_hash.clone(),
        };
        let peer_name = peer.and_then(|certificate| common_name(certificate)).map(Arc::from);
        TlsInfo { certificate_hash, description: describe(state).into(), is_certified: peer.is_some(), peer_name }
    }
}

/// Why a session can't go on that could not be taken along.
pub(crate) const LOST: &str = "the connection could not be taken along to the new process";

fn on_state<Data>(
    state: ConnectionState<'_, '_, Data>,
    action: Action<'_>,
    plain: &mut Vec<u8>,
    wire: &mut Vec<u8>,
) -> Result<Step, Error> {
    match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            let mut used = 0;
            while let Some(record) = traffic.next_record() {
                let record = record?;
                plain.extend_from_slice(record.payload);
                used += record.discard;
            }
            Ok(Step::Again(used))
        }
        ConnectionState::EncodeTlsData(data) => encode(data, wire).map(|()| Step::Again(0)),
        ConnectionState::TransmitTlsData(data) => {
            // What is in `wire` is sent in order, before anything that follows.
            data.done();
            Ok(Step::Again(0))
        }
        ConnectionState::BlockedHandshake => Ok(Step::Blocked),
        ConnectionState::WriteTraffic(traffic) => {
            write(traffic, action, wire)?;
            Ok(Step::Ready)
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Step::PeerClosed),
        // Early data is not offered.
        _ => Err(Error::General("unexpected state".to_owned())),
    }
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, wire: &mut Vec<u8>) -> Result<(), Error> {
    let start = wire.len();
    loop {
        match data.encode(&mut wire[start..]) {
            Ok(written) => {
                wire.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) => wire.resize(start + needed.required_size, 0),
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

fn write<Data>(mut traffic: WriteTraffic<'_, Data>, action: Action<'_>, wire: &mut Vec<u8>) -> Result<(), Error> {
    let start = wire.len();
    let mut room = match action {
        Action::Nothing => return Ok(()),
        Action::Settle => {
            // Without room nothing is encrypted, and what waits for a write to go before it is queued.
            return match traffic.encrypt(&[0], &mut []) {
                Ok(_) | Err(EncryptError::InsufficientSize(_)) => Ok(()),
                Err(error) => Err(Error::General(error.to_string())),
            };
        }
        Action::Encrypt(bytes) => bytes.len() + RECORD_OVERHEAD,
        Action::Close => RECORD_OVERHEAD,
    };
    loop {
        wire.resize(start + room, 0);
        let result = match action {
            Action::Encrypt(bytes) => traffic.encrypt(bytes, &mut wire[start..]),
            _ => traffic.queue_close_notify(&mut wire[start..]),
        };
        match result {
            Ok(written) => {
                wire.truncate(start + written);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(needed)) => room = needed.required_size,
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

/// Version and cipher suite as OpenSSL names them.
fn describe(state: &CommonState) -> String {
    let suite = state.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or("unknown");
    match state.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => format!("TLSv1.3/{}", suite.replace("TLS13_", "TLS_")),
        Some(ProtocolVersion::TLSv1_2) => format!("TLSv1.2/{}", openssl_name(suite)),
        _ => format!("TLS/{suite}"),
    }
}

/// `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384` is `ECDHE-RSA-AES256-GCM-SHA384` there.
fn openssl_name(suite: &str) -> String {
    let name = suite.replace("TLS_", "").replace("_WITH", "").replace('_', "-").replace("AES-", "AES");
    match name.strip_suffix("-POLY1305-SHA256") {
        Some(start) => format!("{start}-POLY1305"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// People compare SHOW CLIENTS with what `openssl s_client` prints.
    #[test]
    fn suites_have_the_names_that_openssl_prints() {
        assert_eq!(openssl_name("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"), "ECDHE-RSA-AES256-GCM-SHA384");
        assert_eq!(openssl_name("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"), "ECDHE-ECDSA-CHACHA20-POLY1305");
    }
}

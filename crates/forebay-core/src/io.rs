//! The border between decisions and I/O: what core asks of a driver, and what the driver reports.
//!
//! Completion-based. A driver (io_uring, epoll, the simulator) implements [`Io`] and calls the
//! inputs of [`crate::worker::Worker`]. It never calls an input from inside an output.

use std::net::IpAddr;
use std::sync::Arc;

use crate::command::{CommandId, Reply};
use crate::config::ServerTls;
use crate::event::Event;
use crate::ids::{BufId, ConnId, QuestionId, WorkerId};
use crate::moving::State;
use crate::question::Question;
use crate::time::Instant;
use crate::worker::Message;

/// A piece of an outgoing write.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// A range of a received buffer; the driver holds the buffer until the bytes are written.
    Received {
        /// The buffer, not yet released by core at the time of the call.
        buf: BufId,
        /// First byte.
        start: u32,
        /// One past the last byte.
        end: u32,
    },
    /// Bytes that the driver copies before it returns.
    Bytes(&'a [u8]),
}

impl Slice<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Slice::Received { start, end, .. } => (end - start) as usize,
            Slice::Bytes(b) => b.len(),
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Host name or address, and port. Names are resolved off the loop by the driver.
    Tcp {
        /// A DNS name or an IP address.
        host: Arc<str>,
        /// 1 to 65535.
        port: u16,
    },
    /// Path of a Unix socket.
    Unix(Arc<str>),
    /// The Unix socket that a server on this host has beside its port, in one of the usual folders: only if the user
    /// that listens there is the one that listens at the port.
    LocalSocket {
        /// A name or an address of this host.
        host: Arc<str>,
        /// 1 to 65535.
        port: u16,
    },
}

/// Where a client comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// TCP address and port.
    Tcp(IpAddr, u16),
    /// A Unix socket, with the user id of the process behind it where the system tells.
    Unix(Option<u32>),
}

/// What the system knows a connection by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The number of its descriptor.
    pub descriptor: i32,
    /// Our own address and port; `None`: it is a Unix socket.
    pub local: Option<(IpAddr, u16)>,
}

/// Which TLS side to play, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsRole {
    /// Towards a client, with the listener's certificate in force. `direct`: no SSLRequest came before, so
    /// ALPN `postgresql` is required.
    Accept {
        /// The handshake began with the first byte of the connection.
        direct: bool,
    },
    /// Towards a server: one of [`crate::config::EngineConfig::server_tls`], of this configuration or an earlier one, and the
    /// name to verify.
    Connect {
        /// With what.
        tls: Arc<ServerTls>,
        /// Host name for SNI and verification.
        server_name: Arc<str>,
    },
}

/// What TLS negotiated.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// The server certificate's hash for `tls-server-end-point` (RFC 5929), of our certificate in the
    /// accepting role, of the peer's in the connecting one. Empty where its signature algorithm has none.
    pub certificate_hash: Arc<[u8]>,
    /// The common name in the peer's certificate, which a known authority has signed; `None`: it showed none.
    pub peer_name: Option<Arc<str>>,
    /// The peer showed a certificate that a known authority has signed.
    pub is_certified: bool,
    /// As OpenSSL names it, such as `TLSv1.3/TLS_AES_256_GCM_SHA384`, for SHOW CLIENTS.
    pub description: Arc<str>,
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// After all that was sent is written, or `flush_timeout` has passed.
    AfterSend,
    /// At once; what was not written is dropped.
    Now,
}

/// Why a connection ended without our asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// The peer closed in order (end of file, after the TLS close where there is TLS).
    Peer,
    /// An error of the socket or of TLS: words for the log, no secret in them.
    Error(Arc<str>),
}

/// What core asks of a driver. Every call returns at once.
///
/// After [`Io::close`] no further input arrives for that connection and its id is dead. For all other ids
/// exactly one `closed` input is the last.
pub trait Io {
    /// A connection on its way from one worker to another: descriptor, TLS state, what is unwritten, nothing unread.
    type Handover: Send + 'static;

    /// Queues bytes to be written in order. `sent` reports progress. Sends of one loop turn are merged.
    fn send(&mut self, conn: ConnId, slices: &[Slice<'_>]);
    /// Gives a received buffer back; exactly once for each `received`. Sends that name it keep it alive.
    fn release(&mut self, buf: BufId);
    /// Stops reading. A few `received` may still come.
    fn pause_read(&mut self, conn: ConnId);
    /// Reads again.
    fn resume_read(&mut self, conn: ConnId);
    /// Begins a connection: `connected` or `closed` follows. TCP_NODELAY and keepalive are the driver's duty.
    fn connect(&mut self, endpoint: &Endpoint) -> ConnId;
    /// The address at the other end of a connection that is there; `None`: it has none.
    fn remote_address(&mut self, conn: ConnId) -> Option<IpAddr>;
    /// Whether a server at that port of this host has a Unix socket in one of the usual folders: a look at the files.
    fn has_local_socket(&self, port: u16) -> bool;
    /// Whether the peer owes the network an answer: something was sent to it more than once and it is still silent. False
    /// where the transport can't tell.
    fn is_overdue(&self, conn: ConnId) -> bool;
    /// Bytes that the system has taken for the peer and the peer has not taken yet. 0 where the transport can't tell.
    fn unacknowledged(&self, conn: ConnId) -> usize;
    /// Whether its descriptor is one of the last that the process may have, kept for telling clients so.
    fn is_last_resort(&self, _conn: ConnId) -> bool {
        false
    }
    /// What the system knows a connection by; `None`: it has no socket.
    fn socket(&self, conn: ConnId) -> Option<Socket>;
    /// Begins TLS: `tls_ready` or `closed` follows. `unread` are ciphertext bytes that core already
    /// received (a direct TLS hello); else empty. Plain bytes queued before go out first.
    fn start_tls(&mut self, conn: ConnId, role: TlsRole, unread: &[u8]);
    /// Closes; the id is dead.
    fn close(&mut self, conn: ConnId, how: Close);
    /// Asks for `tick` at or soon after `at`. One alarm: the newest call counts.
    fn wake_at(&mut self, at: Instant);
    /// Puts a question; `answer` follows, at the latest when the driver shuts down.
    fn ask(&mut self, id: QuestionId, question: Question);
    /// Sends a message to another worker of the engine, in order.
    fn tell(&mut self, worker: WorkerId, message: Message<Self::Handover>);
    /// Takes a connection out of this driver. `detached` follows, or `received`/`closed` if something
    /// arrived first (then it stays). Core sends nothing on it meanwhile; what is not written yet goes along.
    fn detach(&mut self, conn: ConnId);
    /// Calls a `detach` off: the connection stays, and is read again where it was.
    fn stay(&mut self, conn: ConnId);
    /// A group of connections that were taken out, for another process: `Message::Arrived` follows, or `Message::Group`
    /// where it comes back.
    fn hand_on(&mut self, number: u64, state: State, connections: Vec<Self::Handover>);
    /// Takes over a connection that another worker's driver gave up.
    fn adopt(&mut self, handover: Self::Handover) -> ConnId;
    /// An event for the log. Cheap to call and dropped when nobody listens.
    fn log(&mut self, event: Event);
    /// Answers a command of Python's.
    fn reply(&mut self, id: CommandId, reply: Reply);
    /// Fills with unpredictable bytes: the operating system's, or the seed's in the simulator.
    fn fill_random(&mut self, out: &mut [u8]);
}

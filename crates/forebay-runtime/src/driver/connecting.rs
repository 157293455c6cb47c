//! Opening a connection: resolve the name, then try each address until one answers.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::time::Duration;

use forebay_core::config::TcpOptions;
use forebay_core::ids::ConnId;
use forebay_core::io::{ClosedBy, Endpoint};

use super::backend::Backend;
use super::table::Flags;
use super::{Driver, Timer};
use crate::local_socket;
use crate::resolve::Found;
use crate::socket::{self, SockAddr};

/// How long a name may take to resolve that was never resolved before.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an address may take to answer while another is left to try. The last one has the pool's limit. The system
/// repeats a request that was lost after a second, and core gives an endpoint two where another one is well.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that does not exist yet.
pub(crate) struct Connecting {
    /// As it is named in errors.
    endpoint: Endpoint,
    is_resolved: bool,
    left: VecDeque<SockAddr>,
    /// The address under way; the kernel may read it until the connect ends.
    current: Option<SockAddr>,
    /// Counts tries, so that a late timer does not end the wrong one.
    tries: u32,
    error: Option<String>,
    /// The user that must be at the other end.
    user: Option<u32>,
}

impl Connecting {
    /// The address under way. It does not move with the table, and stays until the connect has ended.
    pub(super) fn address(&self) -> Option<&SockAddr> {
        self.current.as_ref()
    }
}

impl<B: Backend> Driver<B> {
    /// See [`forebay_core::io::Io::connect`].
    pub(super) fn begin_connect(&mut self, endpoint: &Endpoint) -> ConnId {
        let id = self.table.insert(-1);
        let connecting = Connecting {
            endpoint: endpoint.clone(),
            is_resolved: false,
            left: VecDeque::new(),
            current: None,
            tries: 0,
            error: None,
            user: None,
        };
        self.table.conn(id.slot).connecting = Some(Box::new(connecting));
        match endpoint {
            Endpoint::Unix(path) => {
                let address = SockAddr::unix(path).map_err(|error| error.to_string());
                self.addresses_known(id, address.map(|a| VecDeque::from([a])));
            }
            Endpoint::LocalSocket { host, port } => self.begin_local(id, host, *port),
            Endpoint::Tcp { host, port } => match self.hub.resolver.lookup(host, (self.id, id)) {
                Some(Ok(found)) => self.addresses_known(id, Ok(with_port(&found, *port))),
                Some(Err(error)) => self.addresses_known(id, Err(format!("name not resolved: {error}"))),
                None => self.set_timer(RESOLVE_TIMEOUT, Timer::Resolve(id)),
            },
        }
        id
    }

    fn begin_local(&mut self, id: ConnId, host: &str, port: u16) {
        let found = match local_socket::sockets(port) {
            found if found.is_empty() => Err(String::from("there is none")),
            found => match local_socket::user_at(host, port) {
                None => Err(format!("the system does not tell who listens at port {port}")),
                user => {
                    if let Some(connecting) = self.table.conn(id.slot).connecting.as_deref_mut() {
                        connecting.user = user;
                    }
                    Ok(found.into())
                }
            },
        };
        self.addresses_known(id, found);
    }

    /// The resolver answered.
    pub(super) fn resolved(&mut self, id: ConnId, found: Found) {
        let Some(port) = self.unresolved(id) else { return };
        let found = found.map(|found| with_port(&found, port)).map_err(|error| format!("name not resolved: {error}"));
        self.addresses_known(id, found);
    }

    /// The resolver did not answer in time.
    pub(super) fn resolve_timed_out(&mut self, id: ConnId) {
        if self.unresolved(id).is_some() {
            self.addresses_known(id, Err("name not resolved: no answer within 5 s".into()));
        }
    }

    /// The port of a connection whose host's addresses are not known yet.
    fn unresolved(&mut self, id: ConnId) -> Option<u16> {
        let connecting = self.table.open(id)?.connecting.as_deref()?;
        match &connecting.endpoint {
            Endpoint::Tcp { port, .. } if !connecting.is_resolved => Some(*port),
            _ => None,
        }
    }

    fn addresses_known(&mut self, id: ConnId, addresses: Result<VecDeque<SockAddr>, String>) {
        let conn = self.table.conn(id.slot);
        let Some(connecting) = conn.connecting.as_deref_mut() else { return };
        connecting.is_resolved = true;
        match addresses {
            Ok(addresses) => connecting.left = addresses,
            Err(error) => connecting.error = Some(error),
        }
        self.try_next_address(id);
    }

    /// Begins a connect to the next address, or reports that none is left.
    fn try_next_address(&mut self, id: ConnId) {
        loop {
            let Some(connecting) = self.table.conn(id.slot).connecting.as_deref_mut() else { return };
            let Some(address) = connecting.left.pop_front() else {
                let error = connecting.error.take().unwrap_or_else(|| "no address".to_owned());
                let words = format!("connect to {}: {error}", name(&connecting.endpoint));
                self.report_closed(id, ClosedBy::Error(words.into()));
                return;
            };
            connecting.tries += 1;
            let (tries, is_last) = (connecting.tries, connecting.left.is_empty());
            match open(&address, &self.hub.tcp().towards_servers(), B::NONBLOCKING) {
                Err(error) => connecting.error = Some(error.to_string()),
                Ok(fd) => {
                    connecting.current = Some(address);
                    self.table.conn(id.slot).fd = fd;
                    self.back.connect(&mut self.table, id.slot);
                    if !is_last {
                        self.set_timer(ADDRESS_TIMEOUT, Timer::Address(id, tries));
                    }
                    return;
                }
            }
        }
    }

    /// An address did not answer while another is left.
    pub(super) fn address_timed_out(&mut self, id: ConnId, tries: u32) {
        let is_current = |c: &Connecting| c.tries == tries && c.current.is_some();
        let conn = self.table.open(id).filter(|c| c.is(Flags::CONNECTING));
        if conn.and_then(|c| c.connecting.as_deref()).is_some_and(is_current) {
            self.back.cancel_connect(&mut self.table, id.slot);
        }
    }

    /// A connect ended. True: the connection is there.
    pub(super) fn connect_ended(&mut self, slot: u32, errno: Option<i32>) -> bool {
        let id = self.table.id(slot);
        let conn = self.table.conn(slot);
        let Some(connecting) = conn.connecting.as_deref_mut() else { return false };
        connecting.current = None;
        let is_right = connecting.user.is_none() || connecting.user == socket::peer_uid(conn.fd);
        if errno.is_none() && is_right {
            conn.connecting = None;
            self.back.attach(&mut self.table, slot);
            return true;
        }
        connecting.error = Some(match errno {
            None => "another user listens there than at the port".to_owned(),
            Some(libc::ECANCELED | libc::ETIMEDOUT) => "no answer".to_owned(),
            Some(errno) => io::Error::from_raw_os_error(errno).to_string(),
        });
        socket::close(std::mem::replace(&mut conn.fd, -1));
        self.try_next_address(id);
        false
    }
}

fn with_port(addresses: &[IpAddr], port: u16) -> VecDeque<SockAddr> {
    addresses.iter().map(|ip| SockAddr::tcp(SocketAddr::new(*ip, port))).collect()
}

fn open(address: &SockAddr, tcp: &TcpOptions, nonblocking: bool) -> io::Result<i32> {
    let fd = socket::stream(address.family(), nonblocking)?;
    if address.family() != libc::AF_UNIX {
        socket::tune_tcp(fd.as_raw_fd(), tcp)?;
    }
    Ok(fd.into_raw_fd())
}

fn name(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Unix(path) => path.to_string(),
        Endpoint::LocalSocket { port, .. } => format!("the local socket of port {port}"),
        Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Endpoint::Tcp { host, port } => format!("{host}:{port}"),
    }
}

//! `/metrics`, `/livez`, `/readyz`, `/primary`, `/replica`: a small HTTP server of its own thread, so that neither Python nor a worker
//! is in the way of whoever asks how they are.
//!
//! One request a connection. A client that is slow is dropped at its deadline, and the oldest goes when too many
//! are there, so that nobody can keep the door shut for others.

mod exposition;
mod http;
mod ready;
mod table;

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use forebay_core::command::Command;
use forebay_core::tables::Tables;

use self::http::{Connections, Response};
use self::ready::Readiness;
use crate::hub::Hub;
use crate::listen::ListenError;
use crate::mailbox::Bell;

/// What the server tells, shared with the engine.
struct State {
    readiness: Readiness,
    bell: Bell,
    is_stopping: AtomicBool,
    /// Another process serves metrics for as long as it has its place.
    is_held: AtomicBool,
}

/// The server; stops when dropped.
pub(crate) struct MetricsServer {
    state: Arc<State>,
    address: SocketAddr,
    fd: RawFd,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Binds `address` and starts the thread.
    ///
    /// `listening`: the socket of the process that is succeeded, if it had one.
    pub(crate) fn start(
        address: &str,
        hub: &Hub,
        tables: &Arc<Tables>,
        listening: Option<OwnedFd>,
    ) -> Result<MetricsServer, ListenError> {
        let failed = |cause| ListenError { address: address.to_owned(), cause };
        let is_held = listening.is_some();
        let same = listening.map(TcpListener::from).filter(|listener| is_at(listener, address));
        let listener = match same {
            Some(listener) => listener,
            None => bind(address).map_err(failed)?,
        };
        let fd = listener.as_raw_fd();
        let bound = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State {
            readiness: Readiness::new(hub, tables.clone()),
            bell: Bell::new().map_err(failed)?,
            is_stopping: AtomicBool::new(false),
            is_held: AtomicBool::new(is_held),
        });
        let serving = state.clone();
        let run = move || {
            while serving.is_held.load(Ordering::Acquire) && !serving.is_stopping.load(Ordering::Acquire) {
                std::thread::park();
            }
            let mut connections = Connections::new(listener, serving.bell.fd().as_raw_fd());
            while !serving.is_stopping.load(Ordering::Acquire) {
                connections.turn(|path, query| serving.answer(path, query));
            }
        };
        let thread = crate::engine::spawn("forebay-metrics".to_owned(), run).map_err(failed)?;
        Ok(MetricsServer { state, address: bound, fd, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket that it listens at, open for as long as it runs.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd
    }

    /// Another process serves at its socket from here on.
    pub(crate) fn leave(&self) {
        self.state.is_stopping.store(true, Ordering::Release);
        self.state.bell.ring();
    }

    /// Makes one that succeeds another begin, from any thread.
    pub(crate) fn starter(&self) -> impl FnOnce() + Send + 'static {
        let state = self.state.clone();
        let thread = self.thread.as_ref().map(|thread| thread.thread().clone());
        move || {
            state.is_held.store(false, Ordering::Release);
            thread.into_iter().for_each(|thread| thread.unpark());
        }
    }

    /// What the workers are ordered may change who is ready.
    pub(crate) fn heard(&self, command: &Command) {
        self.state.readiness.heard(command);
    }

    /// Whether load balancers are to send nobody, although clients are served.
    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        self.state.readiness.set_leaving(is_leaving);
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.state.is_stopping.store(true, Ordering::Release);
        self.state.bell.ring();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has said so on standard error.
            let _ = thread.join();
        }
    }
}

/// Whether a socket listens where it is to listen.
fn is_at(listener: &TcpListener, address: &str) -> bool {
    let Ok(bound) = listener.local_addr() else { return false };
    let wanted = address.to_socket_addrs().ok().and_then(|mut all| all.next());
    wanted.is_some_and(|wanted| wanted.ip() == bound.ip() && (wanted.port() == bound.port() || wanted.port() == 0))
}

fn bind(address: &str) -> io::Result<TcpListener> {
    let address = address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl State {
    fn answer(&self, path: &str, query: &str) -> Response {
        match path {
            "/metrics" => Response {
                status: "200 OK",
                kind: exposition::CONTENT_TYPE,
                body: exposition::render(
                    self.readiness.stats(),
                    &self.readiness.endpoints(),
                    self.readiness.fleet().as_ref().map(|(told, now_us)| (&**told, *now_us)),
                ),
            },
            _ => self.readiness.answer(path, query),
        }
    }
}

//! Threads, sockets, io_uring, epoll, TLS: the only crate with I/O.
//!
//! [`Engine`] is what users of the crate call. A worker thread runs `forebay_core::worker::Worker` over a
//! `driver`; it is the driver that reads, writes, listens and connects, and nothing here decides what to do
//! with what it reads. Next to the workers there are a thread that serves metrics, three that resolve names and one
//! that derives salted passwords; what Python has to know or to answer waits in the [`Outbox`].

mod clock;
mod cluster;
mod derive;
mod driver;
mod dumpable;
mod engine;
mod estate;
mod fleet;
mod hub;
mod inputs;
mod listen;
mod local_socket;
mod mailbox;
mod metrics;
mod open_files;
mod os_user;
mod outbox;
mod place;
mod random;
mod resolve;
mod restart;
mod socket;
mod succession;
mod tls;

pub use cluster::Watched;
pub use engine::{DriverChoice, Engine, ReloadError, StartError};
pub use estate::Estate;
pub use fleet::{BudgetTold, FleetTold};
pub use forebay_core::worker::Legacy;
pub use listen::ListenError;
pub use outbox::{Batch, EVENTS_MAX, Outbox};
pub use place::Place;
pub use random::fill as fill_random;
pub use resolve::Host;
pub use succession::state_schema;
pub use tls::context::TlsError;

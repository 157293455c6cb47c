//! What a process leaves to its successor.

use std::os::fd::RawFd;

use forebay_core::command::Command;
use forebay_core::worker::Legacy;

/// What a process leaves to its successor beside its connections.
#[derive(Clone, Debug)]
pub struct Estate {
    /// Descriptors of the sockets that it listens at.
    pub sockets: Vec<RawFd>,
    /// That of the metrics server.
    pub metrics: Option<RawFd>,
    /// The zero of its clock, in microseconds of the system's.
    pub clock: u64,
    /// Names and numbers.
    pub legacy: Legacy,
    /// Servers that it holds: database, user, how many.
    pub held: Vec<(String, String, u32)>,
    /// Orders that hold on: PAUSE, DISABLE.
    pub orders: Vec<Command>,
}

//! Every decision of the pooler; no I/O.
//!
//! Start in [`worker`]: the loop and its six verbs. No socket, clock, thread, random number or Python here:
//! time, bytes and luck come in as arguments ([`io`]).

#![forbid(unsafe_code)]

pub mod auth;
pub mod command;
pub mod config;
pub mod event;
pub mod ids;
pub mod io;
pub mod question;
pub mod stats;
pub mod tables;
pub mod time;
pub mod worker;

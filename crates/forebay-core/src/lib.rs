//! Every decision of the pooler; no I/O.
//!
//! Start in [`worker`]: the loop and its six verbs. No socket, clock, thread, random number or Python here:
//! time, bytes and luck come in as arguments ([`io`]).

#![forbid(unsafe_code)]

mod admission;
mod alone;
mod asked;
pub mod auth;
mod balance;
pub mod cancel;
mod cancel_key;
pub mod checkout;
pub mod clearing;
pub mod cluster;
mod columns;
pub mod command;
pub mod config;
pub mod connect;
mod connect_query;
pub mod console;
pub mod crowd;
mod deadline;
mod deallocate;
mod demoted;
mod ends;
mod ensure;
pub mod event;
mod failure;
mod flow;
mod forgetting;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz_entry;
mod greet;
mod hand_over;
mod holders;
mod identify;
pub mod ids;
pub mod io;
mod journal;
mod lease;
mod leave;
pub mod lend;
pub mod listen;
pub mod local_socket;
mod login;
mod meant;
pub mod misses;
pub mod moving;
mod named;
mod order;
pub mod outcome;
mod own_rows;
pub mod parameters;
pub mod peers;
mod places;
pub mod planted;
pub mod pool;
pub mod proxied;
mod query;
pub mod question;
mod reach;
mod relay;
mod renamed;
mod replication;
mod reply;
mod reported;
mod request;
mod rows;
pub mod session;
mod several;
mod silent;
pub mod slab;
pub mod statements;
pub mod stats;
mod supply;
mod suspend;
pub mod tables;
pub mod tally;
pub mod time;
#[cfg(test)]
mod traces;
pub mod tracking;
pub mod worker;

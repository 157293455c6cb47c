//! PostgreSQL's wire protocol, versions 3.0 and 3.2: bytes to messages and back.
//!
//! This crate owns the layout of frames and messages. It does no I/O, keeps no state between calls and decides nothing:
//! which message is legal when is the business of the sessions in `forebay-core`.
//!
//! | module | what it gives |
//! |---|---|
//! | [`frame`] | the five bytes that begin every message; the hot loop |
//! | [`startup`] | the first packet of a connection, and the `options` parameter |
//! | [`proxy`] | the PROXY protocol's header before it |
//! | [`frontend`] | what clients send, as borrowed views |
//! | [`backend`] | what servers send, as borrowed views |
//! | [`write`](mod@write) | whole messages appended to a `Vec<u8>` |
//! | [`rename`] | another statement name in front of untouched bytes |
//! | [`text`] | a frame as one line of text, for golden traces |
//!
//! Every length is checked before it is believed, widened before it is added, and never allocated by.
#![forbid(unsafe_code)]

pub mod backend;
pub mod decode;
pub mod frame;
pub mod frontend;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz_entry;
#[cfg(test)]
mod properties;
pub mod proxy;
pub mod rename;
pub mod startup;
mod startup_options;
pub mod text;
pub mod write;

pub use decode::{Cause, DecodeError};

//! Types generated from spec/*.toml, and the few written by hand that they are made of.
//!
//! A new error is a row in spec/errors.toml and a run of `make gen`; it is then a function of [`errors`].

#![forbid(unsafe_code)]

mod generated;
mod pin;
mod report;

pub use generated::{errors, pins};
pub use pin::{PinRow, released_by};
pub use report::{ErrorRow, Report, Severity};

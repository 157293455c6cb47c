//! The two kinds of session: a client's with us, ours with a server.

pub mod batch;
pub mod client;
pub mod expect;
pub mod server;

use forebay_pgwire::backend::TransactionStatus;

/// What becomes of the rest of a message whose head was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// It goes to the other side.
    Forward,
    /// It is dropped.
    Drop,
}

/// The status byte of a session without a transaction.
pub const IDLE: TransactionStatus = TransactionStatus::Idle;

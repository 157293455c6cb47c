//! What a statement says, from its text alone: no connection, no state.
//!
//! | module | what it gives |
//! |---|---|
//! | [`lexer`] | PostgreSQL's tokens, in one pass and without allocation |
//! | [`clock`] | whether a text holds a literal that PostgreSQL turns into the time of its Parse |
//! | [`grammar`] | the shape of a text, by PostgreSQL's own grammar |
//! | [`shape`] | what a text does, statement by statement |
//! | [`traces`] | what a statement may leave behind in its session |
//!
//! Any bytes are a text: what PostgreSQL would refuse becomes [`lexer::Kind::Broken`] and a shape that may do anything,
//! never a panic.
#![forbid(unsafe_code)]

pub mod clock;
pub mod grammar;
pub mod lexer;
#[cfg(test)]
mod properties;
pub mod shape;
pub mod traces;

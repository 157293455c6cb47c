//! What a statement says, from its text alone: no connection, no state.
//!
//! | module | what it gives |
//! |---|---|
//! | [`lexer`] | PostgreSQL's tokens, in one pass and without allocation |
//! | [`cache`] | shapes by text, so that a statement is parsed once |
//! | [`catalogue`] | what a database's own objects may do |
//! | [`clock`] | whether a text holds a literal that PostgreSQL turns into the time of its Parse |
//! | [`fingerprint`] | a text without the literals that its shape does not depend on |
//! | [`grammar`] | the shape of a text, by PostgreSQL's own grammar |
//! | [`custom`] | names of custom settings in code that a text carries |
//! | [`route`] | whether a text is for the primary, or may go to a replica |
//! | [`shorten`] | a long text without what repeats in it |
//! | [`shape`] | what a text does, statement by statement |
//! | [`traces`] | what a statement may leave behind in its session |
//!
//! Any bytes are a text: what PostgreSQL would refuse becomes [`lexer::Kind::Broken`] and a shape that may do anything,
//! never a panic.
#![forbid(unsafe_code)]

mod builtin;
pub mod cache;
pub mod catalogue;
pub mod clock;
pub mod custom;
pub mod fingerprint;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz_entry;
mod generated;
pub mod grammar;
pub mod lexer;
mod pattern;
#[cfg(test)]
mod properties;
mod recent;
pub mod route;
pub mod shape;
pub mod shorten;
pub mod traces;

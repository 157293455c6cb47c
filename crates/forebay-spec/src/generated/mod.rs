//! Written by tools/gen.py (`make gen`); this file alone is written by hand.

pub mod errors;
pub mod pins;

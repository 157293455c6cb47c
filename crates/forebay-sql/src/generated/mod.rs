//! Written by tools/gen.py (`make gen`); this file alone is written by hand.

pub(crate) mod functions;

//! The core over virtual time and a seeded network, with checkers.

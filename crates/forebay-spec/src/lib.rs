//! Types generated from spec/*.toml.

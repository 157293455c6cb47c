//! The first packet of a client that is not known yet.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_pgwire::fuzz_entry::startup(data));

//! A header of the PROXY protocol.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_pgwire::fuzz_entry::proxy_header(data));

//! Another statement name in Bind, Parse, Describe and Close.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_pgwire::fuzz_entry::bind_rename(data));

//! A worker whose clients, servers and clock do what the bytes choose.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_core::fuzz_entry::worker(data));

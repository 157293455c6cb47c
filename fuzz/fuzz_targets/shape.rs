//! The shape of a text, and of one with other literals.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_sql::fuzz_entry::shape(data));

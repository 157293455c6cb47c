//! A userlist.txt of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_config::fuzz_entry::userlist(data));

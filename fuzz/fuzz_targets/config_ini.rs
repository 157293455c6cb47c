//! A pgbouncer.ini of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_config::fuzz_entry::ini(data));

//! A client that does not know the secret.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_core::fuzz_entry::client_login(data));

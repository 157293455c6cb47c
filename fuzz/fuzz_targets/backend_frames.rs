//! A stream of a server: frames, messages, and their lines of text.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_pgwire::fuzz_entry::backend_frames(data));

//! A stream of a client: frames, messages, and their lines of text.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_pgwire::fuzz_entry::frontend_frames(data));

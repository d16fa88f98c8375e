//! See `hookpost::fuzz::request_headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hookpost::fuzz::request_headers(data));

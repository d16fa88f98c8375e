//! See `hookpost::fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hookpost::fuzz::config(data));

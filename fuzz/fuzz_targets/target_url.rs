//! See `hookpost::fuzz::target_url`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hookpost::fuzz::target_url(data));

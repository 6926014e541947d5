#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::rate_limit::fuzz::quota(data));

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::api_key::fuzz::key(data));

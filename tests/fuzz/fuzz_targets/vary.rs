#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::cache::fuzz::vary(data));

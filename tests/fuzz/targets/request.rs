#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocx_fuzz::request(data));

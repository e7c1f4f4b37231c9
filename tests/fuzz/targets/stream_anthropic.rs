#![no_main]

use ocx::registry::AdapterKind;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocx_fuzz::stream(AdapterKind::Anthropic, data));

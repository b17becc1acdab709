//! libFuzzer's way into [`bgp_fuzz::names`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bgp_fuzz::names(data));

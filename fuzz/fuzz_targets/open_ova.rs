//! Any bytes, opened as an OVA, and each disk in it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::open_ova(data));

//! Any bytes, opened as vdi.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::open("vdi", data));

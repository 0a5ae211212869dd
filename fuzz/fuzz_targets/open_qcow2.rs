//! Any bytes, opened as qcow2.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::open("qcow2", data));

//! Any image, converted to QCOW2 and read back.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::convert_roundtrip(data));

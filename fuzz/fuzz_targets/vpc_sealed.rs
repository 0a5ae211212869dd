//! Any bytes, opened as VPC with right checksums.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::vpc_sealed(data));

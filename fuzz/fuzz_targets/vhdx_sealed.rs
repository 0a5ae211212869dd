//! A VHDX with changes, and right checksums.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::vhdx_sealed(data));

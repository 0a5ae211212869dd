//! Any pages, opened as a VHDX.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::open_vhdx(data));

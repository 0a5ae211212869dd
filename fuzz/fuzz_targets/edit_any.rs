//! Images of any bytes, written in place.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::edit_any(data));

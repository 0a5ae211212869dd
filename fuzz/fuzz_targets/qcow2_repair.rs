//! Damage to sound QCOW2 images, repaired.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::qcow2_repair(data));

//! Disks written in place, held against a disk in memory.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::edits(data));

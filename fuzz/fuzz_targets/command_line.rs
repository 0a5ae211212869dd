//! The command's words.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diskette_fuzz::command_line(data));

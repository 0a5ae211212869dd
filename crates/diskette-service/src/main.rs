//! The program `diskette-service`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    diskette_service::run(std::env::args_os())
}

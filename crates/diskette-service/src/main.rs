//! The program `diskette-service`.

use std::process::ExitCode;

fn main() -> ExitCode {
    diskette_service::run(std::env::args_os())
}

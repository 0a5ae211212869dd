//! The program `diskette-service`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    // A file that grows past what the process may write (`ulimit -f`) is an error to be told, no signal to die of; for all
    // threads, as there are no others yet.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
    diskette_service::run(std::env::args_os())
}

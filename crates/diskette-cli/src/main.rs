//! The command `diskette`.

#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    allow_many_files();
    outlive_large_files();
    diskette_cli::run(env::args_os())
}

/// An image may have thousands of parts, each of which is a file that is open: as many as the system allows may be.
fn allow_many_files() {
    if let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && now < most
    {
        // Where it is not allowed, few parts can be read all the same.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// A file that grows past what the process may write (`ulimit -f`) is an error to be told, no signal to die of. Threads that
/// are started later block the signal, too.
fn outlive_large_files() {
    // Where it cannot be blocked, the signal ends the command as it ends others.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
}

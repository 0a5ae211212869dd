//! Machines: what QEMU is asked to be, how it is started, spoken with, and told to end.
//!
//! | module | what |
//! | --- | --- |
//! | [`properties`] | what a machine consists of; presets |
//! | [`arguments`] | QEMU's command line, built from properties and never from free text |
//! | [`home`] | the files of one machine |
//! | [`jail`] | what is given up between fork and exec |
//! | [`machine`] | started, found again, ended |
//! | [`process`] | a process that outlives the service, and is known again |
//! | [`qmp`] | QEMU's monitor |
//! | [`accelerator`] | whether an accelerator works, judged by a boot |
//! | [`seed`] | the disk that cloud-init reads |
//! | [`boot_test`] | does this image boot? |

pub mod accelerator;
pub mod arguments;
pub mod boot_test;
pub mod home;
pub mod jail;
pub mod machine;
pub mod process;
pub mod properties;
pub mod qmp;
pub mod seed;

use std::io;
use std::path::PathBuf;

/// Why a machine does not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// There is no QEMU on this host.
    #[error(
        "{program} is not installed: install QEMU's system emulator, or name it in `launch.qemu`"
    )]
    QemuNotFound {
        /// What was looked for.
        program: String,
    },
    /// QEMU ended before it could be spoken with.
    #[error("QEMU ended ({status}): {stderr}")]
    QemuExited {
        /// How it ended.
        status: String,
        /// The last lines it said.
        stderr: String,
    },
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command of its monitor.
        command: String,
        /// What it said.
        reason: String,
    },
    /// QEMU did not answer in time.
    #[error("QEMU did not answer {command} within {seconds} s")]
    Silent {
        /// The command of its monitor.
        command: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A property that cannot be.
    #[error("{property} {reason}")]
    Property {
        /// Its name.
        property: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the machine.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The monitor's socket.
    #[error("QEMU's monitor: {0}")]
    Monitor(#[from] io::Error),
}

/// What a launch ends in.
pub type Result<T, E = LaunchError> = std::result::Result<T, E>;

/// Adds the path to an error of the system.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LaunchError {
    let path = path.into();
    move |source| LaunchError::File { path, source }
}

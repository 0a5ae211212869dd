//! What is given up before QEMU starts: session, user, groups, capabilities, and the right to gain any.
//!
//! The service starts itself with [`COMMAND`] in front; that process gives up what it must and becomes QEMU. (QEMU's own
//! `-run-with user=` cannot go with a seccomp filter that denies raising privileges: it dies of a bad system call.)

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The hidden subcommand.
pub const COMMAND: &str = "become-machine";

/// Who a machine runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jail {
    /// The user and the group, where the service may choose: it is root.
    pub user: Option<(u32, u32)>,
}

/// Nobody's, as most systems have it.
const NOBODY: u32 = 65534;
const DESCRIPTORS: u64 = 4096;
const NICER: i32 = 5;

impl Jail {
    /// The one named, or nobody if the service is root, or whoever the service is.
    #[must_use]
    pub fn new(named: Option<(u32, u32)>) -> Self {
        let is_root = Uid::effective().is_root();
        Self {
            user: is_root.then(|| named.unwrap_or((NOBODY, NOBODY))),
        }
    }

    /// The arguments for a process of our own program that becomes `program`.
    pub fn arguments(&self, program: &OsString, arguments: Vec<OsString>) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec![COMMAND.into()];
        if let Some((user, group)) = self.user {
            all.extend([
                "--user".into(),
                user.to_string().into(),
                "--group".into(),
                group.to_string().into(),
            ]);
        }
        all.extend(["--".into(), program.clone()]);
        all.extend(arguments);
        all
    }

    /// Gives everything up and becomes `program`. Returns only if that fails.
    pub fn enter(&self, program: &OsString, arguments: &[OsString]) -> io::Result<Infallible> {
        setsid()?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS)?;
        rustix::process::nice(NICER)?;
        if let Some((user, group)) = self.user {
            for capability in CapabilitySet::all().iter() {
                // Kernels know fewer than the library does.
                let _ = rustix::thread::remove_capability_from_bounding_set(capability);
            }
            let group = Gid::from_raw(group);
            setgroups(&[group])?;
            setresgid(group, group, group)?;
            let user = Uid::from_raw(user);
            setresuid(user, user, user)?;
        }
        let nothing = CapabilitySet::empty();
        let none = CapabilitySets {
            effective: nothing,
            permitted: nothing,
            inheritable: nothing,
        };
        rustix::thread::set_capabilities(None, none)?;
        rustix::thread::set_no_new_privs(true)?;
        Err(Command::new(program).args(arguments).exec())
    }
}

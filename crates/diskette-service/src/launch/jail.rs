//! What is given up before QEMU starts: session, user, groups, capabilities, and the right to gain any.
//!
//! The service starts itself with [`COMMAND`] in front; that process opens the machine's files, gives up what it must, and
//! becomes QEMU. (QEMU's own
//! `-run-with user=` cannot go with a seccomp filter that denies raising privileges: it dies of a bad system call.)

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};
use rustix::io::FdFlags;
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::arguments::{Access, CommandLine, OpenFile};

/// The hidden subcommand.
pub const COMMAND: &str = "become-machine";

/// Who a machine runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jail {
    /// The user and the group, where the service may choose: it is root.
    pub user: Option<(u32, u32)>,
    /// The process that starts the machine, where the machine is to end with it, however that ends.
    pub ends_with: Option<u32>,
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
            ends_with: None,
        }
    }

    /// The same, for a machine that does not outlive this process: nobody would find it again.
    ///
    /// The kernel goes by the thread that starts it. So that is one that stays: one of the runtime's, none of its blocking ones.
    #[must_use]
    pub fn ending_with_us(self) -> Self {
        Self {
            ends_with: Some(std::process::id()),
            ..self
        }
    }

    /// The arguments for a process of our own program that becomes `program`.
    #[must_use]
    pub fn arguments(&self, program: &Path, line: CommandLine) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec![COMMAND.into()];
        if let Some((user, group)) = self.user {
            all.extend(["--user".into(), user.to_string().into()]);
            all.extend(["--group".into(), group.to_string().into()]);
        }
        if let Some(parent) = self.ends_with {
            all.extend(["--ends-with".into(), parent.to_string().into()]);
        }
        for OpenFile { path, access } in line.files {
            let mut word = OsString::from(access.word());
            word.push(":");
            word.push(path);
            all.extend(["--open".into(), word]);
        }
        all.extend(["--".into(), program.into()]);
        all.extend(line.arguments);
        all
    }

    /// Opens the files, gives everything up and becomes `program`. Returns only if that fails.
    pub fn enter(
        &self,
        files: &[OpenFile],
        program: &OsString,
        arguments: &[OsString],
    ) -> io::Result<Infallible> {
        let mut command = Command::new(program);
        command.args(arguments);
        // Held until this process is another one.
        let mut open = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let opened = file.open()?;
            let (number, set) = (opened.as_raw_fd(), index + 1);
            command.args(["-add-fd", &format!("fd={number},set={set}")]);
            open.push(opened);
        }
        self.give_up()?;
        Err(command.exec())
    }

    fn give_up(&self) -> io::Result<()> {
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
        match self.ends_with {
            Some(parent) => end_with(parent),
            None => Ok(()),
        }
    }
}

/// Has the kernel end this process, and what it becomes, with its parent. A change of rights would take that back: it is the last
/// step.
fn end_with(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before it was said.
    let now = rustix::process::getppid().and_then(|now| u32::try_from(now.as_raw_pid()).ok());
    match now == Some(parent) {
        true => Ok(()),
        false => Err(io::Error::other("whoever started it has ended")),
    }
}

impl OpenFile {
    /// Opens it so that it stays open in what this process becomes.
    fn open(&self) -> io::Result<File> {
        let mut options = File::options();
        match self.access {
            Access::Read => options.read(true),
            Access::Write => options.read(true).write(true),
            Access::Append => options.append(true).create(true).mode(0o600),
        };
        let file = options.open(&self.path).map_err(|error| {
            let text = format!("{}: {error}", self.path.display());
            io::Error::new(error.kind(), text)
        })?;
        rustix::io::fcntl_setfd(&file, FdFlags::empty())?;
        Ok(file)
    }
}

/// As [`Jail::arguments`] writes it.
impl FromStr for OpenFile {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (access, path) = word.split_once(':').ok_or("no access is named")?;
        let known = [Access::Read, Access::Write, Access::Append];
        let access = known.into_iter().find(|known| known.word() == access);
        Ok(Self {
            path: path.into(),
            access: access.ok_or("no such access")?,
        })
    }
}

impl Access {
    const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Append => "append",
        }
    }
}

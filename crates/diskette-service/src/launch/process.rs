//! A process that outlives the service, and is found again by what it was started with.
//!
//! There is no file of process ids that could be stale: the monitor's socket, whose name no other machine has, is on the
//! command line, and the kernel keeps that. A handle is a pidfd, which never means another process later.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

/// One process, however it was started.
#[derive(Debug)]
pub struct Process {
    id: u32,
    handle: Arc<OwnedFd>,
    /// False until it has ended. The thread behind it starts when somebody asks.
    ended: OnceLock<watch::Receiver<bool>>,
}

impl Process {
    /// The process `id`. An error if there is none.
    pub fn open(id: u32) -> io::Result<Self> {
        let pid = i32::try_from(id)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::NotFound)?;
        let handle = Arc::new(pidfd_open(pid, PidfdFlags::empty())?);
        Ok(Self {
            id,
            handle,
            ended: OnceLock::new(),
        })
    }

    /// The process on whose command line `text` is; none if there is none, or none of ours to see.
    pub fn with_argument(text: &OsStr) -> io::Result<Option<Self>> {
        Ok(Self::all_with_argument(text)?.into_iter().next())
    }

    /// All processes on whose command line `text` is.
    pub fn all_with_argument(text: &OsStr) -> io::Result<Vec<Self>> {
        let text = text.as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if id == std::process::id() {
                continue;
            }
            // First the handle, then the look: the number cannot have passed to another in between.
            let Ok(process) = Self::open(id) else {
                continue;
            };
            let Ok(line) = fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            if line.windows(text.len()).any(|window| window == text) {
                found.push(process);
            }
        }
        Ok(found)
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        let mut ended = self
            .ended
            .get_or_init(|| watched(Arc::clone(&self.handle)))
            .clone();
        // The thread sends before it drops its end.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Ends it: asks, and after `grace` insists.
    pub async fn end(&self, grace: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            self.signal(Signal::KILL);
            self.ended().await;
        }
    }

    /// Ends it at once.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&*self.handle, signal);
    }
}

/// A pidfd is readable when its process has ended. tokio waits for foreign descriptors by unsafe functions alone, so a
/// thread does.
fn watched(handle: Arc<OwnedFd>) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    std::thread::spawn(move || {
        let mut handles = [PollFd::new(&*handle, PollFlags::IN)];
        while poll(&mut handles, None) == Err(rustix::io::Errno::INTR) {}
        sender.send_replace(true);
    });
    receiver
}

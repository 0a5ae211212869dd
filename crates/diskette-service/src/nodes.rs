//! Nodes: machines of an image, each with an overlay of its own that takes all writes.
//!
//! A node is a row and a folder. The row comes first, and goes first: a folder without a row is removed at the next start.
//! QEMU outlives the service, and is found again: see [`recovery`].

mod held;
mod live;
mod overlay;
mod publish;
pub(crate) mod record;
mod recovery;
mod run;
mod snapshots;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, OwnedMutexGuard};

use crate::launch::LaunchError;
use crate::launch::accelerator::Verdicts;
use crate::launch::home::Home;
use crate::launch::jail::Jail;
use crate::launch::machine::Launcher;
use crate::problem::{
    ACCEL_UNUSABLE, BAD_REQUEST, MACHINE_FAILED, Problem, QEMU_EXITED, QEMU_NOT_FOUND, Result,
};
use crate::settings::Settings;

pub(crate) use live::Live;
pub(crate) use overlay::{changed, create, remove, suggest, wipe};
pub(crate) use publish::{Publication, publish};
pub(crate) use record::{NewNode, Node};
pub(crate) use recovery::recover;
pub(crate) use run::{pause, reset, resume, running, screenshot, shutdown, start, stop};
pub(crate) use snapshots::{
    Snapshot, list_snapshots, remove_snapshot, restore_snapshot, take_snapshot,
};

/// How nodes are run here, and those that run.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) launcher: Launcher,
    folder: PathBuf,
    sockets: PathBuf,
    verdicts: PathBuf,
    accelerator: OnceCell<Verdicts>,
    live: Mutex<HashMap<String, Arc<Live>>>,
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Nodes {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            launcher: launcher(settings),
            folder: settings.overlays.clone(),
            sockets: sockets(&settings.overlays),
            verdicts: settings.data.join("accelerators.json"),
            accelerator: OnceCell::new(),
            live: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// Where the files of a node are.
    pub(crate) fn home(&self, node: &str) -> Home {
        Home::new(&self.folder, &self.sockets, node)
    }

    /// The accelerators, judged once.
    pub(crate) async fn verdicts(&self) -> Result<&Verdicts> {
        let judged = self
            .accelerator
            .get_or_try_init(|| Verdicts::of(&self.launcher, &self.verdicts));
        Ok(judged.await?)
    }

    /// The one that is used.
    async fn accelerator(&self) -> Result<&str> {
        let verdicts = self.verdicts().await?;
        verdicts.best().ok_or_else(|| {
            let said = verdicts.tried.iter();
            let said = said.map(|verdict| format!("{}: {}", verdict.accelerator, verdict.reason));
            Problem::new(ACCEL_UNUSABLE, said.collect::<Vec<_>>().join("; "))
        })
    }

    /// The machine of a node, if it runs.
    pub(crate) fn live(&self, node: &str) -> Option<Arc<Live>> {
        locked(&self.live).get(node).cloned()
    }

    /// One thing at a time is done with a node; this waits until the one before has ended.
    async fn turn(&self, node: &str) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(locked(&self.turns).entry(node.to_owned()).or_default());
        turn.lock_owned().await
    }

    fn keep(&self, node: &str, live: &Arc<Live>) {
        locked(&self.live).insert(node.to_owned(), Arc::clone(live));
    }

    fn forget(&self, node: &str) {
        locked(&self.live).remove(node);
    }
}

/// How QEMU is started by this program.
pub(crate) fn launcher(settings: &Settings) -> Launcher {
    Launcher {
        qemu: settings.qemu.clone(),
        own: std::env::current_exe().unwrap_or_else(|_| "diskette-service".into()),
        jail: Jail::new(settings.machine_user),
    }
}

/// A folder of a short name for the nodes of this folder: names of sockets must not be long, and machines of other users
/// must be able to pass through.
pub(crate) fn sockets(overlays: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let digest = <sha2::Sha256 as sha2::Digest>::digest(overlays.as_os_str().as_bytes());
    let name: String = digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    let base = match rustix::process::geteuid().is_root() {
        true => PathBuf::from("/run"),
        false => base.map_or_else(std::env::temp_dir, PathBuf::from),
    };
    base.join(format!("diskette-{name}"))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<LaunchError> for Problem {
    fn from(error: LaunchError) -> Self {
        let code = match &error {
            LaunchError::QemuNotFound { .. } => QEMU_NOT_FOUND,
            LaunchError::QemuExited { .. } => QEMU_EXITED,
            LaunchError::Property { .. } => BAD_REQUEST,
            _ => MACHINE_FAILED,
        };
        Self::new(code, error.to_string())
    }
}

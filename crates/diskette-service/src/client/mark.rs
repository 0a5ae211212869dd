//! What a file was sent as, kept on this machine: so that sending it again goes on.
//!
//! The service knows uploads, and not which file they are of. A file is known again by its path, its size and the time of its
//! last change; whoever changes it in between begins anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::Client;
use super::http::folder;

/// A file that is being sent to a service.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) size: u64,
    /// Where it is kept; nowhere where the user has no home.
    path: Option<PathBuf>,
}

impl Mark {
    pub(super) fn of(client: &Client, path: &Path, file: &File, name: &str) -> io::Result<Self> {
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Err(io::Error::other(
                "not a plain file: send it through a pipe, to `-`",
            ));
        }
        let changed = facts.modified()?.duration_since(UNIX_EPOCH);
        let known_by = format!(
            "{}\n{name}\n{}\n{}\n{}",
            client.server,
            fs::canonicalize(path)?.display(),
            facts.len(),
            changed.map_or(0, |since| since.as_nanos()),
        );
        let digest = Sha256::digest(known_by.as_bytes());
        let key: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
        let folder = folder("XDG_STATE_HOME", ".local/state");
        Ok(Self {
            size: facts.len(),
            path: folder.map(|folder| folder.join("diskette/uploads").join(key)),
        })
    }

    /// The upload that was begun for it.
    pub(super) fn upload(&self) -> Option<String> {
        let text = fs::read_to_string(self.path.as_ref()?).ok()?;
        let upload = text.trim();
        upload
            .starts_with("/api/v1/uploads/")
            .then(|| upload.to_owned())
    }

    pub(super) fn keep(&self, upload: &str) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, upload)
    }

    pub(super) fn forget(&self) {
        if let Some(path) = &self.path {
            // It may never have been kept.
            let _ = fs::remove_file(path);
        }
    }
}

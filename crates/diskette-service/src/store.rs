//! Where images lie: blobs named by the SHA-256 of their bytes, never changed.
//!
//! ```text
//!  STORE/sha256/ab/abcd...              a blob, read-only
//!  STORE/sha256/ab/abcd....ID.json      its manifest for the image ID: enough to rebuild the records
//!  DATA/spool/ID.part, ID.json          what is on its way in
//!  DATA/staging/                        what is being made
//!  DATA/quarantine/                     blobs that were found damaged
//! ```
//!
//! The order in which an image becomes ready: the blob is stable, it gets its name, its manifest is there, its record says
//! so. Killed in between, a start finds a spool that is whole, and makes the image again.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folders.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    blobs: PathBuf,
    data: PathBuf,
}

impl Store {
    /// Makes the folders that are not there yet.
    pub(crate) fn open(blobs: &Path, data: &Path) -> io::Result<Self> {
        let store = Self {
            blobs: blobs.to_owned(),
            data: data.to_owned(),
        };
        for folder in [
            &store.blobs.join("sha256"),
            &store.spool(),
            &store.staging(),
            &store.quarantine(),
        ] {
            make_folder(folder).map_err(|error| {
                let text = format!("{}: {error}", folder.display());
                io::Error::new(error.kind(), text)
            })?;
        }
        Ok(store)
    }

    /// Where the blob of this digest lies, if it is there.
    pub(crate) fn blob(&self, sha256: &str) -> PathBuf {
        self.shelf(sha256).join(sha256)
    }

    /// Where the bytes of an image lie while they come.
    pub(crate) fn spool_of(&self, image: &str) -> PathBuf {
        self.spool().join(format!("{image}.part"))
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.data.join("spool")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.data.join("staging")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.data.join("quarantine")
    }

    /// Takes in a file that is stable, and gives it its name. The same bytes may be there already.
    pub(crate) fn put(&self, staged: &Path, sha256: &str) -> io::Result<()> {
        let blob = self.blob(sha256);
        let shelf = self.shelf(sha256);
        make_folder(&shelf)?;
        if blob.exists() {
            return fs::remove_file(staged);
        }
        fs::set_permissions(staged, Permissions::from_mode(0o440))?;
        match fs::rename(staged, &blob) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.put_copy(staged, &blob)?;
            }
            done => done?,
        }
        sync_folder(&shelf)
    }

    /// Where the store is another file system than the data.
    fn put_copy(&self, staged: &Path, blob: &Path) -> io::Result<()> {
        let hidden = blob.with_extension("new");
        fs::copy(staged, &hidden)?;
        File::open(&hidden)?.sync_all()?;
        fs::rename(&hidden, blob)?;
        fs::remove_file(staged)
    }

    /// Writes down what the blob is to this image.
    pub(crate) fn put_manifest(
        &self,
        sha256: &str,
        image: &str,
        manifest: &Value,
    ) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(manifest)?;
        replace(&self.manifest(sha256, image), &text)
    }

    /// The same, for many: the disk is waited for once. Where that is cut off, the next start does it again.
    pub(crate) fn put_manifests(&self, all: &[(&str, &str, Value)]) -> io::Result<()> {
        let mut written = Vec::new();
        for (sha256, image, manifest) in all {
            let path = self.manifest(sha256, image);
            let (_, hidden) = write_hidden(&path, &serde_json::to_vec_pretty(manifest)?)?;
            written.push((hidden, path));
        }
        rustix::fs::syncfs(File::open(&self.blobs)?)?;
        for (hidden, path) in written {
            fs::rename(hidden, path)?;
        }
        Ok(())
    }

    pub(crate) fn remove_manifest(&self, sha256: &str, image: &str) -> io::Result<()> {
        gone(fs::remove_file(self.manifest(sha256, image)))
    }

    pub(crate) fn remove_blob(&self, sha256: &str) -> io::Result<()> {
        gone(fs::remove_file(self.blob(sha256)))
    }

    /// Puts a damaged blob away.
    pub(crate) fn quarantine_blob(&self, sha256: &str) -> io::Result<()> {
        let from = self.blob(sha256);
        let to = self.quarantine().join(sha256);
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                fs::copy(&from, &to)?;
                fs::remove_file(&from)
            }
            done => gone(done),
        }
    }

    /// Every file of the store, with its name.
    pub(crate) fn files(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut found = Vec::new();
        for shelf in fs::read_dir(self.blobs.join("sha256"))? {
            let shelf = shelf?.path();
            if !shelf.is_dir() {
                continue;
            }
            for entry in fs::read_dir(shelf)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string() {
                    found.push((name, entry.path()));
                }
            }
        }
        Ok(found)
    }

    /// Bytes that are free where blobs lie, for users without privileges.
    pub(crate) fn free(&self) -> io::Result<u64> {
        self.space().map(|(free, _)| free)
    }

    /// The same, and all the bytes that there are for such users.
    pub(crate) fn space(&self) -> io::Result<(u64, u64)> {
        let facts = rustix::fs::statvfs(&self.blobs)?;
        let kept = facts.f_bfree.saturating_sub(facts.f_bavail);
        let all = facts.f_blocks.saturating_sub(kept);
        let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
        Ok((bytes(facts.f_bavail), bytes(all)))
    }

    fn shelf(&self, sha256: &str) -> PathBuf {
        let first = sha256.get(..2).unwrap_or("__");
        self.blobs.join("sha256").join(first)
    }

    fn manifest(&self, sha256: &str, image: &str) -> PathBuf {
        self.shelf(sha256).join(format!("{sha256}.{image}.json"))
    }
}

/// The file at `path` with these bytes: afterwards, on stable storage, or what was there before.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (file, hidden) = write_hidden(path, bytes)?;
    file.sync_all()?;
    fs::rename(&hidden, path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Bytes beside `path`, under a name that is looked at by nobody.
fn write_hidden(path: &Path, bytes: &[u8]) -> io::Result<(File, PathBuf)> {
    let hidden = path.with_extension("json.new");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&hidden)?;
    file.write_all(bytes)?;
    Ok((file, hidden))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A folder that nobody else looks into.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(path)
}

fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_stored_once_and_read_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("blobs"), folder.path()).unwrap();
        let sha256 = "ab".repeat(32);
        for _ in 0..2 {
            let staged = store.staging().join("new");
            fs::write(&staged, b"bytes").unwrap();
            store.put(&staged, &sha256).unwrap();
            assert!(!staged.exists());
        }
        let blob = store.blob(&sha256);
        assert_eq!(
            fs::metadata(&blob).unwrap().permissions().mode() & 0o777,
            0o440
        );
        store.put_manifest(&sha256, "id", &Value::Null).unwrap();
        assert_eq!(store.files().unwrap().len(), 2);
        let all = [
            (&*sha256, "id", Value::Null),
            (&*sha256, "other", Value::Null),
        ];
        store.put_manifests(&all).unwrap();
        assert_eq!(store.files().unwrap().len(), 3);
        store.remove_manifest(&sha256, "id").unwrap();
        store.remove_manifest(&sha256, "other").unwrap();
        store.quarantine_blob(&sha256).unwrap();
        assert!(store.files().unwrap().is_empty());
        assert!(store.quarantine().join(&sha256).exists());
    }
}

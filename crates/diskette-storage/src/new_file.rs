//! A file that appears under its name when it is whole, or not at all.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use diskette_core::{Result, StorageMut};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

use crate::FileStorageMut;
use crate::behind::Behind;
use crate::file::failed;

/// An output in the making. Under its name there is what was there before, until [`commit`](Self::commit) puts the whole
/// new file in its place. Dropped before, it leaves nothing.
///
/// Where the file system can (`O_TMPFILE`), the file has no name until then, so that not even a killed program leaves
/// anything; elsewhere it is a hidden file beside its target. The permissions, and where that is allowed the owner, of a
/// file that it replaces become its own. A block device cannot be replaced: it is written in place.
#[derive(Debug)]
pub struct NewFile {
    target: PathBuf,
    storage: Arc<FileStorageMut>,
    /// What sends it on while it is written, if that is asked for.
    behind: Option<Arc<Behind>>,
    /// The name that it has until it is whole, if it has one.
    temporary: Option<PathBuf>,
    /// The file that it will replace.
    replaced: Option<Metadata>,
}

impl NewFile {
    /// A new file that is to be known as `target`. A link is followed: the file that it leads to will be replaced.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref();
        let name = target.display().to_string();
        Self::create_at(target, &name).map_err(|source| failed("create", name, source))
    }

    fn create_at(target: &Path, name: &str) -> io::Result<Self> {
        let target = match fs::canonicalize(target) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => target.to_owned(),
            Err(error) => return Err(error),
        };
        // To be replaced by us a file must be ours to write, or rename would get round its permissions.
        let existing = match FileStorageMut::open_at(&target, name) {
            Ok(existing) if existing.is_device() => return Ok(Self::on_device(target, existing)),
            Ok(existing) => Some(existing.file().metadata()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (file, temporary) = unnamed_or_hidden(&target)?;
        let storage = Arc::new(FileStorageMut::of(file, name.to_owned())?);
        Ok(Self {
            target,
            storage,
            behind: None,
            temporary,
            replaced: existing,
        })
    }

    fn on_device(target: PathBuf, device: FileStorageMut) -> Self {
        Self {
            target,
            storage: Arc::new(device),
            behind: None,
            temporary: None,
            replaced: None,
        }
    }

    /// The same, but that its bytes are sent on to the disk while more are written: a [`commit`](Self::commit) that syncs
    /// has little left to wait for then.
    #[must_use]
    pub fn sent_on(mut self) -> Self {
        self.behind = Some(Arc::new(Behind::new(Arc::clone(&self.storage))));
        self
    }

    /// Where its bytes go.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn StorageMut> {
        match &self.behind {
            Some(behind) => Arc::<Behind>::clone(behind),
            None => Arc::<FileStorageMut>::clone(&self.storage),
        }
    }

    /// Puts the file in its place, under its name. With `sync`, after all of it is on stable storage, and the name too.
    pub fn commit(self, sync: bool) -> Result<()> {
        self.put_in_place(sync)
            .map_err(|source| failed("finish", self.target.display().to_string(), source))
    }

    /// Undoes [`put_in_place`](Self::put_in_place), unless another file was replaced.
    pub(crate) fn take_back(&self) {
        if self.replaced.is_none() && !self.is_on_device() {
            // There is another error to tell.
            let _ = fs::remove_file(&self.target);
        }
    }

    /// Whether it is a block device, and not a file.
    pub(crate) fn is_on_device(&self) -> bool {
        self.storage.is_device()
    }

    pub(crate) fn put_in_place(&self, sync: bool) -> io::Result<()> {
        if let Some(replaced) = &self.replaced {
            take_over(replaced, self.storage.file())?;
        }
        if let Some(behind) = &self.behind {
            behind.end()?;
        }
        if sync {
            self.storage.sync()?;
        }
        if self.storage.is_device() {
            return Ok(());
        }
        match &self.temporary {
            Some(hidden) => fs::rename(hidden, &self.target)?,
            None => self.give_name()?,
        }
        if sync {
            File::open(folder_of(&self.target))?.sync_all()?;
        }
        Ok(())
    }

    /// Gives the unnamed file its name: at once where there is none of that name, else by a rename over it.
    fn give_name(&self) -> io::Result<()> {
        match self.link(&self.target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => return done,
        }
        let hidden = hidden_name(&self.target);
        self.link(&hidden)?;
        fs::rename(&hidden, &self.target).inspect_err(|_| {
            // The rename's error is the one to tell.
            let _ = fs::remove_file(&hidden);
        })
    }

    fn link(&self, path: &Path) -> io::Result<()> {
        let unnamed = format!("/proc/self/fd/{}", self.storage.file().as_raw_fd());
        Ok(linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(hidden) = &self.temporary {
            // After a commit it is not there any more; else there is nobody to tell.
            let _ = fs::remove_file(hidden);
        }
    }
}

/// A file without a name where the file system has such, else one with a hidden name.
fn unnamed_or_hidden(target: &Path) -> io::Result<(File, Option<PathBuf>)> {
    let mode = Mode::from_raw_mode(0o666); // less the umask
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let can_link = Path::new("/proc/self/fd").exists();
    // Whatever is wrong here, the other way tells it, or goes well.
    match open(folder_of(target), flags, mode) {
        Ok(file) if can_link => return Ok((file.into(), None)),
        Ok(_) | Err(_) => {}
    }
    let hidden = hidden_name(target);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&hidden)?;
    Ok((file, Some(hidden)))
}

/// Gives a new file what the file that it replaces had.
fn take_over(replaced: &Metadata, file: &File) -> io::Result<()> {
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (replaced.uid(), replaced.gid()) {
        // Few may give a file away; for the others it stays their own.
        let _ = fchown(file, Some(replaced.uid()), Some(replaced.gid()));
    }
    file.set_permissions(Permissions::from_mode(replaced.mode() & 0o777))
}

fn folder_of(target: &Path) -> &Path {
    target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A name beside the target that no other thread or process takes.
fn hidden_name(target: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // A name may be as long as names can be: the longest character has 4 bytes.
    let name: String = name.chars().take(40).collect();
    folder_of(target).join(format!(".{name}.{}-{count}.part", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_there_before_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("new");
        let file = NewFile::create(&target).unwrap();
        file.storage().write_at(b"content", 0).unwrap();
        assert!(!target.exists());
        file.commit(true).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"content");
        assert_eq!(names(folder.path()), ["new"]);
    }

    #[test]
    fn a_file_of_that_name_stays_until_the_new_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        fs::write(&target, b"old").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
        drop(NewFile::create(&target).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"old");
        let file = NewFile::create(&target).unwrap();
        file.storage().write_at(b"new", 0).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        file.commit(false).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_link_stays_a_link_and_its_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        let real = folder.path().join("sub/real");
        fs::write(&real, b"old").unwrap();
        let link = folder.path().join("link");
        symlink("sub/real", &link).unwrap();
        let file = NewFile::create(&link).unwrap();
        file.storage().write_at(b"new", 0).unwrap();
        file.commit(false).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
    }

    #[test]
    fn a_folder_or_a_device_is_no_target() {
        let folder = tempfile::tempdir().unwrap();
        assert!(NewFile::create(folder.path()).is_err());
        assert!(NewFile::create("/dev/null").is_err());
        assert!(NewFile::create(folder.path().join("no/such/folder")).is_err());
    }

    #[test]
    fn a_hidden_file_is_made_and_removed_where_there_are_no_nameless_ones() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x".repeat(255));
        let hidden = hidden_name(&target);
        let begin = || NewFile {
            target: target.clone(),
            storage: Arc::new(
                FileStorageMut::of(
                    File::create_new(&hidden).unwrap(),
                    target.display().to_string(),
                )
                .unwrap(),
            ),
            temporary: Some(hidden.clone()),
            replaced: None,
            behind: None,
        };
        drop(begin());
        assert!(names(folder.path()).is_empty());
        let file = begin();
        file.storage().write_at(b"new", 0).unwrap();
        file.commit(true).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["x".repeat(255)]);
    }
}

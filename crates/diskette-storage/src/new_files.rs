//! The files of an image that takes several: all of them appear, or none.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use diskette_core::{NewParts, Result, StorageExt, StorageMut};

use crate::file::failed;
use crate::{FileStorage, NewFile};

/// A new image in the making: the file by whose name it is known, and its parts beside it.
///
/// [`commit`](Self::commit) puts the parts in their places first, and the image's own file last: whoever finds that finds
/// them all. Dropped before, it leaves nothing.
#[derive(Debug)]
pub struct NewFiles {
    target: PathBuf,
    main: NewFile,
    parts: Mutex<Vec<NewFile>>,
    /// Files that must not be replaced, by what tells them from all others.
    kept: Vec<(u64, u64)>,
    /// Whether they are sent on to the disk while they are written.
    sent_on: bool,
}

impl NewFiles {
    /// A new image that is to be known as `target`; see [`NewFile::create`].
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref();
        expect_unused(target)?;
        Ok(Self {
            target: target.to_owned(),
            main: NewFile::create(target)?,
            parts: Mutex::new(Vec::new()),
            kept: Vec::new(),
            sent_on: false,
        })
    }

    /// The same, but that no part replaces one of these files, whatever its name: they are read meanwhile.
    #[must_use]
    pub fn keeping<P: AsRef<Path>>(mut self, files: impl IntoIterator<Item = P>) -> Self {
        let files = files.into_iter();
        self.kept
            .extend(files.filter_map(|file| file_id(file.as_ref())));
        self
    }

    /// The same, but that the files are [sent on](NewFile::sent_on) to the disk while they are written.
    #[must_use]
    pub fn sent_on(mut self) -> Self {
        self.main = self.main.sent_on();
        self.sent_on = true;
        self
    }

    /// Where the bytes of the image's own file go.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn StorageMut> {
        self.main.storage()
    }

    /// Has the host keep space for all that the files have: holes in them can be written later without more of it.
    pub fn reserve(&self) -> Result<()> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for file in parts.iter().chain([&self.main]) {
            let storage = file.storage();
            let size = storage.total_size()?;
            let reserved = storage.allocate(0, size);
            reserved.map_err(|source| storage.failed("allocate", 0, size, source))?;
        }
        Ok(())
    }

    /// Puts all files in their places, under their names. With `sync`, after all of them are on stable storage.
    ///
    /// Where that fails midway, the parts that have their names already are removed, but for those that have replaced
    /// another file.
    pub fn commit(self, sync: bool) -> Result<()> {
        let parts = self
            .parts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let all = || parts.iter().chain([&self.main]);
        for (done, file) in all().enumerate() {
            file.put_in_place(sync).map_err(|source| {
                all().take(done).for_each(NewFile::take_back);
                failed("finish", file.storage().name().to_owned(), source)
            })?;
        }
        Ok(())
    }
}

impl NewParts for NewFiles {
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>> {
        let path = self.target.with_file_name(name);
        let refused = |why| failed("create", path.display().to_string(), io::Error::other(why));
        if path.file_name() != Some(OsStr::new(name)) {
            return Err(refused("not a name of one file"));
        }
        if path == self.target {
            return Err(refused("it is the image's own file"));
        }
        if self.main.is_on_device() {
            return Err(refused("an image on a device has one file only"));
        }
        if file_id(&path).is_some_and(|id| self.kept.contains(&id)) {
            return Err(refused("it is one of the files that are read"));
        }
        expect_unused(&path)?;
        let file = match self.sent_on {
            true => NewFile::create(&path)?.sent_on(),
            false => NewFile::create(&path)?,
        };
        let storage = file.storage();
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(file);
        Ok(storage)
    }
}

/// What tells one file of the host from all others, whatever names it has.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    let facts = fs::metadata(path).ok()?;
    Some((facts.dev(), facts.ino()))
}

/// That no program of QEMU's writes the file that is to be replaced, if there is one.
fn expect_unused(path: &Path) -> Result<()> {
    // What cannot be opened for reading is told when it is written.
    FileStorage::open(path).map_or(Ok(()), |file| file.lock())
}

#[cfg(test)]
mod tests {
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
    fn all_files_appear_at_the_end_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let begin = || {
            let files = NewFiles::create(folder.path().join("disk")).unwrap();
            files.storage().write_at(b"own", 0).unwrap();
            let part = NewParts::create(&files, "disk-1").unwrap();
            part.write_at(b"part", 0).unwrap();
            files
        };
        drop(begin());
        assert!(names(folder.path()).is_empty());
        begin().commit(true).unwrap();
        assert_eq!(names(folder.path()), ["disk", "disk-1"]);
        assert_eq!(fs::read(folder.path().join("disk-1")).unwrap(), b"part");
    }

    #[test]
    fn parts_are_taken_back_where_the_image_cannot_be_finished() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("disk-2"), b"old").unwrap();
        let files = NewFiles::create(folder.path().join("disk")).unwrap();
        NewParts::create(&files, "disk-1").unwrap();
        let part = NewParts::create(&files, "disk-2").unwrap();
        part.write_at(b"new", 0).unwrap();
        // Nothing can be renamed over a folder with something in it.
        fs::create_dir_all(folder.path().join("disk/in-the-way")).unwrap();
        assert!(files.commit(false).is_err());
        assert_eq!(names(folder.path()), ["disk", "disk-2"]);
    }

    #[test]
    fn a_part_lies_beside_the_image_and_is_not_itself() {
        let folder = tempfile::tempdir().unwrap();
        let files = NewFiles::create(folder.path().join("disk")).unwrap();
        for name in ["../other", "sub/other", "/tmp/other", "", ".", "..", "disk"] {
            assert!(NewParts::create(&files, name).is_err(), "{name}");
        }
    }
}

//! Host bytes in a file, or on a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use diskette_core::{Error, Result, Run, RunKind, Storage};
use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;

use crate::lock::{self, Lock};

/// A regular file or a block device, read by position.
///
/// Its size is that at the time it was opened: what is cut off later cannot be read, what is added does not count.
#[derive(Debug)]
pub struct FileStorage {
    name: String,
    file: File,
    kind: FileKind,
    size: u64,
}

/// What a file is to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Regular,
    Device,
}

impl FileStorage {
    /// Opens a file for reading. Directories, pipes, sockets and character devices are refused.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        // Without O_NONBLOCK a pipe would wait here for a writer.
        let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY)
            .bits()
            .cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        file.and_then(|file| Self::of(file, name.clone()))
            .map_err(|source| failed("open", name, source))
    }

    /// A file that has been opened, under a name for messages.
    pub(crate) fn of(file: File, name: String) -> io::Result<Self> {
        let kind = FileKind::of(&file)?;
        let size = kind.size(&file)?;
        Ok(Self {
            name,
            file,
            kind,
            size,
        })
    }

    /// Its size at this moment, which may not be that at the time it was opened.
    #[cfg(feature = "mmap")]
    pub(crate) fn size_now(&self) -> io::Result<u64> {
        self.kind.size(&self.file)
    }

    /// Tells QEMU's programs, and ourselves elsewhere, that this file is being read as an image, as long as this lives.
    /// Fails where another program writes it.
    pub fn lock(&self) -> Result<()> {
        Lock::Read.take(&self.file, &self.name)
    }

    /// The file itself.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }
}

impl FileKind {
    /// What `file` is; an error for what no image can lie in.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if kind.is_file() {
            Ok(Self::Regular)
        } else if kind.is_block_device() {
            Ok(Self::Device)
        } else if kind.is_dir() {
            Err(io::ErrorKind::IsADirectory.into())
        } else {
            Err(io::Error::other(
                "neither a regular file nor a block device",
            ))
        }
    }

    pub(crate) fn size(self, file: &File) -> io::Result<u64> {
        match self {
            Self::Regular => Ok(file.metadata()?.len()),
            // A device's metadata says 0. Nobody reads by this cursor.
            Self::Device => Ok(seek(file, SeekFrom::End(0))?),
        }
    }

    pub(crate) fn allocated(self, file: &File) -> io::Result<u64> {
        /// Whatever the file system's own unit is.
        const BLOCK: u64 = 512;
        match self {
            Self::Regular => Ok(file.metadata()?.blocks().saturating_mul(BLOCK)),
            Self::Device => self.size(file),
        }
    }
}

/// The run from `offset` on, as the file system tells it. `size` is the file's.
pub(crate) fn run_at(file: &File, kind: FileKind, size: u64, offset: u64) -> io::Result<Run> {
    let left = size
        .checked_sub(offset)
        .filter(|left| *left > 0)
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let all_data = Run {
        len: left,
        kind: RunKind::Data,
    };
    if kind == FileKind::Device {
        return Ok(all_data);
    }
    let data = match seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data >= offset => data.min(size),
        Err(Errno::NXIO) => size,
        // A file system that does not tell, or tells nonsense: all may be data.
        Ok(_) | Err(_) => return Ok(all_data),
    };
    if data > offset {
        return Ok(Run {
            len: data - offset,
            kind: RunKind::Hole,
        });
    }
    match seek(file, SeekFrom::Hole(offset)) {
        Ok(hole) if hole > offset => Ok(Run {
            len: hole.min(size) - offset,
            kind: RunKind::Data,
        }),
        Ok(_) | Err(_) => Ok(all_data),
    }
}

/// The library's error for a file that could not be opened, created or renamed.
pub(crate) const fn failed(op: &'static str, path: String, source: io::Error) -> Error {
    Error::File { op, path, source }
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        lock::give_up(&self.file);
    }
}

impl Storage for FileStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.kind.allocated(&self.file)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        run_at(&self.file, self.kind, self.size, offset)
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_sparse_file_tells_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.set_len(3 << 20).unwrap();
        let storage = FileStorage::open(&path).unwrap();
        assert_eq!(
            storage.run_at(4096).unwrap(),
            Run {
                len: (1 << 20) - 4096,
                kind: RunKind::Hole
            }
        );
        let data = storage.run_at(1 << 20).unwrap();
        assert_eq!(data.kind, RunKind::Data);
        let tail = storage.run_at(2 << 20).unwrap();
        assert_eq!(
            tail,
            Run {
                len: 1 << 20,
                kind: RunKind::Hole
            }
        );
        assert!(storage.run_at(3 << 20).is_err());
        assert!((4096..1 << 20).contains(&storage.allocated().unwrap()));
    }

    #[test]
    fn what_no_image_can_lie_in_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        for path in [
            folder.path(),
            &pipe,
            Path::new("/dev/null"),
            Path::new("/does/not/exist"),
        ] {
            assert!(
                matches!(FileStorage::open(path), Err(Error::File { op: "open", .. })),
                "{}",
                path.display()
            );
        }
    }
}

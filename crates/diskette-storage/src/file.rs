//! Host bytes in a file, or on a block device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use diskette_core::{Error, Result, Run, RunKind, Storage};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A file, read by position.
#[derive(Debug)]
pub struct FileStorage {
    name: String,
    file: File,
}

impl FileStorage {
    /// Opens a file for reading.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Self { name, file }),
            Err(source) => Err(Error::File {
                op: "open",
                path: name,
                source,
            }),
        }
    }
}

impl Storage for FileStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let size = self.size()?;
        let data = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error.into()),
        };
        if data > offset {
            return Ok(Run {
                len: data - offset,
                kind: RunKind::Hole,
            });
        }
        let hole = seek(&self.file, SeekFrom::Hole(offset))?;
        Ok(Run {
            len: hole - offset,
            kind: RunKind::Data,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

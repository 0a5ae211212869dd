//! Host bytes in a file, or on a block device, that can be changed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use diskette_core::{Result, Run, RunKind, Storage, StorageMut};
use rustix::fs::{FallocateFlags, OFlags, fallocate, fstatfs};
use rustix::io::Errno;

use crate::file::{FileKind, failed, run_at};
use crate::lock::{self, Lock};

/// A regular file or a block device, read and written by position.
#[derive(Debug)]
pub struct FileStorageMut {
    name: String,
    file: File,
    kind: FileKind,
    /// Whether long writes are cheaper where their space has been reserved.
    reserves: bool,
}

impl FileStorageMut {
    /// Opens a file that exists, as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        Self::open_at(path, &name).map_err(|source| failed("open", name, source))
    }

    pub(crate) fn open_at(path: &Path, name: &str) -> io::Result<Self> {
        let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY)
            .bits()
            .cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)?;
        Self::of(file, name.to_owned())
    }

    /// A file that has been opened for reading and writing, under a name for messages.
    pub(crate) fn of(file: File, name: String) -> io::Result<Self> {
        let kind = FileKind::of(&file)?;
        let reserves = kind == FileKind::Regular && is_ext4(&file);
        Ok(Self {
            name,
            file,
            kind,
            reserves,
        })
    }

    /// Whether it is a block device: it cannot grow, and what it held before shows until it is overwritten.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.kind == FileKind::Device
    }

    /// The file itself.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Tells QEMU's programs, and ourselves elsewhere, that this file is being written, as long as this lives. Fails where
    /// another program reads it as an image, or writes it.
    pub fn lock(&self) -> Result<()> {
        Lock::Write.take(&self.file, &self.name)
    }

    /// Grows a file that ends before `end`, whose bytes from `end - 1` on are nobody else's. By a write, as that never
    /// cuts off what another thread writes further behind meanwhile.
    fn reach(&self, end: u64) -> io::Result<()> {
        if end > self.size()? {
            self.write_at(&[0], end - 1)?;
        }
        Ok(())
    }

    /// Takes the space of a range by hand, on a file system that cannot reserve any. Nobody else may write there meanwhile.
    fn allocate_by_writing(&self, offset: u64, end: u64) -> io::Result<()> {
        let mut at = offset;
        while at < end.min(self.size()?) {
            let run = self.run_at(at)?;
            let len = run.len.min(end - at);
            if run.kind == RunKind::Hole {
                self.write_zeros_plainly(at, len)?;
            }
            at += len;
        }
        self.write_zeros_plainly(at, end - at)
    }

    fn write_zeros_plainly(&self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut at = offset;
        let end = end(offset, len)?;
        while at < end {
            let part = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(ZEROS.len());
            self.write_at(&ZEROS[..part], at)?;
            at += part as u64;
        }
        Ok(())
    }
}

impl Drop for FileStorageMut {
    fn drop(&mut self) {
        lock::give_up(&self.file);
    }
}

impl Storage for FileStorageMut {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> io::Result<u64> {
        self.kind.size(&self.file)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.kind.allocated(&self.file)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        run_at(&self.file, self.kind, self.size()?, offset)
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl StorageMut for FileStorageMut {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if self.reserves && buf.len() >= LONG_WRITE {
            // Where there is no space, it is the write that says so.
            let _ = fallocate(
                &self.file,
                FallocateFlags::KEEP_SIZE,
                offset,
                buf.len() as u64,
            );
        }
        self.file.write_all_at(buf, offset)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.reach(end(offset, len)?)?;
        let keep = FallocateFlags::KEEP_SIZE;
        for how in [
            FallocateFlags::PUNCH_HOLE | keep,
            FallocateFlags::ZERO_RANGE | keep,
        ] {
            match fallocate(&self.file, how, offset, len) {
                Ok(()) => return Ok(()),
                Err(error) if is_no_way(error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.write_zeros_plainly(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let end = end(offset, len)?;
        if self.kind == FileKind::Device {
            return self.set_size(end);
        }
        match fallocate(&self.file, FallocateFlags::empty(), offset, len) {
            Err(error) if is_no_way(error) => self.allocate_by_writing(offset, end),
            done => Ok(done?),
        }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let there = self.size()?;
        if size == there {
            // Not even asked for: ext4 takes a file that is emptied, empty or not, for one that is being replaced, and
            // begins to write it out when it is closed.
            return Ok(());
        }
        if self.kind == FileKind::Regular {
            return self.file.set_len(size);
        }
        if size > there {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the device has {there} bytes, and {size} are needed"),
            ));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// ext4 finds the space for a write block by block, unless it has been reserved: filling a new file through the page cache
/// takes a third less time so. Other file systems gain nothing, and some would lose.
fn is_ext4(file: &File) -> bool {
    const EXT_SUPER_MAGIC: i128 = 0xef53;
    fstatfs(file).is_ok_and(|facts| i128::from(facts.f_type) == EXT_SUPER_MAGIC)
}

/// From this many bytes on, a write is worth a call of its own to reserve its space.
const LONG_WRITE: usize = 64 << 10;

/// Whether the file system, or the device, cannot do a thing so, and it is to be done in another way.
fn is_no_way(error: Errno) -> bool {
    matches!(
        error,
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV
    )
}

fn end(offset: u64, len: u64) -> io::Result<u64> {
    offset
        .checked_add(len)
        .ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_free_the_space_they_take_and_grow_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 3 << 20]).unwrap();
        let file = FileStorageMut::open(&path).unwrap();
        file.write_zeros(1 << 20, 1 << 20).unwrap();
        assert_eq!(
            file.run_at(1 << 20).unwrap(),
            Run {
                len: 1 << 20,
                kind: RunKind::Hole
            }
        );
        file.write_zeros(3 << 20, 4096).unwrap();
        assert_eq!(file.size().unwrap(), (3 << 20) + 4096);
        let mut byte = [9];
        file.read_at(&mut byte, (3 << 20) + 4095).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn reserved_space_reads_as_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 10]).unwrap();
        let file = FileStorageMut::open(&path).unwrap();
        file.allocate(0, 1 << 20).unwrap();
        assert_eq!(file.size().unwrap(), 1 << 20);
        let mut bytes = [9; 12];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0]);
    }

    #[test]
    fn space_taken_by_hand_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        let file = FileStorageMut::open(&path).unwrap();
        file.set_size(1 << 20).unwrap();
        file.allocate_by_writing(50, 2 << 20).unwrap();
        assert_eq!(file.size().unwrap(), 2 << 20);
        assert_eq!(file.run_at(0).unwrap().kind, RunKind::Data);
        assert_eq!(file.run_at(0).unwrap().len, 2 << 20);
        let mut bytes = [9; 101];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!((bytes[0], bytes[99], bytes[100]), (7, 7, 0));
    }

    #[test]
    fn zeros_that_grow_the_file_never_cut_off_what_others_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for _ in 0..200 {
            std::fs::write(&path, []).unwrap();
            let file = FileStorageMut::open(&path).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| file.write_at(&[1; 4096], 1 << 20).unwrap());
                scope.spawn(|| file.write_zeros(0, 4096).unwrap());
            });
            assert_eq!(file.size().unwrap(), (1 << 20) + 4096);
        }
    }

    #[test]
    fn a_range_beyond_the_end_of_u64_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, []).unwrap();
        let file = FileStorageMut::open(&path).unwrap();
        assert!(file.write_zeros(u64::MAX, 2).is_err());
        assert!(file.allocate(u64::MAX, 2).is_err());
    }
}

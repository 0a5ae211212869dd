//! A file mapped into memory. The only room of the house with `unsafe` in it.
#![allow(unsafe_code)]

use std::io;
use std::path::Path;

use diskette_core::{Result, Run, Storage};
use memmap2::Mmap;

use crate::FileStorage;
use crate::file::failed;

/// A file mapped into memory: its bytes can be looked at where they lie.
///
/// What is read is read from the file, as by [`FileStorage`]: where the file has become shorter, that is an error. Only
/// [`as_bytes`](Storage::as_bytes) leads into the mapping, and hands nothing out any more when the file is shorter than it was. What has
/// been handed out before is not safe from it: who touches bytes that the file has lost is ended by the system (SIGBUS). No
/// way was found to refuse that: Linux locks are advice, and a lease is broken after some seconds whatever its holder does.
#[derive(Debug)]
pub struct MappedStorage {
    file: FileStorage,
    map: Mmap,
}

impl MappedStorage {
    /// Maps the file at `path`.
    ///
    /// # Safety
    ///
    /// Nobody may change or cut the file while it is mapped: neither this process nor another one. Only the caller can
    /// see to that. Bytes that change under a look are undefined behaviour; bytes that are cut off under it end the process.
    pub unsafe fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = FileStorage::open(path)?;
        // SAFETY: the caller promises that the file stays as it is, by this function's own contract.
        let map = unsafe { Mmap::map(file.file()) };
        match map {
            Ok(map) => Ok(Self { file, map }),
            Err(source) => Err(failed("map", file.name().to_owned(), source)),
        }
    }
}

impl Storage for MappedStorage {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.map.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.file.run_at(offset)
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        let is_whole = self.file.size_now().ok()? >= self.map.len() as u64;
        is_whole.then_some(&self.map)
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs::File;

    use diskette_testkit::tools::Tool;

    use super::*;

    fn mapped(path: &Path) -> MappedStorage {
        // SAFETY: the file is a test's own, which looks at no bytes that it has cut off.
        unsafe { MappedStorage::open(path) }.unwrap()
    }

    #[test]
    fn a_mapped_file_reads_like_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        let mapped = mapped(&path);
        let mut bytes = [0; 3];
        mapped.read_at(&mut bytes, 4).unwrap();
        assert_eq!(&bytes, b"456");
        assert!(mapped.read_at(&mut bytes, 8).is_err());
        assert!(mapped.read_at(&mut bytes, u64::MAX).is_err());
        assert_eq!(mapped.as_bytes(), Some(&b"0123456789"[..]));
    }

    #[test]
    fn a_mapped_file_that_shrinks_is_an_error_and_not_the_end() {
        const LEN: usize = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; LEN]).unwrap();
        let mapped = mapped(&path);
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        assert_eq!(sum(mapped.as_bytes().unwrap()), 7 * LEN as u64);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(10)
            .unwrap();
        let mut bytes = [0; 4096];
        assert!(mapped.read_at(&mut bytes, LEN as u64 / 2).is_err());
        assert!(mapped.read_at(&mut bytes, 0).is_err());
        mapped.read_at(&mut bytes[..10], 0).unwrap();
        assert_eq!(mapped.as_bytes(), None);
    }

    /// The other tests of this file once more, under valgrind: each read of memory that is not the program's own is an error.
    #[test]
    fn valgrind_sees_no_read_beyond_a_mapping() {
        const INSIDE: &str = "DISKETTE_UNDER_VALGRIND";
        if env::var_os(INSIDE).is_some() {
            return;
        }
        let Some(valgrind) = Tool::find("valgrind") else {
            return;
        };
        let mut command = valgrind.command();
        command.args(["--quiet", "--error-exitcode=9", "--leak-check=no"]);
        command.arg(env::current_exe().unwrap()).arg("mmap::tests");
        let output = command.env(INSIDE, "1").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("3 passed"), "{said}");
    }
}

//! The locks by which QEMU's programs tell each other what they do with an image.
//!
//! They are locks of an open file on single bytes, 100 and up for what a program does, 200 and up for what it does not
//! suffer others to do (`block/file-posix.c`). No byte is changed. They end when the file is closed, also by processes that
//! were forked meanwhile and have not become another program yet: so they are given up before.

use std::fs::File;
use std::io;

use diskette_core::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, flock};

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    Read,
    Write,
}

/// What programs do, by QEMU's numbers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    ConsistentRead = 0,
    Write = 1,
    Resize = 3,
}

impl Lock {
    /// Takes the lock on `file`, until it is given up; fails where somebody holds one that does not go with it.
    pub(crate) fn take(self, file: &File, name: &str) -> Result<()> {
        let taken = self
            .announce(file)
            .and_then(|()| self.look_for_others(file));
        taken.map_err(|source| {
            // What could not be had whole.
            give_up(file);
            Error::File {
                op: "lock",
                path: name.to_owned(),
                source,
            }
        })
    }

    /// First say what we do: of two that come at once, both may go away, but not both stay.
    fn announce(self, file: &File) -> io::Result<()> {
        let bytes = self.acts().iter().map(|act| doing(*act));
        for byte in bytes.chain(self.suffers_not().iter().map(|act| suffering_not(*act))) {
            let lock = on_bytes(byte, 1, libc::F_RDLCK);
            match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
                Ok(_) => {}
                // There are file systems without locks: QEMU goes on there.
                Err(Errno::ENOLCK | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn look_for_others(self, file: &File) -> io::Result<()> {
        for act in self.acts() {
            if held_by_another(file, suffering_not(*act))? {
                return Err(in_use(format!("failed to get \"{}\" lock", act.name())));
            }
        }
        for act in self.suffers_not() {
            if held_by_another(file, doing(*act))? {
                let name = act.name();
                return Err(in_use(format!("failed to get shared \"{name}\" lock")));
            }
        }
        Ok(())
    }

    const fn acts(self) -> &'static [Act] {
        match self {
            Self::Read => &[Act::ConsistentRead],
            Self::Write => &[Act::ConsistentRead, Act::Write, Act::Resize],
        }
    }

    const fn suffers_not(self) -> &'static [Act] {
        &[Act::Write, Act::Resize]
    }
}

/// Gives up what there is of locks on `file`.
pub(crate) fn give_up(file: &File) {
    // It fails only where nothing was taken.
    let _ = fcntl(
        file,
        FcntlArg::F_OFD_SETLK(&on_bytes(100, 200, libc::F_UNLCK)),
    );
}

impl Act {
    const fn name(self) -> &'static str {
        match self {
            Self::ConsistentRead => "consistent read",
            Self::Write => "write",
            Self::Resize => "resize",
        }
    }
}

const fn doing(act: Act) -> i64 {
    100 + act as i64
}

const fn suffering_not(act: Act) -> i64 {
    200 + act as i64
}

fn held_by_another(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = on_bytes(byte, 1, libc::F_WRLCK);
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        Err(Errno::ENOLCK | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn on_bytes(start: i64, len: i64, kind: i32) -> flock {
    flock {
        // The constants are small numbers; the field is smaller than they are declared.
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn in_use(what: String) -> io::Error {
    let why = format!("{what}; is another process using the image?");
    io::Error::new(io::ErrorKind::ResourceBusy, why)
}

#[cfg(test)]
mod tests {
    use crate::{FileStorage, FileStorageMut};

    #[test]
    fn readers_suffer_readers_and_no_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, "image").unwrap();
        let why = |result: diskette_core::Result<()>| match result {
            Err(diskette_core::Error::File { source, .. }) => source.to_string(),
            other => panic!("{other:?}"),
        };

        let reader = FileStorage::open(&path).unwrap();
        reader.lock().unwrap();
        FileStorage::open(&path).unwrap().lock().unwrap();
        let writer = FileStorageMut::open(&path).unwrap();
        let refused = why(writer.lock());
        assert_eq!(
            refused,
            "failed to get \"write\" lock; is another process using the image?"
        );
        drop(reader);
        writer.lock().unwrap();
        drop(writer);

        let writer = FileStorageMut::open(&path).unwrap();
        writer.lock().unwrap();
        let refused = why(FileStorage::open(&path).unwrap().lock());
        assert_eq!(
            refused,
            "failed to get shared \"write\" lock; is another process using the image?"
        );
    }

    #[test]
    fn a_lock_is_given_up_though_a_forked_process_has_the_file_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, "image").unwrap();
        let writer = FileStorageMut::open(&path).unwrap();
        writer.lock().unwrap();
        // As a process has it that was forked, and is not another program yet.
        let _kept = writer.file().try_clone().unwrap();
        drop(writer);
        let reader = FileStorage::open(&path).unwrap();
        reader.lock().unwrap();
        let _kept = reader.file().try_clone().unwrap();
        drop(reader);
        FileStorageMut::open(&path).unwrap().lock().unwrap();
    }

    #[test]
    fn what_qemu_does_with_an_image_is_known_here_and_there() {
        let (Some(qemu_img), Some(qemu_io)) =
            (diskette_testkit::qemu_img(), diskette_testkit::qemu_io())
        else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.qcow2");
        let path_text = path.to_str().unwrap();
        qemu_img.run(["create", "-q", "-f", "qcow2", path_text, "1M"]);

        let writer = FileStorageMut::open(&path).unwrap();
        writer.lock().unwrap();
        let info = qemu_img.output(["info", path_text]);
        assert!(!info.status.success());
        let told = String::from_utf8_lossy(&info.stderr).into_owned();
        assert!(told.contains("Failed to get"), "{told}");
        drop(writer);

        let reader = FileStorage::open(&path).unwrap();
        reader.lock().unwrap();
        qemu_img.run(["info", path_text]);
        let written = qemu_io.output(["-c", "write 0 512", path_text]);
        assert!(!written.status.success());
    }
}

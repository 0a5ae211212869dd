//! A file that is sent on to the disk while it is written, so that at its end little is left to wait for.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use diskette_core::{Run, Storage, StorageMut};

use crate::FileStorageMut;

/// Bytes after which a file is sent on.
const PIECE: u64 = 16 << 20;

/// A file, and a thread that makes stable what has been written so far whenever that is enough to be worth it.
#[derive(Debug)]
pub(crate) struct Behind {
    storage: Arc<FileStorageMut>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes written since the thread was woken last.
    written: u64,
    thread: Option<Thread>,
    /// An error that the thread had: the kernel tells it once, and not to whoever syncs next.
    failed: Option<io::Error>,
}

#[derive(Debug)]
struct Thread {
    wake: SyncSender<()>,
    ended: JoinHandle<io::Result<()>>,
}

impl Behind {
    pub(crate) fn new(storage: Arc<FileStorageMut>) -> Self {
        Self {
            storage,
            state: Mutex::default(),
        }
    }

    /// Waits for the thread. What has been written since is not stable yet.
    pub(crate) fn end(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.end();
        state.failed.take().map_or(Ok(()), Err)
    }

    fn wrote(&self, len: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.written = state.written.saturating_add(len as u64);
        if state.written < PIECE {
            return;
        }
        state.written = 0;
        let thread = state
            .thread
            .get_or_insert_with(|| Thread::of(Arc::clone(&self.storage)));
        // It is at work, and will look again; or it has failed, which is told at the end.
        let _ = thread.wake.try_send(());
    }
}

impl State {
    fn end(&mut self) {
        let Some(Thread { wake, ended }) = self.thread.take() else {
            return;
        };
        drop(wake);
        let ended = ended.join();
        let ended = ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        if let Err(error) = ended {
            self.failed.get_or_insert(error);
        }
    }
}

impl Thread {
    fn of(storage: Arc<FileStorageMut>) -> Self {
        let (wake, woken) = sync_channel(1);
        let ended = std::thread::spawn(move || {
            while woken.recv().is_ok() {
                storage.file().sync_data()?;
            }
            Ok(())
        });
        Self { wake, ended }
    }
}

impl Storage for Behind {
    fn name(&self) -> &str {
        self.storage.name()
    }

    fn size(&self) -> io::Result<u64> {
        self.storage.size()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.storage.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.storage.read_at(buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.storage.run_at(offset)
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl StorageMut for Behind {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.storage.write_at(buf, offset)?;
        self.wrote(buf.len());
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.write_zeros(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.allocate(offset, len)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.storage.set_size(size)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.end();
        let synced = self.storage.sync();
        state.failed.take().map_or(synced, Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewFile;

    #[test]
    fn what_is_sent_on_is_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = NewFile::create(&path).unwrap().sent_on();
        let storage = file.storage();
        let piece = vec![7; 1 << 20];
        for at in 0..40 {
            storage.write_at(&piece, at << 20).unwrap();
        }
        storage.sync().unwrap();
        storage.write_at(b"last", 40 << 20).unwrap();
        file.commit(true).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert_eq!(written.len(), (40 << 20) + 4);
        assert!(written[..40 << 20].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn an_error_of_the_thread_is_told_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"").unwrap();
        let storage = Arc::new(FileStorageMut::open(&path).unwrap());
        let behind = Behind::new(storage);
        let (wake, _) = sync_channel(1);
        let ended = std::thread::spawn(|| Err(io::ErrorKind::StorageFull.into()));
        behind.state.lock().unwrap().thread = Some(Thread { wake, ended });
        assert_eq!(behind.end().unwrap_err().kind(), io::ErrorKind::StorageFull);
        behind.end().unwrap();
    }
}

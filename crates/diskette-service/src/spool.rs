//! Bytes on their way in: a file that grows, its watermark, and those who wait for what is above it.
//!
//! ```text
//!  upload ─► append ─► file + running SHA-256 ─► watermark ─► WatermarkStorage ─► whoever reads the image
//! ```
//!
//! Now and then what has come is made stable, and the watermark and the state of the digest are written down beside it: a
//! restart goes on from there.

mod record;
mod storage;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use diskette::core::is_zero;
use sha2::{Digest, Sha256};

use record::Record;
pub(crate) use storage::{SpoolReader, WatermarkStorage};

/// Bytes on their way in. One writes, any number read.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    file: File,
    writer: Mutex<Writer>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct Writer {
    sha256: Sha256,
    /// What is stable, and written down.
    flushed: u64,
    /// Whether the files are gone: nothing is written down then.
    removed: bool,
}

#[derive(Clone, Debug)]
struct State {
    watermark: u64,
    /// How many bytes there will be, if that is known.
    total: Option<u64>,
    end: Option<End>,
}

/// How it ended. Complete by nature.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// All bytes are there.
    Whole,
    /// No more will come.
    Aborted,
}

/// Bytes after which they are made stable.
const FLUSH: u64 = 32 << 20;
/// Zeros are left out in pieces of this size.
const PIECE: usize = 64 << 10;

impl Spool {
    /// A new one, in a file at `path`.
    pub(crate) fn create(path: &Path, total: Option<u64>) -> io::Result<Arc<Self>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o640);
        let file = options.open(path)?;
        let spool = Self::of(path, file, Record::new(total));
        spool.write_down(&mut spool.writer())?;
        Ok(Arc::new(spool))
    }

    /// One that another run of the service has begun. What had not been written down is given up.
    pub(crate) fn resume(path: &Path) -> io::Result<Arc<Self>> {
        let record = Record::read(&record_path(path))?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        file.set_len(record.watermark)?;
        Ok(Arc::new(Self::of(path, file, record)))
    }

    fn of(path: &Path, file: File, record: Record) -> Self {
        Self {
            path: path.to_owned(),
            file,
            state: Mutex::new(State {
                watermark: record.watermark,
                total: record.total,
                end: record.whole.then_some(End::Whole),
            }),
            writer: Mutex::new(Writer {
                flushed: record.watermark,
                removed: false,
                sha256: record.sha256,
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let writer = &mut *self.writer();
        let state = self.state().clone();
        if state.end.is_some() {
            return Err(io::Error::other("the spool has ended"));
        }
        let mut at = state.watermark;
        for piece in bytes.chunks(PIECE) {
            if !is_zero(piece) {
                self.file.write_all_at(piece, at)?;
            }
            at += piece.len() as u64;
        }
        if bytes.last() == Some(&0) {
            self.file.set_len(at)?;
        }
        writer.sha256.update(bytes);
        self.state().watermark = at;
        self.changed.notify_all();
        if at - writer.flushed >= FLUSH {
            self.write_down(writer)?;
        }
        Ok(())
    }

    /// Makes what has come stable.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.write_down(&mut self.writer())
    }

    /// All has come. Gives the SHA-256 of all of it.
    pub(crate) fn finish(&self) -> io::Result<[u8; 32]> {
        let writer = &mut *self.writer();
        {
            let mut state = self.state();
            state.total = Some(state.watermark);
            if state.end.is_none() {
                state.end = Some(End::Whole);
            }
        }
        self.changed.notify_all();
        self.write_down(writer)?;
        Ok(writer.sha256.clone().finalize().into())
    }

    /// No more will come: whoever waits is told so.
    pub(crate) fn abort(&self) {
        let mut state = self.state();
        if state.end.is_none() {
            state.end = Some(End::Aborted);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Takes the files away. Whoever reads goes on with what it has open.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut writer = self.writer();
        writer.removed = true;
        remove(&self.path)
    }

    /// How many bytes have come.
    pub(crate) fn watermark(&self) -> u64 {
        self.state().watermark
    }

    /// How many there will be, if that is known.
    pub(crate) fn total(&self) -> Option<u64> {
        self.state().total
    }

    /// How many there will be, which was not known before.
    pub(crate) fn set_total(&self, total: u64) -> io::Result<()> {
        self.state().total = Some(total);
        self.changed.notify_all();
        self.flush()
    }

    /// Whether all has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.state().end == Some(End::Whole)
    }

    /// The SHA-256 of what has come.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        self.writer().sha256.clone().finalize().into()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until there are `end` bytes, or no more will come; gives how many there are.
    pub(crate) fn wait_for(&self, end: u64) -> io::Result<u64> {
        self.wait(|state| state.watermark >= end)
            .map(|state| state.watermark)
    }

    /// Waits until all has come; gives how many bytes that are.
    pub(crate) fn wait_for_end(&self) -> io::Result<u64> {
        self.wait(|_| false).map(|state| state.watermark)
    }

    /// Waits until it is known how many bytes there will be.
    fn wait_for_total(&self) -> io::Result<u64> {
        let state = self.wait(|state| state.total.is_some())?;
        Ok(state.total.unwrap_or(state.watermark))
    }

    fn wait(&self, enough: impl Fn(&State) -> bool) -> io::Result<State> {
        let mut state = self.state();
        loop {
            match &state.end {
                Some(End::Aborted) => return Err(aborted()),
                Some(End::Whole) => return Ok(state.clone()),
                None if enough(&state) => return Ok(state.clone()),
                None => {}
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_down(&self, writer: &mut Writer) -> io::Result<()> {
        if writer.removed {
            return Ok(());
        }
        let state = self.state().clone();
        self.file.sync_data()?;
        let record = Record {
            watermark: state.watermark,
            total: state.total,
            whole: state.end == Some(End::Whole),
            sha256: writer.sha256.clone(),
        };
        record.write(&record_path(&self.path))?;
        writer.flushed = state.watermark;
        Ok(())
    }

    /// A panic elsewhere leaves nothing half done: the watermark follows the bytes.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a spool's files.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    for path in [path, &record_path(path)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn record_path(path: &Path) -> PathBuf {
    path.with_extension("json")
}

fn aborted() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the upload was given up")
}

#[cfg(test)]
mod tests;

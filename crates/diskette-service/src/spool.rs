//! Bytes on their way in: a file that grows, its watermark, and those who wait for what is above it.
//!
//! ```text
//!  upload ─► append ─► file + running SHA-256 ─► watermark ─► WatermarkStorage ─► whoever reads the image
//! ```
//!
//! Now and then what has come is made stable, and the watermark and the state of the digest are written down beside it: a
//! restart goes on from there. What is fetched in parts may lie ahead of the watermark; which parts do is written down, too.

mod record;
mod storage;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diskette::core::is_zero;
use serde::{Deserialize, Serialize};
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
    /// Bytes that came since they were made stable, and written down.
    unstable: u64,
    /// When that was.
    stable: Instant,
    /// Where the file ended when it was opened: behind it are zeros.
    fresh: u64,
    /// Whether parts are placed ahead of the watermark: what the file is there is not known then.
    scattered: bool,
    /// Where the bytes come from, and which version of them that is.
    origin: Option<Origin>,
    /// Whether the files are gone: nothing is written down then.
    removed: bool,
}

#[derive(Clone, Debug)]
struct State {
    watermark: u64,
    /// Parts that lie ahead of it: where each begins, and where it ends.
    ahead: BTreeMap<u64, u64>,
    /// How many bytes there will be, if that is known.
    total: Option<u64>,
    /// How many there are at most, where only that is known.
    at_most: Option<u64>,
    /// Whether that is told for the size until it is known.
    presumed: bool,
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

/// Where bytes come from: an address, and the strong ETag of what it gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) url: String,
    pub(crate) etag: String,
}

/// Bytes after which they are made stable.
const FLUSH: u64 = 32 << 20;
/// Time after which they are made stable.
const FLUSH_AFTER: Duration = Duration::from_secs(3);
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
        let ahead = record.ahead.last_key_value();
        file.set_len(ahead.map_or(record.watermark, |(_, end)| *end))?;
        Ok(Arc::new(Self::of(path, file, record)))
    }

    fn of(path: &Path, file: File, record: Record) -> Self {
        let ahead = record.ahead.last_key_value().map(|(_, end)| *end);
        Self {
            path: path.to_owned(),
            file,
            writer: Mutex::new(Writer {
                unstable: 0,
                stable: Instant::now(),
                fresh: ahead.unwrap_or(record.watermark),
                scattered: false,
                origin: record.origin,
                removed: false,
                sha256: record.sha256,
            }),
            state: Mutex::new(State {
                watermark: record.watermark,
                ahead: record.ahead,
                total: record.total,
                at_most: None,
                presumed: false,
                end: record.whole.then_some(End::Whole),
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let writer = &mut *self.writer();
        self.append_as(writer, bytes)
    }

    fn append_as(&self, writer: &mut Writer, bytes: &[u8]) -> io::Result<()> {
        let state = self.state().clone();
        if state.end.is_some() {
            return Err(ended());
        }
        let mut at = state.watermark;
        let may_skip = !writer.scattered && at >= writer.fresh;
        for piece in bytes.chunks(PIECE) {
            if !(may_skip && is_zero(piece)) {
                self.file.write_all_at(piece, at)?;
            }
            at += piece.len() as u64;
        }
        if may_skip && bytes.last() == Some(&0) {
            self.file.set_len(at)?;
        }
        writer.sha256.update(bytes);
        self.state().watermark = at;
        self.changed.notify_all();
        self.took(writer, bytes.len())
    }

    /// Takes bytes of a part, wherever it lies. Several may do so at once, each with a part of its own; nobody appends then.
    pub(crate) fn place(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let writer = &mut *self.writer();
        let state = self.state().clone();
        if state.end.is_some() {
            return Err(ended());
        }
        writer.scattered = true;
        if at == state.watermark {
            self.append_as(writer, bytes)?;
            return self.catch_up(writer);
        }
        let end = at.saturating_add(bytes.len() as u64);
        if at < state.watermark {
            return Err(io::Error::other("these bytes are there already"));
        }
        self.file.write_all_at(bytes, at)?;
        let mut state = self.state();
        let mut before = state.ahead.range(..=at).next_back();
        let begin = before
            .take_if(|(_, end)| **end == at)
            .map_or(at, |(begin, _)| *begin);
        let end = state.ahead.remove(&end).unwrap_or(end);
        state.ahead.insert(begin, end);
        drop(state);
        self.took(writer, bytes.len())
    }

    /// What lies ahead, and is reached by the watermark, is read again for the digest.
    fn catch_up(&self, writer: &mut Writer) -> io::Result<()> {
        let mut piece = vec![0; 1 << 20];
        loop {
            let (mut at, end) = {
                let mut state = self.state();
                let watermark = state.watermark;
                match state.ahead.remove(&watermark) {
                    Some(end) => (watermark, end),
                    None => return Ok(()),
                }
            };
            while at < end {
                let len = usize::try_from(end - at)
                    .unwrap_or(usize::MAX)
                    .min(piece.len());
                self.file.read_exact_at(&mut piece[..len], at)?;
                writer.sha256.update(&piece[..len]);
                at += len as u64;
            }
            self.state().watermark = end;
            self.changed.notify_all();
        }
    }

    fn took(&self, writer: &mut Writer, len: usize) -> io::Result<()> {
        writer.unstable += len as u64;
        if writer.unstable >= FLUSH || writer.stable.elapsed() >= FLUSH_AFTER {
            self.write_down(writer)?;
        }
        Ok(())
    }

    /// The parts that are not there, below the end of all.
    pub(crate) fn gaps(&self, total: u64) -> Vec<(u64, u64)> {
        let state = self.state();
        let mut gaps = Vec::new();
        let mut at = state.watermark;
        for (begin, end) in &state.ahead {
            if *begin > at {
                gaps.push((at, *begin));
            }
            at = at.max(*end);
        }
        if total > at {
            gaps.push((at, total));
        }
        gaps
    }

    /// Bytes that have come, in their order or ahead of it.
    pub(crate) fn received(&self) -> u64 {
        let state = self.state();
        let ahead = state.ahead.iter().map(|(begin, end)| end - begin);
        state.watermark + ahead.sum::<u64>()
    }

    /// The bytes below the watermark, from `at` on.
    pub(crate) fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Where the bytes come from, if that is known.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.writer().origin.clone()
    }

    /// Writes down where the bytes come from.
    pub(crate) fn set_origin(&self, origin: Option<Origin>) -> io::Result<()> {
        let mut writer = self.writer();
        if writer.origin == origin {
            return Ok(());
        }
        writer.origin = origin;
        self.write_down(&mut writer)
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
        let presumed = |state: &State| state.at_most.filter(|_| state.presumed);
        let state = self.wait(|state| state.total.or(presumed(state)).is_some())?;
        Ok(state.total.or(presumed(&state)).unwrap_or(state.watermark))
    }

    /// There are no more bytes than these.
    pub(crate) fn expect_at_most(&self, bytes: u64) {
        self.state().at_most = Some(bytes);
    }

    /// Whether readers were told of so many bytes, which there are not.
    fn is_presumed_to_have(&self, end: u64) -> bool {
        let state = self.state();
        state.presumed && state.at_most.is_some_and(|most| end <= most)
    }

    /// Has readers take the most that there may be for the size, until that is known; true where it is not. Whoever asks
    /// for it looks again at the end.
    pub(crate) fn presume_size(&self) -> bool {
        let mut state = self.state();
        state.presumed = state.total.is_none() && state.at_most.is_some();
        state.presumed
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
            ahead: state.ahead,
            total: state.total,
            whole: state.end == Some(End::Whole),
            origin: writer.origin.clone(),
            sha256: writer.sha256.clone(),
        };
        record.write(&record_path(&self.path))?;
        writer.unstable = 0;
        writer.stable = Instant::now();
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

fn ended() -> io::Error {
    io::Error::other("the spool has ended")
}

fn aborted() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the upload was given up")
}

#[cfg(test)]
mod tests;

//! A disk that comes once, read by the engine as if it were any other.
//!
//! The engine plans in guest order, one thread at a time: that is when the stream is read. What has come waits until
//! whoever works on it has taken all of it, so that no more is kept than there are tasks under way.
//!
//! ```text
//!  extent_at, in order ─► stream ─► runs that wait ─► read_extent, in any order
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diskette_core::{
    BlockReader, DiskStream, Error, Extent, ExtentKind, HostOffset, Result, RunDecoder, StoredRun,
    check_range,
};

/// A disk that can be read once, in guest order: convert it with
/// [`single_pass`](crate::ConvertOptions::single_pass), and [`finish`](Self::finish) it before the result is used.
#[derive(Debug)]
pub struct OnePass {
    size: u64,
    decoder: Arc<dyn RunDecoder>,
    ahead: Mutex<Ahead>,
    waiting: Mutex<Waiting>,
}

/// Where the stream stands.
#[derive(Debug)]
struct Ahead {
    stream: Box<dyn DiskStream>,
    /// What was asked for last.
    last: Option<Extent>,
    /// A run that has come, and was not asked for yet.
    next: Option<Extent>,
    /// Guest offset of the first byte behind what has come.
    end: u64,
    ended: bool,
}

/// What has come and was not read whole yet.
#[derive(Debug, Default)]
struct Waiting {
    /// By guest offset, each with the bytes that are still to be read.
    runs: BTreeMap<u64, (Arc<StoredRun>, u64)>,
    /// To be used again.
    buffers: Vec<Vec<u8>>,
}

impl OnePass {
    /// The disk that comes by `stream`.
    #[must_use]
    pub fn new(stream: Box<dyn DiskStream>) -> Self {
        Self {
            size: stream.size(),
            decoder: stream.decoder(),
            ahead: Mutex::new(Ahead {
                stream,
                last: None,
                next: None,
                end: 0,
                ended: false,
            }),
            waiting: Mutex::default(),
        }
    }

    /// Reads what is left of the stream. Only after that it is known that the stream was sound to its end.
    pub fn finish(self) -> Result<()> {
        let mut ahead = lock(&self.ahead);
        while !ahead.ended {
            self.advance(&mut ahead)?;
            lock(&self.waiting).runs.clear();
        }
        Ok(())
    }

    /// Takes the next run from the stream.
    fn advance(&self, ahead: &mut Ahead) -> Result<()> {
        let mut buffer = lock(&self.waiting).buffers.pop().unwrap_or_default();
        buffer.clear();
        let Some(run) = ahead.stream.next_run(buffer)? else {
            ahead.ended = true;
            return Ok(());
        };
        let at = HostOffset::new(0); // It lies nowhere any more.
        let kind = match run.compressed {
            true => ExtentKind::Compressed {
                at,
                len: run.bytes.len() as u64,
            },
            false => ExtentKind::Data(at),
        };
        let extent = Extent::new(run.offset, run.len, kind);
        check_range(self.size, run.offset, run.len)?;
        if run.offset < ahead.end || run.len == 0 {
            return Err(out_of_order());
        }
        ahead.end = extent.end();
        ahead.next = Some(extent);
        let waiting = &mut *lock(&self.waiting);
        waiting.runs.insert(run.offset, (Arc::new(run), extent.len));
        Ok(())
    }
}

impl BlockReader for OnePass {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let mut ahead = lock(&self.ahead);
        if let Some(last) = ahead.last {
            if (last.offset..last.end()).contains(&offset) {
                return Ok(last);
            }
            if offset < last.offset {
                return Err(out_of_order());
            }
        }
        let found = loop {
            match ahead.next {
                Some(next) if offset < next.offset => {
                    break Extent::zero(offset, next.offset - offset);
                }
                Some(next) if offset < next.end() => break next,
                Some(passed) => {
                    lock(&self.waiting).runs.remove(&passed.offset);
                    ahead.next = None;
                }
                None if ahead.ended => break Extent::zero(offset, self.size - offset),
                None => self.advance(&mut ahead)?,
            }
        };
        if ahead.next == Some(found) {
            ahead.next = None;
        }
        ahead.last = Some(found);
        Ok(found)
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        if extent.kind.reads_as_zeros() {
            buf.fill(0);
            return Ok(());
        }
        let run = lock(&self.waiting).take(offset, buf.len() as u64)?;
        self.decoder.decode(&run, buf, offset - run.offset)?;
        if let Some(run) = Arc::into_inner(run) {
            lock(&self.waiting).buffers.push(run.bytes);
        }
        Ok(())
    }
}

impl Waiting {
    /// The run that holds `offset`, of which `len` bytes will be read now.
    fn take(&mut self, offset: u64, len: u64) -> Result<Arc<StoredRun>> {
        let found = self.runs.range_mut(..=offset).next_back();
        let (start, (run, left)) = found.ok_or_else(out_of_order)?;
        check_range(run.len, offset - *start, len)?;
        *left = left.saturating_sub(len);
        if *left > 0 {
            return Ok(Arc::clone(run));
        }
        let start = *start;
        let taken = self.runs.remove(&start).map(|(run, _)| run);
        taken.ok_or_else(out_of_order)
    }
}

fn out_of_order() -> Error {
    Error::unsupported("stream", "reading it in another order than the disk's")
}

/// A panic elsewhere ends the conversion; what the lock guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

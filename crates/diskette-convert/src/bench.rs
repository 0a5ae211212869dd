//! A disk put under load: requests of one size, several at once, from one offset on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use diskette_core::{BlockReader, BlockReaderExt, BlockWriter, Error, Result};

/// A load: so many requests, the first at an offset, and each a step behind the one before. Behind the disk's end it goes
/// on from its beginning. Complete by nature.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Requests in all.
    pub count: u64,
    /// Requests that are under way at once, each by a thread of its own.
    pub depth: usize,
    /// Bytes of a request.
    pub size: usize,
    /// Where the first one begins.
    pub offset: u64,
    /// From where one begins to where the next does.
    pub step: u64,
}

/// What the requests are. Complete by nature.
#[derive(Clone, Copy, Debug)]
pub enum Requests<'a> {
    /// Reads.
    Reads(&'a dyn BlockReader),
    /// Writes of one byte's value, and flushes among them.
    Writes {
        /// The disk.
        disk: &'a dyn BlockWriter,
        /// The byte.
        pattern: u8,
        /// After how many writes the disk is flushed.
        flush_every: Option<u64>,
        /// Whether a flush waits until no write is under way, and no write begins meanwhile.
        drain: bool,
    },
}

/// Puts a disk under a load, and tells how long that took. The first request that fails ends it.
pub fn bench(load: &Load, requests: Requests<'_>) -> Result<Duration> {
    let queue = Queue {
        state: Mutex::new(State {
            next: load.offset,
            left: load.count,
            under_way: 0,
            done: 0,
            flush_due: false,
            failed: None,
        }),
        flushed: Condvar::new(),
        load,
        requests,
        size: requests.disk_size(),
    };
    let most = usize::try_from(load.count).unwrap_or(usize::MAX);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..load.depth.min(most) {
            scope.spawn(|| queue.work());
        }
    });
    let taken = start.elapsed();
    let state = queue.state.into_inner();
    match state.unwrap_or_else(PoisonError::into_inner).failed {
        Some(error) => Err(error),
        None => Ok(taken),
    }
}

impl Requests<'_> {
    fn disk_size(&self) -> u64 {
        match self {
            Self::Reads(disk) => disk.size(),
            Self::Writes { disk, .. } => disk.size(),
        }
    }
}

/// The requests that are still to be made, and what is under way.
#[derive(Debug)]
struct Queue<'a> {
    state: Mutex<State>,
    /// A flush that all waited for is done.
    flushed: Condvar,
    load: &'a Load,
    requests: Requests<'a>,
    size: u64,
}

#[derive(Debug)]
struct State {
    next: u64,
    left: u64,
    under_way: u64,
    done: u64,
    /// No request begins before a flush is done.
    flush_due: bool,
    failed: Option<Error>,
}

impl Queue<'_> {
    /// Makes one request after another, as long as there are some.
    fn work(&self) {
        let byte = match self.requests {
            Requests::Reads(_) => 0,
            Requests::Writes { pattern, .. } => pattern,
        };
        let mut buffer = vec![byte; self.load.size];
        while let Some(offset) = self.begin() {
            let done = self.request(&mut buffer, offset);
            if let Err(error) = done.and_then(|()| self.end()) {
                self.fail(error);
            }
        }
    }

    /// Where the next request is to be; `None` where there is none.
    fn begin(&self) -> Option<u64> {
        let state = self.lock();
        let state = self
            .flushed
            .wait_while(state, |state| state.flush_due && state.failed.is_none());
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.left == 0 || state.failed.is_some() {
            return None;
        }
        let offset = state.next;
        state.left -= 1;
        state.under_way += 1;
        let next = offset.saturating_add(self.load.step);
        let next = next.checked_rem(self.size).unwrap_or(0);
        // Only the first request may end behind the disk's end, and fail there.
        let fits = next.saturating_add(self.load.size as u64) <= self.size;
        state.next = if fits { next } else { 0 };
        Some(offset)
    }

    fn request(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match self.requests {
            Requests::Reads(disk) => disk.read_at(buffer, offset),
            Requests::Writes { disk, .. } => disk.write_at(buffer, offset),
        }
    }

    /// One request less is under way. Some are followed by a flush.
    fn end(&self) -> Result<()> {
        let mut state = self.lock();
        state.under_way -= 1;
        state.done += 1;
        let Requests::Writes {
            disk,
            flush_every: Some(every),
            drain,
            ..
        } = self.requests
        else {
            return Ok(());
        };
        let is_due = state.done.checked_rem(every) == Some(0);
        if !drain {
            drop(state);
            return match is_due {
                true => disk.flush(),
                false => Ok(()),
            };
        }
        state.flush_due |= is_due;
        if state.flush_due && state.under_way == 0 {
            // All others wait: for the lock, or for this flush.
            disk.flush()?;
            state.flush_due = false;
            self.flushed.notify_all();
        }
        Ok(())
    }

    fn fail(&self, error: Error) {
        self.lock().failed.get_or_insert(error);
        self.flushed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use diskette_core::{Extent, ExtentKind, HostOffset, Preallocation, SnapshotWriter};

    use super::*;

    /// A disk that notes where it was written, and counts flushes.
    #[derive(Debug, Default)]
    struct Disk {
        writes: Mutex<Vec<u64>>,
        flushes: AtomicU64,
        under_way: AtomicU64,
        must_be_alone: bool,
    }

    const SIZE: u64 = 10_000;

    impl BlockReader for Disk {
        fn size(&self) -> u64 {
            SIZE
        }

        fn extent_at(&self, _offset: u64) -> Result<Extent> {
            let kind = ExtentKind::Data(HostOffset::new(0));
            Ok(Extent::new(0, SIZE, kind))
        }

        fn read_extent(&self, _extent: &Extent, buf: &mut [u8], _offset: u64) -> Result<()> {
            buf.fill(1);
            Ok(())
        }
    }

    impl BlockWriter for Disk {
        fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
            diskette_core::check_range(SIZE, offset, buf.len() as u64)?;
            assert!(buf.iter().all(|byte| *byte == 7));
            self.under_way.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            self.writes.lock().unwrap().push(offset);
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }

        fn write_zeros(&self, _offset: u64, _len: u64) -> Result<()> {
            Ok(())
        }

        fn discard(&self, _offset: u64, _len: u64) -> Result<()> {
            Ok(())
        }

        fn resize(&self, _size: u64) -> Result<()> {
            Ok(())
        }

        fn preallocate(&self, _offset: u64, _len: u64, _how: Preallocation) -> Result<()> {
            Ok(())
        }

        fn snapshots(&self) -> Option<&dyn SnapshotWriter> {
            None
        }

        fn flush(&self) -> Result<()> {
            if self.must_be_alone {
                assert_eq!(self.under_way.load(Ordering::SeqCst), 0);
            }
            self.flushes.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn close(&self) -> Result<()> {
            self.flush()
        }
    }

    fn load(count: u64, depth: usize) -> Load {
        Load {
            count,
            depth,
            size: 1000,
            offset: 500,
            step: 2000,
        }
    }

    fn writes(disk: &Disk, flush_every: Option<u64>, drain: bool) -> Requests<'_> {
        Requests::Writes {
            disk,
            pattern: 7,
            flush_every,
            drain,
        }
    }

    #[test]
    fn requests_step_over_the_disk_and_begin_again() {
        let disk = Disk::default();
        let mut odd = load(7, 1);
        odd.step = 4250;
        bench(&odd, writes(&disk, None, true)).unwrap();
        let expected = [500, 4750, 9000, 3250, 7500, 1750, 6000];
        assert_eq!(*disk.writes.lock().unwrap(), expected);
        disk.writes.lock().unwrap().clear();
        odd.step = 4400;
        bench(&odd, writes(&disk, None, true)).unwrap();
        let expected = [500, 4900, 0, 4400, 8800, 3200, 7600];
        assert_eq!(*disk.writes.lock().unwrap(), expected);
        assert_eq!(disk.flushes.load(Ordering::SeqCst), 0);
        bench(&load(100, 8), Requests::Reads(&disk)).unwrap();
    }

    #[test]
    fn a_flush_waits_until_no_write_is_under_way() {
        let disk = Disk {
            must_be_alone: true,
            ..Disk::default()
        };
        bench(&load(1000, 8), writes(&disk, Some(10), true)).unwrap();
        let flushes = disk.flushes.load(Ordering::SeqCst);
        // Writes that end while a flush is waited for are covered by it.
        assert!((50..=100).contains(&flushes), "{flushes}");
        assert_eq!(disk.writes.lock().unwrap().len(), 1000);
    }

    #[test]
    fn without_waiting_there_is_a_flush_each_time() {
        let disk = Disk::default();
        bench(&load(1000, 8), writes(&disk, Some(10), false)).unwrap();
        assert_eq!(disk.flushes.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn a_request_that_fails_ends_it() {
        let disk = Disk::default();
        let mut load = load(100, 4);
        load.offset = SIZE;
        assert!(bench(&load, writes(&disk, Some(4), true)).is_err());
        assert!(bench(&load, Requests::Reads(&disk)).is_err());
    }
}

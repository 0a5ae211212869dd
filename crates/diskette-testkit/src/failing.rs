//! A storage that fails after some operations.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use diskette_core::{Run, Storage, StorageMut};

use crate::Rng;

/// A storage that works for a while, and then fails.
///
/// A test runs once without a failure to learn [the number of operations](Self::operations), and then once for each
/// operation that can fail.
#[derive(Debug)]
pub struct FailingStorage<S> {
    inner: S,
    failure: Failure,
    /// Operations of the failure's kind that were tried.
    done: AtomicU64,
}

/// What fails, when, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What fails.
    pub what: What,
    /// Operations of that kind that still work.
    pub after: u64,
    /// Whether only one operation fails, and those after it work again.
    pub once: bool,
    /// What a failure looks like.
    pub how: How,
}

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Reads, and looking for data and holes.
    Reads,
    /// Writes, zeroing, allocating and resizing.
    Writes,
    /// Syncs.
    Syncs,
    /// All of these.
    Everything,
}

/// What a failure looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// An error, and nothing done.
    Error,
    /// An error, with the first half done.
    Half,
    /// No error: reads give noise, writes write it, syncs do nothing.
    Noise,
}

impl Failure {
    /// Everything of this kind fails after `after` operations, with an error and nothing done.
    #[must_use]
    pub const fn new(what: What, after: u64) -> Self {
        Self {
            what,
            after,
            once: false,
            how: How::Error,
        }
    }

    /// Nothing fails; everything is counted.
    #[must_use]
    pub const fn never() -> Self {
        Self::new(What::Everything, u64::MAX)
    }

    /// The same, with failures that look like this.
    #[must_use]
    pub const fn with(mut self, how: How) -> Self {
        self.how = how;
        self
    }

    /// The same, with one failure only.
    #[must_use]
    pub const fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

impl<S: Storage> FailingStorage<S> {
    /// `inner`, with a failure to come.
    pub const fn new(inner: S, failure: Failure) -> Self {
        Self {
            inner,
            failure,
            done: AtomicU64::new(0),
        }
    }

    /// Operations of the failure's kind that were tried so far.
    pub fn operations(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The storage behind it, as the failure left it.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// How this operation of kind `what` fails, if it does.
    fn next(&self, what: What) -> Option<How> {
        let Failure { after, once, .. } = self.failure;
        if self.failure.what != what && self.failure.what != What::Everything {
            return None;
        }
        let done = self.done.fetch_add(1, Ordering::Relaxed);
        let fails = if once { done == after } else { done >= after };
        fails.then_some(self.failure.how)
    }

    /// What is done without bytes either works or fails.
    fn all_or_nothing(&self, what: What, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match self.next(what) {
            None => work(),
            Some(How::Error | How::Half) => Err(failed()),
            Some(How::Noise) => Ok(()),
        }
    }
}

impl<S: Storage> Storage for FailingStorage<S> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.next(What::Reads) {
            None => self.inner.read_at(buf, offset),
            Some(How::Error) => Err(failed()),
            Some(How::Half) => {
                let half = buf.len() / 2;
                self.inner.read_at(&mut buf[..half], offset)?;
                Err(failed())
            }
            Some(How::Noise) => {
                Rng::new(offset).fill(buf);
                Ok(())
            }
        }
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        match self.next(What::Reads) {
            None | Some(How::Noise) => self.inner.run_at(offset),
            Some(How::Error | How::Half) => Err(failed()),
        }
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None // What is read past it could not fail.
    }
}

impl<S: StorageMut> StorageMut for FailingStorage<S> {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        match self.next(What::Writes) {
            None => self.inner.write_at(buf, offset),
            Some(How::Error) => Err(failed()),
            Some(How::Half) => {
                self.inner.write_at(&buf[..buf.len() / 2], offset)?;
                Err(failed())
            }
            Some(How::Noise) => {
                let mut noise = vec![0; buf.len()];
                Rng::new(offset).fill(&mut noise);
                self.inner.write_at(&noise, offset)
            }
        }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.all_or_nothing(What::Writes, || self.inner.write_zeros(offset, len))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.all_or_nothing(What::Writes, || self.inner.allocate(offset, len))
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.all_or_nothing(What::Writes, || self.inner.set_size(size))
    }

    fn sync(&self) -> io::Result<()> {
        self.all_or_nothing(What::Syncs, || self.inner.sync())
    }
}

fn failed() -> io::Error {
    io::Error::other("a failure that a test asked for")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordingStorage;

    fn storage(failure: Failure) -> FailingStorage<RecordingStorage> {
        FailingStorage::new(RecordingStorage::new(vec![7; 8]), failure)
    }

    #[test]
    fn operations_fail_once_their_number_is_up() {
        let storage = storage(Failure::new(What::Writes, 2));
        storage.write_at(&[1], 0).unwrap();
        storage.read_at(&mut [0; 8], 0).unwrap();
        storage.write_zeros(1, 1).unwrap();
        assert!(storage.write_at(&[3], 2).is_err());
        assert!(storage.set_size(100).is_err());
        storage.read_at(&mut [0; 8], 0).unwrap();
        assert_eq!(storage.operations(), 4);
        assert_eq!(storage.inner().bytes(), [1, 0, 7, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn half_of_a_write_may_be_done() {
        let storage = storage(Failure::new(What::Everything, 0).once().with(How::Half));
        assert!(storage.write_at(&[1; 4], 0).is_err());
        storage.sync().unwrap();
        assert_eq!(storage.inner().bytes(), [1, 1, 7, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn noise_comes_without_an_error() {
        let storage = storage(Failure::new(What::Reads, 0).with(How::Noise));
        let mut bytes = [7; 8];
        storage.read_at(&mut bytes, 0).unwrap();
        assert_ne!(bytes, [7; 8]);
    }
}

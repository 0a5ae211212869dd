//! How a caller steers a long operation, and hears of it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use diskette_core::{Error, Result};

/// How a long operation is run, and who hears of it.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct Control<'a> {
    /// How many threads work at once. `None`: those of rayon's global pool. With 1 the caller's thread does it all.
    pub threads: Option<usize>,
    /// Called now and then, by one thread at a time, with numbers that never fall.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
    /// Set by anybody to have the operation end soon, with [`Error::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

/// How far an operation has come. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of data done.
    pub done: u64,
    /// Bytes of data there are. What is known to be zero does not count.
    pub total: u64,
}

impl Control<'_> {
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(Error::Cancelled),
            Some(_) | None => Ok(()),
        }
    }
}

impl fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("threads", &self.threads)
            .field("progress", &self.progress.is_some())
            .field("cancel", &self.cancel)
            .finish()
    }
}

/// Counts what is done, and tells the caller.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    control: &'a Control<'a>,
    progress: Progress,
}

impl<'a> Meter<'a> {
    /// A meter at 0. `total` is counted only if somebody wants to hear it.
    pub(crate) fn new(
        control: &'a Control<'a>,
        total: impl FnOnce() -> Result<u64>,
    ) -> Result<Self> {
        let total = match control.progress {
            Some(_) => total()?,
            None => 0,
        };
        let meter = Self {
            control,
            progress: Progress { done: 0, total },
        };
        meter.tell();
        Ok(meter)
    }

    pub(crate) fn advance(&mut self, len: u64) {
        let Progress { done, total } = self.progress;
        self.progress.done = done.saturating_add(len).min(total);
        self.tell();
    }

    /// The same, where it is known how far that is from the beginning.
    pub(crate) fn advance_to(&mut self, done: u64) {
        self.advance(done.saturating_sub(self.progress.done));
    }

    fn tell(&self) {
        if let Some(progress) = self.control.progress {
            progress(self.progress);
        }
    }
}

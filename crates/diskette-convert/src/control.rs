//! How a caller steers a long operation, and hears of it.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use diskette_core::{Error, Result};

/// How a long operation is run, and who hears of it.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct Control<'a> {
    /// How many threads work at once. `None`: those of rayon's global pool. With 1 the caller's thread does it all.
    pub threads: Option<usize>,
    /// Called now and then, by one thread at a time, with numbers that never fall.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
    /// How many bytes a second may be done at most.
    pub rate: Option<NonZeroU64>,
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
            .field("rate", &self.rate)
            .field("cancel", &self.cancel)
            .finish()
    }
}

/// What lies so far ahead is waited for in parts, so that nobody who cancels waits for long.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Counts what is done, and tells the caller.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    control: &'a Control<'a>,
    progress: Progress,
    /// Bytes done, whoever wants to hear of it, and since when.
    done: u64,
    since: Instant,
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
            done: 0,
            since: Instant::now(),
        };
        meter.tell();
        Ok(meter)
    }

    /// By which the operation is steered.
    pub(crate) const fn control(&self) -> &'a Control<'a> {
        self.control
    }

    pub(crate) fn advance(&mut self, len: u64) {
        let Progress { done, total } = self.progress;
        self.progress.done = done.saturating_add(len).min(total);
        self.tell();
        self.done = self.done.saturating_add(len);
        self.keep_pace();
    }

    /// Waits where more has been done than the rate allows.
    fn keep_pace(&self) {
        let Some(rate) = self.control.rate else {
            return;
        };
        let milliseconds = u128::from(self.done) * 1000 / u128::from(rate.get());
        let due = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX));
        if let Some(early) = due.checked_sub(self.since.elapsed()) {
            thread::sleep(early.min(LONGEST_WAIT));
        }
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

//! The digest of what passes, by a thread of its own where there may be several: data behind a hole of many GiB is converted
//! while the zeros are hashed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use diskette_core::{Error, MIB, Result};

use crate::Control;
use crate::pack::Slot;
use crate::passing::Passing;
use crate::pipeline::{guarded, no_thread};

/// Bytes that may wait to be hashed.
const MOST_WAITING: u64 = 16 * MIB;

/// How soon whoever cancels is heard.
const LOOK: Duration = Duration::from_millis(50);

/// A digest on its way. Its thread starts with the first part, and ends with this.
#[derive(Debug, Default)]
pub(crate) struct Hashing(Arc<Line>);

#[derive(Debug, Default)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    /// Guest offsets and bytes, in guest order.
    waiting: VecDeque<(u64, Vec<u8>)>,
    waiting_bytes: u64,
    passing: Passing,
    /// Whether the thread has taken it, to go on with it.
    busy: bool,
    /// What a panic of the thread said.
    panicked: Option<String>,
}

impl Hashing {
    /// What a slot has of the disk. What was passed over are zeros.
    pub(crate) fn take(&self, slot: &Slot, control: &Control<'_>) -> Result<()> {
        let alone = control.threads == Some(1);
        for (offset, bytes) in slot.read_parts() {
            if alone {
                self.0.lock().passing.add(offset, bytes, control)?;
                continue;
            }
            let mut state = self.wait(control, |state| state.waiting_bytes < MOST_WAITING)?;
            if !state.started {
                let line = Arc::clone(&self.0);
                let thread = thread::Builder::new().name("digest".to_owned());
                thread.spawn(move || line.run()).map_err(no_thread)?;
                state.started = true;
            }
            state.waiting.push_back((offset, bytes.to_vec()));
            state.waiting_bytes += bytes.len() as u64;
            drop(state);
            self.0.changed.notify_all();
        }
        Ok(())
    }

    /// The digest of a disk of `size` bytes.
    pub(crate) fn finish(&self, size: u64, control: &Control<'_>) -> Result<[u8; 32]> {
        let state = self.wait(control, |state| state.waiting.is_empty() && !state.busy)?;
        let passing = state.passing.clone();
        drop(state);
        passing.finish(size, control)
    }

    fn wait(
        &self,
        control: &Control<'_>,
        ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'_, State>> {
        let mut state = self.0.lock();
        loop {
            if let Some(message) = state.panicked.clone() {
                return Err(Error::Panicked { message });
            }
            if ready(&state) {
                return Ok(state);
            }
            control.check_cancelled()?;
            let waited = self.0.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        // Under the lock: the thread looks at the flag before it sleeps.
        drop(self.0.lock());
        self.0.changed.notify_all();
    }
}

impl Line {
    fn run(&self) {
        let control = Control {
            cancel: Some(&self.stop),
            ..Control::default()
        };
        let mut state = self.lock();
        while !self.stop.load(Ordering::Relaxed) {
            let Some((offset, bytes)) = state.waiting.pop_front() else {
                let waited = self.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.waiting_bytes -= bytes.len() as u64;
            state.busy = true;
            let mut passing = std::mem::take(&mut state.passing);
            drop(state);
            let done = guarded(|| passing.add(offset, &bytes, &control));
            state = self.lock();
            match done {
                Err(Error::Panicked { message }) => state.panicked = Some(message),
                // It has stopped, or will be asked to before anybody looks.
                Ok(()) | Err(_) => (state.passing, state.busy) = (passing, false),
            }
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Who waits for changes is woken here; what has changed stands in the records.

use tokio::sync::watch;

/// Wakes who waits.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    changes: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            changes: watch::Sender::new(0),
        }
    }
}

impl Events {
    /// There is something new.
    pub(crate) fn notify(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Is woken when there is.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

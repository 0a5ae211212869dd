//! Internal snapshots of an image that is being changed.

use std::fmt::Debug;

use crate::{Result, SnapshotInfo};

/// Internal snapshots of an image that is being changed: [`BlockWriter::snapshots`](crate::BlockWriter::snapshots).
///
/// A snapshot is named by its id, or else by its name: the first of that name. What an act did is on stable storage when it
/// returns, with all that was written before.
pub trait SnapshotWriter: Debug + Send + Sync {
    /// Those that there are, the oldest first.
    fn list(&self) -> Result<Vec<SnapshotInfo>>;

    /// Keeps the disk's present state.
    fn create(&self, what: &NewSnapshot) -> Result<SnapshotInfo>;

    /// Makes the disk what it was, in size and content, when the snapshot was taken. What it is now is lost.
    fn apply(&self, snapshot: &str) -> Result<()>;

    /// Gives up a snapshot, and what only it keeps.
    fn delete(&self, snapshot: &str) -> Result<()>;
}

/// What a new snapshot is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewSnapshot {
    /// Given by the user; need not be unique.
    pub name: String,
    /// When it is taken, in seconds since 1970.
    pub date_seconds: u32,
    /// And nanoseconds.
    pub date_nanoseconds: u32,
    /// How long the guest has run, in nanoseconds.
    pub vm_clock_nanoseconds: u64,
    /// Instructions that the guest has executed, where they are counted.
    pub icount: Option<u64>,
}

impl NewSnapshot {
    /// A snapshot of this name, taken at the beginning of 1970.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

//! A storage in memory that records what is done to it, and can tell what a crash would have left.
//!
//! ```
//! use diskette_core::StorageMut;
//! use diskette_testkit::{RecordingStorage, Rng};
//!
//! let storage = RecordingStorage::new(vec![0; 4]);
//! storage.write_at(&[1], 0)?;
//! storage.sync()?;
//! storage.write_at(&[2], 1)?;
//! storage.write_at(&[3], 2)?;
//! assert_eq!(storage.bytes_after(3), [1, 2, 0, 0]);
//! // What was synced is there after every crash. What was not, may be.
//! assert_eq!(storage.bytes_after_crash(4, &mut Rng::new(1))[0], 1);
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use diskette_core::{Run, RunKind, SECTOR, Storage, StorageMut};

use crate::Rng;

/// Host bytes in memory, and all that was done to them, in order.
#[derive(Debug)]
pub struct RecordingStorage {
    name: String,
    before: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    operations: Vec<Operation>,
}

/// Something that was done to a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`StorageMut::write_at`].
    Write {
        /// Host offset.
        offset: u64,
        /// What was written.
        bytes: Vec<u8>,
    },
    /// [`StorageMut::write_zeros`].
    Zeros {
        /// Host offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// [`StorageMut::allocate`].
    Allocate {
        /// Host offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// [`StorageMut::set_size`].
    SetSize(u64),
    /// [`StorageMut::sync`].
    Sync,
}

impl RecordingStorage {
    /// A storage that holds `bytes`, and of which nothing is recorded yet.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::named("recording", bytes)
    }

    /// The same, with a name of its own.
    pub fn named(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            before: bytes.clone(),
            state: Mutex::new(State {
                bytes,
                operations: Vec::new(),
            }),
        }
    }

    /// All that was done so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().operations.clone()
    }

    /// What it holds now.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// What it held when the first `count` operations were done.
    pub fn bytes_after(&self, count: usize) -> Vec<u8> {
        let mut bytes = self.before.clone();
        for operation in self.lock().operations.iter().take(count) {
            operation.apply(&mut bytes);
        }
        bytes
    }

    /// What it could hold after a crash once the first `count` operations were done: all that was done before the last
    /// sync, and of what came later any sectors or none, as `rng` has it.
    pub fn bytes_after_crash(&self, count: usize, rng: &mut Rng) -> Vec<u8> {
        let state = self.lock();
        let done = &state.operations[..count.min(state.operations.len())];
        let synced = done
            .iter()
            .rposition(|operation| *operation == Operation::Sync)
            .unwrap_or(0);
        let mut bytes = self.before.clone();
        for operation in &done[..synced] {
            operation.apply(&mut bytes);
        }
        for operation in &done[synced..] {
            operation.apply_in_part(&mut bytes, rng);
        }
        bytes
    }

    /// Calls `each` with what it could hold after a crash, for every number of operations that were done: with all of them, and
    /// `torn` times with what was not synced lost or torn. Faster than to ask for each.
    pub fn crashes(&self, rng: &mut Rng, torn: usize, mut each: impl FnMut(usize, &[u8])) {
        let state = self.lock();
        let mut synced = (0, self.before.clone());
        let mut now = self.before.clone();
        each(0, &now);
        for (operation, count) in state.operations.iter().zip(1..) {
            operation.apply(&mut now);
            if *operation == Operation::Sync {
                synced = (count, now.clone());
            }
            each(count, &now);
            let (since, before) = &synced;
            for _ in 0..torn {
                let mut bytes = before.clone();
                for operation in &state.operations[*since..count] {
                    operation.apply_in_part(&mut bytes, rng);
                }
                each(count, &bytes);
            }
        }
    }

    fn record(&self, operation: Operation) {
        let mut state = self.lock();
        operation.apply(&mut state.bytes);
        state.operations.push(operation);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes: new } => {
                part(bytes, *offset, new.len()).copy_from_slice(new);
            }
            Self::Zeros { offset, len } => part(bytes, *offset, index(*len)).fill(0),
            Self::Allocate { offset, len } => {
                part(bytes, *offset, index(*len));
            }
            Self::SetSize(size) => bytes.resize(index(*size), 0),
            Self::Sync => {}
        }
    }

    /// All of it, none, or some of its sectors.
    fn apply_in_part(&self, bytes: &mut Vec<u8>, rng: &mut Rng) {
        match (rng.below(3), self) {
            (0, _) => {}
            (1, Self::Write { offset, bytes: new }) => {
                for (at, sector) in sectors(*offset, new) {
                    if rng.below(2) == 0 {
                        part(bytes, at, sector.len()).copy_from_slice(sector);
                    }
                }
            }
            _ => self.apply(bytes),
        }
    }
}

impl Storage for RecordingStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().bytes.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.lock();
        let there = usize::try_from(offset)
            .ok()
            .and_then(|start| state.bytes.get(start..)?.get(..buf.len()));
        buf.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let left = self.size()?.checked_sub(offset).filter(|len| *len > 0);
        Ok(Run {
            len: left.ok_or(io::ErrorKind::UnexpectedEof)?,
            kind: RunKind::Data,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl StorageMut for RecordingStorage {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let bytes = buf.to_vec();
        self.record(Operation::Write { offset, bytes });
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.record(Operation::Zeros { offset, len });
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.record(Operation::Allocate { offset, len });
        Ok(())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.record(Operation::SetSize(size));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.record(Operation::Sync);
        Ok(())
    }
}

/// `len` of the bytes from `offset` on, grown where there are too few.
fn part(bytes: &mut Vec<u8>, offset: u64, len: usize) -> &mut [u8] {
    let start = index(offset);
    if bytes.len() < start + len {
        bytes.resize(start + len, 0);
    }
    &mut bytes[start..start + len]
}

/// The parts of what is written that lie in one sector each, with their offsets.
fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = bytes;
    let mut at = offset;
    std::iter::from_fn(move || {
        let len = rest.len().min(index(SECTOR - at % SECTOR));
        let (sector, behind) = rest.split_at(len);
        let found = (at, sector);
        (rest, at) = (behind, at + len as u64);
        (len > 0).then_some(found)
    })
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("what is in memory has such offsets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_recorded_in_order_and_can_be_replayed() {
        let storage = RecordingStorage::new(vec![9; 2]);
        storage.write_at(&[1, 2], 1).unwrap();
        storage.set_size(6).unwrap();
        storage.write_zeros(0, 1).unwrap();
        assert_eq!(storage.bytes(), [0, 1, 2, 0, 0, 0]);
        assert_eq!(storage.bytes_after(0), [9, 9]);
        assert_eq!(storage.bytes_after(2), [9, 1, 2, 0, 0, 0]);
        assert_eq!(storage.operations().len(), 3);
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_tears_the_rest_at_sectors() {
        let storage = RecordingStorage::new(vec![0; 2048]);
        storage.write_at(&[1; 100], 0).unwrap();
        storage.sync().unwrap();
        storage.write_at(&[2; 1024], 256).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let bytes = storage.bytes_after_crash(3, &mut Rng::new(seed));
            assert_eq!(bytes[..100], [1; 100]);
            for range in [256..512, 512..1024, 1024..1280] {
                let there = bytes[range.start];
                assert!(bytes[range].iter().all(|byte| *byte == there));
            }
            seen.insert([bytes[256], bytes[512], bytes[1024]]);
        }
        assert_eq!(seen.len(), 8, "every combination of sectors");
    }
}

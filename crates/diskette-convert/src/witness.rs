//! What has gone by in a conversion, as numbers: so that the new image can be held against it, and the source need not be
//! read again.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use diskette_core::{
    BlockReader, BlockReaderExt, Extent, MIB, Result, is_zero, round_down, round_up,
};

use crate::Control;
use crate::control::Meter;
use crate::hashing::Hashing;
use crate::pack::{Slot, usize_of};
use crate::pipeline::{Stages, run};

/// Sees all the guest data of one conversion: [`ConvertOptions::witness`](crate::ConvertOptions::witness).
///
/// ```
/// # use diskette_convert::{Control, Witness, pieces};
/// # fn doc(new: &dyn diskette_core::BlockReader, witness: &Witness) -> diskette_core::Result<bool> {
/// // After the conversion, of the image that was made:
/// Ok(pieces(new, &Control::default())? == witness.pieces())
/// # }
/// ```
#[derive(Default)]
pub struct Witness {
    pieces: Mutex<Pieces>,
    hashing: Option<Hashing>,
}

/// A number for what a disk holds that any number of threads find out at once, and that takes no time for zeros: each piece
/// of 64 KiB that is not all zeros is digested (BLAKE3), that and its offset again, and all these digests are combined bit by bit
/// (XOR). Two disks of one size with one number hold the same, unless somebody has searched for two that do not.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Pieces([u8; 32]);

/// Bytes of a piece.
const PIECE: u64 = 64 << 10;

impl Witness {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            hashing: Some(Hashing::default()),
            ..Self::of_pieces()
        }
    }

    /// One that does not hash the disk as a whole, which for zeros takes as long as for data.
    #[must_use]
    pub fn of_pieces() -> Self {
        Self::default()
    }

    /// The pieces of the disk that it has seen.
    #[must_use]
    pub fn pieces(&self) -> Pieces {
        *lock(&self.pieces)
    }

    /// The SHA-256 of the whole disk of `size` bytes, if it was hashed. What has not been hashed by now is waited for, and the
    /// zeros at the disk's end: a second for each GiB or two.
    pub fn sha256(&self, size: u64, control: &Control<'_>) -> Result<Option<[u8; 32]>> {
        let hashing = self.hashing.as_ref();
        hashing
            .map(|hashing| hashing.finish(size, control))
            .transpose()
    }

    /// Guest data of some unit, which begins at a multiple of the unit and ends there, or at the disk's end. By any thread.
    pub(crate) fn unit(&self, offset: u64, bytes: &[u8]) {
        let mut found = Pieces::default();
        found.add_all(offset, bytes);
        lock(&self.pieces).combine(&found);
    }

    /// A task whose bytes have been read. In guest order.
    pub(crate) fn task(&self, slot: &Slot, control: &Control<'_>) -> Result<()> {
        match &self.hashing {
            Some(hashing) => hashing.take(slot, control),
            None => Ok(()),
        }
    }
}

impl Pieces {
    /// Bytes from `offset` on, which is where a piece begins.
    fn add_all(&mut self, offset: u64, bytes: &[u8]) {
        let offsets = (offset..).step_by(usize_of(PIECE));
        for (at, piece) in offsets.zip(bytes.chunks(usize_of(PIECE))) {
            if is_zero(piece) {
                continue;
            }
            // The bytes alone first: eight of an offset before them would keep them from being hashed in parallel.
            let mut hasher = blake3::Hasher::new();
            hasher.update(blake3::hash(piece).as_bytes());
            hasher.update(&at.to_le_bytes());
            self.combine(&Self(hasher.finalize().into()));
        }
    }

    fn combine(&mut self, other: &Self) {
        for (byte, more) in self.0.iter_mut().zip(other.0) {
            *byte ^= more;
        }
    }
}

/// What a disk holds, as a [`Witness`] of a conversion would have seen it. What is known to be zero is not read.
pub fn pieces(disk: &dyn BlockReader, control: &Control<'_>) -> Result<Pieces> {
    let meter = Meter::new(control, || Ok(disk.size()))?;
    let start = (Pieces::default(), meter);
    let (found, _) = run(&Reading { disk }, 0, start, control)?;
    Ok(found)
}

struct Reading<'a> {
    disk: &'a dyn BlockReader,
}

/// Some pieces that are neighbours.
#[derive(Default)]
struct Run {
    offset: u64,
    bytes: Vec<u8>,
    found: Pieces,
}

/// Bytes of a run.
const RUN: u64 = MIB;

impl<'a> Stages for Reading<'a> {
    type Plan = u64;
    type Slot = Run;
    type Settled = (Pieces, Meter<'a>);

    fn plan(&self, next: &mut u64, slot: &mut Run) -> Result<bool> {
        let size = self.disk.size();
        while *next < size {
            let extent = self.disk.extent_at(*next)?;
            match whole_pieces_of_zeros(&extent, *next, size) {
                Some(end) => *next = end,
                None => break,
            }
        }
        let len = RUN.min(size.saturating_sub(*next));
        slot.offset = *next;
        slot.bytes.resize(usize_of(len), 0);
        *next += len;
        Ok(len > 0)
    }

    fn work(&self, slot: &mut Run) -> Result<()> {
        self.disk.read_at(&mut slot.bytes, slot.offset)?;
        slot.found = Pieces::default();
        slot.found.add_all(slot.offset, &slot.bytes);
        Ok(())
    }

    fn settle(&self, (found, meter): &mut Self::Settled, slot: &mut Run) -> Result<bool> {
        found.combine(&slot.found);
        meter.advance_to(slot.offset + slot.bytes.len() as u64);
        Ok(true)
    }
}

/// Where the pieces end that begin at `offset` and lie all in an extent of zeros; `None` where there are none.
fn whole_pieces_of_zeros(extent: &Extent, offset: u64, size: u64) -> Option<u64> {
    if !extent.kind.reads_as_zeros() {
        return None;
    }
    let end = match extent.end() >= size {
        true => size,
        false => round_down(extent.end(), PIECE),
    };
    (end > offset).then_some(end)
}

/// Whether tasks of this unit are whole pieces.
pub(crate) fn suits(unit: u64) -> bool {
    round_up(unit, PIECE) == Some(unit)
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

/// A panic elsewhere ends the conversion.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

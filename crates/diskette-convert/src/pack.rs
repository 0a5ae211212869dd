//! From a task to what is to be stored: the part of the work that any number of threads do at once.

use std::ops::Range;
use std::sync::Arc;

use diskette_core::{BlockReader, Packed, Packer, Result};

use crate::Witness;
use crate::plan::{Care, Part, Rules, Task};
use crate::zeros::Sparseness;

/// A task with its buffers, which are used again by those that come after it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) task: Task,
    /// The task's guest data. Only that of units that had to be read.
    bytes: Vec<u8>,
    /// Compressed pieces, one after another.
    compressed: Vec<u8>,
    /// The piece that is being compressed.
    scratch: Vec<u8>,
    /// What is to be written of plain pieces: ranges of `bytes`.
    runs: Vec<Range<usize>>,
    /// What is to be stored, in guest order.
    pub(crate) pieces: Vec<Piece>,
    /// What each unit of the task asks for.
    cares: Vec<Option<Care>>,
}

/// One unit as it is to be stored, or several that are zero.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Guest offset.
    pub(crate) offset: u64,
    /// Bytes of the guest.
    pub(crate) len: u64,
    pub(crate) packed: Packed,
    /// Where its bytes are: of the slot's runs if it is plain, of its compressed bytes if it is compressed.
    range: Range<usize>,
}

impl Slot {
    /// The parts of a plain piece that have to be written: offset within the piece, and where it lies in the slot.
    pub(crate) fn runs_of<'a>(
        &'a self,
        piece: &'a Piece,
    ) -> impl Iterator<Item = (u64, Range<usize>)> + 'a {
        let first = usize_of(piece.offset - self.task.offset);
        let runs = self.runs.get(piece.range.clone()).unwrap_or_default();
        runs.iter()
            .map(move |run| ((run.start - first) as u64, run.clone()))
    }

    /// The parts of the task that had to be read: guest offset and bytes, in guest order. All else is zeros.
    pub(crate) fn read_parts(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let parts = self.task.parts.iter();
        let read = parts.filter(|part| part.care == Care::Read);
        read.map(|part| {
            let first = usize_of(part.extent.offset - self.task.offset);
            let bytes = &self.bytes[first..first + usize_of(part.extent.len)];
            (part.extent.offset, bytes)
        })
    }

    pub(crate) fn compressed_range(piece: &Piece) -> Range<usize> {
        piece.range.clone()
    }

    pub(crate) fn plain_bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    pub(crate) fn compressed_bytes(&self, range: Range<usize>) -> &[u8] {
        &self.compressed[range]
    }
}

/// Reads tasks, looks for zeros, and packs.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub(crate) source: &'a dyn BlockReader,
    pub(crate) rules: Rules,
    pub(crate) unit: u64,
    pub(crate) sparseness: Option<Sparseness>,
    /// `None` where all is stored as it is.
    pub(crate) packer: Option<Arc<dyn Packer>>,
    pub(crate) witness: Option<&'a Witness>,
}

impl Work<'_> {
    /// Does what there is to do before a task is placed.
    pub(crate) fn run(&self, slot: &mut Slot) -> Result<()> {
        slot.pieces.clear();
        slot.runs.clear();
        slot.compressed.clear();
        if let [
            Part {
                care: Care::Zero, ..
            },
        ] = slot.task.parts[..]
        {
            slot.push_zeros(slot.task.offset, slot.task.len);
            return Ok(());
        }
        self.settle_cares(slot);
        self.read(slot)?;
        self.pack(slot)
    }

    /// A unit that is left out in one part and not in another has to be read.
    fn settle_cares(&self, slot: &mut Slot) {
        let units = usize_of(slot.task.len.div_ceil(self.unit));
        slot.cares.clear();
        slot.cares.resize(units, None);
        for part in &slot.task.parts {
            for care in &mut slot.cares[self.units_of(&slot.task, part)] {
                *care = match *care {
                    Some(before) if before != part.care => Some(Care::Read),
                    Some(_) | None => Some(part.care),
                };
            }
        }
    }

    /// The units of a task that a part touches.
    fn units_of(&self, task: &Task, part: &Part) -> Range<usize> {
        let start = part.extent.offset - task.offset;
        let end = part.extent.end() - task.offset;
        usize_of(start / self.unit)..usize_of(end.div_ceil(self.unit))
    }

    /// Reads each part by one call, the zeros of units that are not left out excepted.
    fn read(&self, slot: &mut Slot) -> Result<()> {
        let len = usize_of(slot.task.len);
        if slot.bytes.len() < len {
            slot.bytes.resize(len, 0);
        }
        for part in &slot.task.parts {
            if part.care == Care::Read {
                self.read_extent(
                    part,
                    part.extent.offset,
                    part.extent.end(),
                    &slot.task,
                    &mut slot.bytes,
                )?;
                continue;
            }
            for unit in self.units_of(&slot.task, part) {
                if slot.cares[unit] == Some(Care::Read) {
                    let start = slot.task.offset + unit as u64 * self.unit;
                    self.read_extent(part, start, start + self.unit, &slot.task, &mut slot.bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Reads what a part has between two guest offsets.
    fn read_extent(
        &self,
        part: &Part,
        start: u64,
        end: u64,
        task: &Task,
        bytes: &mut [u8],
    ) -> Result<()> {
        let extent = part.extent.clip(start, end);
        let first = usize_of(extent.offset - task.offset);
        let bytes = &mut bytes[first..first + usize_of(extent.len)];
        self.source.read_extent(&extent, bytes, extent.offset)
    }

    fn pack(&self, slot: &mut Slot) -> Result<()> {
        for unit in 0..slot.cares.len() {
            let start = unit as u64 * self.unit;
            let len = self.unit.min(slot.task.len - start);
            let offset = slot.task.offset + start;
            match slot.cares[unit] {
                None | Some(Care::LeaveOut) => {}
                Some(Care::Zero) => slot.push_zeros(offset, len),
                Some(Care::Read) => self.pack_unit(slot, offset, len)?,
            }
        }
        Ok(())
    }

    fn pack_unit(&self, slot: &mut Slot, offset: u64, len: u64) -> Result<()> {
        let first = usize_of(offset - slot.task.offset);
        let bytes = &slot.bytes[first..first + usize_of(len)];
        if let Some(witness) = self.witness {
            witness.unit(offset, bytes);
        }
        let runs = slot.runs.len();
        match &self.sparseness {
            Some(sparseness) => sparseness.data_runs(bytes, first, &mut slot.runs),
            None => slot.runs.push(first..first + bytes.len()),
        }
        let packed = match &self.packer {
            _ if slot.runs.len() == runs => Packed::Zero,
            Some(packer) => {
                slot.scratch.clear();
                packer.pack(offset, bytes, &mut slot.scratch)?
            }
            None => Packed::Plain,
        };
        let packed = match packed {
            // The packer found zeros where all is to be written.
            Packed::Zero if self.sparseness.is_none() => Packed::Plain,
            as_packed => as_packed,
        };
        let range = match packed {
            Packed::Zero => {
                slot.runs.truncate(runs);
                if self.rules.zeros != Care::LeaveOut {
                    slot.push_zeros(offset, len);
                }
                return Ok(());
            }
            Packed::Plain => runs..slot.runs.len(),
            Packed::Compressed => {
                slot.runs.truncate(runs);
                let start = slot.compressed.len();
                slot.compressed.extend_from_slice(&slot.scratch);
                start..slot.compressed.len()
            }
        };
        slot.pieces.push(Piece {
            offset,
            len,
            packed,
            range,
        });
        Ok(())
    }
}

impl Slot {
    fn push_zeros(&mut self, offset: u64, len: u64) {
        match self.pieces.last_mut() {
            Some(last) if last.packed == Packed::Zero && last.offset + last.len == offset => {
                last.len += len;
            }
            Some(_) | None => self.pieces.push(Piece {
                offset,
                len,
                packed: Packed::Zero,
                range: 0..0,
            }),
        }
    }
}

/// A number within a task, which is never longer than its buffer.
pub(crate) fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

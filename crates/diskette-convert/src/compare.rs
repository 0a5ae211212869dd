//! Whether two disks read the same.

use std::ops::ControlFlow;

use diskette_core::{BlockReader, Error, Extent, ExtentKind, MIB, Result, SECTOR};

use crate::Control;
use crate::control::Meter;
use crate::pack::usize_of;
use crate::pipeline::{Stages, run};

/// How two disks are compared.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CompareOptions<'a> {
    /// Threads, progress, cancellation.
    pub control: Control<'a>,
    /// Whether sizes, and what is allocated, must be the same, too.
    pub strict: bool,
}

/// What a comparison found. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Both read the same. One may be longer than the other, if what it has more is zero and the comparison not strict.
    Identical,
    /// They differ first in the sector (512 bytes) at this guest offset.
    ContentDiffers(u64),
    /// One has data, or zeros, or a hole, where the other has something else (strict).
    AllocationDiffers(u64),
    /// Their sizes differ (strict).
    SizesDiffer,
}

/// One of two disks. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Left,
    /// The second.
    Right,
}

/// Why two disks could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// It could not be found out what is allocated.
    #[error("cannot find what is allocated at offset {offset}")]
    Map {
        /// Which disk.
        side: Side,
        /// Guest offset.
        offset: u64,
        /// Why.
        source: Error,
    },
    /// A disk could not be read.
    #[error("cannot read at offset {offset}")]
    Read {
        /// Which disk.
        side: Side,
        /// Guest offset.
        offset: u64,
        /// Why.
        source: Error,
    },
    /// It has nothing to do with either of them.
    #[error(transparent)]
    Other(#[from] Error),
}

/// Compares two disks. Of the differences, the first is told, and of errors; whichever comes first.
///
/// Where one disk is longer, the other is taken to be zero there.
pub fn compare(
    left: &dyn BlockReader,
    right: &dyn BlockReader,
    options: &CompareOptions<'_>,
) -> Result<Comparison, CompareError> {
    if options.strict && left.size() != right.size() {
        return Ok(Comparison::SizesDiffer);
    }
    let control = &options.control;
    let size = left.size().max(right.size());
    let comparing = Comparing {
        left: Disk {
            side: Side::Left,
            reader: left,
        },
        right: Disk {
            side: Side::Right,
            reader: right,
        },
        size,
        strict: options.strict,
    };
    let settled = Settled {
        verdict: Ok(Comparison::Identical),
        meter: Meter::new(control, || Ok(size))?,
        done: 0,
    };
    let mut settled = run(&comparing, Walk::default(), settled, control)?;
    settled.meter.advance(size - settled.done);
    settled.verdict
}

/// The stages of a comparison.
#[derive(Debug)]
struct Comparing<'a> {
    left: Disk<'a>,
    right: Disk<'a>,
    size: u64,
    strict: bool,
}

#[derive(Debug)]
struct Disk<'a> {
    side: Side,
    reader: &'a dyn BlockReader,
}

/// Where planning stands.
#[derive(Debug, Default)]
struct Walk {
    next: u64,
    left: Option<Extent>,
    right: Option<Extent>,
    /// Whether a verdict has been found.
    ended: bool,
}

/// A run of both disks, not zero on both.
#[derive(Debug, Default)]
struct Slot {
    offset: u64,
    end: u64,
    left: Half,
    right: Half,
    verdict: Option<Verdict>,
}

type Verdict = Result<Comparison, CompareError>;

/// What one disk has there.
#[derive(Debug, Default)]
struct Half {
    extents: Vec<Extent>,
    bytes: Vec<u8>,
}

struct Settled<'a> {
    verdict: Verdict,
    meter: Meter<'a>,
    done: u64,
}

impl<'a> Stages for Comparing<'a> {
    type Plan = Walk;
    type Slot = Slot;
    type Settled = Settled<'a>;

    fn plan(&self, walk: &mut Walk, slot: &mut Slot) -> Result<bool> {
        slot.left.extents.clear();
        slot.right.extents.clear();
        slot.verdict = None;
        slot.offset = walk.next;
        slot.end = walk.next;
        if walk.ended {
            return Ok(false);
        }
        while let ControlFlow::Continue(()) = self.add_to(walk, slot) {}
        walk.ended = slot.verdict.is_some();
        walk.next = slot.end;
        Ok(slot.end > slot.offset || walk.ended)
    }

    fn work(&self, slot: &mut Slot) -> Result<()> {
        let found = match slot.end - slot.offset {
            0 => None,
            len => self.first_difference(slot, usize_of(len)).transpose(),
        };
        // What was found when the run was planned lies behind it.
        slot.verdict = found.or_else(|| slot.verdict.take());
        Ok(())
    }

    fn settle(&self, settled: &mut Settled<'a>, slot: &mut Slot) -> Result<bool> {
        settled.meter.advance(slot.end - settled.done);
        settled.done = slot.end;
        match slot.verdict.take() {
            Some(verdict) => {
                settled.verdict = verdict;
                Ok(false)
            }
            None => Ok(true),
        }
    }
}

impl Comparing<'_> {
    /// Adds what follows to a slot, as far as both disks have extents of one kind; breaks where the slot is full.
    fn add_to(&self, walk: &mut Walk, slot: &mut Slot) -> ControlFlow<()> {
        let at = slot.end;
        if at >= self.size {
            return ControlFlow::Break(());
        }
        let found = self
            .left
            .extent_at(at, &mut walk.left)
            .and_then(|left| Ok((left, self.right.extent_at(at, &mut walk.right)?)));
        let (left, right) = match found {
            Ok(both) => both,
            Err(error) => {
                slot.verdict = Some(Err(error));
                return ControlFlow::Break(());
            }
        };
        if self.strict && Status::of(&left) != Status::of(&right) {
            slot.verdict = Some(Ok(Comparison::AllocationDiffers(at)));
            return ControlFlow::Break(());
        }
        let end = left.end().min(right.end()).min(self.size);
        let empty = slot.offset == slot.end;
        if left.kind.reads_as_zeros() && right.kind.reads_as_zeros() {
            if !empty {
                return ControlFlow::Break(());
            }
            slot.offset = end;
            slot.end = end;
            return ControlFlow::Continue(());
        }
        let len = slot.end - slot.offset;
        let within_granule = |extent: &Extent| {
            matches!(extent.kind, ExtentKind::Compressed { .. }) && extent.offset < at
        };
        let may_go_on = within_granule(&left) || within_granule(&right);
        if len >= LONGEST || len >= USUAL && !may_go_on {
            return ControlFlow::Break(());
        }
        let end = end.min(at + USUAL);
        slot.left.add(&left, at, end);
        slot.right.add(&right, at, end);
        slot.end = end;
        ControlFlow::Continue(())
    }

    fn first_difference(
        &self,
        slot: &mut Slot,
        len: usize,
    ) -> Result<Option<Comparison>, CompareError> {
        let left = self.left.read(&mut slot.left, slot.offset, len)?;
        let right = self.right.read(&mut slot.right, slot.offset, len)?;
        if left == right {
            return Ok(None);
        }
        let sector = usize_of(SECTOR);
        let sectors = left.chunks(sector).zip(right.chunks(sector));
        let equal = sectors.take_while(|(left, right)| left == right).count();
        let offset = slot.offset + (equal * sector) as u64;
        Ok(Some(Comparison::ContentDiffers(offset)))
    }
}

impl Half {
    /// Puts a part of an extent behind the others. Where it is the rest of the last one, that one becomes longer.
    fn add(&mut self, extent: &Extent, start: u64, end: u64) {
        match self.extents.last_mut() {
            Some(last) if extent.offset < start => last.len += end - start,
            Some(_) | None => self.extents.push(extent.clip(start, end)),
        }
    }
}

impl Disk<'_> {
    /// The extent that holds `offset`; zeros behind the disk's end. `found` remembers the last one.
    fn extent_at(&self, offset: u64, found: &mut Option<Extent>) -> Result<Extent, CompareError> {
        if let Some(found) = *found
            && found.offset <= offset
            && offset < found.end()
        {
            return Ok(found);
        }
        let size = self.reader.size();
        let extent = match offset < size {
            true => self.reader.extent_at(offset),
            false => Ok(Extent::zero(size, u64::MAX - size)),
        };
        let extent = extent.map_err(|source| CompareError::Map {
            side: self.side,
            offset,
            source,
        })?;
        *found = Some(extent);
        Ok(extent)
    }

    fn read<'b>(
        &self,
        half: &'b mut Half,
        offset: u64,
        len: usize,
    ) -> Result<&'b [u8], CompareError> {
        if half.bytes.len() < len {
            half.bytes.resize(len, 0);
        }
        for extent in &half.extents {
            let first = usize_of(extent.offset - offset);
            let bytes = &mut half.bytes[first..first + usize_of(extent.len)];
            if extent.kind.reads_as_zeros() {
                bytes.fill(0);
                continue;
            }
            self.reader
                .read_extent(extent, bytes, extent.offset)
                .map_err(|source| CompareError::Read {
                    side: self.side,
                    offset: extent.offset,
                    source,
                })?;
        }
        Ok(&half.bytes[..len])
    }
}

/// What a strict comparison looks at; as qemu-img has it, whether there is a place on the host is a part of it.
#[derive(Debug, PartialEq, Eq)]
enum Status {
    Data,
    Compressed,
    Zero { placed: bool },
    Hole { placed: bool },
}

impl Status {
    const fn of(extent: &Extent) -> Self {
        match extent.kind {
            ExtentKind::Data(_) | ExtentKind::Encrypted(_) => Self::Data,
            ExtentKind::Compressed { .. } => Self::Compressed,
            ExtentKind::Unwritten(_) => Self::Zero { placed: true },
            ExtentKind::Zero(at) => Self::Zero {
                placed: at.is_some(),
            },
            ExtentKind::Hole(at) => Self::Hole {
                placed: at.is_some(),
            },
        }
    }
}

/// Bytes of a run, as a rule.
const USUAL: u64 = MIB / 2;
/// Bytes of a run that was not to end within a compressed granule.
const LONGEST: u64 = 4 * MIB;

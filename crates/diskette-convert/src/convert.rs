//! From one disk to another.

use diskette_core::{
    BlockReader, BlockReaderExt, BlockWriter, Error, ImageWriter, KIB, MIB, Result, Skipped,
};

#[cfg(doc)]
use crate::UpperLayers;
use crate::control::Meter;
use crate::hashing::Hashing;
use crate::pack::{Slot, Work};
use crate::passing::PassingDigests;
use crate::pipeline::{Stages, run};
use crate::plan::{Care, Planner, Rules};
use crate::target::{NewTarget, Target, UsedTarget};
use crate::zeros::Sparseness;
use crate::{Control, Witness};

/// How a disk is converted.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ConvertOptions<'a> {
    /// Threads, progress, cancellation.
    pub control: Control<'a>,
    /// How many zeros in a row are at least left out; 0 writes all, also what the source knows to be zero. As
    /// qemu-img's `-S`.
    pub sparse_size: u64,
    /// The size of the backing image that a new image lies over, if it does. Then holes of the source are left out, so
    /// that it shows through: see [`TopLayer`](crate::TopLayer). Zeros are told, so that it does not.
    pub backing_size: Option<u64>,
    /// Whether the source can be read only once, in guest order ([`OnePass`](crate::OnePass)): then nobody looks ahead
    /// how much data there is, and progress goes by the disk's size.
    pub single_pass: bool,
    /// Whether a disk that is converted into reads as zeros already. As qemu-img's `--target-is-zero`.
    pub target_is_zero: bool,
    /// Sees all guest data go by, for a new image of which the chunks are multiples of 64 KiB and which holds all its data
    /// itself.
    pub witness: Option<&'a Witness>,
    /// Gets the digest of what the guest reads, computed on the way. With a [`backing_size`](Self::backing_size) what shows
    /// through holes is not seen, and counts as zeros.
    pub digests: Option<&'a PassingDigests>,
}

impl Default for ConvertOptions<'_> {
    fn default() -> Self {
        Self {
            control: Control::default(),
            sparse_size: 4 * KIB,
            backing_size: None,
            single_pass: false,
            target_is_zero: false,
            witness: None,
            digests: None,
        }
    }
}

/// Fills a new image from `source`, and finishes it.
///
/// The image's storage has just been made: what is not written there must read as zeros. After an error it holds no
/// image; the caller removes it.
pub fn convert(
    source: &dyn BlockReader,
    target: Box<dyn ImageWriter>,
    options: &ConvertOptions<'_>,
) -> Result<()> {
    let packer = target.packer();
    let chunk_size = u64::from(packer.chunk_size());
    let sparse_size = match packer.skipped() {
        Skipped::Nothing => 0,
        Skipped::AllZeros | Skipped::WholeChunks => options.sparse_size,
    };
    let rules = match (options.backing_size, sparse_size) {
        (Some(size), 0) => Rules::over_backing(size, Care::Read),
        (Some(size), _) => Rules::over_backing(size, Care::Zero),
        (None, 0) => Rules::all(Care::Read),
        (None, _) => Rules::all(Care::LeaveOut),
    };
    let whole = chunk_size <= LARGE_CHUNK || options.backing_size.is_some();
    let unit = if whole { chunk_size } else { PIECE };
    let sparseness = match packer.skipped() {
        Skipped::WholeChunks if sparse_size > 0 => Sparseness::new(unit, unit),
        _ => Sparseness::new(sparse_size, unit),
    };
    let work = Work {
        source,
        rules,
        unit,
        sparseness,
        packer: whole.then_some(packer),
        witness: witness(options, unit)?,
    };
    let target = NewTarget::new(target, source.size());
    copy(work, target, options)?.finish()
}

/// The witness, if it can see whole pieces.
fn witness<'a>(options: &ConvertOptions<'a>, unit: u64) -> Result<Option<&'a Witness>> {
    let suits = crate::witness::suits(unit) && options.backing_size.is_none();
    match options.witness {
        Some(_) if !suits => Err(Error::unsupported(
            "a conversion",
            "a witness of chunks below 64 KiB, or of an overlay",
        )),
        witness => Ok(witness),
    }
}

/// Writes all of `source` to the beginning of a disk that is there. What the disk has more stays as it is; with a
/// [`backing_size`](ConvertOptions::backing_size), so does what shows through holes of the source ([`UpperLayers`]), and the
/// disk is known to read as zeros from there on.
pub fn convert_into(
    source: &dyn BlockReader,
    target: &dyn BlockWriter,
    options: &ConvertOptions<'_>,
) -> Result<()> {
    let zeros = match options.sparse_size {
        0 => Care::Read,
        _ if options.target_is_zero => Care::LeaveOut,
        _ => Care::Zero,
    };
    let work = Work {
        source,
        rules: match options.backing_size {
            Some(size) => Rules::over_backing(size, zeros),
            None => Rules::all(zeros),
        },
        unit: WRITE_UNIT,
        sparseness: Sparseness::new(options.sparse_size, WRITE_UNIT),
        packer: None,
        witness: None,
    };
    let target = UsedTarget::new(target, source.size(), zeros == Care::Zero)?;
    copy(work, target, options)?;
    Ok(())
}

/// Chunks above this are read and stored in pieces, and are never compressed.
const LARGE_CHUNK: u64 = 2 * MIB;
/// Bytes of such a piece.
const PIECE: u64 = MIB / 2;
/// A disk that is there is written in multiples of this, where zeros do not break it up.
const WRITE_UNIT: u64 = 64 * KIB;

fn copy<T: Target>(work: Work<'_>, target: T, options: &ConvertOptions<'_>) -> Result<T> {
    let control = &options.control;
    let planner = Planner::new(work.source, work.rules, work.unit);
    let single_pass = options.single_pass;
    let meter = Meter::new(control, || match single_pass {
        true => Ok(work.source.size()),
        false => data_total(&work),
    })?;
    let copying = Copying {
        work,
        single_pass,
        target: std::marker::PhantomData,
    };
    let copied = Copied {
        target,
        meter,
        hashing: options.digests.map(|_| Hashing::default()),
    };
    let copied = run(&copying, planner, copied, control)?;
    if let (Some(hashing), Some(digests)) = (copied.hashing, options.digests) {
        digests.add(hashing.finish(copying.work.source.size(), control)?);
    }
    Ok(copied.target)
}

fn data_total(work: &Work<'_>) -> Result<u64> {
    let mut total = 0;
    for extent in work.source.extents() {
        let extent = extent?;
        if work.rules.care(&extent) == Care::Read {
            total += extent.len;
        }
    }
    Ok(total)
}

/// What has come of a conversion so far.
struct Copied<'a, T> {
    target: T,
    meter: Meter<'a>,
    hashing: Option<Hashing>,
}

/// The stages of a conversion.
struct Copying<'a, T> {
    work: Work<'a>,
    single_pass: bool,
    target: std::marker::PhantomData<fn() -> T>,
}

impl<'a, T: Target> Stages for Copying<'a, T> {
    type Plan = Planner<'a>;
    type Slot = Slot;
    type Settled = Copied<'a, T>;

    fn plan(&self, planner: &mut Planner<'a>, slot: &mut Slot) -> Result<bool> {
        planner.plan(&mut slot.task)
    }

    fn work(&self, slot: &mut Slot) -> Result<()> {
        self.work.run(slot)
    }

    fn settle(&self, copied: &mut Copied<'a, T>, slot: &mut Slot) -> Result<bool> {
        if let Some(witness) = self.work.witness {
            witness.task(slot, copied.meter.control())?;
        }
        if let Some(hashing) = &copied.hashing {
            hashing.take(slot, copied.meter.control())?;
        }
        copied.target.store(slot)?;
        let meter = &mut copied.meter;
        if self.single_pass {
            meter.advance_to(slot.task.offset + slot.task.len);
            return Ok(true);
        }
        let parts = slot.task.parts.iter();
        let read = parts.filter(|part| part.care == Care::Read);
        meter.advance(read.map(|part| part.extent.len).sum());
        Ok(true)
    }
}

//! What an overlay has to hold itself before it can lie over another image.

use diskette_core::{
    BlockReader, BlockReaderExt, BlockWriter, Chain, ExtentKind, KIB, MIB, Result, is_zero,
    round_down,
};

use crate::Control;
use crate::control::Meter;
use crate::pack::usize_of;

/// How an overlay is made ready for another image below it.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct DifferenceOptions<'a> {
    /// Progress and cancellation. One thread does it all.
    pub control: Control<'a>,
    /// The depth of the layer that is also the top layer of what is to lie below: what shows from there or deeper is the
    /// same, and is not looked at.
    pub shared_depth: Option<usize>,
}

/// Writes into the top layer of `old` what shows through its holes, where `new`, which is to lie below it, would show
/// something else. `target` writes that layer, and zeros that it is given hide what will lie below
/// ([`OverlayFormat::edit_overlay`](diskette_core::OverlayFormat::edit_overlay)). Nothing below shows where a disk has ended.
pub fn copy_differences(
    old: &Chain,
    new: Option<&dyn BlockReader>,
    target: &dyn BlockWriter,
    options: &DifferenceOptions<'_>,
) -> Result<()> {
    let size = old.size();
    let mut copying = Copying {
        old,
        new,
        target,
        unit: old.top().info.granule_size.unwrap_or(UNIT).min(LONGEST),
        before: Vec::new(),
        after: Vec::new(),
    };
    let mut meter = Meter::new(&options.control, || Ok(size))?;
    let mut at = 0;
    while at < size {
        options.control.check_cancelled()?;
        let (depth, extent) = old.find(at)?;
        let shows = depth > 0 || matches!(extent.kind, ExtentKind::Hole(_));
        let is_shared = options.shared_depth.is_some_and(|shared| depth >= shared);
        at = match shows && !is_shared {
            true => {
                let end = round_down(at, LONGEST).saturating_add(LONGEST);
                let is_zero = extent.kind.reads_as_zeros();
                copying.copy(at, extent.end().min(end).min(size), is_zero)?
            }
            false => extent.end(),
        };
        meter.advance_to(at);
    }
    Ok(())
}

/// Bytes that are held against each other at once.
const LONGEST: u64 = 2 * MIB;
/// What is copied whole, where the format does not say.
const UNIT: u64 = 64 * KIB;

struct Copying<'a> {
    old: &'a Chain,
    new: Option<&'a dyn BlockReader>,
    target: &'a dyn BlockWriter,
    unit: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Copying<'_> {
    /// Copies what differs of the beginning of a range, and gives its end.
    fn copy(&mut self, start: u64, end: u64, is_zero: bool) -> Result<u64> {
        let (new_is_zero, end) = self.look_at_new(start, end)?;
        if is_zero && new_is_zero {
            return Ok(end);
        }
        let len = usize_of(end - start);
        self.before.resize(len, 0);
        self.old.read_at(&mut self.before, start)?;
        self.after.clear();
        self.after.resize(len, 0);
        if let (Some(new), false) = (self.new, new_is_zero) {
            new.read_at(&mut self.after, start)?;
        }
        let mut at = start;
        while at < end {
            let unit_end = round_down(at, self.unit).saturating_add(self.unit).min(end);
            let range = usize_of(at - start)..usize_of(unit_end - start);
            if self.before[range.clone()] != self.after[range.clone()] {
                self.write(&self.before[range], at)?;
            }
            at = unit_end;
        }
        Ok(end)
    }

    /// Whether what is to lie below is known to be zero from an offset on, and up to where it is one or the other.
    fn look_at_new(&self, start: u64, end: u64) -> Result<(bool, u64)> {
        match self.new {
            Some(new) if start < new.size() => {
                let extent = new.extent_at(start)?;
                let end = end.min(new.size());
                Ok(match extent.kind.reads_as_zeros() {
                    true => (true, end.min(extent.end())),
                    false => (false, end),
                })
            }
            Some(_) | None => Ok((true, end)),
        }
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        match is_zero(bytes) {
            true => self.target.write_zeros(offset, bytes.len() as u64),
            false => self.target.write_at(bytes, offset),
        }
    }
}

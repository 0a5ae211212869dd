//! What is to be done, found out piece by piece: a disk of any size never becomes a list.

use diskette_core::{BlockReader, Extent, ExtentKind, MIB, Result, round_down, round_up};

/// A run of the disk, whole units of the target, that one thread reads and packs at once.
#[derive(Debug, Default)]
pub(crate) struct Task {
    /// Guest offset of its first byte: a multiple of the unit.
    pub(crate) offset: u64,
    /// Its bytes.
    pub(crate) len: u64,
    /// The extents in it, cut at its ends; they follow one another without a gap.
    pub(crate) parts: Vec<Part>,
}

/// A part of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) extent: Extent,
    pub(crate) care: Care,
}

/// What an extent asks of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// Nothing: what is not told to the target reads right.
    LeaveOut,
    /// The target is to be told of zeros; there is nothing to be read.
    Zero,
    /// Its bytes.
    Read,
}

/// Which extents the target has to be told of, that hold no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// What the source says is zero.
    pub(crate) zeros: Care,
    /// What the source says nothing of.
    pub(crate) holes: Care,
    /// Where the target's backing image ends: behind it, what is not told reads as zeros.
    pub(crate) backing_size: Option<u64>,
}

impl Rules {
    /// All that reads as zeros is treated in one way.
    pub(crate) const fn all(care: Care) -> Self {
        Self {
            zeros: care,
            holes: care,
            backing_size: None,
        }
    }

    /// A hole shows the backing image, up to its size; zeros hide it.
    pub(crate) const fn over_backing(size: u64, zeros: Care) -> Self {
        Self {
            zeros,
            holes: Care::LeaveOut,
            backing_size: Some(size),
        }
    }

    pub(crate) fn care(&self, extent: &Extent) -> Care {
        match (extent.kind, self.backing_size) {
            (ExtentKind::Data(_) | ExtentKind::Encrypted(_) | ExtentKind::Compressed { .. }, _) => {
                Care::Read
            }
            (_, Some(size)) if extent.offset >= size => Care::LeaveOut,
            (ExtentKind::Unwritten(_) | ExtentKind::Zero(_), _) => self.zeros,
            (ExtentKind::Hole(_), _) => self.holes,
        }
    }

    /// The part of an extent around `offset` for which the rules are the same.
    fn cut_at_edge(&self, extent: &Extent, offset: u64) -> Extent {
        match self.backing_size {
            Some(size) if extent.kind.reads_as_zeros() && offset < size => {
                extent.clip(extent.offset, size)
            }
            Some(size) if extent.kind.reads_as_zeros() => extent.clip(size, extent.end()),
            Some(_) | None => *extent,
        }
    }
}

/// Cuts a disk into tasks, in guest order.
#[derive(Debug)]
pub(crate) struct Planner<'a> {
    source: &'a dyn BlockReader,
    rules: Rules,
    /// Tasks begin and end at multiples of this, a power of two, or at the disk's end.
    unit: u64,
    /// Bytes of the longest task that reads anything.
    longest: u64,
    next: u64,
    /// The extent that holds `next`, if it has been looked up.
    found: Option<Extent>,
}

impl<'a> Planner<'a> {
    pub(crate) const fn new(source: &'a dyn BlockReader, rules: Rules, unit: u64) -> Self {
        Self {
            source,
            rules,
            unit,
            longest: if unit > LONGEST { unit } else { LONGEST },
            next: 0,
            found: None,
        }
    }

    /// Plans the next task into `task`; false at the disk's end.
    pub(crate) fn plan(&mut self, task: &mut Task) -> Result<bool> {
        task.parts.clear();
        task.len = 0;
        let Some(first) = self.skip_left_out()? else {
            return Ok(false);
        };
        task.offset = self.next;
        let mut end = self.first_end(&first);
        let mut at = task.offset;
        while at < end {
            let part = self.part_at(at)?;
            if part.care == Care::LeaveOut && part.extent.end() >= end {
                end = self.unit_end(at).min(end);
            }
            if part.cut_by(end) && self.unit_end(part.extent.end()) - task.offset <= self.longest {
                end = self.unit_end(part.extent.end());
            }
            let extent = part.extent.clip(at, end);
            at = extent.end();
            if extent.len > 0 {
                task.parts.push(Part { extent, ..part });
            }
        }
        task.len = end - task.offset;
        self.next = end;
        Ok(true)
    }

    /// Moves on to the next unit that is not left out whole, and gives what is there.
    fn skip_left_out(&mut self) -> Result<Option<Part>> {
        while self.next < self.source.size() {
            let part = self.part_at(self.next)?;
            if part.care != Care::LeaveOut {
                return Ok(Some(part));
            }
            let behind = self.whole_units(part.extent.end());
            if behind <= self.next {
                return Ok(Some(part));
            }
            self.next = behind;
        }
        Ok(None)
    }

    /// Where a task that begins with `first` ends, as far as can be seen from there.
    fn first_end(&self, first: &Part) -> u64 {
        let usual = self.next.saturating_add(USUAL.max(self.unit));
        let zeros_end = self.whole_units(first.extent.end());
        let end = match first.care {
            // Nothing is read, so that no buffer bounds it.
            Care::Zero if zeros_end > usual => {
                zeros_end.min(self.next.saturating_add(LONGEST_ZERO))
            }
            Care::Zero | Care::Read | Care::LeaveOut => usual,
        };
        end.min(self.source.size())
    }

    fn part_at(&mut self, offset: u64) -> Result<Part> {
        let extent = match self.found {
            Some(found) if found.offset <= offset && offset < found.end() => found,
            Some(_) | None => *self.found.insert(self.source.extent_at(offset)?),
        };
        let extent = self.rules.cut_at_edge(&extent, offset);
        let care = self.rules.care(&extent);
        Ok(Part { extent, care })
    }

    /// The last end of a unit that is not behind `offset`; the disk's end ends a unit, too.
    fn whole_units(&self, offset: u64) -> u64 {
        if offset >= self.source.size() {
            return self.source.size();
        }
        round_down(offset, self.unit)
    }

    /// The first end of a unit that is not before `offset`.
    fn unit_end(&self, offset: u64) -> u64 {
        let size = self.source.size();
        round_up(offset, self.unit).map_or(size, |end| end.min(size))
    }
}

impl Part {
    /// Whether a task that ends at `end` would have to decode a granule of which it uses only a part.
    fn cut_by(&self, end: u64) -> bool {
        matches!(self.extent.kind, ExtentKind::Compressed { .. }) && self.extent.end() > end
    }
}

/// Bytes of a task, as a rule: buffers of this size stay in a processor's cache while they are filled, looked at and
/// stored.
const USUAL: u64 = MIB / 2;
/// Bytes of the longest task: one granule that is compressed is not to be decoded twice, but memory is bounded.
const LONGEST: u64 = 4 * MIB;
/// Bytes of the longest task of zeros alone.
const LONGEST_ZERO: u64 = 1024 * MIB;

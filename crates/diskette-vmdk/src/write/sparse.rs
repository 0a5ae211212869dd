//! A new image of hosted sparse extents: one that bears the descriptor, or several beside it.

use std::sync::Arc;

use diskette_core::{
    ImageWriter, NewParts, Packed, Packer, PlainPacker, Result, StorageExt, StorageMut,
};

use super::extent::Extent;
use super::joined::Joined;
use super::options::Settings;
use super::text::{Line, descriptor, embedded, own_name, part_name};
use super::{check_chunk, empty};

/// Lays out sparse extents.
#[derive(Debug)]
pub(super) struct Sparse {
    settings: Settings,
    /// The image's own file.
    own: Arc<dyn StorageMut>,
    /// The files of all extents.
    storage: Arc<dyn StorageMut>,
    packer: Arc<PlainPacker>,
    extents: Vec<Extent>,
    lines: Vec<Line>,
}

/// Room for the file of an extent that holds 2 GiB of the disk.
const STRIDE: u64 = 4 << 30;

impl Sparse {
    /// All in one file.
    pub(super) fn monolithic(own: Arc<dyn StorageMut>, settings: Settings) -> Self {
        let line = Line {
            size: settings.size,
            name: own_name(own.name()),
        };
        Self {
            storage: Arc::clone(&own),
            extents: vec![Extent::new(Arc::clone(&own), settings.size)],
            own,
            packer: Arc::default(),
            lines: vec![line],
            settings,
        }
    }

    /// In parts of `part_size` bytes of the disk, each in a file of its own.
    pub(super) fn split(
        own: Arc<dyn StorageMut>,
        parts: &dyn NewParts,
        part_size: u64,
        settings: Settings,
    ) -> Result<Self> {
        let lines = split_lines(&own, part_size, settings.size, 's')?;
        let mut files = Vec::new();
        let mut extents = Vec::new();
        for line in &lines {
            let file = parts.create(&line.name)?;
            empty(&*file)?;
            extents.push(Extent::new(Arc::clone(&file), line.size));
            files.push(file);
        }
        let name = own.name().to_owned();
        Ok(Self {
            storage: Arc::new(Joined::new(name, STRIDE, files)),
            own,
            packer: Arc::default(),
            extents,
            lines,
            settings,
        })
    }

    /// Gives a grain its place: an offset in the storage.
    fn place_grain(&mut self, offset: u64) -> Result<Option<u64>> {
        let Some((number, within)) = self.locate(offset) else {
            return Ok(None);
        };
        let extent = self.extents.get_mut(usize_of(number));
        let host = extent.map(|extent| extent.place(within)).transpose()?;
        Ok(host.map(|host| number * STRIDE + host))
    }

    /// Places a grain of zeros where there is a parent to be hidden.
    fn place_zeros(&mut self, offset: u64) -> Result<()> {
        if self.settings.parent.is_none() {
            return Ok(());
        }
        if !self.settings.zeroed_grain {
            // What is stored nowhere in a grain of a new file reads as zeros.
            return self.place_grain(offset).map(|_| ());
        }
        if let Some((number, within)) = self.locate(offset)
            && let Some(extent) = self.extents.get_mut(usize_of(number))
        {
            extent.place_zeros(within);
        }
        Ok(())
    }

    /// The number of the extent that holds a guest offset, and the offset within it.
    fn locate(&self, offset: u64) -> Option<(u64, u64)> {
        // All extents but the last have the size of the first.
        let size = self.extents.first()?.size();
        Some((offset.checked_div(size)?, offset.checked_rem(size)?))
    }
}

/// The number of an extent, of which there are few.
fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The lines of an image in parts; `kind` is the letter before their numbers.
pub(super) fn split_lines(
    own: &Arc<dyn StorageMut>,
    part_size: u64,
    size: u64,
    kind: char,
) -> Result<Vec<Line>> {
    let count = size.div_ceil(part_size);
    let line = |number: u64| {
        Ok(Line {
            size: part_size.min(size - number * part_size),
            name: part_name(own.name(), &format!("-{kind}{:03}", number + 1))?,
        })
    };
    (0..count).map(line).collect()
}

/// Writes a descriptor that is a file of its own.
pub(super) fn write_descriptor(own: &dyn StorageMut, text: &str) -> Result<()> {
    own.write_at(text.as_bytes(), 0)
        .map_err(|source| own.failed("write", 0, text.len() as u64, source))
}

impl ImageWriter for Sparse {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::<PlainPacker>::clone(&self.packer)
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.storage)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        check_chunk(offset, len, self.settings.size)?;
        if packed == Packed::Zero {
            return self.place_zeros(offset).map(|()| None);
        }
        self.place_grain(offset)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let cid = self.settings.cid(self.packer.content());
        let text = descriptor(&self.settings, cid, &self.lines);
        let embedded = match self.settings.subformat.part_size() {
            Some(_) => None,
            None => Some(embedded(&text)?),
        };
        for extent in &self.extents {
            extent.finish(&self.settings, embedded.as_deref())?;
        }
        match embedded {
            Some(_) => Ok(()),
            None => write_descriptor(&*self.own, &text),
        }
    }
}

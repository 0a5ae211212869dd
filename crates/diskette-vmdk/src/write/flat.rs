//! A new image whose disk lies in its files as it is.

use std::sync::Arc;

use diskette_core::{
    Error, ImageWriter, NewParts, Packed, Packer, PlainPacker, Result, StorageExt, StorageMut,
};

use super::check_chunk;
use super::joined::Joined;
use super::options::Settings;
use super::sparse::{split_lines, write_descriptor};
use super::text::{Line, descriptor, part_name};

/// Lays out flat extents.
#[derive(Debug)]
pub(super) struct Flat {
    settings: Settings,
    /// The image's own file.
    own: Arc<dyn StorageMut>,
    /// The disk.
    storage: Arc<dyn StorageMut>,
    packer: Arc<PlainPacker>,
    lines: Vec<Line>,
}

impl Flat {
    pub(super) fn new(
        own: Arc<dyn StorageMut>,
        parts: &dyn NewParts,
        settings: Settings,
    ) -> Result<Self> {
        let size = settings.size;
        let part_size = settings.subformat.part_size();
        let lines = match part_size {
            Some(part_size) => split_lines(&own, part_size, size, 'f')?,
            None => vec![Line {
                size,
                name: part_name(own.name(), "-flat")?,
            }],
        };
        let files = lines.iter().map(|line| parts.create(&line.name));
        let files = files.collect::<Result<Vec<_>>>()?;
        let stride = part_size.unwrap_or(u64::MAX);
        let storage = Joined::new(own.name().to_owned(), stride, files);
        // A part on a device keeps its size, and shows what it held.
        let failed = |source| storage.failed("resize", size, 0, source);
        storage.set_size(0).map_err(failed)?;
        storage.set_size(size).map_err(failed)?;
        if storage.total_size()? != size {
            return Err(Error::unsupported(crate::FORMAT, "a part on a device"));
        }
        Ok(Self {
            settings,
            own,
            storage: Arc::new(storage),
            packer: Arc::default(),
            lines,
        })
    }
}

impl ImageWriter for Flat {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::<PlainPacker>::clone(&self.packer)
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.storage)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        check_chunk(offset, len, self.settings.size)?;
        Ok((packed != Packed::Zero).then_some(offset))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let cid = self.settings.cid(self.packer.content());
        write_descriptor(&*self.own, &descriptor(&self.settings, cid, &self.lines))
    }
}

//! An image that exists, written anywhere: each of its parts in its own way.
//!
//! With the first change the image gets another CID, so that delta links of what it was know that it is another one now.

mod content_id;
mod files;
mod grains;

use std::sync::{Arc, Mutex, PoisonError};

use diskette_core::{
    BlockEditor, BlockReader, BlockReaderExt, BlockWriter, Error, Extent, ExtentKind, InPlace,
    OpenContext, Preallocation, Repair, Result, SnapshotWriter, Storage, StorageExt, StorageMut,
    check_range,
};

use self::content_id::ContentIdPlace;
use self::files::WritableFiles;
use self::grains::GrainBlocks;
use crate::FORMAT;
use crate::descriptor::NO_PARENT;
use crate::flat::Flat;
use crate::image::Image;
use crate::map::{Kept, Part};

/// Opens an image to be changed. `below` is what its holes show, if it has a parent.
pub(crate) fn open(
    storage: Arc<dyn StorageMut>,
    below: Option<Arc<dyn BlockReader>>,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BlockWriter>> {
    let (image, stored) = open_image(&storage, cx)?;
    let over = image.descriptor.required_parent_cid()? != NO_PARENT;
    if over && below.is_none() {
        let feature = "writing into a delta link whose parent is not at hand";
        return Err(Error::unsupported(FORMAT, feature));
    }
    let below = below.filter(|_| over);
    let content_id = ContentIdPlace::find(&*storage, &image, cx.limits)?;
    let mut parts = Vec::new();
    for (number, part) in image.map.parts().iter().enumerate() {
        let file = stored.get(usize::from(part.file));
        let file = Arc::clone(file.unwrap_or(&storage));
        let below = below.as_ref().map(|below| shifted(below, part));
        parts.push(Writable {
            start: part.start,
            file: part.file,
            writer: open_part(&image, number, part, file, below, cx)?,
        });
    }
    Ok(Box::new(Editor {
        parts,
        size: image.map.size(),
        file_count: u16::try_from(stored.len()).unwrap_or(u16::MAX),
        storage,
        content_id: Mutex::new(Some(content_id)),
    }))
}

/// The image, and its files, which can be written.
fn open_image(
    storage: &Arc<dyn StorageMut>,
    cx: &OpenContext<'_>,
) -> Result<(Image, Vec<Arc<dyn StorageMut>>)> {
    let files = WritableFiles::new(cx.files);
    let strict = OpenContext {
        files: &files,
        salvage: false,
        metadata_only: false,
        ..*cx
    };
    let image = Image::open(Arc::clone(storage) as Arc<dyn Storage>, &strict)?;
    let mut stored = vec![Arc::clone(storage)];
    stored.extend(files.into_opened());
    Ok((image, stored))
}

/// Mends redundant tables, if all is to be mended, and cuts off what is lost behind the last grain of each extent. Gives the number
/// of tables.
pub(crate) fn tidy(
    storage: Arc<dyn StorageMut>,
    what: Repair,
    cx: &OpenContext<'_>,
) -> Result<u64> {
    let (image, stored) = open_image(&storage, cx)?;
    let mut mended = 0;
    for (number, header) in &image.headers {
        let Some(part) = image.map.parts().get(*number) else {
            continue;
        };
        if let (Kept::Sparse(grains), Some(file)) = (&part.kept, stored.get(usize::from(part.file)))
            && !grains.compressed
        {
            let file = Arc::clone(file);
            let mut blocks = GrainBlocks::open(file, grains, header, cx.limits)?;
            if what == Repair::All {
                mended += blocks.mend_copies()?;
            }
            blocks.cut()?;
        }
    }
    Ok(mended)
}

fn open_part(
    image: &Image,
    number: usize,
    part: &Part,
    file: Arc<dyn StorageMut>,
    below: Option<Arc<dyn BlockReader>>,
    cx: &OpenContext<'_>,
) -> Result<Box<dyn BlockWriter>> {
    let refused = |feature: &'static str| Err(Error::unsupported(FORMAT, feature));
    let header = image.headers.iter().find(|(index, _)| *index == number);
    match (&part.kept, header) {
        (Kept::Zero, _) => refused("writing into an extent without a file"),
        (Kept::SeSparse(_), _) => refused("writing into a seSparse extent"),
        (Kept::Sparse(grains), _) if grains.compressed => refused("writing into compressed grains"),
        (Kept::Sparse(_), None) => refused("writing into a COWD extent"),
        (Kept::Sparse(_), Some((_, header))) if header.version >= 3 => {
            refused("writing into an extent whose changes are tracked")
        }
        (Kept::Sparse(grains), Some((_, header))) => {
            let blocks = GrainBlocks::open(Arc::clone(&file), grains, header, cx.limits)?;
            Ok(Box::new(BlockEditor::new(file, below, blocks)))
        }
        (Kept::Flat(flat), _) => {
            let reader = Box::new(FlatDisk(Flat {
                storage: Arc::clone(&flat.storage),
                ..*flat
            }));
            Ok(Box::new(InPlace::new(FORMAT, reader, file)?))
        }
    }
}

/// What lies below a part.
fn shifted(below: &Arc<dyn BlockReader>, part: &Part) -> Arc<dyn BlockReader> {
    Arc::new(Shifted {
        disk: Arc::clone(below),
        start: part.start,
        size: below.size().saturating_sub(part.start).min(part.size),
    })
}

/// A run of a disk.
#[derive(Debug)]
struct Shifted {
    disk: Arc<dyn BlockReader>,
    start: u64,
    size: u64,
}

impl BlockReader for Shifted {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let end = self.start + self.size; // within the disk
        let extent = self.disk.extent_at(self.start + offset)?;
        let extent = extent.clip(self.start, end);
        Ok(Extent {
            offset: extent.offset - self.start,
            ..extent
        })
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let extent = Extent {
            offset: self.start + extent.offset,
            ..*extent
        };
        self.disk.read_extent(&extent, buf, self.start + offset)
    }
}

/// A flat part as a disk.
#[derive(Debug)]
struct FlatDisk(Flat);

impl BlockReader for FlatDisk {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.0.size, offset, 1)?;
        self.0.extent_at(offset)
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        match extent.kind {
            ExtentKind::Data(at) => {
                let at = at.plus(offset.saturating_sub(extent.offset));
                self.0.storage.read(buf, at.offset)
            }
            ExtentKind::Unwritten(_)
            | ExtentKind::Encrypted(_)
            | ExtentKind::Compressed { .. }
            | ExtentKind::Zero(_)
            | ExtentKind::Hole(_) => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

/// A part that can be written.
#[derive(Debug)]
struct Writable {
    /// Guest offset of its first byte.
    start: u64,
    /// The number of its file.
    file: u16,
    writer: Box<dyn BlockWriter>,
}

/// The disk of an image that is being changed.
#[derive(Debug)]
struct Editor {
    parts: Vec<Writable>,
    size: u64,
    file_count: u16,
    storage: Arc<dyn StorageMut>,
    /// Until the first change.
    content_id: Mutex<Option<ContentIdPlace>>,
}

impl Editor {
    fn begin(&self) -> Result<()> {
        let mut place = self
            .content_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = place.take() {
            found.change(&*self.storage)?;
        }
        Ok(())
    }

    fn part_at(&self, offset: u64) -> Option<&Writable> {
        let behind = self.parts.partition_point(|part| part.start <= offset);
        self.parts.get(behind.checked_sub(1)?)
    }

    /// Calls `each` with a part, an offset in it, and the range in the whole that lies there.
    fn by_parts(
        &self,
        offset: u64,
        len: u64,
        mut each: impl FnMut(&Writable, u64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        check_range(self.size, offset, len)?;
        let mut at = offset;
        while at < offset + len
            && let Some(part) = self.part_at(at)
        {
            let within = at - part.start;
            let here = (part.writer.size() - within).min(offset + len - at);
            each(part, within, at - offset, here)?;
            at += here;
        }
        Ok(())
    }
}

impl BlockReader for Editor {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let Some(part) = self.part_at(offset) else {
            return Ok(Extent::hole(offset, self.size - offset)); // Parts have no gaps: not reached.
        };
        let extent = part.writer.extent_at(offset - part.start)?;
        let kind = extent.kind.in_files(|file| match file {
            0 => part.file,
            below => below.saturating_add(self.file_count - 1),
        });
        Ok(Extent {
            offset: extent.offset + part.start,
            len: extent.len,
            kind,
        })
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        self.by_parts(offset, buf.len() as u64, |part, within, from, len| {
            part.writer.read_at(&mut buf[range(from, len)], within)
        })
    }
}

impl BlockWriter for Editor {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.begin()?;
        self.by_parts(offset, buf.len() as u64, |part, within, from, len| {
            part.writer.write_at(&buf[range(from, len)], within)
        })
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size, offset, len)?;
        self.begin()?;
        self.by_parts(offset, len, |part, within, _, len| {
            part.writer.write_zeros(within, len)
        })
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size, offset, len)?;
        self.begin()?;
        self.by_parts(offset, len, |part, within, _, len| {
            part.writer.discard(within, len)
        })
    }

    fn resize(&self, size: u64) -> Result<()> {
        match size == self.size {
            true => self.flush(),
            false => Err(Error::unsupported(FORMAT, "another size for a disk")),
        }
    }

    fn preallocate(&self, _offset: u64, _len: u64, _how: Preallocation) -> Result<()> {
        Err(Error::unsupported(FORMAT, "preallocation"))
    }

    fn snapshots(&self) -> Option<&dyn SnapshotWriter> {
        None
    }

    fn flush(&self) -> Result<()> {
        self.parts.iter().try_for_each(|part| part.writer.flush())?;
        self.storage
            .sync()
            .map_err(|source| self.storage.failed("sync", 0, 0, source))
    }

    fn close(&self) -> Result<()> {
        self.parts.iter().try_for_each(|part| part.writer.close())?;
        self.flush()
    }
}

/// A part of a buffer, in which it lies.
fn range(from: u64, len: u64) -> std::ops::Range<usize> {
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    from..from.saturating_add(usize::try_from(len).unwrap_or(usize::MAX))
}

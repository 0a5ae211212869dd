//! Where packed pieces go: into a new image, or into a disk that is there.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use diskette_core::{
    BlockWriter, Error, ImageWriter, Packed, Result, StorageExt, StorageMut, round_down,
};

use crate::pack::{Piece, Slot};

/// What takes the pieces of a task, in guest order.
pub(crate) trait Target: Debug + Send {
    /// Places and stores all that a slot has.
    fn store(&mut self, slot: &Slot) -> Result<()>;
}

/// A new image.
#[derive(Debug)]
pub(crate) struct NewTarget {
    writer: Box<dyn ImageWriter>,
    storage: Arc<dyn StorageMut>,
    chunk_size: u64,
    disk_size: u64,
    /// The chunk that was placed last, and where: the pieces of a chunk that is longer than a unit go there.
    placed: Option<(u64, Option<u64>)>,
}

impl NewTarget {
    pub(crate) fn new(writer: Box<dyn ImageWriter>, disk_size: u64) -> Self {
        Self {
            storage: writer.storage(),
            chunk_size: u64::from(writer.packer().chunk_size()),
            writer,
            disk_size,
            placed: None,
        }
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.writer.finish()
    }

    fn place_zeros(&mut self, piece: &Piece) -> Result<()> {
        let end = piece.offset + piece.len;
        let mut at = piece.offset;
        while at < end {
            let len = self.chunk_size.min(end - at);
            self.writer.place(at, Packed::Zero, len)?;
            at += len;
        }
        Ok(())
    }

    /// The host offset of a plain piece.
    fn place_plain(&mut self, piece: &Piece) -> Result<Option<u64>> {
        let chunk = round_down(piece.offset, self.chunk_size);
        let host = match self.placed {
            Some((placed, host)) if placed == chunk => host,
            Some(_) | None => {
                let len = self.chunk_size.min(self.disk_size - chunk);
                let host = self.writer.place(chunk, Packed::Plain, len)?;
                self.placed = Some((chunk, host));
                host
            }
        };
        Ok(host.map(|host| host + (piece.offset - chunk)))
    }
}

impl Target for NewTarget {
    fn store(&mut self, slot: &Slot) -> Result<()> {
        let mut waiting = Waiting::default();
        for piece in &slot.pieces {
            match piece.packed {
                Packed::Zero => self.place_zeros(piece)?,
                Packed::Plain => {
                    let Some(host) = self.place_plain(piece)? else {
                        continue;
                    };
                    for (within, range) in slot.runs_of(piece) {
                        waiting.add(Store::plain(host + within, range), slot, &*self.storage)?;
                    }
                }
                Packed::Compressed => {
                    let range = Slot::compressed_range(piece);
                    let len = range.len() as u64;
                    let placed = self.writer.place(piece.offset, Packed::Compressed, len)?;
                    if let Some(host) = placed {
                        waiting.add(Store::compressed(host, range), slot, &*self.storage)?;
                    }
                }
            }
        }
        waiting.store(slot, &*self.storage)
    }
}

/// Bytes of a slot with their place.
#[derive(Clone, Debug)]
struct Store {
    host: u64,
    range: Range<usize>,
    compressed: bool,
}

impl Store {
    const fn plain(host: u64, range: Range<usize>) -> Self {
        Self {
            host,
            range,
            compressed: false,
        }
    }

    const fn compressed(host: u64, range: Range<usize>) -> Self {
        Self {
            host,
            range,
            compressed: true,
        }
    }

    fn continues_into(&self, next: &Self) -> bool {
        self.compressed == next.compressed
            && self.range.end == next.range.start
            && self.host + self.range.len() as u64 == next.host
    }
}

/// What is not yet written, since its neighbour may be written with it.
#[derive(Debug, Default)]
struct Waiting(Option<Store>);

impl Waiting {
    fn add(&mut self, next: Store, slot: &Slot, storage: &dyn StorageMut) -> Result<()> {
        if let Some(waiting) = &mut self.0
            && waiting.continues_into(&next)
        {
            waiting.range.end = next.range.end;
            return Ok(());
        }
        self.store(slot, storage)?;
        self.0 = Some(next);
        Ok(())
    }

    fn store(&mut self, slot: &Slot, storage: &dyn StorageMut) -> Result<()> {
        let Some(Store {
            host,
            range,
            compressed,
        }) = self.0.take()
        else {
            return Ok(());
        };
        let bytes = match compressed {
            true => slot.compressed_bytes(range),
            false => slot.plain_bytes(range),
        };
        storage
            .write_at(bytes, host)
            .map_err(|source| storage.failed("write", host, bytes.len() as u64, source))
    }
}

/// A disk that is there.
#[derive(Debug)]
pub(crate) struct UsedTarget<'a> {
    disk: &'a dyn BlockWriter,
    /// Whether zeros have to be written, too.
    write_zeros: bool,
}

impl<'a> UsedTarget<'a> {
    pub(crate) fn new(
        disk: &'a dyn BlockWriter,
        source_size: u64,
        write_zeros: bool,
    ) -> Result<Self> {
        let size = disk.size();
        if size < source_size {
            return Err(Error::OutOfRange {
                offset: 0,
                len: source_size,
                size,
            });
        }
        Ok(Self { disk, write_zeros })
    }

    fn data(&self, slot: &Slot, range: Range<usize>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let offset = slot.task.offset + range.start as u64;
        self.disk.write_at(slot.plain_bytes(range), offset)
    }

    fn zeros(&self, start: u64, end: u64) -> Result<()> {
        if start == end || !self.write_zeros {
            return Ok(());
        }
        self.disk.write_zeros(start, end - start)
    }
}

impl Target for UsedTarget<'_> {
    /// Runs of data that touch each other are written by one call.
    fn store(&mut self, slot: &Slot) -> Result<()> {
        let mut waiting = 0..0;
        for piece in &slot.pieces {
            let mut at = piece.offset;
            for (within, range) in slot.runs_of(piece) {
                let start = piece.offset + within;
                if start == at && waiting.end == range.start {
                    waiting.end = range.end;
                } else {
                    self.data(slot, waiting)?;
                    self.zeros(at, start)?;
                    waiting = range.clone();
                }
                at = start + range.len() as u64;
            }
            let end = piece.offset + piece.len;
            if at < end {
                self.data(slot, std::mem::take(&mut waiting))?;
                self.zeros(at, end)?;
            }
        }
        self.data(slot, waiting)
    }
}

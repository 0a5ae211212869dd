//! A new streamOptimized image, from its first byte to its last.
//!
//! ```text
//!  header │ descriptor │ grains │ table of these │ grains │ table of these │ directory │ footer │ end of stream
//! ```
//!
//! This is how VMware's own products lay it out. All bytes are written in ascending order, and none twice, so that it can
//! go into a pipe; the header says that the directory is to be looked for at the end.

use std::sync::Arc;

use diskette_codec::EncoderPool;
use diskette_core::{
    Error, Fingerprint, ImageWriter, Packed, Packer, Result, SECTOR, Skipped, StorageExt,
    StorageMut,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::check_chunk;
use super::header::{GRAIN_CHUNK, GRAIN_LEN, New, TABLE_COVERS, TABLE_LEN, header};
use super::options::Settings;
use super::ordered::Ordered;
use super::table::Table;
use super::text::{Line, descriptor, embedded, own_name};
use crate::FORMAT;
use crate::spec::{self, GrainMarker, Marker, marker};

/// Lays out a stream.
#[derive(Debug)]
pub(super) struct Stream {
    settings: Settings,
    storage: Arc<Ordered>,
    packer: Arc<GrainPacker>,
    /// Where the next piece goes, in bytes: a whole sector.
    end: u64,
    /// The grain table of the grains that were placed last, and its number.
    table: Option<(u64, Table)>,
    /// Where the tables lie, in sectors; 0 for those without entries.
    directory: Vec<U32>,
}

impl Stream {
    pub(super) fn new(to: Arc<dyn StorageMut>, settings: Settings) -> Result<Self> {
        let encoders = EncoderPool::new(settings.encoding).map_err(|error| {
            Error::invalid_option(FORMAT, "compression_level", error.to_string())
        })?;
        let line = Line {
            size: settings.size,
            name: own_name(to.name()),
        };
        // The content is not known yet: the id follows from the rest alone.
        let cid = settings.cid(&Fingerprint::default());
        let mut head = header(new_header(&settings, spec::GD_AT_END)).to_vec();
        head.extend(embedded(&descriptor(&settings, cid, &[line]))?);
        head.resize(HEAD_LEN, 0);
        to.write_at(&head, 0)
            .map_err(|source| to.failed("write", 0, head.len() as u64, source))?;
        let tables = settings.size.div_ceil(TABLE_COVERS);
        Ok(Self {
            // At most 8 Mi of them, by the check of the disk's size.
            directory: vec![U32::ZERO; usize::try_from(tables).unwrap_or(usize::MAX)],
            settings,
            storage: Arc::new(Ordered::new(to)),
            packer: Arc::new(GrainPacker { encoders }),
            end: head.len() as u64,
            table: None,
        })
    }

    /// Takes room for `len` bytes, whole sectors; gives their host offset.
    fn take(&mut self, len: u64) -> Result<u64> {
        let at = self.end;
        self.end = at + len;
        // The last sector's number must fit in a table.
        match self.end / SECTOR <= u64::from(u32::MAX) {
            true => Ok(at),
            false => Err(Error::unsupported(FORMAT, "a stream of 2 TiB or more")),
        }
    }

    /// Ends the table of the grains so far; it goes behind them.
    fn end_table(&mut self) -> Result<()> {
        let Some((number, table)) = self.table.take() else {
            return Ok(());
        };
        let at = self.take(SECTOR + TABLE_LEN)?;
        let mut bytes = metadata_marker(marker::GRAIN_TABLE, TABLE_LEN).to_vec();
        bytes.extend_from_slice(table.bytes());
        self.storage.write_in_turn(at, bytes);
        let entry = usize::try_from(number).ok();
        if let Some(entry) = entry.and_then(|number| self.directory.get_mut(number)) {
            *entry = sector(at + SECTOR);
        }
        Ok(())
    }

    /// The directory, the footer and the end of the stream, each behind its marker.
    fn tail(&mut self) -> Result<Vec<u8>> {
        let directory_len = (self.directory.len() as u64 * 4).next_multiple_of(SECTOR);
        let at = self.take(SECTOR + directory_len + 3 * SECTOR)?;
        let mut tail = metadata_marker(marker::GRAIN_DIRECTORY, directory_len).to_vec();
        tail.extend_from_slice(self.directory.as_bytes());
        tail.resize(tail.len().next_multiple_of(512), 0);
        tail.extend(metadata_marker(marker::FOOTER, SECTOR));
        tail.extend(header(new_header(&self.settings, at / SECTOR + 1)));
        tail.extend(metadata_marker(marker::END_OF_STREAM, 0));
        Ok(tail)
    }
}

impl ImageWriter for Stream {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::<GrainPacker>::clone(&self.packer)
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::<Ordered>::clone(&self.storage)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        check_chunk(offset, len, self.settings.size)?;
        match packed {
            Packed::Zero => return Ok(None),
            Packed::Plain => return Err(Error::unsupported(FORMAT, "a plain grain in a stream")),
            Packed::Compressed => {}
        }
        let number = offset / TABLE_COVERS;
        if self.table.as_ref().is_some_and(|(last, _)| *last != number) {
            self.end_table()?;
        }
        let at = self.take(len)?;
        let (_, table) = self.table.get_or_insert_with(|| (number, Table::default()));
        table.set(offset, sector(at).get());
        Ok(Some(at))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.end_table()?;
        let tail = self.tail()?;
        let at = self.end - tail.len() as u64;
        self.storage
            .write_at(&tail, at)
            .map_err(|source| self.storage.failed("write", at, tail.len() as u64, source))
    }
}

/// Bytes before the first grain.
const HEAD_LEN: usize = 64 << 10;

fn new_header(settings: &Settings, directory: u64) -> New {
    New {
        size: settings.size,
        descriptor: true,
        redundant_directory: None,
        directory,
        overhead: HEAD_LEN as u64 / SECTOR,
        zeroed_grain: settings.zeroed_grain,
        compressed: true,
    }
}

/// The number of the sector at a host offset, which [`Stream::take`] has given.
fn sector(at: u64) -> U32 {
    u32::try_from(at / SECTOR).unwrap_or(u32::MAX).into()
}

/// The marker before `len` bytes of metadata.
fn metadata_marker(kind: u32, len: u64) -> [u8; 512] {
    let marker = Marker {
        value: (len / SECTOR).into(),
        size: U32::ZERO,
        kind: kind.into(),
    };
    let mut bytes = [0; 512];
    bytes[..size_of::<Marker>()].copy_from_slice(marker.as_bytes());
    bytes
}

/// Makes a grain's marker and its zlib stream, to whole sectors.
#[derive(Debug)]
struct GrainPacker {
    encoders: EncoderPool,
}

impl Packer for GrainPacker {
    fn chunk_size(&self) -> u32 {
        GRAIN_CHUNK
    }

    fn skipped(&self) -> Skipped {
        Skipped::AllZeros
    }

    fn pack(&self, offset: u64, data: &[u8], out: &mut Vec<u8>) -> Result<Packed> {
        let failed = |why: &str| Error::unsupported(FORMAT, format!("compressing a grain ({why})"));
        let start = out.len();
        out.resize(start + size_of::<GrainMarker>(), 0);
        let body = out.len();
        let encoded = match data.len() {
            GRAIN_LEN => self.encoders.encode(data, out, LONGEST),
            // The disk ends within the grain. VirtualBox reads whole grains only.
            _ => {
                let mut whole = data.to_vec();
                whole.resize(GRAIN_LEN, 0);
                self.encoders.encode(&whole, out, LONGEST)
            }
        };
        if !encoded.map_err(|error| failed(&error.to_string()))? {
            return Err(failed("too long"));
        }
        let size = u32::try_from(out.len() - body).map_err(|_| failed("too long"))?;
        let marker = GrainMarker {
            value: (offset / SECTOR).into(),
            size: size.into(),
        };
        out[start..body].copy_from_slice(marker.as_bytes());
        out.resize(start + (out.len() - start).next_multiple_of(512), 0);
        Ok(Packed::Compressed)
    }
}

/// Bytes of a stream that readers take: what cannot be compressed grows a little.
const LONGEST: usize = GRAIN_LEN + 4096;

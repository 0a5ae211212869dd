//! Stream-optimized extents: markers, the footer, the scan of a stream that has lost it, and compressed grains.
//!
//! Three kinds of writers make three layouts. VMware's and VirtualBox's products write grains, each table behind its
//! grains, the directory, and a footer that tells where the directory is. open-vmdk writes the tables first and no footer.
//! qemu-img does likewise, with a redundant copy, in the order of requests, and leaves zeros at the end.

use std::cell::RefCell;
use std::collections::BTreeMap;

use diskette_codec::{Codec, decode};
use diskette_core::{
    Error, Field, Limits, OpenContext, Result, SECTOR, Storage, StorageExt, Table,
};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::grains::{Grains, Layout, Tables};
use crate::header::Header;
use crate::remarks::Remarks;
use crate::{FORMAT, spec};

/// The footer: looked for from the end on, for some tools pad the file.
pub(crate) fn find_footer(storage: &dyn Storage, limits: &Limits) -> Result<Option<Header>> {
    const SECTORS: u64 = 64 + 2;
    const LEN: usize = 512;
    let end = storage.total_size()? / SECTOR * SECTOR;
    let start = end.saturating_sub(SECTORS * SECTOR);
    let tail = storage.read_vec(usize::try_from(end - start).unwrap_or(0), start)?;
    let sectors: Vec<&[u8]> = tail.chunks_exact(LEN).collect();
    let found = sectors.windows(2).rposition(|pair| {
        let marker = spec::Marker::ref_from_prefix(pair[0]);
        let is_footer = marker.is_ok_and(|(marker, _)| {
            marker.size.get() == 0 && marker.kind.get() == spec::marker::FOOTER
        });
        is_footer && pair[1].starts_with(&spec::HOSTED_MAGIC)
    });
    let Some(index) = found else {
        return Ok(None);
    };
    let at = start + (index as u64 + 1) * SECTOR;
    let footer = Header::read(storage, at, limits)?;
    if footer.directory.is_none() {
        let gd_offset = Field::new(
            FORMAT,
            "footer.gdOffset",
            footer.host_offset(56),
            spec::GD_AT_END,
        );
        return Err(gd_offset.malformed("the footer leads to another footer"));
    }
    Ok(Some(footer))
}

/// Tables made of the grains' own markers, for a stream whose footer is gone.
pub(crate) fn scan(
    storage: &dyn Storage,
    header: &Header,
    size: u64,
    cx: &OpenContext<'_>,
    remarks: &mut Remarks,
) -> Result<Tables<U32>> {
    if !header.compressed {
        let name = format!("{}.gdOffset", header.name());
        let gd_offset = Field::new(FORMAT, name, header.host_offset(56), spec::GD_AT_END);
        return Err(gd_offset
            .malformed("at the file's end, where no footer is")
            .truncated());
    }
    remarks.warn("the stream has no footer: its grains were found by their markers");
    let mut scan = Scan {
        header,
        size,
        end: storage.total_size()?,
        tables: BTreeMap::new(),
        complete: false,
    };
    let mut at = header.overhead;
    loop {
        match scan.piece(storage, at, cx.limits) {
            Ok(Some(next)) => at = next,
            Ok(None) => break,
            Err(error @ Error::Malformed { .. }) if cx.salvage => {
                remarks.damaged(&error);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    if !scan.complete {
        let file_end = Field::new(FORMAT, "stream's end", at, at / SECTOR);
        let error = file_end
            .malformed("no grain directory came before it: the stream was cut short")
            .truncated();
        if !cx.salvage {
            return Err(error);
        }
        remarks.damaged(&error);
    }
    let table_len = header.table_entries.saturating_mul(4);
    cx.limits.keep(scan.tables.len() as u64 * table_len)?;
    let tables = scan.tables.into_iter();
    Ok(Tables::Rebuilt(
        tables
            .map(|(index, entries)| (index, Table::new(entries.as_bytes())))
            .collect(),
    ))
}

/// That the tables of a stream can lead to its grains: a directory that lies elsewhere, or tables of another length, would
/// read as zeros.
pub(crate) fn expect_grains_known(
    storage: &dyn Storage,
    header: &Header,
    tables: &Tables<U32>,
    size: u64,
) -> Result<()> {
    let Tables::Stored {
        directory,
        directory_at,
        ..
    } = tables
    else {
        return Ok(());
    };
    if !header.compressed {
        return Ok(());
    }
    let entries = Field::new(
        FORMAT,
        format!("{}.numGTEsPerGT", header.name()),
        header.host_offset(44),
        header.table_entries,
    );
    entries.equal_to(spec::STREAM_TABLE_ENTRIES)?;
    let at = header.overhead;
    let has_tables = directory.entries().iter().any(|entry| entry.get() != 0);
    if has_tables || !is_grain(storage, header, at, size)? {
        return Ok(());
    }
    let name = format!("{}.gdOffset", header.name());
    let gd_offset = Field::new(FORMAT, name, header.host_offset(56), directory_at / SECTOR);
    Err(gd_offset.malformed(format!(
        "the grain directory is empty, and there is a grain at {at:#x}"
    )))
}

/// Whether the marker of a grain of the disk lies at `at`.
fn is_grain(storage: &dyn Storage, header: &Header, at: u64, size: u64) -> Result<bool> {
    if at.saturating_add(spec::GRAIN_MARKER_LEN) > storage.total_size()? {
        return Ok(false);
    }
    let mut marker = spec::GrainMarker::new_zeroed();
    storage.read(marker.as_mut_bytes(), at)?;
    let first = marker.value.get().saturating_mul(SECTOR);
    let is_first = first < size && first.is_multiple_of(header.grain_size);
    Ok(marker.size.get() != 0 && is_first)
}

/// A stream, from its first piece to its last.
struct Scan<'a> {
    header: &'a Header,
    size: u64,
    end: u64,
    tables: BTreeMap<u64, Vec<U32>>,
    /// Whether the directory was passed, behind which there are no grains.
    complete: bool,
}

impl Scan<'_> {
    /// Takes the piece at `at`; gives where the next one begins.
    fn piece(&mut self, storage: &dyn Storage, at: u64, limits: &Limits) -> Result<Option<u64>> {
        if at.saturating_add(SECTOR) > self.end {
            return Ok(None);
        }
        let mut bytes = [0; size_of::<spec::Marker>()];
        storage.read(&mut bytes, at)?;
        let marker = spec::Marker::ref_from_bytes(&bytes)
            .map_err(|_| Error::malformed(FORMAT, "marker", at, 0, "cut short").truncated())?;
        let value = marker.value.get();
        let size = u64::from(marker.size.get());
        let with_table = || {
            let sectors =
                Field::new(FORMAT, "marker.val", at, value).within(0..=self.end / SECTOR)?;
            Ok::<_, Error>(sectors + 1)
        };
        let sectors = match marker.kind.get() {
            _ if size > 0 => {
                let len = grain_len(size, self.header.grain_size, at)?;
                if at + len > self.end {
                    let why = format!("its bytes reach beyond the file's end at {:#x}", self.end);
                    return Err(
                        Error::malformed(FORMAT, "marker.size", at + 8, size, why).truncated()
                    );
                }
                self.grain(value, at, limits)?;
                len.div_ceil(SECTOR)
            }
            spec::marker::END_OF_STREAM => return Ok(None),
            spec::marker::GRAIN_TABLE => with_table()?,
            spec::marker::GRAIN_DIRECTORY => {
                self.complete = true;
                with_table()?
            }
            spec::marker::FOOTER => 2,
            spec::marker::PROGRESS => 1,
            kind => {
                return Err(Field::new(FORMAT, "marker.type", at + 12, kind).malformed("unknown"));
            }
        };
        Ok(Some(at + sectors * SECTOR))
    }

    fn grain(&mut self, first_sector: u64, at: u64, limits: &Limits) -> Result<()> {
        let field = || Field::new(FORMAT, "marker.val", at, first_sector);
        let start = field().times(SECTOR)?;
        if start >= self.size || start % self.header.grain_size != 0 {
            return Err(field().malformed("not the first sector of a grain of the disk"));
        }
        let sector = u32::try_from(at / SECTOR)
            .map_err(|_| field().malformed("a grain beyond 2 TiB of file"))?;
        let grain = start / self.header.grain_size;
        let entries = self.header.table_entries;
        let table_count = self.tables.len() as u64 + 1;
        limits.allow_table("rebuilt grain tables' bytes", table_count * entries * 4)?; // entries: at most 512
        let table = self
            .tables
            .entry(grain / entries)
            .or_insert_with(|| vec![U32::ZERO; usize::try_from(entries).unwrap_or(0)]);
        let slot = usize::try_from(grain % entries)
            .ok()
            .and_then(|slot| table.get_mut(slot));
        if let Some(entry) = slot {
            *entry = sector.into();
        }
        Ok(())
    }
}

/// Bytes of a compressed grain with its marker. Data that do not compress may be a little longer than the grain.
pub(crate) fn grain_len(size: u64, grain_size: u64, at: u64) -> Result<u64> {
    let size = Field::new(FORMAT, "marker.size", at + 8, size).within(1..=2 * grain_size)?;
    Ok(size + spec::GRAIN_MARKER_LEN)
}

thread_local! {
    /// Buffers that are used again: for what is stored, and for a whole grain.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// A stored grain: what is needed to read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredGrain {
    /// Its host offset.
    pub at: u64,
    /// Bytes that it takes, as far as that is known without a look at its marker.
    pub bound: u64,
    /// Its first byte in the part.
    pub start: u64,
    /// Bytes of the disk that it holds.
    pub len: u64,
}

impl<L: Layout> Grains<L> {
    /// Fills `buf` with the bytes of a compressed grain from `within` on.
    pub(crate) fn read_compressed(
        &self,
        grain: StoredGrain,
        buf: &mut [u8],
        within: u64,
    ) -> Result<()> {
        SCRATCH.with_borrow_mut(|(stored, whole)| {
            let stored = self.stored_bytes(grain, stored)?;
            if buf.len() as u64 == self.grain_size {
                return self.inflate(grain, stored, buf);
            }
            let whole = first_bytes(whole, self.grain_size);
            self.inflate(grain, stored, whole)?;
            let from = usize::try_from(within).unwrap_or(usize::MAX);
            let part = whole.get(from..).and_then(|behind| behind.get(..buf.len()));
            match part {
                Some(part) => buf.copy_from_slice(part),
                None => buf.fill(0), // The extent lies within the grain: not reached.
            }
            Ok(())
        })
    }

    /// The zlib stream of a grain, by one read in the usual case.
    fn stored_bytes<'a>(&self, grain: StoredGrain, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        // A grain that is not followed by another has a bound of two grains: few are longer than one.
        let usual = grain.bound.min(self.grain_size + SECTOR);
        let first = first_bytes(scratch, usual);
        self.storage.read(first, grain.at)?;
        let cut = || Error::malformed(FORMAT, "marker", grain.at, usual, "cut short").truncated();
        let (marker, _) = spec::GrainMarker::ref_from_prefix(first).map_err(|_| cut())?;
        let len = self.check_marker(grain, marker)?;
        let bytes = first_bytes(scratch, len);
        if len > usual {
            self.storage.read(bytes, grain.at)?;
        }
        Ok(bytes
            .get(size_of::<spec::GrainMarker>()..)
            .unwrap_or_default())
    }

    /// Checks a grain's marker; gives the bytes of the grain with it.
    pub(crate) fn check_marker(
        &self,
        grain: StoredGrain,
        marker: &spec::GrainMarker,
    ) -> Result<u64> {
        let first_sector = marker.value.get();
        if first_sector != grain.start / SECTOR {
            let expected = grain.start / SECTOR;
            let why = format!("a marker of another grain; sector {expected:#x} was looked for");
            return Err(Error::malformed(
                FORMAT,
                "marker.val",
                grain.at,
                first_sector,
                why,
            ));
        }
        let size = u64::from(marker.size.get());
        let len = grain_len(size, self.grain_size, grain.at)?;
        if grain
            .at
            .checked_add(len)
            .is_none_or(|end| end > self.storage_size)
        {
            let why = format!(
                "its bytes reach beyond the file's end at {:#x}",
                self.storage_size
            );
            return Err(
                Error::malformed(FORMAT, "marker.size", grain.at + 8, size, why).truncated(),
            );
        }
        Ok(len)
    }

    fn inflate(&self, grain: StoredGrain, stored: &[u8], whole: &mut [u8]) -> Result<()> {
        inflate_grain(stored, grain.at + spec::GRAIN_MARKER_LEN, grain.len, whole)
    }
}

/// Inflates a grain of `len` bytes, whose data lie at `at`. Only the last one of a disk may be short; what it lacks is
/// zeros.
pub(crate) fn inflate_grain(stored: &[u8], at: u64, len: u64, whole: &mut [u8]) -> Result<()> {
    let wrong =
        |why: String| Error::malformed(FORMAT, "grain's data", at, stored.len() as u64, why);
    let decoded = decode(Codec::Zlib, stored, whole).map_err(|error| wrong(error.to_string()))?;
    if !decoded.finished {
        return Err(wrong(
            "a zlib stream that does not end within a grain".to_owned(),
        ));
    }
    if (decoded.len as u64) < len {
        return Err(wrong(format!(
            "a zlib stream of only {} bytes",
            decoded.len
        )));
    }
    if let Some(behind) = whole.get_mut(decoded.len..) {
        behind.fill(0);
    }
    Ok(())
}

/// The first `len` bytes of a buffer that is made longer where it must be. `len` is at most some grains.
fn first_bytes(buffer: &mut Vec<u8>, len: u64) -> &mut [u8] {
    let len = usize::try_from(len).unwrap_or(0);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

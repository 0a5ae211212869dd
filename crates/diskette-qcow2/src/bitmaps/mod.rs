//! Persistent dirty bitmaps: the directory that lists them, their tables, and what these say.
//!
//! ```text
//!  bitmaps extension ──► directory: an entry for each ──► its table ──► clusters of bits
//! ```

mod bits;
mod reader;

use std::sync::Arc;

use diskette_core::{
    BitmapFormat, BitmapInfo, BitmapReader, BitmapWriter, Error, Limits, OpenContext, Result,
    Storage, StorageExt, StorageMut, Value,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::geometry::Geometry;
use crate::header::{Header, field, table_offset};
use crate::{Qcow2, edit, spec};

pub(crate) use self::bits::{all_set, clear_from, set_bits};

impl BitmapFormat for Qcow2 {
    fn open_bitmap(
        &self,
        storage: Arc<dyn Storage>,
        name: &str,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BitmapReader>> {
        reader::open(storage, name, cx)
    }

    fn edit_bitmaps(
        &self,
        image: Arc<dyn StorageMut>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BitmapWriter>> {
        edit::edit_bitmaps(image, cx)
    }
}

/// One bitmap, as the directory has it.
#[derive(Clone, Debug)]
pub(crate) struct Bitmap {
    /// Aligned to a cluster.
    pub table_offset: u64,
    /// Entries of the table.
    pub table_size: u32,
    pub granularity_bits: u8,
    pub flags: u32,
    /// At most 1023 bytes.
    pub name: Vec<u8>,
}

impl Bitmap {
    /// Whether it is in step with the data.
    pub(crate) const fn is_consistent(&self) -> bool {
        self.flags & spec::BITMAP_IN_USE == 0
    }

    /// Whether it learns of what is written.
    pub(crate) const fn is_enabled(&self) -> bool {
        self.flags & spec::BITMAP_AUTO != 0
    }

    /// Bytes of its table.
    pub(crate) fn table_len(&self) -> u64 {
        u64::from(self.table_size) * 8
    }

    /// What is known of it.
    pub(crate) fn info(&self) -> BitmapInfo {
        BitmapInfo {
            name: String::from_utf8_lossy(&self.name).into_owned(),
            granularity: 1 << self.granularity_bits,
            enabled: self.is_enabled(),
            consistent: self.is_consistent(),
        }
    }

    /// Its entry in the directory.
    pub(crate) fn entry(&self) -> Vec<u8> {
        let fixed = spec::BitmapEntry {
            table_offset: self.table_offset.into(),
            table_size: self.table_size.into(),
            flags: self.flags.into(),
            kind: 1,
            granularity_bits: self.granularity_bits,
            // At most 1023.
            name_len: u16::try_from(self.name.len()).unwrap_or(0).into(),
            extra_len: 0.into(),
        };
        let mut bytes = [fixed.as_bytes(), &self.name].concat();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// The error that it cannot be used.
    pub(crate) fn inconsistent(&self) -> Error {
        let why = "is inconsistent and cannot be used; it can be removed";
        Error::bitmap(self.info().name, why)
    }
}

/// Entries of the table of a bitmap for a disk of `size` bytes.
pub(crate) const fn table_entries(size: u64, granularity_bits: u8, geometry: Geometry) -> u64 {
    let bits = size.div_ceil(1 << granularity_bits);
    geometry.clusters(bits.div_ceil(8))
}

/// What an entry of a bitmap's table says of one cluster of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// No bit is set.
    Zeros,
    /// All bits are.
    Ones,
    /// They lie at this host offset.
    Stored(u64),
}

impl Page {
    /// Reads an entry of the table at host offset `table`; `end` is the file's.
    pub(crate) fn parse(
        table: u64,
        index: u64,
        entry: u64,
        end: u64,
        geometry: Geometry,
    ) -> Result<Self> {
        let offset = entry & spec::BITMAP_TABLE_OFFSET;
        let claim = || {
            let at = table.saturating_add(8 * index);
            field(format!("bitmap_table[{index}]"), at, entry)
        };
        match entry {
            0 => Ok(Self::Zeros),
            spec::BITMAP_TABLE_ALL_ONES => Ok(Self::Ones),
            _ if entry != offset => Err(claim().malformed("reserved bits are set")),
            _ if !geometry.is_aligned(offset) || offset >= end => {
                Err(claim().malformed("no place of a cluster"))
            }
            _ => Ok(Self::Stored(offset)),
        }
    }

    /// The entry of the table.
    pub(crate) const fn entry(self) -> u64 {
        match self {
            Self::Zeros => 0,
            Self::Ones => spec::BITMAP_TABLE_ALL_ONES,
            Self::Stored(offset) => offset,
        }
    }
}

/// Where the directory of bitmaps lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directory {
    pub offset: u64,
    pub len: u64,
    /// Bitmaps that it lists.
    pub count: u32,
}

/// The directory of an image that has bitmaps, and minds them.
pub(crate) fn directory(header: &Header, limits: &Limits) -> Result<Option<Directory>> {
    let Some((at, raw)) = header.extensions.bitmaps else {
        return Ok(None);
    };
    field("bitmaps extension's nb_bitmaps", at, raw.nb_bitmaps)
        .within(1..=spec::BITMAPS_MAX.into())?;
    field("bitmaps extension's reserved field", at + 4, raw.reserved).equal_to(0)?;
    let most = u64::from(spec::BITMAPS_MAX) * spec::BITMAP_ENTRY_LEN_MAX;
    let len = field(
        "bitmaps extension's directory size",
        at + 8,
        raw.directory_size,
    )
    .within(0..=most)?;
    limits.allow_table("qcow2: bitmap directory's bytes", len)?;
    let claim = field(
        "bitmaps extension's directory offset",
        at + 16,
        raw.directory_offset,
    );
    Ok(Some(Directory {
        offset: table_offset(&claim, len, header.geometry)?,
        len,
        count: raw.nb_bitmaps.get(),
    }))
}

/// All bitmaps that a directory lists.
pub(crate) fn list(
    storage: &dyn Storage,
    directory: Directory,
    geometry: Geometry,
) -> Result<Vec<Bitmap>> {
    field("bitmap directory", directory.offset, directory.offset)
        .followed_by(directory.len, storage.total_size()?)?;
    let bytes = storage.read_vec(
        usize::try_from(directory.len).unwrap_or(0),
        directory.offset,
    )?;
    let mut rest = bytes.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let at = directory.offset + (bytes.len() - rest.len()) as u64;
        let (bitmap, behind) = entry(rest, at, geometry)?;
        found.push(bitmap);
        rest = behind;
    }
    field(
        "bitmaps in the directory",
        directory.offset,
        found.len() as u64,
    )
    .equal_to(directory.count.into())?;
    Ok(found)
}

/// The bitmaps as qemu-img lists them.
pub(crate) fn details(bitmaps: &[Bitmap]) -> Value {
    let one = |bitmap: &Bitmap| {
        let flags = [(spec::BITMAP_IN_USE, "in-use"), (spec::BITMAP_AUTO, "auto")];
        let set = flags.iter().filter(|(bit, _)| bitmap.flags & bit != 0);
        let BitmapInfo {
            name, granularity, ..
        } = bitmap.info();
        Value::Map(vec![
            (
                "flags",
                Value::List(set.map(|(_, name)| (*name).into()).collect()),
            ),
            ("name", name.into()),
            ("granularity", granularity.into()),
        ])
    };
    Value::List(bitmaps.iter().map(one).collect())
}

/// The entry that `rest` begins with, at host offset `at`, and what is behind it.
fn entry(rest: &[u8], at: u64, geometry: Geometry) -> Result<(Bitmap, &[u8])> {
    let Ok((raw, behind)) = spec::BitmapEntry::ref_from_prefix(rest) else {
        let claim = field("bitmap directory's rest", at, rest.len() as u64);
        return Err(claim.malformed("too short for an entry"));
    };
    field("bitmap.type", at + 16, raw.kind).equal_to(1)?;
    field("bitmap.flags", at + 12, raw.flags)
        .within(0..=(spec::BITMAP_IN_USE | spec::BITMAP_AUTO).into())?;
    let granularity_bits =
        field("bitmap.granularity_bits", at + 17, raw.granularity_bits).within(9..=31)?;
    field("bitmap.extra_data_size", at + 20, raw.extra_len).equal_to(0)?;
    let most = spec::BITMAP_NAME_LEN_MAX.min(behind.len() as u64);
    let name_len = field("bitmap.name_size", at + 18, raw.name_len).within(1..=most)?;
    let most = spec::BITMAP_LEN_MAX / geometry.cluster_size();
    field("bitmap.bitmap_table_size", at + 8, raw.table_size).within(1..=most)?;
    let claim = field("bitmap.bitmap_table_offset", at, raw.table_offset);
    let table_len = u64::from(raw.table_size.get()) * 8;
    let table_offset = table_offset(&claim.clone(), table_len, geometry)?;
    claim.within(1..=u64::MAX)?;

    let name_len = usize::try_from(name_len).unwrap_or(0);
    let padding = (size_of::<spec::BitmapEntry>() + name_len).next_multiple_of(8);
    let bitmap = Bitmap {
        table_offset,
        table_size: raw.table_size.get(),
        // Within 9 to 31.
        granularity_bits: u8::try_from(granularity_bits).unwrap_or(0),
        flags: raw.flags.get(),
        name: behind[..name_len].to_vec(),
    };
    Ok((bitmap, rest.get(padding..).unwrap_or_default()))
}

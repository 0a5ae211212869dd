//! Persistent dirty bitmaps: the directory that lists them.

use diskette_core::{BitmapInfo, Limits, Result, Storage, StorageExt, Value};
use zerocopy::FromBytes;

use crate::geometry::Geometry;
use crate::header::{Header, field, table_offset};
use crate::spec;

/// One bitmap.
#[derive(Clone, Debug)]
pub(crate) struct Bitmap {
    pub table_offset: u64,
    /// Entries of the table.
    pub table_size: u32,
    name: String,
    granularity: u64,
    flags: u32,
}

/// Where the directory of bitmaps lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directory {
    pub offset: u64,
    pub len: u64,
    count: u32,
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

/// What is known of those that are in step with the data.
pub(crate) fn consistent(bitmaps: &[Bitmap]) -> Vec<BitmapInfo> {
    let usable = bitmaps
        .iter()
        .filter(|bitmap| bitmap.flags & spec::BITMAP_IN_USE == 0);
    let info = usable.map(|bitmap| BitmapInfo {
        name: bitmap.name.clone(),
        granularity: bitmap.granularity,
    });
    info.collect()
}

/// The bitmaps as qemu-img lists them.
pub(crate) fn details(bitmaps: &[Bitmap]) -> Value {
    let one = |bitmap: &Bitmap| {
        let flags = [(spec::BITMAP_IN_USE, "in-use"), (spec::BITMAP_AUTO, "auto")];
        let set = flags.iter().filter(|(bit, _)| bitmap.flags & bit != 0);
        Value::Map(vec![
            (
                "flags",
                Value::List(set.map(|(_, name)| (*name).into()).collect()),
            ),
            ("name", bitmap.name.clone().into()),
            ("granularity", bitmap.granularity.into()),
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
        name: String::from_utf8_lossy(&behind[..name_len]).into_owned(),
        granularity: 1 << granularity_bits,
        flags: raw.flags.get(),
    };
    Ok((bitmap, rest.get(padding..).unwrap_or_default()))
}

//! The header of a dynamic or differencing image, and the block allocation table (BAT) that it leads to.

use std::ops::Range;

use diskette_core::{
    Error, Field, Limits, MIB, OpenContext, Reference, Result, SECTOR, Storage, StorageExt, Table,
    round_up,
};
use uuid::Uuid;
use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use crate::footer::{Footer, Kind, checksum};
use crate::{FORMAT, locator, spec};

/// A header that has been shown sound, and its table. Sizes in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Dynamic {
    pub block_size: u64,
    /// Before each block's data.
    pub bitmap_size: u64,
    /// One entry for each block of the disk.
    pub bat: Table<U32>,
    pub bat_offset: u64,
    /// Where no block can lie.
    tables: Vec<TableRange>,
    pub backing: Option<Reference>,
    /// Where XenServer's map of full blocks lies, if there is one.
    pub batmap: Option<u64>,
}

impl Dynamic {
    pub(crate) fn read(
        storage: &dyn Storage,
        footer: &Footer,
        cx: &OpenContext<'_>,
    ) -> Result<Self> {
        let at = footer.header_offset;
        let bytes = storage.read_vec(size_of::<spec::DynamicHeader>(), at)?;
        let Ok(raw) = spec::DynamicHeader::read_from_bytes(&bytes) else {
            return Err(Error::malformed(
                FORMAT,
                "header",
                at,
                bytes.len() as u64,
                "too short",
            ));
        };
        check_signature(&raw, at)?;
        let block_size = block_size(&raw, at, cx.limits)?;
        let bitmap_size = round_up(block_size / SECTOR / 8, SECTOR)
            .unwrap_or(SECTOR)
            .max(SECTOR);
        let (bat_offset, bat) = read_bat(storage, footer, &raw, block_size, cx.limits)?;
        refuse_encrypted(storage, &raw)?;
        let backing = match footer.kind {
            Kind::Differencing => Some(parent(storage, footer, &raw)?),
            Kind::Dynamic | Kind::Fixed => None,
        };
        Ok(Self {
            block_size,
            bitmap_size,
            tables: tables(storage, footer, &raw, (bat_offset, bat.byte_len() as u64))?,
            bat,
            bat_offset,
            backing,
            batmap: batmap(storage, &raw)?.map(|(_, batmap)| batmap.offset.get()),
        })
    }

    /// Bytes that a block takes in the file.
    pub(crate) const fn stride(&self) -> u64 {
        self.bitmap_size + self.block_size
    }

    /// The host offset of a block's bitmap; `None` where the block is absent.
    pub(crate) fn block_offset(&self, index: usize) -> Option<u64> {
        let sector = self.bat.get(index).map_or(spec::BLOCK_ABSENT, U32::get);
        (sector != spec::BLOCK_ABSENT).then(|| u64::from(sector) * SECTOR)
    }

    /// A block's entry in the table, to complain about.
    pub(crate) fn entry(&self, index: usize) -> Field {
        let value = self.bat.get(index).map_or(spec::BLOCK_ABSENT, U32::get);
        Field::new(
            FORMAT,
            format!("bat[{index}]"),
            self.bat_offset + 4 * index as u64,
            value,
        )
    }

    /// That no block lies among the tables, and no two on one another: such an image is none that a program made.
    pub(crate) fn check_blocks(&self) -> Result<()> {
        self.lay_out(Err).map(|_| ())
    }

    /// Goes over all that has a place in the file. Overlaps are handed to `report`, which goes on or gives up.
    pub(crate) fn lay_out(&self, mut report: impl FnMut(Error) -> Result<()>) -> Result<LaidOut> {
        let blocks = (0..self.bat.len()).filter_map(|index| {
            let start = self.block_offset(index)?;
            Some((start, start + self.stride(), Taken::Block(index))) // 32-bit sectors, at most 256 MiB
        });
        let tables = self.tables.iter();
        let tables = tables.map(|table| (table.start, table.end, Taken::Table(table.what)));
        let mut all: Vec<_> = tables.chain(blocks).collect();
        all.sort_unstable_by_key(|(start, ..)| *start);
        let mut gaps = Vec::new();
        let mut before = (0, Taken::Table("nothing"));
        for (start, end, here) in all {
            let (taken_until, there) = before;
            if start < taken_until {
                self.check_pair(there, here).or_else(&mut report)?;
            } else if start - taken_until >= self.stride() {
                gaps.push(taken_until..start);
            }
            if end > taken_until {
                before = (end, here);
            }
        }
        let (end, _) = before;
        Ok(LaidOut { gaps, end })
    }

    /// What is to be said of two things that overlap. Tables that do are another matter.
    fn check_pair(&self, one: Taken, other: Taken) -> Result<()> {
        let (index, what) = match (one, other) {
            (Taken::Block(first), Taken::Block(second)) => {
                (second, format!("that of bat[{first}]"))
            }
            (Taken::Block(index), Taken::Table(what))
            | (Taken::Table(what), Taken::Block(index)) => (index, what.to_owned()),
            (Taken::Table(_), Taken::Table(_)) => return Ok(()),
        };
        Err(self
            .entry(index)
            .malformed(format!("a block that overlaps {what}")))
    }
}

/// What is not taken.
#[derive(Debug)]
pub(crate) struct LaidOut {
    /// Between tables and blocks, as far as a block could be there.
    pub gaps: Vec<Range<u64>>,
    /// Behind all tables and blocks.
    pub end: u64,
}

/// What has a place in the file.
#[derive(Clone, Copy, Debug)]
enum Taken {
    Block(usize),
    Table(&'static str),
}

/// A part of the file that is no block.
#[derive(Clone, Debug)]
struct TableRange {
    what: &'static str,
    start: u64,
    end: u64,
}

/// All of them, as far as they lie in the file.
fn tables(
    storage: &dyn Storage,
    footer: &Footer,
    raw: &spec::DynamicHeader,
    bat: (u64, u64),
) -> Result<Vec<TableRange>> {
    let size = storage.total_size()?;
    let range = |what, start: u64, len: u64| {
        let end = start.checked_add(len)?;
        (len > 0 && end <= size).then_some(TableRange { what, start, end })
    };
    let header_len = size_of::<spec::DynamicHeader>() as u64;
    let mut found = vec![
        range("the footer's copy", 0, SECTOR),
        range("the header", footer.header_offset, header_len),
        range("the table of blocks", bat.0, bat.1),
    ];
    if let Some((at, batmap)) = batmap(storage, raw)? {
        found.push(range("the batmap", at, SECTOR));
        let len = u64::from(batmap.size.get()) * SECTOR;
        found.push(range("the batmap", batmap.offset.get(), len));
    }
    if footer.kind == Kind::Differencing {
        found.extend(raw.parent_locators.iter().map(|locator| {
            let used = locator.platform_code != [0; 4];
            let len = if used {
                locator.platform_data_length.get()
            } else {
                0
            };
            let start = locator.platform_data_offset.get();
            range("a parent's name", start, len.into())
        }));
    }
    Ok(found.into_iter().flatten().collect())
}

fn check_signature(raw: &spec::DynamicHeader, at: u64) -> Result<()> {
    if raw.cookie != spec::DYNAMIC_COOKIE {
        let found = u64::from_be_bytes(raw.cookie);
        return Err(Error::malformed(
            FORMAT,
            "header.cookie",
            at,
            found,
            "not \"cxsparse\"",
        ));
    }
    Field::new(FORMAT, "header.header_version", at + 24, raw.header_version)
        .equal_to(spec::VERSION.into())?;
    let sum = checksum(
        spec::DynamicHeader {
            checksum: 0.into(),
            ..*raw
        }
        .as_bytes(),
    );
    Field::new(FORMAT, "header.checksum", at + 36, raw.checksum).equal_to(sum.into())?;
    Ok(())
}

fn block_size(raw: &spec::DynamicHeader, at: u64, limits: &Limits) -> Result<u64> {
    let field = Field::new(FORMAT, "header.block_size", at + 32, raw.block_size);
    let size = field.power_of_two_in(SECTOR..=256 * MIB)?;
    limits.allow_granule("vpc: block's bytes", size)?;
    Ok(size)
}

/// The table, as far as the disk needs it: XenServer makes it larger.
fn read_bat(
    storage: &dyn Storage,
    footer: &Footer,
    raw: &spec::DynamicHeader,
    block_size: u64,
    limits: &Limits,
) -> Result<(u64, Table<U32>)> {
    let at = footer.header_offset;
    let wanted = footer.disk_size.div_ceil(block_size);
    let entries = Field::new(
        FORMAT,
        "header.max_table_entries",
        at + 28,
        raw.max_table_entries,
    );
    if u64::from(raw.max_table_entries.get()) < wanted {
        return Err(entries.malformed(format!("too few for the disk's {wanted} blocks")));
    }
    let claimed = 4 * u64::from(raw.max_table_entries.get());
    let offset = Field::new(
        FORMAT,
        "header.table_offset",
        at + 16,
        raw.table_offset.get(),
    );
    offset.clone().aligned_to(SECTOR)?;
    offset.clone().within(512..=i64::MAX as u64)?;
    let offset = offset.followed_by(claimed, storage.total_size()?)?;
    limits.keep_table("vpc: BAT's bytes", 4 * wanted)?;
    let count = usize::try_from(wanted).unwrap_or(usize::MAX);
    Ok((offset, Table::read(storage, offset, count)?))
}

/// XenServer says behind the table whether the disk's content is encrypted.
fn refuse_encrypted(storage: &dyn Storage, raw: &spec::DynamicHeader) -> Result<()> {
    match batmap(storage, raw)? {
        Some((_, batmap)) if batmap.key_hash_cookie == 1 => Err(Error::unsupported(
            FORMAT,
            "an encrypted disk (XenServer's key hash)",
        )),
        _ => Ok(()),
    }
}

/// The header of XenServer's map of full blocks, and where it lies: behind the table, if at all.
fn batmap(
    storage: &dyn Storage,
    raw: &spec::DynamicHeader,
) -> Result<Option<(u64, spec::BatmapHeader)>> {
    let end = raw.table_offset.get() + 4 * u64::from(raw.max_table_entries.get()); // within the file
    let offset = round_up(end, SECTOR).unwrap_or(end);
    let mut bytes = [0; size_of::<spec::BatmapHeader>()];
    storage.read_padded(&mut bytes, offset)?;
    let batmap = spec::BatmapHeader::read_from_bytes(&bytes).ok();
    let batmap = batmap.filter(|batmap| batmap.cookie == spec::BATMAP_COOKIE);
    Ok(batmap.map(|batmap| (offset, batmap)))
}

/// The parent, by the best of the locators.
fn parent(storage: &dyn Storage, footer: &Footer, raw: &spec::DynamicHeader) -> Result<Reference> {
    let uuid = Uuid::from_bytes(raw.parent_unique_id);
    let at = footer.header_offset;
    let Some(path) = locator::best(storage, raw, at)? else {
        let why = "the image is differencing, and names no parent that could be looked for";
        return Err(Error::malformed(
            FORMAT,
            "header.parent_locators",
            at + 576,
            0,
            why,
        ));
    };
    let reference = diskette_core::Reference::new(diskette_core::Role::Backing, path);
    if uuid.is_nil() {
        if footer.by_xen {
            return Ok(reference.with_format("raw"));
        }
        return Err(Error::malformed(
            FORMAT,
            "header.parent_unique_id",
            at + 40,
            0,
            "null, in a differencing image",
        ));
    }
    let identity = diskette_core::Identity {
        kind: "UUID",
        value: uuid.to_string(),
    };
    Ok(reference.with_format(FORMAT).with_identity(identity))
}
